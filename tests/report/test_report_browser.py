"""The page of stage=report in a real browser: what a reader sees, does, and cannot be harmed by."""

import base64
import io
import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.report import pictures
from lab.report.folder import read_folder
from lab.report.gather import gather
from lab.report.page import render
from lab.stages.report import run_of
from pipeline import run
from tests.browser import needs_chromium, playwright
from tests.conftest import choice_of, configuration
from tests.report.report_runs import ARABIC, LONG, MODEL, SCRIPT, collect_scenes, spoil, write_run

pytestmark = needs_chromium
N = 300
CARDS = "#gallery .card"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory, picturebook):
    return collect_scenes(tmp_path_factory.mktemp("scenes"), picturebook)


@pytest.fixture(scope="module")
def gathered(tmp_path_factory, scenes):
    """What a page tells of N samples, some of which are not done."""
    data, folder = write_run(tmp_path_factory.mktemp("run"), scenes, N)
    spoil(data, folder)
    cfg = configuration(f"data.data_file={data}")
    return gather(
        [run_of(read_folder(folder), cfg, choice_of(cfg), cfg.data.data_file)],
        cfg.report,
        cfg.seed,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory, gathered):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(gathered, resamples=1000, seed=0))
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory, scenes):
    """The page of two runs over 60 samples: the shipped model's rules with fixed heads, and the published code's."""
    out = tmp_path_factory.mktemp("compared")
    data, first = write_run(out / "a", scenes, 60)
    second = out / "b" / MODEL
    shutil.copytree(first, second)
    for folder, rules in ((first, "best"), (second, "selection_v1")):
        options = (
            f"data.data_file={data}",
            f"data.attention_dir={folder}",
            f"logic={rules}",
            "save_fig=false",
            "evaluate.controls=[]",
        )
        run(configuration("stage=evaluate", *options))
    run(configuration("stage=report", f"data.runs=[{first},{second}]", f"data.output_dir={out}"))
    return out / "compare.html"


@pytest.fixture
def visit(browser):
    """Opens a page; in the end nothing may have been complained of, asked of a network, or popped up."""
    contexts, trouble = [], []

    def visit(path: Path, hash: str = "", width: int = 1280, theme: str = "light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: (
                trouble.append(f"console: {message.text}") if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (trouble.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith(("data:", path.as_uri())) else trouble.append(f"asks {asked.url}")
            ),
        )
        page.goto(path.as_uri() + hash)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert trouble == []


def count(page) -> str:
    return page.inner_text("#count")


def shows(page, selector: str, text: str) -> None:
    """Waits until an element shows the text: what follows a change of the address comes a moment later."""
    playwright.expect(page.locator(selector)).to_have_text(text)


def ids(page) -> list[str]:
    return page.locator(f"{CARDS} .id").all_text_contents()


def ious(page) -> list[float]:
    return [
        float(re.search(r"[\d.]+$", text)[0])
        for text in page.locator(f"{CARDS} .verdict:not(.undone)").all_text_contents()
    ]


def first_paint(page) -> float:
    """Milliseconds from the start of loading."""
    while not (
        found := page.evaluate("performance.getEntriesByName('first-contentful-paint').map((paint) => paint.startTime)")
    ):
        page.wait_for_timeout(50)
    return found[0]


# opening


def test_300_samples_paint_within_two_seconds_and_come_as_the_reader_scrolls(visit, report):
    page = visit(report)
    assert first_paint(page) <= 2000
    assert count(page) == "300 samples"
    made = page.locator(CARDS).count()
    assert made < N
    while page.locator("#more").is_visible():
        page.locator("#more").scroll_into_view_if_needed()
        page.wait_for_timeout(50)
    assert page.locator(CARDS).count() == N


