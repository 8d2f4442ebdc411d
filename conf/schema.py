"""The typed schema behind every config file: unknown keys, wrong types and impossible values are refused by name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from lab.base.errors import UserError
from llava.conversation import conversation

STAGES = ("collect", "analyze", "visualize", "pipeline", "batch", "select", "evaluate", "study", "report")


@dataclass
class ThresholdConfig:
    """Which heads look at the image enough: those whose attention sum reaches the threshold."""

    method: str = "chord"  # chord: the elbow of the sorted sums | none: every head stays
    min_keep: int = 1  # with fewer heads than this left, the ones with the largest sums are taken instead


@dataclass
class EntropyConfig:
    """How scattered a head's map is: the entropy over its connected components."""

    center: float = 2.0  # the map minus this many means, negative values cut to 0
    weight: str = "mass"  # mass: a component counts by its attention | area: by its cells
    min_value: float = 0.001  # cells at or below belong to no component
    flat_is_focused: bool = True  # a map that is positive but has no component gets entropy 0 (else infinity)


@dataclass
class FilterConfig:
    """Heads that are never selected."""

    min_layer: int = 2  # first layer that may hold a selected head, zero-based
    bottom_row: float | None = (
        0.05  # refuse heads with more than this in any cell of the last grid row; null = keep them
    )


@dataclass
class SmoothingConfig:
    """Gaussian smoothing of each head's map before the maps are summed."""

    sigma: float = 1.0  # standard deviation in grid cells; 0 = none
    kernel: int | None = None  # width of the kernel in cells, odd; null = 4 sigma to each side
    per_cells: int | None = (
        None  # if set, sigma and kernel are meant for a grid of this many cells and scale with the real one
    )


@dataclass
class MaskConfig:
    """The summed map to a mask."""

    method: str = "mean_relu"  # mean_relu: above the mean | otsu: Otsu's threshold | quantile: above the quantile below
    quantile: float = 0.9  # for method quantile
    resolution: str = "grid"  # grid: threshold the cells | image: threshold the map after upsampling


@dataclass
class BoxConfig:
    """The mask to a box."""

    region: str = "all"  # all: every positive cell | largest: the largest region | largest_hull: largest convex hull


@dataclass
class SelectConfig:
    """Over many samples: which heads are selected again and again."""

    top_n: int = 10  # heads per sample that count as selected
    trials: int = 10  # random subsets of the samples; the frequency is the mean over them
    samples: int | None = 1000  # samples in each subset, drawn without replacement; null = all samples, once
    threshold: str = (
        "sample"  # sample: each sample has its own | dataset: one, from the mean of the attention sums over all samples
    )
    source: str | None = (
        None  # records: ranked anew | analyses: the saved rankings, faster; null = records if there are any
    )


@dataclass
class LogicConfig:
    """From a record to heads, mask and box."""

    top_k: int = 3  # heads that make the heat map
    # null: ranked per sample | [[layer, head], ...]: zero-based | preset: the model preset's | a file of stage=select
    heads: Any = None
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    # none | ratio, difference: each chosen head's map against that of a generic prompt; ranking uses the plain maps
    contrast: str = "none"
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    box: BoxConfig = field(default_factory=BoxConfig)
    select: SelectConfig = field(default_factory=SelectConfig)


@dataclass
class ModelConfig:
    """Which checkpoint, how it is loaded, and how it is asked."""

    name: str = MISSING  # folder or hub id
    base: str | None = None  # base model of a projector-only or LoRA checkpoint
    cache_dir: str | None = None  # where downloads go; null = HF_HOME
    dtype: str = "auto"  # auto | float32 | float16 | bfloat16; auto: bfloat16 or float16 on a GPU, float32 on the CPU
    attention: str = "eager"  # eager: the stock math, to the bit | fused: faster and lean; the kept rows in float32
    conv_mode: str = "referseg"  # prompt template
    drop_space_tokens: bool | None = None  # drop stand-alone space tokens; null = as the template does
    image_aspect_ratio: str | None = None  # pad | crop; null = as the checkpoint says
    max_new_tokens: int = 32
    do_sample: bool = False
    temperature: float = 0.2  # for do_sample
    top_p: float | None = None  # for do_sample
    num_beams: int = 1
    use_generate: bool = False  # also generate an answer and store it
    use_flash_attn: bool = False  # refused: flash attention never forms the weights that this tool reads
    load_in_4bit: bool = False
    load_in_8bit: bool = False
    localization_heads: Any = (
        None  # known heads [[layer, head], ...] of this model, zero-based; used by logic.heads=preset
    )


