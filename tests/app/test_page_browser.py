"""The page in a real browser: what a visitor sees and does, and what they cannot do to others."""

import base64
import io
import json
import re
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.app.desk import FOLDER
from lab.base.paths import PROJECT
from tests.browser import needs_chromium, playwright

pytestmark = [
    needs_chromium,
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed: requirements-app.txt"),
]
WORDS = ".lh-card .lh-words button"


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def address(desk, uploads):
    from lab.app.page import serve

    with serve(desk, uploads) as url:
        yield url


@pytest.fixture
def visit(browser, address, capfd):
    """Opens the page for another visitor; in the end nothing may have been complained of, or asked of a network."""
    contexts, trouble = [], []

    def visit(query: str = "", width: int = 1360, theme: str = "light", words: bool = True):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: None if own(asked.url) else trouble.append(f"asks {asked.url}"))
        page.goto(address + query)
        if words:
            page.wait_for_selector(WORDS)
        return page

    def own(url: str) -> bool:
        return url.startswith((address, "data:", f"blob:{address}"))

    yield visit
    for context in contexts:
        context.close()
    assert trouble == []
    assert "Traceback" not in capfd.readouterr().err


def box(page, card: int = 0) -> str:
    return page.locator(".lh-boxtext").nth(card).inner_text()


def shows(page, selector: str, text: str) -> None:
    playwright.expect(page.locator(selector)).to_contain_text(text)


def upload(page, path: Path) -> None:
    page.set_input_files("#lh-file", path)


# the whole path


def test_from_a_picture_to_files(visit, desk, tmp_path):
    page = visit()
    assert box(page) == "x 120 to 279, y 170 to 329, 160 x 160 pixels"
    shows(page, ".lh-masthead", "8 layers")

    page.click("[data-example='cat.png']")
    shows(page, ".lh-card h2", "a cat on the floor")
    playwright.expect(page.get_by_label("What to look for", exact=True)).to_have_value("a cat on the floor")
    page.wait_for_selector(WORDS)

    page.get_by_label("What to look for", exact=True).fill("the umbrella")
    page.keyboard.press("Enter")
    shows(page, ".lh-card h2", "the umbrella")
    page.wait_for_selector(WORDS)

    page.get_by_role("button", name="Ask again with these heads changed").click()
    shows(page, ".lh-answers .lh-untouched-row", "untouched")
    rows = page.locator(".lh-answers tbody tr")
    assert rows.count() == 5
    weights = rows.evaluate_all("all => all.map((row) => getComputedStyle(row.cells[1]).fontWeight)")
    assert weights == ["400", "600", "400", "400", "400"]  # without the chosen heads
    heights = rows.evaluate_all("all => all.map((row) => row.getBoundingClientRect().height)")
    assert abs(heights[1] - heights[2]) < 1

    page.get_by_role("button", name="Make the files").click()
    page.wait_for_selector("a[download]")
    links = page.eval_on_selector_all("a[download]", "all => all.map((a) => [a.download, a.href])")
    files = {name: urllib.request.urlopen(link).read() for name, link in links}
    assert {"cat.pkl", "cat_mask.png", "cat_bbox.json", "cat_top3.png"} <= files.keys()
    mask = np.asarray(Image.open(io.BytesIO(files["cat_mask.png"]))) > 0
    assert mask.shape == Image.open(FOLDER / "cat.png").size[::-1]
    shows(
        page, ".lh-command code", "python pipeline.py data.image_file=examples/images/cat.png 'data.query=the umbrella'"
    )


