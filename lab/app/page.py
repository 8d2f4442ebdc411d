"""The page itself: its parts, and which event of `visit.Handlers` each of them is. All work is done there.

with serve(desk, port=7860) as url: ...
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from lab.app import views
from lab.app.desk import EXAMPLES, MOST_BYTES, MOST_PIXELS, Desk
from lab.app.knock_out import WAYS
from lab.app.state import FIELDS, LONGEST, OWN, RANKED, RULES, words
from lab.app.visit import CLICKED, SHOWN, Changed, Handlers, Visit
from lab.base.console import WRONG, one_line

log = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
QUEUE = 32  # visitors that may wait; the next one is told to come again
FREQUENCY, AGE = 60, 900  # seconds: how often files are deleted, and from which age on
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}  # one visitor at a time
LIVE: dict[str, Any] = {"concurrency_limit": 4, "trigger_mode": "always_last", "show_progress": "hidden"}
EACH = {"trigger_mode": "multiple"}  # where the event itself tells something: gradio would repeat what the first told
SERVED: dict[str, Any] = {  # nothing but what was uploaded or made here is read, and nothing is asked of a network
    "max_file_size": MOST_BYTES, "allowed_paths": [], "share": False, "ssr_mode": False, "quiet": True,
    "footer_links": [], "prevent_thread_lock": True,
}  # fmt: skip
PAPER, INK, SOFT, LINK = ("#fcfbf8", "#161718"), ("#1c1b19", "#e9e6df"), ("#5a564f", "#aeaaa1"), ("#00538a", "#85c9f7")
COLOURS = {  # of gradio's theme: light and dark, as in static/page.css
    **dict.fromkeys(("body_background_fill", "block_background_fill", "background_fill_primary"), PAPER),
    **dict.fromkeys(("body_text_color", "block_title_text_color", "checkbox_label_text_color"), INK),
    **dict.fromkeys(
        ("body_text_color_subdued", "block_label_text_color", "block_info_text_color", "input_placeholder_color"), SOFT
    ),
    **dict.fromkeys(("slider_color", "button_primary_background_fill", "checkbox_background_color_selected"), LINK),
    "button_primary_background_fill_hover": ("#003f6a", "#a8d8fa"),
    "button_primary_text_color": ("#ffffff", "#161718"),
    **dict.fromkeys(("checkbox_label_background_fill", "button_secondary_background_fill"), ("#f3f0e9", "#2a2b2c")),
    **dict.fromkeys(
        ("checkbox_label_background_fill_hover", "button_secondary_background_fill_hover"), ("#e8e3d8", "#383938")
    ),
    "button_secondary_text_color": INK,
    "input_background_fill": ("#ffffff", "#212223"),
    "input_border_color": ("#8d887e", "#75736d"),
    "checkbox_border_color": ("#8d887e", "#75736d"),
}
WAY_TEXTS = {
    "zero": "switch them off",
    "block": "hide the picture from them",
    "uniform": "make them look everywhere alike",
    "keep_uniform": "keep only them: all others look everywhere alike",
}


@contextmanager
def serve(desk: Desk, uploads: Path, *, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serves the page while the block runs, and gives its address.

    `uploads` is the folder that GRADIO_TEMP_DIR named before gradio was imported; nothing else is read or served.
    """
    page = Page(desk, uploads).blocks
    try:
        _, url, _ = page.launch(server_name=host, server_port=port, theme=theme(), css=_static("page.css"), **SERVED)
        yield url
    finally:
        page.close(verbose=False)