@dataclass
class DataConfig:
    """What to read and where to write."""

    image_file: str | None = None
    query: str | None = None
    attention_file: str | None = None  # a saved record: .pkl or .pkl.gz
    attention_dir: str | None = (
        None  # folder for stage=analyze, select and evaluate; null = one record, or the model's own in output_dir
    )
    save_id: str | None = None  # file name of the record; null = from the image's name
    data_file: str | None = None  # JSONL for stage=batch, and for stage=select with process_all
    save_generic: bool = (
        False  # also collect the attention of a generic prompt, for logic.contrast, which sets it by itself
    )
    final_period: bool = False  # end every expression in a full stop, as the paper's prompts do
    process_all: bool = (
        False  # every line; otherwise start_index to end_index; in stage=select: collect every line first
    )
    start_index: int = 0
    end_index: int | None = None  # exclusive; null = one sample
    batch_size: int | None = None  # images in one forward; null = as many as memory allows
    share_image: bool = True  # expressions on one image are asked together, the image read once
    workers: int | None = (
        None  # processes beside this one that read images, write records, or rank a folder's; null = from the cores
    )
    output_dir: str = "outputs/localization_heads"
    record_format: str = "pkl"  # pkl | pkl.gz: somewhat smaller, slower to write; both are read anywhere
    save_dtype: str | None = (
        None  # float16 | float32: precision of the records; null = float16 for 16-bit models, else float32
    )
    save_attention: str = (
        "all"  # all | selected: the maps of the chosen heads, and every head's scores | none: the scores alone
    )
    visualize_batch: bool = False  # also draw figures in stage=batch
    runs: list[str] | None = None  # two folders of records, for stage=report to compare; null = one run, as above


@dataclass
class EvaluateConfig:
    """What stage=evaluate measures beside the chosen heads."""

    controls: list[str] = field(
        default_factory=lambda: ["random", "all", "sum_only", "entropy_only", "greedy", "oracle", "centre"]
    )  # rows of the table, explained in lab/evaluate.py
    draws: int = 20  # random sets of heads of the same layers
    resamples: int = 1000  # of the bootstrap intervals


@dataclass
class ReportConfig:
    """What stage=report puts into its page."""

    max_samples: int | None = 1000  # more are drawn at random, by seed; null = all of them, whatever the page weighs
    max_side: int = 320  # longest side of the pictures, in pixels


@dataclass
class StudyConfig:
    """What stage=study compares."""

    find: str = (
        "all"  # samples that find the heads: all that are scored | half: the other half is scored | a folder of records
    )
    top_k: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])  # numbers of heads
    sigmas: list[float] = field(default_factory=lambda: [0.0, 0.4, 0.8, 1.0, 1.4, 1.8])  # of the smoothing
    kernels: list[Any] = field(
        default_factory=lambda: [3, 5, 7, 9, None]
    )  # odd numbers of cells; null = 4 sigma to each side
    discovery: list[int] = field(
        default_factory=lambda: [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000]
    )  # samples to find heads with
    draws: int = 10  # random subsets of each of these sizes
    head_samples: int = 1000  # samples at most on which every head's own box is measured


@dataclass
class MetricsConfig:
    """Conventions of the metrics."""

    box: str = "exclusive"  # exclusive: continuous edges | inclusive: the older convention, a box is x1 - x0 + 1 wide


@dataclass
class VizConfig:
    """Figures of one sample beside the one of its chosen heads."""

    heads: bool = True  # X_heads: attention sum and entropy of every head, and the elbow of the sums
    components: bool = False  # X_components: the places that the entropy counts in the chosen heads' maps


