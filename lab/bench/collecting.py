"""Collecting records in every way, on one model: how many samples a second, how much memory, and where the time goes.

`stock` is how the published code works, written plainly, but with the model loaded once: one sample at a time, every
layer's full map kept by `output_attentions=True`, all of them stacked, the last row cut out, ranked by loops, pickled.
`eager` and `fused` run `stage=batch`'s own code.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

import lab.attention.capture
import lab.attention.forward
import lab.batch.rows
import lab.batch.run
import lab.stages.finish
from collector import PendingRecords, prepare
from lab.attention.capture import use_attention
from lab.attention.forward import to_model
from lab.attention.packing import pack
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.bench import reference_rules
from lab.bench.machine import peak_memory, synchronize
from lab.datasets import Sample
from lab.picturebook.make import samples as drawn_scenes
from lab.stages.batch import batch_job
from llava.family import LoadedModel

EXPRESSIONS = (
    "the man in the blue shirt on the left",
    "woman with the umbrella",
    "a small dog wearing a red collar",
    "second car from the right",
    "the cup beside the plate",
    "the tall house behind the tree",
    "guy on the bike looking at us",
)
STOCK = 8  # expressions that stock asks at most
SIZE = (640, 480)  # pixels of the pictures, as COCO's


@dataclass(frozen=True)
class Case:
    """One way to collect."""

    attention: str  # stock | eager | fused
    batch: int | None  # images in one forward; None: automatic
    expressions: int  # on each image

    def images(self, there: list[Path]) -> list[Path]:
        """Those that it reads: stock asks one expression after the other, so that few tell as much as many."""
        return there[: max(1, STOCK // self.expressions)] if self.attention == "stock" else there

    @property
    def name(self) -> str:
        return f"{self.attention}, {self.batch or 'auto'} x {self.expressions}"


@dataclass
class Measured:
    """Medians of one case."""

    samples_per_second: float
    images_per_second: float
    peak_bytes: int  # of tensors on the device, above the weights
    resident_bytes: int  # of the process, above what it takes when idle
    seconds: dict[str, float] = field(default_factory=dict)  # of each part, and that the model stood still; per sample


def cases(batches: Sequence[int | None] = (1, None)) -> list[Case]:
    """stock, eager and fused; so many images in one forward; one and seven expressions on an image."""
    ours = [
        Case(attention, batch, n)
        for attention in ("eager", "fused")
        for batch in batches
        for n in (1, len(EXPRESSIONS))
    ]
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


def run_case(loaded: LoadedModel, cfg: Any, case: Case, images: list[Path], folder: Path) -> float:
    """Collects, ranks and writes a record for every expression on every image; the seconds that the model stood still
    meanwhile.
    """
    samples = asked(case.images(images), case.expressions)
    use_attention(loaded.model, "eager" if case.attention == "stock" else case.attention)
    if case.attention == "stock":
        for sample in samples:
            stock(loaded, sample, folder / f"{sample.id}.pkl")
        return 0.0
    cfg.data.batch_size = case.batch
    rows = lab.batch.rows.plan_rows(samples, share_image=True)
    outcome = lab.batch.run.Outcome()
    one_of_two = lab.batch.run.Processes(rank=1, world=2)  # not the main one: no progress bar
    lab.batch.run.collect_rows(batch_job(cfg, folder), loaded, rows, one_of_two, outcome)
    if outcome.errors:
        raise UserError(f"{case.name}: {outcome.errors[0]['error']}")
    return sum(outcome.waited.values())


def stock(loaded: LoadedModel, sample: Sample, path: Path) -> None:
    """One sample as the published code collects it."""
    question = prepare(loaded, open_image(sample.image_file), [sample.query])
    packed = pack([question.prompts]).to(loaded.device)
    with torch.inference_mode():
        inputs = to_model(loaded, loaded.family.inputs([question.picture]))
        output = loaded.model(
            input_ids=packed.ids,
            attention_mask=torch.ones_like(packed.ids),
            **inputs,
            output_attentions=True,
        )
        maps = torch.stack([attention[0] for attention in output.attentions])  # [layers, heads, queries, keys]
        attn = maps[:, :, -1:, packed.columns].cpu()  # a range, for there is one row
    reference_rules.ranking(attn)
    path.write_bytes(pickle.dumps({"attn": attn.to(torch.float16), "meta": {}}))


def warm(loaded: LoadedModel, cfg: Any, case: Case, images: list[Path], folder: Path) -> None:
    """Runs the case on one image, so that what happens only once has happened."""
    run_case(loaded, cfg, case, images[:1], folder)
    synchronize(loaded.device)


def seconds(loaded: LoadedModel, cfg: Any, case: Case, images: list[Path], folder: Path) -> tuple[float, float]:
    """How long one run takes, until its last file is written, and how much of that the model waited for images and
    writers.
    """
    began = time.perf_counter()
    waited = run_case(loaded, cfg, case, images, folder)
    synchronize(loaded.device)
    return time.perf_counter() - began, waited


def memory(loaded: LoadedModel, cfg: Any, case: Case, images: list[Path], folder: Path) -> tuple[int, int]:
    """How many bytes one run takes at most, above the weights: of tensors on the device, and of the process."""
    return peak_memory(lambda: seconds(loaded, cfg, case, images, folder), loaded.device)


def parts(loaded: LoadedModel, cfg: Any, case: Case, images: list[Path], folder: Path) -> dict[str, float]:
    """Seconds of each part of one run in which this process does everything; none of stock, which has no such parts."""
    if case.attention == "stock":
        return {}
    workers, cfg.data.workers = cfg.data.workers, 0
    try:
        return time_parts(loaded, lambda: run_case(loaded, cfg, case, images, folder))
    finally:
        cfg.data.workers = workers


def time_parts(loaded: LoadedModel, run: Callable[[], object]) -> dict[str, float]:
    """Seconds of each part of one run, waiting for the accelerator after each, which a real run does not."""
    took: dict[str, float] = {}
    device = loaded.device
    with ExitStack() as stack:
        for name, place, attribute in (
            ("decode", lab.batch.rows, "prepare"),
            ("decode", lab.batch.rows, "open_image"),
            ("decode", lab.batch.rows, "make_prompt"),
            ("decode", type(loaded.family), "picture"),
            ("capture", lab.attention.capture, "wanted_weights"),
            ("capture", lab.attention.capture, "_picked"),
            ("capture", lab.attention.forward, "stacked"),
            ("copy", PendingRecords, "of"),
            ("analyze", lab.stages.finish, "rank_heads"),
            ("write", lab.batch.run, "write_record"),
            ("write", lab.stages.finish, "write_ranking"),
        ):
            stack.enter_context(
                mock.patch.object(place, attribute, _timed(getattr(place, attribute), name, took, device))
            )
        stack.enter_context(_timed_module(loaded.model.model.vision_tower, "tower", took, device))
        stack.enter_context(_timed_module(loaded.model.model.language_model, "LM", took, device))
        run()
    took["LM"] -= took.get("capture", 0.0)
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
