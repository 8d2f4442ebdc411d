"""Collecting records in every way, on one model: how many samples a second, how much memory, and where the time goes.

`stock` is how the published code works, written plainly, but with the model loaded once: one sample at a time, every
layer's full map kept by `output_attentions=True`, all of them stacked, the last row cut out, ranked by loops, pickled.
`eager` and `fused` run `stage=batch`'s own code.
"""

import cProfile
import inspect
import pickle
import pstats
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from analyze import rank_heads
from bbox import localize_record
from collector import PendingRecords, Question, make_prompt, prepare
from conf.schema import Config
from lab.attention.capture import kept_of_map, use_attention, wanted_weights
from lab.attention.forward import stacked, to_model
from lab.attention.packing import pack
from lab.base.errors import UserError
from lab.base.images import open_image
from lab.base.processes import Processes
from lab.batch.plan import plan_rows
from lab.batch.run import Outcome, collect_rows
from lab.bench import reference_rules
from lab.bench.machine import peak_memory, synchronize
from lab.datasets import Sample
from lab.heads.choice import head_choice
from lab.picturebook.make import samples as drawn_scenes
from lab.records.folder import write_record
from lab.stages.batch import batch_job
from lab.stages.results import write_localization, write_ranking
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


def run_case(
    loaded: LoadedModel, cfg: Config, case: Case, images: list[Path], folder: Path, *, alone: bool = False
) -> float:
    """Collects, ranks and writes a record for every expression on every image.

    Returns the seconds that the model stood still meanwhile. `alone`: this thread does everything.
    """
    samples = asked(case.images(images), case.expressions)
    use_attention(loaded.model, "eager" if case.attention == "stock" else case.attention)
    if case.attention == "stock":
        for sample in samples:
            stock(loaded, sample, folder / f"{sample.id}.pkl")
        return 0.0
    data = replace(cfg.data, batch_size=case.batch, workers=0 if alone else cfg.data.workers)
    job = replace(batch_job(replace(cfg, data=data), head_choice(cfg.logic, cfg.model), folder), windows=alone)
    outcome = Outcome()
    one_of_two = Processes(rank=1, world=2)  # not the main one: no progress bar
    collect_rows(job, loaded, plan_rows(samples, share_image=True), one_of_two, outcome)
    if outcome.errors:
        raise UserError(f"{case.name}: {outcome.errors[0]['error']}")
    return sum(outcome.waited.values())


def stock(loaded: LoadedModel, sample: Sample, path: Path) -> None:
    """One sample as the published code collects it."""
    attn = stock_row(loaded, prepare(loaded, open_image(sample.image_file), [sample.query]))
    reference_rules.ranking(attn)
    path.write_bytes(pickle.dumps({"attn": attn.to(torch.float16), "meta": {}}))


def stock_row(loaded: LoadedModel, question: Question) -> torch.Tensor:
    """Its attention [layers, heads, 1, image tokens]: every layer's full map is kept, and the last row cut out."""
    packed = pack([question.prompts]).to(loaded.device)
    with torch.inference_mode():
        inputs = to_model(loaded, loaded.family.inputs([question.picture]))
        output = loaded.model(
            input_ids=packed.ids,
            attention_mask=torch.ones_like(packed.ids),
            **inputs,
            **loaded.family.text_inputs(packed.ids, inputs),
            output_attentions=True,
        )
        maps = torch.stack([attention[0] for attention in output.attentions])  # [layers, heads, queries, keys]
        return maps[:, :, -1:, packed.columns].cpu()  # a range, for there is one row


def warm(loaded: LoadedModel, cfg: Config, case: Case, images: list[Path], folder: Path) -> None:
    """Runs the case on one image, so that what happens only once has happened."""
    run_case(loaded, cfg, case, images[:1], folder)
    synchronize(loaded.device)


def seconds(loaded: LoadedModel, cfg: Config, case: Case, images: list[Path], folder: Path) -> tuple[float, float]:
    """How long one run takes, until its last file is written, and how much of that the model waited for images and
    writers.
    """
    began = time.perf_counter()
    waited = run_case(loaded, cfg, case, images, folder)
    synchronize(loaded.device)
    return time.perf_counter() - began, waited


def memory(loaded: LoadedModel, cfg: Config, case: Case, images: list[Path], folder: Path) -> tuple[int, int]:
    """How many bytes one run takes at most, above the weights: of tensors on the device, and of the process."""
    return peak_memory(lambda: seconds(loaded, cfg, case, images, folder), loaded.device)


def parts(loaded: LoadedModel, cfg: Config, case: Case, images: list[Path], folder: Path) -> dict[str, float]:
    """Seconds of each part of one run in which this thread does everything; none of stock, which has no such parts."""
    if case.attention == "stock":
        return {}
    return time_parts(loaded, lambda: run_case(loaded, cfg, case, images, folder, alone=True))


def time_parts(loaded: LoadedModel, run: Callable[[], object]) -> dict[str, float]:
    """Seconds of each part of one run, from Python's profiler and, for the model's two halves, from hooks.

    The hooks wait for the accelerator, which a real run does not; on one, `capture` is only the time to ask for it.
    """
    functions: dict[str, tuple[Callable[..., Any], ...]] = {
        "decode": (open_image, make_prompt, type(loaded.family).picture),
        "capture": (wanted_weights, kept_of_map, stacked),
        "copy": (PendingRecords.of,),
        "analyze": (rank_heads,),
        "mask": (localize_record, write_localization),
        "write": (write_record, write_ranking),
    }
    took: dict[str, float] = {}
    profile = cProfile.Profile()
    halves = (("tower", loaded.model.model.vision_tower), ("LM", loaded.model.model.language_model))
    with ExitStack() as stack:
        for name, module in halves:
            stack.enter_context(_timed_module(module, name, took, loaded.device))
        profile.runcall(run)
    stats: dict[Any, Any] = vars(pstats.Stats(profile))["stats"]
    seconds_of = {code: cumulative for code, (_, _, _, cumulative, _) in stats.items()}
    for name, parts_of_it in functions.items():
        took[name] = sum(seconds_of.get(_profiled_as(function), 0.0) for function in parts_of_it)
    took["LM"] -= took["capture"]
    return took


def _profiled_as(function: Callable[..., Any]) -> tuple[str, int, str]:
    """The name that the profiler gives a function."""
    code = inspect.unwrap(function).__code__
    return code.co_filename, code.co_firstlineno, code.co_name


@contextmanager
def _timed_module(module: torch.nn.Module, name: str, took: dict[str, float], device: torch.device) -> Iterator[None]:
    began: list[float] = []

    def start(_module: torch.nn.Module, _args: Any) -> None:
        synchronize(device)
        began.append(time.perf_counter())

    def stop(_module: torch.nn.Module, _args: Any, _output: Any) -> None:
        synchronize(device)
        took[name] = took.get(name, 0.0) + time.perf_counter() - began.pop()

    # A forward is left as soon as its last wanted row is kept, so `stop` must also be called for those that raise.
    hooks = (module.register_forward_pre_hook(start), module.register_forward_hook(stop, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