def test_a_slider_and_a_head_act_at_once_without_the_model(visit, monkeypatch):
    page = visit()
    monkeypatch.setattr("lab.api.Model.find", None)
    monkeypatch.setattr("lab.ablate.asking.ReadPicture.say", None)
    page.get_by_label("number input for Smoothing").fill("3")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".lh-boxtext")).not_to_contain_text("x 120 to 279")
    page.wait_for_url("**logic.smoothing.sigma=3*")
    assert page.get_by_label("number input for Its quantile").is_hidden()
    page.get_by_label("quantile", exact=True).check()
    page.get_by_label("number input for Its quantile").fill("0.5")
    page.keyboard.press("Enter")
    page.wait_for_url("**logic.mask.quantile=0.5*")
    page.get_by_label("image", exact=True).check()
    shows(page, ".lh-command code", "logic.mask.resolution=image")
    page.click("[data-head=L2H4]")
    playwright.expect(page.locator(".lh-facts")).not_to_contain_text("L2 H4")
    shows(page, ".lh-about", "L2 H4: attention sum")
    playwright.expect(page.get_by_label("clicked below")).to_be_checked()
    page.get_by_label("ranked for this picture").check()
    playwright.expect(page.locator("[data-head][aria-pressed=true]")).to_have_count(3)
    page.wait_for_url("**heads=ranked*")


def test_a_link_opens_the_same_page(visit, address):
    page = visit("?picture=dog.png&expression=a+dog&heads=L1H6%2CL2H4&expression2=the+flower&logic.smoothing.sigma=0.5")
    page.wait_for_function("document.querySelectorAll('.lh-words').length === 2")
    assert page.locator(".lh-chip").all_inner_texts()[:2] == ["L1 H6", "L2 H4"]
    assert box(page, 0) != box(page, 1)
    playwright.expect(page.get_by_label("Second expression")).to_have_value("the flower")
    again = visit(page.url.removeprefix(address))
    again.wait_for_function("document.querySelectorAll('.lh-words').length === 2")
    assert again.inner_text(".lh-cards") == page.inner_text(".lh-cards")
    again.get_by_label("B", exact=True).check()
    shows(again, ".lh-command >> nth=1", "the flower")
    playwright.expect(again.locator("[data-head=L1H5]")).to_have_attribute("aria-pressed", "true")


def test_a_wrong_link_and_a_wrong_file_are_one_clear_line(visit, tmp_path, uploads):
    page = visit("?picture=nowhere.png&expression=a", words=False)
    shows(page, ".lh-wrong", "This picture is not kept here any more: choose it again")
    shows(page, ".lh-masthead", "8 layers")
    playwright.expect(page.get_by_label("What to look for", exact=True)).to_have_value("a")
    page.click("[data-example='bird.png']")
    page.wait_for_selector(WORDS)
    assert page.locator(".lh-wrong").count() == 0
    before = box(page)
    upload(page, PROJECT / "Makefile")
    shows(page, ".lh-wrong", "The image Makefile cannot be read: not an image, or of an unknown kind")
    page.wait_for_timeout(300)  # it stays
    assert page.locator(".lh-wrong").count() == 1
    assert box(page) == before
    heavy = tmp_path / "heavy.png"
    with heavy.open("wb") as stream:
        stream.truncate(26 * 2**20)
    upload(page, heavy)
    shows(page, ".lh-wrong", "heavy.png is larger than 25 MB; choose a smaller picture")
    page.get_by_label("What to look for", exact=True).fill(" ")
    page.keyboard.press("Enter")
    shows(page, ".lh-wrong", "Type what to look for")
    assert [path for path in uploads.rglob("*") if path.name in ("Makefile", "heavy.png")] == []


def test_a_picture_that_comes_before_the_text_is_the_one_that_is_asked_about(visit, tmp_path):
    page, mine = visit(), tmp_path / "mine.png"
    Image.open(FOLDER / "cat.png").convert("RGB").resize((1280, 960)).save(mine)
    page.get_by_label("What to look for", exact=True).fill("")
    upload(page, mine)
    shows(page, ".lh-wrong", "Type what to look for")
    assert page.locator(".lh-card").count() == 0
    page.get_by_label("What to look for", exact=True).fill("a cat on the floor")
    page.keyboard.press("Enter")
    shows(page, ".lh-command code", "data.image_file=mine.png")
    assert "picture=bird.png" not in page.url


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_comes_by_drop_and_by_paste(visit, event):
    page = visit()
    content = base64.b64encode((FOLDER / "dog.png").read_bytes()).decode()
    page.evaluate(
        """async ([event, content]) => {
            const data = new DataTransfer();
            const blob = await (await fetch("data:image/png;base64," + content)).blob();
            data.items.add(new File([blob], "my dog.png", { type: "image/png" }));
            const held = event === "drop" ? { dataTransfer: data } : { clipboardData: data };
            const Kind = event === "drop" ? DragEvent : ClipboardEvent;
            document.body.dispatchEvent(new Kind(event, { bubbles: true, cancelable: true, ...held }));
        }""",
        [event, content],
    )
    shows(page, ".lh-command code", "'data.image_file=my dog.png'")


