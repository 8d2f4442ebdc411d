"""Collecting records in every way, on one model: how many samples a second, how much memory, and where the time goes.

`stock` is how the published code works, written plainly, but with the model loaded once: one sample at a time, every layer's full
map kept by `output_attentions=True`, all of them stacked, the last row cut out, ranked by loops, pickled. `eager` and `fused` run
`stage=batch`'s own code.
"""

import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

import collector
import lab.attention
import lab.batch
import lab.feed
import lab.resume
from collector import Answers, prepare
from lab.attention import use_attention
from lab.bench.machine import peak_memory, synchronize
from lab.datasets import Sample
from lab.images import open_image
from lab.packing import pack
from lab.picturebook.make import samples as drawn_scenes
from llava.model.loaded import LoadedModel
from tests import reference_rules

EXPRESSIONS = (
    "the man in the blue shirt on the left",
    "woman with the umbrella",
    "a small dog wearing a red collar",
    "second car from the right",
    "the cup beside the plate",
    "the tall house behind the tree",
    "guy on the bike looking at us",
)
SIZE = (640, 480)  # pixels of the pictures, as COCO's


@dataclass(frozen=True)
class Case:
    """One way to collect."""

    attention: str  # stock | eager | fused
    batch: int | None  # images in one forward; None: automatic
    expressions: int  # on each image

    @property
    def name(self) -> str:
        return f"{self.attention}, batch {self.batch or 'auto'}, {self.expressions} per image"


@dataclass
class Measured:
    """Medians of one case."""

    samples_per_second: float
    images_per_second: float
    peak_bytes: int  # above the weights
    seconds: dict[str, float] = field(default_factory=dict)  # of each part, per sample


def cases() -> list[Case]:
    """stock, eager and fused; one image at a time and automatic; one and seven expressions on an image."""
    ours = [Case(attention, batch, n) for attention in ("eager", "fused") for batch in (1, None) for n in (1, len(EXPRESSIONS))]
    return [Case("stock", 1, 1), Case("stock", 1, len(EXPRESSIONS)), *ours]


def write_images(folder: Path, number: int) -> list[Path]:
    """Pictures of COCO's size as JPEG files."""
    paths = []
    for i, scene in enumerate(drawn_scenes(number, 0)):
        paths.append(folder / f"{i}.jpg")
        scene.image.resize(SIZE, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def asked(images: list[Path], expressions: int) -> list[Sample]:
    """So many expressions on each image."""
    return [Sample(f"{image.stem}_{n}", EXPRESSIONS[n], image) for image in images for n in range(expressions)]


def run_case(case: Case, loaded: LoadedModel, cfg: Any, images: list[Path], folder: Path) -> None:
    """Collects, ranks and writes a record for every expression on every image."""
    samples = asked(images, case.expressions)
    if case.attention == "stock":
        for sample in samples:
            stock(loaded, sample, folder / f"{sample.id}.pkl")
        return
    cfg.data.batch_size = case.batch
    rows = lab.feed.plan_rows(samples, share_image=True)
    lab.batch.collect_rows(cfg, loaded, folder, rows, lab.batch.Processes(), lab.batch.Outcome())


def stock(loaded: LoadedModel, sample: Sample, path: Path) -> None:
    """One sample as the published code collects it."""
    question = prepare(loaded, open_image(sample.image_file), [sample.query])
    packed = pack([question.prompts])
    ids = packed.ids.to(loaded.device)
    with torch.inference_mode():
        pixels = question.pixels.to(loaded.device, loaded.dtype)
        output = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, output_attentions=True)
        maps = torch.stack([attention[0] for attention in output.attentions])  # [layers, heads, queries, keys]
        attn = maps[:, :, -1:, packed.columns].cpu()
    reference_rules.ranking(attn)
    path.write_bytes(pickle.dumps({"attn": attn.to(torch.float16), "meta": {}}))


def measure(case: Case, loaded: LoadedModel, cfg: Any, images: list[Path], folder: Path, repeats: int) -> Measured:
    """Runs a case `repeats` times for its speed, then once for its memory and, but for stock, once for its parts."""
    use_attention(loaded.model, "eager" if case.attention == "stock" else case.attention)
    if case.attention == "stock" and case.expressions > 1:
        images = images[:1]  # it reads the image anew for every expression, so one tells as much as several

    def run(of: list[Path] = images) -> None:
        run_case(case, loaded, cfg, of, folder)
        synchronize(loaded.device)

    run(images[:1])
    seconds = statistics.median(_times(run, repeats))
    with peak_memory(loaded.device) as peak:
        run()
        highest = peak()
    number = len(images) * case.expressions
    parts = {} if case.attention == "stock" else {name: took / number for name, took in time_parts(loaded, run).items()}
    return Measured(number / seconds, len(images) / seconds, highest, parts)


def _times(run: Callable[[], None], repeats: int) -> Iterator[float]:
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        yield time.perf_counter() - began


def time_parts(loaded: LoadedModel, run: Callable[[], None]) -> dict[str, float]:
    """Seconds of each part of one run, waiting for the accelerator after each, which a real run does not."""
    took: dict[str, float] = {}
    device = loaded.device
    with ExitStack() as stack:
        for name, place, attribute in (
            ("decode", lab.feed, "prepare"),
            ("decode", lab.feed, "open_image"),
            ("capture", lab.attention, "wanted_weights"),
            ("capture", lab.attention, "_picked"),
            ("capture", collector, "_stacked"),
            ("copy", Answers, "of"),
            ("analyze", lab.resume, "rank_heads"),
            ("write", lab.batch, "write_record"),
            ("write", lab.resume, "write_ranking"),
        ):
            stack.enter_context(mock.patch.object(place, attribute, _timed(getattr(place, attribute), name, took, device)))
        stack.enter_context(_timed_module(loaded.model.model.vision_tower, "tower", took, device))
        stack.enter_context(_timed_module(loaded.model.model.language_model, "language model", took, device))
        run()
    took["language model"] -= took.get("capture", 0.0)
    return took


def _timed(function: Callable[..., Any], name: str, took: dict[str, float], device: torch.device) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        synchronize(device)
        began = time.perf_counter()
        try:
            result = function(*args, **kwargs)
            synchronize(device)
            return result
        finally:
            took[name] = took.get(name, 0.0) + time.perf_counter() - began

    return timed


@contextmanager
def _timed_module(module: torch.nn.Module, name: str, took: dict[str, float], device: torch.device) -> Iterator[None]:
    forward = module.forward
    module.forward = _timed(forward, name, took, device)
    try:
        yield
    finally:
        del module.forward