@dataclass
class Config:
    """The whole of it."""

    stage: str = "pipeline"
    save_fig: bool = True
    save_format: str = "png"  # of figures: png | pdf | svg; masks are always png
    show_plot: bool = False
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    device_id: int | None = None  # the N of cuda:N, for device=auto or cuda
    seed: int = 0  # of every random draw
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    viz: VizConfig = field(default_factory=VizConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    logic: LogicConfig = field(default_factory=LogicConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)


CHOICES: dict[str, tuple[str, ...]] = {
    "stage": STAGES,
    "save_format": ("png", "pdf", "svg"),
    "logic.threshold.method": ("chord", "none"),
    "logic.entropy.weight": ("mass", "area"),
    "logic.contrast": ("none", "ratio", "difference"),
    "logic.mask.method": ("mean_relu", "otsu", "quantile"),
    "logic.mask.resolution": ("grid", "image"),
    "logic.box.region": ("all", "largest", "largest_hull"),
    "logic.select.threshold": ("sample", "dataset"),
    "logic.select.source": ("records", "analyses"),
    "model.attention": ("eager", "fused"),
    "data.record_format": ("pkl", "pkl.gz"),
    "data.save_dtype": ("float16", "float32"),
    "data.save_attention": ("all", "selected", "none"),
    "metrics.box": ("exclusive", "inclusive"),
    "model.dtype": ("auto", "float32", "float16", "bfloat16"),
    "model.image_aspect_ratio": ("pad", "crop"),
}
AT_LEAST: dict[str, float] = {
    "logic.top_k": 1,
    "logic.threshold.min_keep": 1,
    "logic.entropy.center": 0,
    "logic.entropy.min_value": 0,
    "logic.filter.min_layer": 0,
    "logic.filter.bottom_row": 0,
    "logic.smoothing.sigma": 0,
    "logic.smoothing.kernel": 1,
    "logic.smoothing.per_cells": 1,
    "logic.select.top_n": 1,
    "logic.select.trials": 1,
    "logic.select.samples": 1,
    "model.max_new_tokens": 1,
    "model.num_beams": 1,
    "model.temperature": 0,
    "data.batch_size": 1,
    "data.workers": 0,
    "data.start_index": 0,
    "data.end_index": 0,
    "evaluate.draws": 1,
    "evaluate.resamples": 1,
    "study.draws": 1,
    "study.head_samples": 1,
    "report.max_samples": 1,
    "report.max_side": 32,
    "device_id": 0,
    "seed": 0,
}


def configuration(overrides: Sequence[str]) -> Any:
    """What `python pipeline.py <overrides>` would run with.

    Raises UserError and Hydra's errors on values that it would refuse.
    """
    register()
    with initialize_config_dir(str(Path(__file__).parent.resolve()), version_base="1.3"):
        cfg: Any = compose("config", list(overrides))
    check(cfg)
    return cfg


def register() -> None:
    """Makes the schema known to Hydra under the name that conf/config.yaml starts from."""
    ConfigStore.instance().store(name="schema", node=Config)


def check(cfg: Config) -> None:
    """Refuses impossible values. Raises UserError naming the key and what would be right."""
    for key, choices in CHOICES.items():
        value = OmegaConf.select(cfg, key)  # type: ignore[arg-type]
        if value is not None and value not in choices:
            raise UserError(f"{key}={value}: choose from {', '.join(choices)}")
    for key, least in AT_LEAST.items():
        value = OmegaConf.select(cfg, key)  # type: ignore[arg-type]
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UserError(f"{key}={value}: must be {least:g} or more, and finite")
    _check_study(cfg.study)
    if cfg.logic.smoothing.kernel is not None and cfg.logic.smoothing.kernel % 2 == 0:
        raise UserError(f"logic.smoothing.kernel={cfg.logic.smoothing.kernel}: must be odd")
    if not 0 < cfg.logic.mask.quantile < 1:
        raise UserError(f"logic.mask.quantile={cfg.logic.mask.quantile}: must lie between 0 and 1")
    if cfg.model.do_sample and cfg.model.temperature == 0:
        raise UserError("model.temperature=0: must be above 0 with model.do_sample=true")
    if cfg.model.top_p is not None and not 0 < cfg.model.top_p <= 1:
        raise UserError(f"model.top_p={cfg.model.top_p}: must lie above 0 and at most at 1")
    if cfg.model.use_flash_attn:
        raise UserError(
            "model.use_flash_attn=true cannot be used: flash attention never forms the weights that are collected here"
        )
    if cfg.data.save_attention == "none" and cfg.data.visualize_batch:
        raise UserError(
            "data.save_attention=none keeps no maps to draw from: set it to selected, or data.visualize_batch=false"
        )
    conversation(cfg.model.conv_mode)
    if cfg.data.end_index is not None and cfg.data.end_index <= cfg.data.start_index:
        raise UserError(f"data.end_index={cfg.data.end_index}: must lie after data.start_index={cfg.data.start_index}")


def _check_study(config: StudyConfig) -> None:
    for key, least in (("top_k", 1), ("sigmas", 0), ("discovery", 1)):
        values = getattr(config, key)
        if not values or not all(math.isfinite(value) and value >= least for value in values):
            raise UserError(f"study.{key}={list(values)}: expected one number or more, each {least} or above")
    kernels = list(config.kernels)
    if not kernels or not all(
        kernel is None or (isinstance(kernel, int) and kernel > 0 and kernel % 2) for kernel in kernels
    ):
        raise UserError(f"study.kernels={kernels}: expected odd numbers of cells, or null for 4 sigma to each side")