def test_1000_samples_of_the_heaviest_pictures_weigh_25_mb_and_paint_within_four_seconds(visit, gathered, tmp_path):
    done = [sample for sample in gathered.samples if sample.findings[0].status == "done"]
    cells = np.random.default_rng(0).integers(0, 256, (11, 24, 24), np.uint8)  # ten heads of LLaVA-1.5 and all together
    many = []
    for i in range(1000):
        finding = done[i % len(done)].findings[0]
        heads = (finding.heads * 4)[:10]
        finding = replace(finding, heads=heads, maps=replace(finding.maps, levels=cells))
        many.append(replace(done[i % len(done)], id=f"m{i:04d}", picture=i, findings=(finding,)))
    text = base64.b64encode(heaviest_picture()).decode()
    path = tmp_path / "report.html"
    path.write_text(
        render(replace(gathered, samples=tuple(many), pictures=(text,) * 1000, total=1000), resamples=1000, seed=0)
    )
    assert 18e6 < path.stat().st_size <= 25e6
    page = visit(path)
    assert first_paint(page) <= 4000
    assert count(page) == "1,000 samples"
    page.fill("#search", "m0999")
    page.click(f"{CARDS} a")
    playwright.expect(page.locator("#sample .headlist li")).to_have_count(11)


def heaviest_picture() -> bytes:
    """A picture as large as a page allows."""
    rng = np.random.default_rng(1)
    best = b""
    for side in range(8, 80, 2):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize((320, 240))
        buffer = io.BytesIO()
        noise.save(buffer, format="webp", quality=70)
        if len(best) < buffer.tell() <= pictures.LARGEST:
            best = buffer.getvalue()
    assert len(best) > 0.85 * pictures.LARGEST
    return best