def theme() -> gr.themes.Base:
    """Fonts of the reader's machine, colours of the project's pages."""
    sans = ("system-ui", "-apple-system", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif")
    base = gr.themes.Base(neutral_hue="stone", font=sans, font_mono=("ui-monospace", "Consolas", "monospace"))
    flat = {
        "block_border_width": "0px",
        "block_shadow": "none",
        "block_padding": "0.3rem 0px",
        "input_border_width": "1px",
    }
    colours = {
        f"{name}{of}": colour for name, pair in COLOURS.items() for of, colour in zip(("", "_dark"), pair, strict=True)
    }
    return base.set(**flat, **colours)


class Page:
    """The parts of the page by name, and what follows when they are touched."""

    def __init__(self, desk: Desk, uploads: Path) -> None:
        self.parts: dict[str, Any] = {}
        self.handlers = Handlers(desk, uploads)
        with gr.Blocks(
            title="Localization heads", analytics_enabled=False, delete_cache=(FREQUENCY, AGE)
        ) as self.blocks:
            self._lay_out(desk)
            self._wire()
        self.blocks.queue(max_size=QUEUE, api_open=False)

    # what there is

    def _lay_out(self, desk: Desk) -> None:
        parts = self.parts
        parts["state"] = gr.State(None)
        model = desk.model
        gr.HTML(views.masthead(model.config.model.name, (model.loaded.num_layers, model.loaded.num_heads)))
        parts["photo"] = _html("photo", elem_classes="lh-hidden")
        with gr.Row(elem_classes="lh-question"):
            with gr.Column(scale=4, min_width=300):
                self._lay_out_question(desk)
            with gr.Column(scale=7, min_width=300):
                parts["message"] = gr.HTML("")
                parts["results"] = _html("cards", min_height=360)
        with gr.Accordion("Rules: they act at once, the model is not asked again", open=True, elem_classes="lh-rules"):
            for key in RULES:
                parts[key] = _control(key)
        _section("Every head", "Point at a head to see what it looks at, and click to choose it: mask and box follow.")
        with gr.Row(equal_height=False, elem_classes="lh-choices"):
            parts["which"] = gr.Radio(
                [("A", 0), ("B", 1)], value=0, label="Heads, answers and files of side", visible=False
            )
            kinds = [("the model's own", OWN), ("ranked for this picture", RANKED), ("clicked below", CLICKED)]
            parts["heads"] = gr.Radio(kinds, value=OWN, label="Heads")
        parts["grid"] = _html("heads", elem_classes="lh-room")
        parts["marks"] = _html("marks", elem_classes="lh-hidden")
        _section("Does the model use them?", "The chosen heads are changed while the model answers the expression, "
                 "and for comparison as many other heads of the same layers.")  # fmt: skip
        choices = [(WAY_TEXTS[way], way) for way in WAYS]
        parts["way"] = gr.Radio(choices, value=WAYS[0], label="What is done to the chosen heads")
        parts["knock"] = gr.Button("Ask again with these heads changed", scale=0, elem_classes="lh-button")
        parts["answers"] = gr.HTML("")
        _section("Take it with you", "")
        parts["make"] = gr.Button("Make the files: record, mask, box, figures", scale=0, elem_classes="lh-button")
        parts["files"] = gr.Files(label="Files", interactive=False, visible=False)
        parts["take"] = _html("take", elem_classes="lh-take")

    def _lay_out_question(self, desk: Desk) -> None:
        parts = self.parts
        limit = f"up to {MOST_BYTES // 2**20} MB and {MOST_PIXELS // 10**6} million pixels"
        examples = {name: (text, desk.thumbnail(name)) for name, text in EXAMPLES.items()}
        parts["picker"] = _html("picker", views.picker(examples, limit), {"LIMIT": str(MOST_BYTES)})
        parts["expression"] = gr.Textbox(
            label="What to look for", placeholder="the cup on the left", max_length=LONGEST
        )
        parts["compare"] = gr.Checkbox(label="Compare with another expression or other heads", container=False)
        parts["second"] = gr.Textbox(
            label="Second expression", placeholder="the same, with other heads", max_length=LONGEST, visible=False
        )
        parts["ask"] = gr.Button("Ask the model", variant="primary")

    # what follows

    def _wire(self) -> None:
        parts, do, results = self.parts, self.handlers, self.parts["results"]
        asking = MODEL | {"show_progress_on": results}
        rules = [parts[key].input for key in RULES]
        events: list[tuple[list[Any], Callable[[Visit], Changed], dict[str, Any]]] = [
            ([self.blocks.load], do.opened, asking),
            ([parts["ask"].click, parts["expression"].submit, parts["second"].submit], do.asked, asking),
            ([parts["compare"].input], do.asked, asking),
            ([parts["picker"].example], do.example, asking | EACH),
            ([parts["picker"].dropped], do.dropped, asking | EACH),
            ([parts["picker"].refused], do.refused, LIVE | EACH),
            (rules, do.ruled, LIVE),
            ([parts["grid"].choose], do.chose, LIVE | EACH),
            ([parts["heads"].input], do.picked, LIVE),
            ([parts["which"].input], do.turned, LIVE),
            ([parts["knock"].click], do.knocked, MODEL | {"show_progress_on": parts["answers"]}),
            ([parts["make"].click], do.made, {"show_progress_on": parts["make"]}),
        ]
        for triggers, does, options in events:
            listen = triggers[0] if len(triggers) == 1 else partial(gr.on, triggers)
            bound = listen(self._handled(does), self._inputs, self._outputs, api_visibility="private", **options)
            if options.get("show_progress_on") is results:
                self._then_read(bound)
        compared = parts["compare"]
        compared.change(
            lambda on: [gr.update(visible=on)] * 2, compared, [parts["second"], parts["which"]], queue=False,
            api_visibility="private",
        )  # fmt: skip

    def _then_read(self, asked: Any) -> None:
        """The words, when everything else is there already."""
        asked.then(
            self._handled(self.handlers.read, keeps=True), self._inputs, self._outputs, show_progress="hidden",
            api_visibility="private", **MODEL,
        )  # fmt: skip

    @property
    def _inputs(self) -> list[Any]:
        return [self.parts[name] for name in self._names]

    @property
    def _names(self) -> list[str]:
        return ["state", "expression", "compare", "second", "which", "heads", "way", *RULES]

    @property
    def _outputs(self) -> list[Any]:
        fixed = ("picker", "ask", "knock", "make", "way")
        return [part for name, part in self.parts.items() if name not in fixed]

    def _handled(self, does: Callable[[Visit], Changed], *, keeps: bool = False) -> Callable[..., dict[Any, Any]]:
        """An event for gradio. What went wrong is told in one line on the page; `keeps` what was told before."""
        before: Changed = {} if keeps else {"message": ""}

        def handled(
            event: gr.EventData,
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008 - how gradio knows that it is wanted
            *values: Any,
        ) -> dict[Any, Any]:
            named = dict(zip(self._names, values, strict=True))
            told = event._data if isinstance(event._data, dict) else {}
            query = dict(request.query_params)
            try:
                changed = before | does(
                    Visit(named["state"], named, told, query, lambda share, text: progress(share, desc=text))
                )
            except WRONG as error:
                changed = {"message": views.message(one_line(error), "wrong")}
            except Exception:
                log.exception("the page could not answer")
                changed = {"message": views.message("Something went wrong here; the server's log says what", "wrong")}
            updates = {self.parts[name]: gr.update(**update) for name, update in _updates(changed).items()}
            return updates or {self.parts["message"]: gr.skip()}  # gradio takes no empty answer

        return handled


def _updates(changed: Changed) -> dict[str, dict[str, Any]]:
    """What becomes of each part: its value, and whether it is there at all."""
    updates: dict[str, dict[str, Any]] = {name: {"value": value} for name, value in changed.items() if name != SHOWN}
    for name, shown in changed.get(SHOWN, {}).items():
        updates.setdefault(name, {})["visible"] = shown
    return updates


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _html(script: str, value: str = "", constants: dict[str, str] | None = None, **options: Any) -> gr.HTML:
    """HTML with the script static/`script`.js."""
    text = _static(f"{script}.js")
    for name, constant in (constants or {}).items():
        text = text.replace(name, constant)
    return gr.HTML(value, js_on_load=text, **options)


def _section(title: str, text: str) -> None:
    gr.HTML(views.section(title, text))


def _control(key: str) -> Any:
    """A slider or a choice for a key of the rules."""
    rule, choices, about = RULES[key], words(key), FIELDS[key].metadata["text"]
    if choices is not None:
        return gr.Radio(choices, label=rule.label, info=about)
    return gr.Slider(
        rule.low, rule.high, step=rule.step, label=rule.label, info=about, buttons=[], visible=rule.only is None
    )