def test_a_photo_of_12_megapixels(visit, tmp_path):
    photo = tmp_path / "photo.jpg"
    Image.open(FOLDER / "bird.png").convert("RGB").resize((4000, 3000)).save(photo)
    page = visit()
    start = time.monotonic()
    upload(page, photo)
    shows(page, ".lh-boxtext", "1000 x 1000 pixels")
    assert time.monotonic() - start < 30
    shows(page, ".lh-command code", "data.image_file=photo.jpg")
    page.wait_for_selector(WORDS)
    page.get_by_label("number input for Heads (top k)").fill("1")
    page.keyboard.press("Enter")
    shows(page, ".lh-facts", "L1 H5")
    playwright.expect(page.locator(".lh-chip")).to_have_count(1)
    assert "logic.top_k=1" in page.url


def test_two_visitors_do_not_see_each_other(visit):
    first, second = visit(), visit("?picture=cat.png&expression=a+cat")
    for page, text in ((first, "the tree"), (second, "the umbrella")):
        page.get_by_label("What to look for", exact=True).fill(text)
    for page in (first, second):
        page.get_by_role("button", name="Ask the model").click()
    shows(first, ".lh-card h2", "the tree")
    shows(second, ".lh-card h2", "the umbrella")
    for page, name in ((first, "bird"), (second, "cat")):
        page.wait_for_selector(WORDS)
        assert f"picture={name}.png" in page.url


# words and heads under the pointer and the keyboard


def test_a_word_shows_its_own_map_while_it_is_pointed_at(visit):
    page = visit()
    word, map_ = page.locator(WORDS).nth(4), page.locator(".lh-word")
    assert map_.is_hidden()
    word.hover()
    assert map_.is_visible()
    assert page.locator(".lh-heat").is_hidden()
    first = map_.evaluate("e => e.style.backgroundPosition")
    page.locator(WORDS).nth(0).hover()
    assert map_.evaluate("e => e.style.backgroundPosition") != first
    page.hover("h1")
    assert map_.is_hidden()
    word.focus()
    page.keyboard.press("Enter")
    page.hover("h1")
    page.locator("#lh-file").focus()
    assert map_.is_visible()  # until it is chosen again
    word.click()
    page.hover("h1")
    page.locator("#lh-file").focus()
    assert map_.is_hidden()