def test_one_sample_has_a_page(visit, gathered, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(render(replace(gathered, samples=gathered.samples[8:9], total=1), resamples=1000, seed=0))
    page = visit(path)
    assert count(page) == "1 sample"
    page.click(f"{CARDS} a")
    playwright.expect(page.locator("#sample .steps a")).to_have_count(1)  # neither previous nor next


# finding samples


def test_search_filters_and_sorting(visit, report):
    page = visit(report)
    page.fill("#search", "NUMBER 12")
    assert count(page) == "13 of 300 samples"  # 12, 112, 120 to 129, 212
    page.fill("#search", "s0042")
    assert ids(page) == ["s0042"]
    page.fill("#search", "no such words")
    assert count(page).startswith("None of 300 samples fits")
    page.click("button[type=reset]")
    shows(page, "#count", "300 samples")

    page.select_option("#outcome", "hit")
    hits = int(count(page).split()[0])
    assert min(ious(page)) >= 0.5
    page.select_option("#outcome", "miss")
    assert hits + int(count(page).split()[0]) == N
    page.select_option("#outcome", "undone")
    assert ids(page) == ["s0004", "s0005", "s0006", "s0007"]
    page.select_option("#outcome", "all")

    page.fill("#low", "0.6")
    page.fill("#high", "0.8")
    assert 0 < int(count(page).split()[0]) < N
    assert all(0.6 <= iou <= 0.805 for iou in ious(page))
    page.fill("#low", "0")
    page.fill("#high", "1")

    page.select_option("#order", "low-0")
    lowest = ious(page)
    assert lowest == sorted(lowest)
    page.select_option("#order", "high-0")
    highest = ious(page)
    assert highest == sorted(highest, reverse=True)
    assert highest[0] > 0.5
    page.select_option("#order", "id")
    assert ids(page)[:3] == ["s0000", "s0001", "s0002"]


def test_a_click_on_a_head_lists_its_samples(visit, report):
    page = visit(report)
    cell = page.get_by_role("button", name=re.compile("^L2 H4: "))
    name = cell.get_attribute("aria-label")
    assert "one of the chosen heads" in name
    cell.click()
    shows(page, "#count", f"{re.search(r'([0-9]+) of', name)[1]} of 300 samples")
    page.wait_for_url("**#head=0.2.4")
    assert page.inner_text("#head-filter") == "L2 H4 among the best \N{MULTIPLICATION SIGN}"
    page.click("#head-filter")
    shows(page, "#count", "300 samples")
    before = page.evaluate(
        "getComputedStyle(document.querySelector('.grid button[data-number=\"13\"]')).backgroundColor"
    )
    assert before != page.evaluate(
        "getComputedStyle(document.querySelector('.grid button[data-number=\"0\"]')).backgroundColor"
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_more_often_a_head_is_selected_the_more_it_stands_out_from_the_ground(visit, report, theme):
    page = visit(report, theme=theme)
    rows = page.evaluate(CELLS)
    ground = rows.pop()
    rows.sort()
    assert rows[0][0] == 0  # a head that was never selected
    distances = [abs(light - ground) for _, light in rows]
    assert distances[-1] == max(distances)
    selected = [distance for (count, _), distance in zip(rows, distances, strict=True) if count]
    assert selected == sorted(selected)


def test_axes_have_names(visit, report):
    page = visit(report)
    assert page.locator(".headmap .across").inner_text() == "head"
    assert page.locator(".headmap .down").inner_text() == "layer"
    assert page.locator(".grid th").first.bounding_box()["y"] >= page.locator(".across").bounding_box()["y"]
    named = page.locator(".histogram text").all_text_contents()
    assert {"IoU of the box with the true box", "samples"} <= set(named)


def test_what_is_missing_is_shown_and_says_why(visit, report):
    page = visit(report)
    text = page.locator(CARDS).nth(6).text_content()  # inner_text() is empty where a card is not in view
    assert "missing" in text
    assert "No such image: <b>x</b>.png" in text
    assert "no attention stored" in page.locator(CARDS).nth(4).text_content()
    assert page.locator(CARDS).nth(3).locator(".placeholder").count() == 1
    page.goto(report.as_uri() + "#sample=s0004")
    shows(page, "#sample .controls > .note", "no attention stored, only a ranking")
    assert page.locator("#sample .best a").count() == 10


# a sample's page


def test_overlays_can_be_laid_over_and_faded(visit, report):
    page = visit(report, "#sample=s0008")
    assert page.locator(".headlist li").count() == 4
    assert page.locator(".large canvas").count() == 0
    box = page.get_by_label("L1 H6", exact=True)
    box.check()
    canvas = page.locator(".large canvas")
    assert canvas.count() == 1
    assert page.evaluate("""() => {
        const canvas = document.querySelector('.large canvas');
        return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v > 100);
    }""")
    page.get_by_label("Opacity of L1 H6").fill("40")
    assert canvas.evaluate("c => c.style.opacity") == "0.4"
    page.get_by_label("Opacity of together").fill("80")  # moving it lays it over
    assert page.locator(".large canvas").count() == 2
    page.click("#next")
    shows(page, "#sample .id", "s0009")
    assert page.locator(".large canvas").count() == 2  # what is laid over goes along
    page.get_by_label("L1 H6", exact=True).uncheck()
    assert page.locator(".large canvas").count() == 1


def test_a_map_lies_where_its_grid_does(visit, report, gathered):
    sample = gathered.samples[8]
    page = visit(report, "#sample=s0008")
    page.keyboard.press("1")
    frame, canvas = page.locator(".large .frame").bounding_box(), page.locator(".large canvas").bounding_box()
    scale = frame["width"] / sample.image_size[0]
    x0, y0, x1, y1 = sample.findings[0].maps.extent_xyxy
    found = [canvas["x"] - frame["x"], canvas["y"] - frame["y"], canvas["width"], canvas["height"]]
    assert found == pytest.approx([x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale], abs=1)
    box = page.locator(".large .lines .box:not(.casing) rect").evaluate("r => r.getBoundingClientRect().toJSON()")
    x0, y0, x1, y1 = sample.findings[0].box_xyxy
    assert box["left"] - frame["x"] == pytest.approx(x0 * scale, abs=2.5)
    assert box["bottom"] - frame["y"] == pytest.approx(y1 * scale, abs=2.5)


@pytest.mark.parametrize(("highest", "told"), [(0.2, "20 %"), (1.0, "100 %"), (0.0123, "1.2 %"), (0.42, "42 %")])
def test_the_heat_scale_ends_at_the_highest_attention_of_a_cell(visit, gathered, tmp_path, highest, told):
    finding = gathered.samples[8].findings[0]
    sample = replace(gathered.samples[8], findings=(replace(finding, maps=replace(finding.maps, highest=highest)),))
    path = tmp_path / "report.html"
    path.write_text(render(replace(gathered, samples=(sample,), total=1), resamples=100, seed=0))
    page = visit(path, "#sample=s0008")
    ends = page.locator(".heatscale .ends span").all_text_contents()
    assert (ends[0], ends[2]) == ("0", told)


def test_deep_links(visit, report):
    page = visit(report, "#sample=s0123")
    shows(page, "#sample .id", "s0123")
    assert page.locator("#overview").is_hidden()
    page.goto(report.as_uri() + "#sample=nothing<b>")
    shows(page, "#sample h1", "No sample nothing<b> in this report")
    page.get_by_role("link", name="All samples").click()
    playwright.expect(page.locator("#overview")).to_be_visible()
    page.goto(report.as_uri() + "#head=0.99.5")  # no such head
    assert page.locator("#head-filter").is_hidden()
    page.goto(report.as_uri() + "#head=0.1.5")
    playwright.expect(page.locator("#head-filter")).to_be_visible()


def test_the_keyboard_moves_between_samples_and_toggles(visit, report):
    page = visit(report)
    page.keyboard.press("/")
    page.keyboard.type("number 12")
    page.locator(f"{CARDS} a").first.focus()
    page.keyboard.press("Enter")
    shows(page, "#sample .id", "s0012")
    page.keyboard.press("ArrowRight")
    shows(page, "#sample .id", "s0112")  # the next of those listed
    shows(page, ".place", "2 of 13")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # the first: nothing before it
    shows(page, "#sample .id", "s0012")
    page.keyboard.press("2")
    page.keyboard.press("0")
    assert page.locator(".large canvas").count() == 2
    page.keyboard.press("m")
    assert page.locator(".large .lines .mask:not(.casing)").is_hidden()
    page.keyboard.press("m")
    slider = page.get_by_label("Opacity of L1 H5")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "95"  # arrows in a slider are its own
    shows(page, "#sample .id", "s0012")
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#overview")).to_be_visible()
    assert page.evaluate("document.activeElement.className") == "cardlink"
    assert count(page) == "13 of 300 samples"


def test_users_text_is_shown_as_text_in_its_own_direction(visit, report):
    page = visit(report)
    expressions = page.locator(f"{CARDS} .expression")
    assert expressions.nth(0).inner_text() == SCRIPT
    direction = "e => getComputedStyle(e).direction"
    assert (expressions.nth(0).evaluate(direction), expressions.nth(1).evaluate(direction)) == ("ltr", "rtl")
    assert expressions.nth(1).inner_text() == ARABIC
    assert expressions.nth(2).bounding_box()["height"] < 100
    for name, text in (("s0000", SCRIPT), ("s0002", LONG)):
        page.goto(report.as_uri() + f"#sample={name}")
        shows(page, "#sample h1", text)
        assert page.title().startswith(f"{name}: {text[:20]}")
    assert page.locator("script:not([type])").count() == 1


# on paper

PAPER = 688  # CSS pixels across: A4 within the page's own margins of 14 mm
CUT = """() => [...document.querySelectorAll('main *')].filter((e) => {
    if (!e.checkVisibility() || e.closest('.lines')) return false;
    const { left, right } = e.getBoundingClientRect();
    return right > innerWidth + 0.5 || left < -0.5 || (e.matches('.scroll, pre') && e.scrollWidth > e.clientWidth + 1);
}).map((e) => e.outerHTML.slice(0, 120))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("which", "place"), [("report", ""), ("report", "#sample=s0008"), ("compared", "")])
def test_a_printed_page_cuts_nothing_and_keeps_its_colours(visit, request, which, place, theme):
    page = visit(request.getfixturevalue(which), place, width=PAPER, theme=theme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    page.emulate_media(media="print", color_scheme=theme)
    assert page.evaluate(CUT) == []
    coloured = ".key, .meter, .ramp, .grid button, .bar, body"
    assert page.evaluate(
        "(all) => [...new Set([...document.querySelectorAll(all)].map((e) => getComputedStyle(e).printColorAdjust))]",
        coloured,
    ) == ["exact"]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".toolbar").is_hidden()


def test_a_printed_page_tells_how_many_samples_it_leaves_out(visit, report):
    page = visit(report)
    assert page.locator("#printed").is_hidden()
    page.emulate_media(media="print")
    made = page.locator(CARDS).count()
    assert page.inner_text("#printed") == f"The first {made} of 300 samples; filter for others."
    page.emulate_media(media="screen")
    page.fill("#search", "number 12")
    page.emulate_media(media="print")
    assert page.inner_text("#printed") == ""


# for everyone


CELLS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const grey = (colour) => {
        canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = canvas.getImageData(0, 0, 1, 1).data;
        return Math.round(0.299 * r + 0.587 * g + 0.114 * b);
    };
    const cells = [...document.querySelectorAll('.grid button')];
    const ground = grey(getComputedStyle(document.body).backgroundColor);
    return [...cells.map((c) => [parseInt(c.title.split(': ')[1]), grey(getComputedStyle(c).backgroundColor)]), ground];
}"""
CONTRASTS = """() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgba = (colour) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
    const ground = (element) => {
        if (!element) return rgba('Canvas');
        const own = rgba(getComputedStyle(element).backgroundColor);
        return own[3] === 1 ? own : over(own, ground(element.parentElement));
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((v) => {
            v /= 255;
            return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = {};
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode());) {
        const element = node.parentElement;
        const unseen = element.closest('script, style, noscript, .unseen');
        if (!node.data.trim() || unseen || !element.checkVisibility()) continue;
        const under = ground(element);
        const style = getComputedStyle(element);
        const text = over(rgba(element instanceof SVGElement ? style.fill : style.color), under);
        const [bright, dark] = [light(text), light(under)].sort((a, b) => b - a);
        const kind = element.className.baseVal ?? element.className;
        const name = `${element.tagName}.${kind} "${node.data.trim().slice(0, 20)}"`;
        found[name] = (bright + 0.05) / (dark + 0.05);
    }
    return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("place", ["", "#sample=s0008", "#sample=s0004"])
def test_text_stands_out_from_its_ground_in_both_themes(visit, report, theme, place):
    page = visit(report, place, theme=theme)
    page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 10
    assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}


def test_the_theme_follows_the_system_until_the_reader_chooses(visit, report):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (visit(report, theme=theme) for theme in ("light", "dark"))
    light_ground, dark_ground = light.evaluate(ground), dark.evaluate(ground)
    assert light_ground != dark_ground
    dark.get_by_role("button", name="Theme: system").click()
    assert (dark.inner_text("#theme"), dark.evaluate(ground)) == ("Theme: light", light_ground)
    dark.click("#theme")
    assert (dark.inner_text("#theme"), dark.evaluate(ground)) == ("Theme: dark", dark_ground)


UNNAMED = """() => [...document.querySelectorAll('button, input, select, a, img, svg, [role=img]')].filter((e) => {
    if (!e.checkVisibility() || e.closest('[aria-hidden=true]')) return false;
    if (e.tagName === 'IMG') return !e.hasAttribute('alt') || (!e.alt && !e.closest('.small'));
    if (e.tagName === 'svg') return !e.getAttribute('aria-label');
    const labelled = e.labels && [...e.labels].some((l) => l.textContent.trim());
    return !(labelled || e.getAttribute('aria-label') || e.textContent.trim());
}).map((e) => e.outerHTML.slice(0, 120))"""
FOCUSABLE = """() => [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
    .filter((e) => e.checkVisibility() && e.tabIndex >= 0 && !(e.type === 'radio' && !e.checked)).length"""


@pytest.mark.parametrize("place", ["", "#sample=s0008"])
def test_every_control_has_a_name_and_is_reached_by_tab(visit, report, place):
    page = visit(report, place)
    page.fill("#search", "number 12") if not place else None
    assert page.evaluate(UNNAMED) == []
    page.evaluate("document.body.tabIndex = -1; document.body.focus(); window.reached = new Set()")
    expected = page.evaluate(FOCUSABLE)
    for _ in range(expected + 2):
        page.keyboard.press("Tab")
        page.evaluate("document.activeElement !== document.body && window.reached.add(document.activeElement)")
    assert page.evaluate("window.reached.size") == expected
    clickable = page.evaluate("[...document.querySelectorAll('[onclick]')].length")
    assert clickable == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("which", "place"), [("report", ""), ("report", "#sample=s0008"), ("compared", "")])
def test_axe_finds_nothing_to_complain_of(visit, request, which, place, theme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit(request.getfixturevalue(which), place, theme=theme)
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


def test_arrow_keys_move_within_the_head_map(visit, report):
    page = visit(report)
    page.locator(".grid button").first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "End", "ArrowRight", "Home", "ArrowUp"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("L1 H0: ")
    assert page.locator('.grid button[tabindex="0"]').count() == 1
    page.keyboard.press("Enter")
    page.wait_for_url("**#head=0.1.0")


@pytest.mark.parametrize("place", ["", "#sample=s0002", "#sample=s0008"])
def test_a_phone_shows_all_of_it_without_sideways_scrolling(visit, report, place):
    page = visit(report, place, width=360)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if place:
        assert page.locator(".large .frame").bounding_box()["width"] > 150


def test_the_page_runs_no_script_and_asks_no_server_but_its_own(browser, report):
    context = browser.new_context()
    page = context.new_page()
    asked = []
    page.on("requestfailed", lambda request: asked.append((request.url, request.failure)))
    page.goto(report.as_uri())
    page.evaluate("""() => {
        const script = document.createElement('script'); script.textContent = 'window.ran = true';
        document.body.append(script);
        const image = document.createElement('img'); image.src = 'http://localhost:9/x.png';
        document.body.append(image);
    }""")
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran === undefined")
    assert asked == [("http://localhost:9/x.png", "csp")]  # refused before it left the browser
    context.close()


# two runs


def test_two_runs_stand_side_by_side_the_largest_disagreement_first(visit, compared):
    page = visit(compared)
    assert page.locator(f"{CARDS}").first.locator(".frame").count() == 2
    text = page.inner_text("#figures")
    assert "A against B, in %, on the 60 samples that both answer" in text
    assert "logic.heads" in text
    pairs = page.locator(CARDS).evaluate_all(
        "cards => cards.map((c) => [...c.querySelectorAll('.verdict')].map((v) => "
        "parseFloat(v.textContent.match(/[\\d.]+$/)[0])))"
    )
    gaps = [abs(a - b) for a, b in pairs]
    assert gaps[0] > 0.1
    assert all(earlier >= later - 0.011 for earlier, later in itertools.pairwise(gaps))
    counts = []
    for outcome in ("both", "first", "second", "neither"):
        page.select_option("#outcome", outcome)
        counts.append(page.locator(CARDS).count())
    assert sum(counts) == int(re.search(r"of (\d+)", count(page))[1]) == 60
    assert counts[1] + counts[2] > 0  # here the runs part
    page.select_option("#outcome", "all")
    page.click(f"{CARDS} a >> nth=0")
    playwright.expect(page.locator("#sample .large .frame")).to_have_count(2)
    page.keyboard.press("1")
    assert page.locator(".large canvas").count() == 2
    assert page.locator(".headmap").count() == 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_two_runs_are_for_everyone_too(visit, compared, theme):
    page = visit(compared, width=360, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(UNNAMED) == []
    assert {text: ratio for text, ratio in page.evaluate(CONTRASTS).items() if ratio < 4.5} == {}


def test_on_a_phone_every_value_keeps_its_run_and_no_interval_is_cut(visit, compared):
    page = visit(compared, width=390)
    assert page.evaluate(CUT) == []
    marks = page.evaluate("""() => [...document.querySelectorAll('.ofrun')].map(
        (e) => getComputedStyle(e, '::before').content)""")
    assert len(marks) > 10
    assert marks == ['"A"', '"B"'] * (len(marks) // 2)
    rows = page.locator("table.metrics").first.locator("tbody tr")
    assert re.fullmatch(r"Acc@0.25\s+\S+\s+\S+\s+\S+\s+\S+\d to \S+\d\s+\S.*", rows.first.inner_text())
    tall = rows.first.locator("th, td.number, td.reading").evaluate_all("all => all.map((e) => e.checkVisibility())")
    assert all(tall)


def test_the_spread_of_random_heads_looks_unlike_an_interval(visit, scenes, tmp_path):
    data, folder = write_run(tmp_path, scenes, 12)
    options = (f"data.data_file={data}", f"data.attention_dir={folder}", "save_fig=false")
    run(configuration("stage=evaluate", *options, "evaluate.controls=[random]", "evaluate.resamples=100"))
    run(configuration("stage=report", *options))
    page = visit(folder / "report.html")
    rows = page.locator("#figures table").first.locator("tbody tr")
    assert [[rows.nth(i).locator(kind).count() for kind in (".bar", ".spread")] for i in (0, 1)] == [[1, 0], [0, 1]]
    assert "drawn as a band" in page.inner_text("#figures")