def test_the_keyboard_alone_chooses_heads(visit):
    page = visit()
    page.locator("[data-head=L0H0]").focus()
    for key in ("ArrowDown", "ArrowRight", "End", "ArrowLeft", "Home", "ArrowDown"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.dataset.head") == "L2H0"
    shows(page, ".lh-about", "L2 H0")
    assert page.locator('.lh-grid button[tabindex="0"], .lh-grid button:not([tabindex])').count() == 1
    page.keyboard.press("Enter")
    shows(page, ".lh-facts", "L2 H0")
    assert page.evaluate("document.activeElement.dataset.head") == "L2H0"  # where it was
    page.keyboard.press(" ")
    playwright.expect(page.locator(".lh-facts")).not_to_contain_text("L2 H0")


@pytest.mark.parametrize("pause", [0, 50])
def test_no_head_is_lost_however_fast_they_are_clicked(visit, pause):
    page = visit()
    page.get_by_label("clicked below").check()
    page.evaluate(
        """async (pause) => {
            for (const head of ["L3H0", "L3H1", "L3H2", "L3H3", "L3H1"]) {
                document.querySelector(`[data-head=${head}]`).click();
                await new Promise((then) => setTimeout(then, pause));
            }
        }""",
        pause,
    )
    page.wait_for_url("**heads=L1H5%2CL1H6%2CL2H4%2CL3H0%2CL3H2%2CL3H3*")
    shows(page, ".lh-facts", "L3 H3")
    chosen = page.eval_on_selector_all("[data-head][aria-pressed=true]", "all => all.map((one) => one.dataset.head)")
    assert chosen == ["L1H5", "L1H6", "L2H4", "L3H0", "L3H2", "L3H3"]
    page.get_by_label("the model's own").check()  # and the server is heard again
    playwright.expect(page.locator("[data-head][aria-pressed=true]")).to_have_count(3)


def test_cells_can_be_coloured_by_either_criterion_and_layers_taken_away(visit):
    page = visit()
    seen = "new Set([...document.querySelectorAll('[data-head]')].map((e) => getComputedStyle(e).backgroundColor))"
    for mode in ("sum", "entropy"):
        page.click(f"[data-show={mode}]")
        page.wait_for_function(f"{seen}.size > 8")
        assert page.locator("[data-head] i").first.is_hidden()
    for name in ("heat", "mask", "box"):
        page.locator(f"[data-layer={name}]").uncheck()
        assert page.locator(f".lh-card .lh-{name}").is_hidden()


def test_text_of_a_visitor_is_shown_as_text(visit):
    text = "${alert(1)} {{value}} <img src=x onerror=alert(1)> a bird"
    page = visit()
    page.get_by_label("What to look for", exact=True).fill(text)
    page.keyboard.press("Enter")
    shows(page, ".lh-card h2", text)
    page.wait_for_selector(WORDS)
    assert page.inner_text(".lh-card h2") == text
    shows(page, ".lh-command code", text)


# for everyone


@pytest.mark.parametrize(("theme", "width"), [("light", 1360), ("dark", 360)])
def test_axe_finds_nothing_serious_and_a_phone_shows_all(visit, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = visit("?picture=bird.png&expression=the+bird&expression2=the+tree", width=width, theme=theme)
    page.get_by_role("button", name="Ask again with these heads changed").click()
    page.wait_for_selector(".lh-answers")
    page.get_by_role("button", name="Make the files").click()
    page.wait_for_selector("a[download]")
    page.wait_for_function("document.querySelectorAll('.lh-words').length === 2")
    found = axe.Axe().run(page).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")


@pytest.mark.parametrize("width", [360, 768, 900, 1360])
def test_every_head_is_seen_without_scrolling_sideways(visit, width):
    page = visit(width=width)
    room, needed = page.eval_on_selector(".lh-gridside .lh-scroll", "e => [e.clientWidth, e.scrollWidth]")
    assert needed <= room
    assert page.locator("[data-head=L7H7]").bounding_box()["width"] >= 24
    tops = page.eval_on_selector_all(".lh-examples img", "all => all.map((one) => one.getBoundingClientRect().top)")
    assert max(tops) - min(tops) < 1


# what nobody is to do


@pytest.mark.parametrize("path", ["/etc/passwd", str(PROJECT / "README.md"), str(PROJECT / "examples/images/bird.png")])
def test_no_file_of_the_machine_is_served(address, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{address}gradio_api/file={path}")
    assert caught.value.code in (403, 404)


def send(address: str, content: bytes) -> str:
    """Uploads a file as no browser would that has the page. Its path."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="notes.txt"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    asked = urllib.request.Request(f"{address}gradio_api/upload", head + content + b"\r\n--x--\r\n", kind)
    return json.loads(urllib.request.urlopen(asked).read())[0]


def test_what_is_uploaded_past_the_page_is_limited_and_goes(desk, uploads, monkeypatch):
    from lab.app import page

    monkeypatch.setattr(page, "FREQUENCY", 1)
    monkeypatch.setattr(page, "AGE", 1)
    with page.serve(desk, uploads) as address:
        with pytest.raises(urllib.error.HTTPError) as caught:
            send(address, bytes(page.MOST_BYTES + 1))
        assert caught.value.code == 413
        path = Path(send(address, b"hello"))
        assert path.is_relative_to(uploads)
        deadline = time.monotonic() + 20
        while path.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not path.exists()


def test_it_listens_on_this_machine_only(address):
    assert re.match(r"http://127\.0\.0\.1:\d+/$", address)
