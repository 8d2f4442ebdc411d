"""The typed configuration: one dataclass for each group, one field for each key.

    config = configuration(["model=llava15_7b", "logic.top_k=5"])   # what `python pipeline.py ...` would run with
    config.logic.mask.method is MaskMethod.otsu
    as_dict(config), as_yaml(config)                                # plain values, for files

Hydra composes conf/*.yaml against these classes, so that unknown keys and wrong types are refused by name. `plain` then
makes objects of them, once; each checks its own values as it is made. The text of a key stands here alone:
`python -m conf.keys` makes the table of conf/README.md from it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from enum import Enum
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, get_args

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf

from lab.base.arguments import literal
from lab.base.checkpoints import same_model
from lab.base.errors import UserError, shown
from lab.base.paths import refused
from lab.base.refusals import wrong_word
from lab.base.remote import is_url
from lab.base.shards import Shard

PRESET = "preset"  # of logic.heads: those that the model preset knows
MOST_NUMBER = 2**63 - 1  # whole numbers are those of arrays
MOST_DRAWS = 1_000_000  # more never end
MOST_READ = 4096  # tokens whose attention one record holds
WIDEST = 1001  # of smoothing, in cells: far more than any grid has
# What the system is to have at the paths of a key; `heads` may also be a list of them.
PATHS = {"file": "file", "folder": "folder", "folders": "folder", "heads": "file"}
END = -1  # of data.end_index: the last line
ANSWER_BOXES = "answer_boxes"
READ = ("last", "expression", "answer", ANSWER_BOXES)  # of model.read
WORD = "word:"  # in front of one
MEAN = "mean"
TOKENS = (MEAN, "first", "last")  # of logic.token
SHIPPED_MODEL, SHIPPED_SAM = "examples/models/picturebook", "examples/models/picturebook_sam"
DEFAULT_SAM = "facebook/sam-vit-huge"  # for the models of photographs
WORDS = ("all", "half", PRESET)  # in the place of a path: study.find, logic.heads


class Choice(str, Enum):
    """One of a few words. Names and values are the same: OmegaConf reads and writes the names."""

    def __str__(self) -> str:
        return str(self.value)


class ThresholdMethod(Choice):
    chord = "chord"
    value = "value"
    none = "none"


class EntropyWeight(Choice):
    mass = "mass"
    area = "area"


class Ties(Choice):
    order = "order"
    sum = "sum"


class Contrast(Choice):
    none = "none"
    ratio = "ratio"
    difference = "difference"


class Weights(Choice):
    none = "none"
    frequency = "frequency"
    inverse_entropy = "inverse_entropy"


class MaskMethod(Choice):
    mean_relu = "mean_relu"
    otsu = "otsu"
    quantile = "quantile"
    peak = "peak"
    mass = "mass"
    stable = "stable"


class Resolution(Choice):
    grid = "grid"
    image = "image"


class Region(Choice):
    all = "all"
    largest = "largest"
    largest_hull = "largest_hull"
    heaviest = "heaviest"


class Grids(Choice):
    joined = "joined"
    whole = "whole"
    tiles = "tiles"


class ThresholdOver(Choice):
    sample = "sample"
    dataset = "dataset"


class Source(Choice):
    records = "records"
    analyses = "analyses"


class Attention(Choice):
    eager = "eager"
    fused = "fused"


class Dtype(Choice):
    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class AspectRatio(Choice):
    pad = "pad"
    crop = "crop"


class StoredDtype(Choice):
    float16 = "float16"
    float32 = "float32"


class SaveAttention(Choice):
    all = "all"
    selected = "selected"
    none = "none"


class BoxConvention(Choice):
    exclusive = "exclusive"
    inclusive = "inclusive"


class Refine(Choice):
    none = "none"
    sam = "sam"


class WhichMask(Choice):
    estimate = "estimate"
    agreement = "agreement"


class AblateTokens(Choice):
    onward = "onward"
    last = "last"


class FigureFormat(Choice):
    png = "png"
    pdf = "pdf"
    svg = "svg"


_ENDINGS = ("pkl", "pkl.gz", "safetensors", "shards")  # not all of them can be names of a class's members
RecordFormat = Choice("RecordFormat", {ending: ending for ending in _ENDINGS})  # type: ignore[call-overload]
SHARDS = RecordFormat("shards")
_PROMPTS = ("box", "points", "box+points", "mask")
RefinePrompt = Choice("RefinePrompt", {kind: kind for kind in _PROMPTS})  # type: ignore[call-overload]


def key(
    default: Any,
    text: str,
    *,
    least: float | None = None,
    most: float = MOST_NUMBER,
    common: str = "",
    takes: str = "",
) -> Any:
    """A field of the configuration: its default, what it means, and the smallest and largest value that it may have.

    `common` is the short form of the text in `python pipeline.py --help`, which shows the keys that have one.
    `takes` is what is not for Hydra to parse: text, file, folder, folders ([A,B]) or heads (a list of them, or a file).
    """
    about = {"text": text, "least": least, "most": most, "common": common, "takes": takes}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


class Group:
    """A group of keys that checks its own values: words become members of their `Choice`, numbers have a least."""

    path: ClassVar[str] = ""  # of the group, "" for the top

    def __init_subclass__(cls, path: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.path = path

    def __post_init__(self) -> None:
        for one in fields(self):  # type: ignore[arg-type]
            name = f"{self.path}.{one.name}" if self.path else one.name
            value = getattr(self, one.name)
            check_value(name, value, one)
            choice = next(
                (t for t in (one.type, *get_args(one.type)) if isinstance(t, type) and issubclass(t, Choice)), None
            )
            if choice is not None and value is not None:
                setattr(self, one.name, _member(choice, value, name))
            least = one.metadata.get("least")
            if least is not None and isinstance(value, int | float) and value < least:
                raise UserError(f"{name}={value}: must be {least:g} or more")
        self.check()

    def check(self) -> None:
        """What no single field tells. Raises UserError naming the key and what would be right."""


def check_value(name: str, value: Any, one: Field) -> None:
    """Raises UserError, naming the key, if a text or a number, or one in a list, is none that can be worked with."""
    for part in value if isinstance(value, list | tuple) else [value]:
        if isinstance(part, list | tuple):
            check_value(name, part, one)
        elif isinstance(part, float) and not math.isfinite(part):
            raise UserError(f"{name}={part}: must be a finite number")
        elif isinstance(part, int | float) and abs(part) > (most := one.metadata.get("most", MOST_NUMBER)):
            raise UserError(f"{name}={shown(part)}: must be at most {most}")
        elif isinstance(part, str):
            _check_text(name, part, one.metadata.get("takes", ""))


def _check_text(name: str, text: str, takes: str) -> None:
    if not text and takes in (*PATHS, "heads"):
        raise UserError(f"{name} is empty: give a {PATHS.get(takes, 'file')}")
    if "\0" in text:
        raise UserError(f"{name}={shown(text)}: holds a NUL character, which no text and no path can")
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise UserError(f"{name}={shown(text)}: not a text in UTF-8")


def _member(choice: type[Choice], value: Any, name: str) -> Choice:
    try:
        return choice(value)
    except ValueError:
        raise UserError(f"{name}={value}: choose from {', '.join(choice)}") from None


# From a record to heads, mask and box


@dataclass
class ThresholdConfig(Group, path="logic.threshold"):
    """Which heads look at the image enough: those whose attention sum reaches the threshold."""

    method: ThresholdMethod = key(
        ThresholdMethod.chord, "chord: the elbow of the sorted sums; value: a fixed number; none: every head stays"
    )
    value: float = key(0.24, "for method value, 0 to 1; the paper's for LLaVA-1.5-7B", least=0)
    min_keep: int = key(1, "with fewer heads than this left, the ones with the largest sums are taken instead", least=1)


@dataclass
class EntropyConfig(Group, path="logic.entropy"):
    """How scattered a head's map is: the entropy over its connected components."""

    center: float = key(2.0, "the map minus this many means, negative values cut to 0", least=0)
    weight: EntropyWeight = key(EntropyWeight.mass, "mass: a component counts by its attention; area: by its cells")
    min_value: float = key(0.001, "cells at or below belong to no component", least=0)
    flat_is_focused: bool = key(True, "a positive map without any component gets entropy 0, otherwise infinity")
    digits: int | None = key(
        None,
        "null: to the last bit, as published; N: weights to half precision, sums and entropies to N decimals",
        least=0,
    )


@dataclass
class FilterConfig(Group, path="logic.filter"):
    """Heads that are never selected, and image tokens that never count."""

    min_layer: int | None = key(
        2, "first layer that may hold a selected head, zero-based; null: as the model's preset says, else 2", least=0
    )
    bottom_row: float | None = key(
        0.05, "refuse heads with more than this in any cell of the last grid row; null: keep them", least=0
    )
    sinks: float | None = key(
        None,
        "leave out cells with over 10 times a map's mean in more than this share of the heads, for the expression or "
        "the generic prompt; null: keep them",
        least=0,
        most=1,
    )

    @property
    def first_layer(self) -> int:
        """`min_layer` as a number."""
        return 2 if self.min_layer is None else self.min_layer


@dataclass
class SmoothingConfig(Group, path="logic.smoothing"):
    """Gaussian smoothing of each head's map before the maps are summed."""

    sigma: float = key(
        1.0,
        "standard deviation of the Gaussian, in grid cells; 0: none",
        least=0,
        most=WIDEST,
        common="smoothing, in grid cells",
    )
    kernel: int | None = key(
        None, "width of the kernel in cells, odd; null: 4 sigma to each side", least=1, most=WIDEST
    )
    per_cells: int | None = key(
        None,
        "sigma and kernel are meant for a grid of this many cells and scale with the real one; null: as they are",
        least=1,
    )
    power: float = key(
        1.0,
        "each cell's attention to this power first: below 1 evens out what a head looks at; 1: as it is",
        least=0.1,
        most=1,
    )

    def check(self) -> None:
        if self.kernel is not None and self.kernel % 2 == 0:
            raise UserError(f"logic.smoothing.kernel={self.kernel}: must be odd")


@dataclass
class MaskConfig(Group, path="logic.mask"):
    """The summed map to a mask."""

    method: MaskMethod = key(
        MaskMethod.mean_relu,
        "above the mean (mean_relu), Otsu's threshold (otsu), a quantile, a share of the peak, the level that leaves a "
        "share of the mass, or the one at which the region changes least (stable)",
        common="mean_relu, otsu, quantile, peak, mass, stable: the cut",
    )
    quantile: float = key(0.9, "for method quantile")
    peak: float = key(0.5, "for method peak: share of the highest cell")
    mass: float = key(0.6, "for method mass: share of the sum, in the fewest cells")
    cuts: int = key(
        1, "cut each cell into so many by so many, between which the map is interpolated, first", least=1, most=32
    )
    power: float = key(
        1.0,
        "the map to this power before the threshold: above 1, otsu leaves out more of what is pale; 1: as it is",
        least=0.1,
        most=10,
    )
    resolution: Resolution = key(
        Resolution.grid, "grid: threshold the cells; image: the map enlarged to the picture, whatever `cuts` is"
    )

    def check(self) -> None:
        for name in ("quantile", "peak", "mass"):
            if not 0 < (value := getattr(self, name)) < 1:
                raise UserError(f"logic.mask.{name}={value}: must lie between 0 and 1")


@dataclass
class BoxConfig(Group, path="logic.box"):
    """The mask to a box."""

    region: Region = key(
        Region.all,
        "all: every positive cell; largest: the largest region; largest_hull: largest convex hull; heaviest: the "
        "region with the largest sum of the map that is cut",
        common="all, largest, largest_hull, heaviest: what is boxed",
    )


@dataclass
class SelectConfig(Group, path="logic.select"):
    """Over many samples: which heads are selected again and again."""

    top_n: int = key(10, "heads per sample that count as selected", least=1)
    trials: int = key(
        10, "random subsets of the samples; the frequency is the mean over them", least=1, most=MOST_DRAWS
    )
    samples: int | None = key(
        1000,
        "samples in each subset, drawn without replacement; null: all, once",
        least=1,
    )
    threshold: ThresholdOver = key(
        ThresholdOver.sample,
        "sample: each sample has its own; dataset: one, from the mean attention sums of all samples",
    )
    source: Source | None = key(
        None, "records: ranked anew; analyses: the saved rankings, faster; null: records if there are any"
    )


@dataclass
class PresenceConfig(Group, path="logic.presence"):
    """Whether the described thing is in the picture at all."""

    file: Any = key(
        None, "a presence.json of stage=calibrate; null: that of the chosen heads, if there is one", takes="file"
    )
    threshold: float | None = key(None, "no box where presence is below, 0 to 1; null: always a box", least=0)

    def check(self) -> None:
        if self.threshold is not None and self.threshold > 1:
            raise UserError(f"logic.presence.threshold={self.threshold}: must be 1 or less")


@dataclass
class LogicConfig(Group, path="logic"):
    """From a record to heads, mask and box."""

    top_k: int = key(5, "heads that make the heat map", least=1, common="heads that make the heat map")
    heads: Any = key(
        None,
        "null: ranked per sample; [[layer,head],...]; preset: the model's own; a file of stage=select or of conf/heads",
        common="null: ranked per sample; [[14,24],...]; preset; a file",
        takes="heads",
    )
    grids: Grids = key(
        Grids.joined,
        "what counts where a model sees a picture whole and in tiles: joined: both; whole, tiles: that alone",
    )
    token: Any = key(MEAN, "of the tokens that model.read kept: mean of all, first, last, or a number from 0", least=0)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    ties: Ties = key(
        Ties.order, "of heads with equal entropy, first: order: the lower layer and number; sum: the larger sum"
    )
    filter: FilterConfig = field(default_factory=FilterConfig)
    contrast: Contrast = key(
        Contrast.none,
        "ratio, difference: each chosen head's map against that of a generic prompt; ranking uses the plain maps",
    )
    weights: Weights = key(
        Weights.none,
        "what a head's map counts in the sum: none: all the same; frequency: how often the head was selected, by a "
        "file of stage=select; inverse_entropy: 1 / (1 + Shannon's entropy of its smoothed map in nats)",
    )
    smoothing: SmoothingConfig = field(default_factory=SmoothingConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    box: BoxConfig = field(default_factory=BoxConfig)
    refine: Refine = key(
        Refine.none,
        "sam: beside the grid's mask a sharp one, from the SAM that the group refine names; none: the grid's alone",
        common="none; sam: a sharp mask beside the grid's",
    )
    presence: PresenceConfig = field(default_factory=PresenceConfig)
    select: SelectConfig = field(default_factory=SelectConfig)

    def check(self) -> None:
        if self.token not in TOKENS and type(self.token) is not int:
            choices = ", ".join(TOKENS)
            raise UserError(f"logic.token={shown(self.token)}: choose from {choices}, or give a number from 0")


@dataclass
class RefineConfig(Group, path="refine"):
    """What SAM is asked, with logic.refine=sam."""

    checkpoint: str | None = key(
        None,
        "a SAM, SAM-HQ, SAM 2 or SAM 3: a folder or a hub id; null: the shipped miniature for the picture-book model, "
        "else facebook/sam-vit-huge",
        takes="folder",
    )
    prompt: RefinePrompt = key(  # type: ignore[valid-type]
        RefinePrompt("box"),
        "box; points: peaks of the heat map; box+points; mask: the heat map as a coarse mask, with the box",
    )
    positives: int = key(3, "points on the thing, at most: the highest peaks of the region", least=1, most=100)
    negatives: int = key(
        1, "points off it, at most: so many of the lowest cells in the box, and as many outside it", least=0, most=100
    )
    multimask: bool = key(False, "true: SAM makes three masks, of which choose takes one; false: it makes one")
    choose: WhichMask = key(
        WhichMask.estimate, "of several masks: estimate: the best by SAM's own guess; agreement: by the heat map"
    )
    keep: str | None = key(
        None,
        "a folder for what SAM sees of each picture, so that another run need not look again; null: it is not kept",
        takes="folder",
    )

    def of(self, model: str) -> "RefineConfig":
        """The same with the checkpoint that belongs to a model if none is named."""
        if self.checkpoint is not None:
            return self
        return replace(self, checkpoint=SHIPPED_SAM if same_model(model, SHIPPED_MODEL) else DEFAULT_SAM)


# The model and the data


@dataclass
class ModelConfig(Group, path="model"):
    """Which checkpoint, how it is loaded, and how it is asked."""

    name: str = key(
        MISSING, "the checkpoint: a folder or a hub id", common="the checkpoint: a folder or a hub id", takes="folder"
    )
    base: str | None = key(None, "base model of a projector-only or LoRA checkpoint", takes="folder")
    cache_dir: str | None = key(None, "where downloads go; null: HF_HOME", takes="folder")
    dtype: Dtype = key(
        Dtype.auto,
        "auto: bfloat16 or float16 on a GPU, float32 on the CPU, where bfloat16 is faster if the processor has it",
        common="auto, float32, float16 or bfloat16",
    )
    attention: Attention = key(
        Attention.eager,
        "eager: the stock math, to the bit; fused: faster and lean, the kept rows in float32",
        common="eager: the stock math; fused: faster and lean",
    )
    conv_mode: str | None = key(
        None,
        "prompt template; null: referseg for LLaVA, chat (the checkpoint's own) for others; a wrong name lists all",
    )
    question: str | None = key(
        None, "what is asked about the expression, such as 'Where is {query}?'; null: it alone", takes="text"
    )
    system: str | None = key(None, "system text; null: the template's own", takes="text")
    image_processor: Any = key(
        None, "options of the checkpoint's image processor in place of its own, as {max_pixels: 1003520}; null: none"
    )
    read: str = key(
        "last",
        "tokens whose attention is kept: last: of the prompt; expression: all of it; word:cup: of one of its words; "
        "answer: each one generated; answer_boxes: of it the numbers of boxes",
        takes="text",
    )
    drop_space_tokens: bool | None = key(None, "drop stand-alone space tokens; null: as the template does")
    image_aspect_ratio: AspectRatio | None = key(
        None, "pad: to a square; crop: its middle; null: as the checkpoint says"
    )
    max_new_tokens: int = key(32, "longest answer, with use_generate", least=1, most=MOST_DRAWS)
    do_sample: bool = key(False, "draw the answer's tokens at random")
    temperature: float = key(0.2, "for do_sample", least=0)
    top_p: float | None = key(None, "for do_sample")
    num_beams: int = key(1, "beams of the answer", least=1, most=1000)
    use_generate: bool = key(False, "also generate an answer and keep it in the record")
    use_flash_attn: bool = key(False, "refused: flash attention never forms the weights that this tool reads")
    load_in_4bit: bool = key(False, "the language model's weights in 4 bits; needs bitsandbytes")
    load_in_8bit: bool = key(False, "the same in 8 bits")
    localization_heads: Any = key(
        None, "known heads [[layer,head],...] of this model, zero-based, for logic.heads=preset"
    )
    heads_of: str | None = key(
        None, "the checkpoint that localization_heads and first_layer belong to; null: model.name", takes="text"
    )
    presence: str | None = key(None, "the calibration of these heads, a presence.json of stage=calibrate", takes="file")
    first_layer: int | None = key(None, "its first layer with good heads, for logic.filter.min_layer=null", least=0)

    @property
    def answers(self) -> bool:
        """Whether the model generates an answer."""
        return self.use_generate or self.read in ("answer", ANSWER_BOXES)

    def check(self) -> None:
        if self.read not in READ and not (self.read.startswith(WORD) and self.read.removeprefix(WORD).strip()):
            raise UserError(f"model.read={shown(self.read)}: choose from {', '.join(READ)}, word:WORD")
        if self.read == "answer" and self.max_new_tokens > MOST_READ:
            raise UserError(f"model.max_new_tokens={self.max_new_tokens}: must be at most {MOST_READ} with read=answer")
        if self.question is not None and self.question.count("{query}") != 1:
            what = shown(self.question)
            raise UserError(f"model.question={what}: must hold {{query}}, the place of the expression, once")
        if self.image_processor is not None and not isinstance(self.image_processor, Mapping):
            what = shown(self.image_processor)
            raise UserError(f"model.image_processor={what}: must be options and values, as {{max_pixels: 1003520}}")
        if self.do_sample and self.temperature < 0.001:
            raise UserError(f"model.temperature={self.temperature:g}: must be 0.001 or more with model.do_sample=true")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"model.top_p={self.top_p}: must lie above 0 and at most at 1")
        if self.use_flash_attn:
            why = "flash attention never forms the weights that are collected here"
            raise UserError(f"model.use_flash_attn=true cannot be used: {why}")


@dataclass
class DataConfig(Group, path="data"):
    """What to read and where to write."""

    image_file: str | None = key(None, "the picture", common="the picture", takes="file")
    query: str | None = key(
        None, "the expression: what to look for", common="the expression: what to look for", takes="text"
    )
    attention_file: str | None = key(
        None,
        "a saved record, for analyze and visualize; null: the one that image_file would give",
        common="a saved record, for analyze and visualize",
        takes="file",
    )
    attention_dir: str | None = key(
        None,
        "a folder of records, for analyze, select and evaluate; null: the model's own in output_dir",
        common="records, for analyze, select, evaluate, study, report",
        takes="folder",
    )
    save_id: str | None = key(None, "file name of the record; null: the picture's", takes="text")
    data_file: str | None = key(
        None,
        "samples, for batch, select, evaluate, study, ablate, report: JSONL, .parquet, .tar, or a pattern: data/*.tar",
        common="JSONL of samples, for batch, select, evaluate, study",
        takes="file",
    )
    save_generic: bool = key(
        False, "also collect the attention of a generic prompt, for logic.contrast, which sets it by itself"
    )
    final_period: bool = key(False, "end every expression in a full stop, as the paper's prompts do")
    process_all: bool | None = key(
        None,
        "true: every line, and select, evaluate, study collect them first; false: those from start_index to end_index; "
        "null: these if they are set, else every line, and nothing is collected first",
        common="true: select, evaluate, study collect it first",
    )
    start_index: int = key(0, "first line, zero-based", least=0)
    end_index: int | None = key(None, "line to stop before; -1: the end; null: one sample", least=-1)
    shard: str | None = key(
        None,
        "k/n, such as 1/8: stage=batch does this part of the samples alone, as one of n jobs; null: all of them",
        takes="text",
    )
    batch_size: int | None = key(None, "images in one forward; null: as many as memory allows", least=1)
    share_image: bool = key(True, "expressions on one image are asked together, the image read once")
    workers: int | None = key(
        None,
        "processes beside this one that read images, write records, or rank a folder's; null: from the cores",
        least=0,
        most=1000,
    )
    output_dir: str | None = key(
        None,
        "where records, results and figures go; null: outputs/localization_heads, and beside records that are read",
        common="where records, results and figures go",
        takes="folder",
    )
    record_format: RecordFormat = key(  # type: ignore[valid-type]
        RecordFormat("pkl"),
        "pkl; pkl.gz: somewhat smaller, slower to write; safetensors: for other tools; shards: some hundred records in "
        "one file, and nothing beside them; each is read anywhere",
    )
    save_dtype: StoredDtype | None = key(
        None, "float16, float32: precision of the records; null: float16 for 16-bit models, else float32"
    )
    save_attention: SaveAttention = key(
        SaveAttention.all,
        "all maps; selected: the maps of the chosen heads, and every head's scores; none: the scores alone",
        common="all maps, or selected, or none: what a record keeps",
    )
    save_masks: bool = key(
        True, "X_mask.png and X_bbox.json of every sample in stage=batch; not with save_attention=none or shards"
    )
    visualize_batch: bool = key(False, "the figures of every sample too in stage=batch, with its mask and box")
    runs: list[str] | None = key(
        None, "two folders of records, [A,B], for report to compare; null: one run", takes="folders"
    )

    def check(self) -> None:
        Shard.read(self.shard)
        if self.record_format == SHARDS and self.visualize_batch:
            raise UserError(
                "data.record_format=shards keeps no files of single samples: leave out data.visualize_batch, and draw "
                "with stage=visualize data.attention_dir=<the folder>"
            )
        if self.save_attention == SaveAttention.none and self.visualize_batch:
            raise UserError(
                "data.save_attention=none keeps no maps to draw from: set it to selected, or data.visualize_batch=false"
            )
        if self.end_index not in (None, END) and self.end_index <= self.start_index:
            raise UserError(f"data.end_index={self.end_index}: must lie after data.start_index={self.start_index}")


# Results over many samples


@dataclass
class EvaluateConfig(Group, path="evaluate"):
    """What stage=evaluate measures beside the chosen heads."""

    controls: list[str] = key(
        ["random", "all", "sum_only", "entropy_only", "greedy", "oracle", "centre"],
        "rows beside the chosen heads; lab/measure/controls.py explains them",
    )
    draws: int = key(20, "random sets of heads of the same layers", least=1, most=MOST_DRAWS)
    resamples: int = key(1000, "resamples of the bootstrap intervals", least=1, most=MOST_DRAWS)


@dataclass
class ReportConfig(Group, path="report"):
    """What stage=report puts into its page."""

    max_samples: int | None = key(
        1000, "more are drawn at random, by seed; null: all of them, whatever the page weighs", least=1
    )
    max_side: int = key(320, "longest side of the pictures, in pixels", least=32, most=10_000)


@dataclass
class StudyConfig(Group, path="study"):
    """What stage=study compares."""

    find: str = key(
        "all",
        "samples that find the heads: all that are scored; half: the other half is scored; a folder of records",
        takes="folder",
    )
    reads: list[str] | None = key(
        None,
        "folders of the same samples' records by another model.read, [A,B], for the table of tokens; null: none",
        takes="folders",
    )
    mirrored: str | None = key(
        None,
        "a folder of the mirrored pictures' records, for the criterion mirrored; null: that criterion is left out",
        takes="folder",
    )
    ask: int = key(
        0,
        "samples, pictures drawn at random, about which the model is asked anew, for presence and knock-outs in the "
        "table of the best heads; 0: it is not asked",
        least=0,
    )
    top_k: list[int] = key([1, 2, 3, 4, 5], "numbers of heads")
    sigmas: list[float] = key([0.0, 0.4, 0.8, 1.0, 1.4, 1.8], "standard deviations of the smoothing", most=WIDEST)
    kernels: list[Any] = key([3, 5, 7, 9, None], "odd numbers of cells; null: 4 sigma to each side", most=WIDEST)
    discovery: list[int] = key(
        [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000], "numbers of samples to find heads with"
    )
    draws: int = key(10, "random subsets of each of these sizes", least=1, most=MOST_DRAWS)
    head_samples: int = key(1000, "samples at most on which every head's own box is measured", least=1)

    def check(self) -> None:
        for name, least in (("top_k", 1), ("sigmas", 0), ("discovery", 1)):
            values = getattr(self, name)
            if not values or not all(math.isfinite(value) and value >= least for value in values):
                raise UserError(f"study.{name}={list(values)}: expected one number or more, each {least} or above")
        kernels = list(self.kernels)
        if not kernels or not all(k is None or (isinstance(k, int) and k > 0 and k % 2) for k in kernels):
            raise UserError(f"study.kernels={kernels}: expected odd numbers of cells, or null for 4 sigma to each side")


@dataclass
class AblateConfig(Group, path="ablate"):
    """What stage=ablate does to the heads, and to which."""

    interventions: list[str] = key(
        ["redirect", "swap", "background", "keep_uniform", "zero", "mean", "uniform", "block"],
        "what is done to them; lab/ablate/interventions.py explains each; also keep_zero, and box",
    )
    sets: list[str] = key(
        ["alone", "best", "random", "any", "matched", "others", "all"],
        "heads beside the chosen ones; lab/ablate/sets.py explains them",
    )
    best: list[int] = key([1, 2, 3, 5, 10], "numbers of heads, selected most often, for the curve")
    draws: int = key(10, "sets of each random control; all sets of the same layers if so few", least=1, most=10_000)
    tokens: AblateTokens = key(AblateTokens.onward, "onward: from the last prompt token on; last: at that one alone")
    box: Any = key(None, "for intervention box: [x0, y0, x1, y1], shares of the picture's width and height, 0 to 1")
    written: bool = key(
        False,
        "for models that write boxes: let them answer under redirect and swap, up to model.max_new_tokens, and measure "
        "whether the first box follows; slow",
    )
    resamples: int = key(1000, "resamples of the bootstrap intervals", least=1, most=MOST_DRAWS)

    def check(self) -> None:
        if any(number < 1 for number in self.best):
            raise UserError(f"ablate.best={list(self.best)}: expected numbers of heads, each 1 or above")
        if self.box is not None:
            box = self.box if isinstance(self.box, list) else [self.box]
            numbers = len(box) == 4 and all(type(edge) in (int, float) and 0 <= edge <= 1 for edge in box)
            if not numbers or box[0] >= box[2] or box[1] >= box[3]:
                raise UserError(f"ablate.box={shown(self.box)}: expected [x0, y0, x1, y1], 0 to 1, the smaller first")


@dataclass
class CalibrateConfig(Group, path="calibrate"):
    """What stage=calibrate asks."""

    swaps: int = key(4, "pictures beside its own that each expression is asked about", least=1, most=100)
    resamples: int = key(1000, "resamples of the bootstrap intervals", least=1, most=MOST_DRAWS)


@dataclass
class MetricsConfig(Group, path="metrics"):
    """Conventions of the metrics."""

    box: BoxConvention = key(
        BoxConvention.exclusive, "exclusive: continuous edges; inclusive: the older one, a box is x1 - x0 + 1 wide"
    )


@dataclass
class VizConfig(Group, path="viz"):
    """Figures of one sample beside the one of its chosen heads."""

    heads: bool = key(True, "X_heads: attention sum and entropy of every head, and the elbow of the sums")
    components: bool = key(False, "X_components: the places that the entropy counts in the chosen heads' maps")


@dataclass
class Config(Group):
    """The whole of it."""

    stage: str = key("pipeline", "what is done")
    save_fig: bool = key(True, "write the figures beside the record")
    save_format: FigureFormat = key(FigureFormat.png, "of figures: png, pdf or svg; masks are always png")
    show_plot: bool = key(False, "also open the figures in windows, where there is a display")
    device: str = key("auto", "auto, cpu, cuda or cuda:N", common="auto, cpu, cuda or cuda:N")
    device_id: int | None = key(None, "the N of cuda:N, with device=auto or cuda; -1: the CPU", least=-1)
    seed: int = key(0, "of every random draw", least=0)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    ablate: AblateConfig = field(default_factory=AblateConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    viz: VizConfig = field(default_factory=VizConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    logic: LogicConfig = field(default_factory=LogicConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)


# In and out


def configuration(overrides: Sequence[str]) -> Config:
    """What `python pipeline.py <overrides>` would run with.

    Raises UserError, and Hydra's errors, on what it would refuse.
    """
    return plain(composed(overrides))


def composed(overrides: Sequence[str]) -> DictConfig:
    """The same as Hydra makes it, before its values are checked against each other."""
    register()
    with initialize_config_dir(str(Path(__file__).parent.resolve()), version_base="1.3"):
        try:
            return compose("config", list(overrides))
        except HydraException as error:
            if wrong := wrong_word(error):
                raise UserError(wrong) from None
            raise


def register() -> None:
    """Makes the schema known to Hydra under the name that conf/config.yaml starts from."""
    ConfigStore.instance().store(name="schema", node=Config)


def plain(cfg: Config | DictConfig) -> Config:
    """The configuration as plain objects, which check their values. Raises UserError on impossible ones.

    The heads and the first layer that a model preset knows are taken over if `model.name` is the checkpoint that they
    belong to. Of another one nothing is known: `logic.heads=preset` then becomes null.
    """
    config: Config = OmegaConf.to_object(cfg) if isinstance(cfg, DictConfig) else cfg  # type: ignore[assignment]
    logic = config.logic
    if foreign_heads(config):
        model = replace(config.model, localization_heads=None, first_layer=None, presence=None)
        heads = None if logic.heads == PRESET else logic.heads
        return replace(config, model=model, logic=replace(logic, heads=heads))
    if logic.filter.min_layer is None and config.model.first_layer is not None:
        logic = replace(logic, filter=replace(logic.filter, min_layer=config.model.first_layer))
    return replace(config, logic=logic)


def foreign_heads(cfg: Config | DictConfig) -> str | None:
    """The checkpoint whose heads the model preset names, if `model.name` is another one."""
    of = cfg.model.heads_of
    return None if of is None or same_model(of, cfg.model.name) else str(of)


def as_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain dicts, lists, texts and numbers."""
    return _plain_value(config)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Group):
        return {one.name: _plain_value(getattr(value, one.name)) for one in fields(value)}  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        return {name: _plain_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(part) for part in value]
    return str(value) if isinstance(value, Choice) else value


def as_yaml(settings: Mapping[str, Any]) -> str:
    """What `as_dict` made of a configuration, as YAML that Hydra reads again."""
    return OmegaConf.to_yaml(OmegaConf.create(literally(settings)))


def of_saved(settings: Mapping[str, Any]) -> Config:
    """The configuration that `as_dict` or the file of `as_yaml` tells; what it does not tell has its default.

    Raises ValueError or an error of OmegaConf if it is not one of today's, UserError on impossible values.
    """
    return plain(OmegaConf.merge(OmegaConf.structured(Config), literally(settings)))  # type: ignore[arg-type]


def literally(value: Any) -> Any:
    """Plain values as OmegaConf is to read them: a text that looks like a reference is a text."""
    if isinstance(value, Mapping):
        return {name: literally(part) for name, part in value.items()}
    if isinstance(value, list):
        return [literally(part) for part in value]
    return literal(value) if isinstance(value, str) else value


def keys(group: type[Group] = Config) -> "Iterator[tuple[str, Any]]":
    """(dotted name, dataclass field) of every key, in the order of the schema."""
    for one in fields(group):  # type: ignore[arg-type]
        if isinstance(one.type, type) and issubclass(one.type, Group):
            yield from keys(one.type)
        else:
            yield f"{group.path}.{one.name}" if group.path else one.name, one


def free_text() -> dict[str, str]:
    """The keys whose values are texts and paths, and what each takes."""
    return {name: one.metadata["takes"] for name, one in keys() if one.metadata["takes"]}


def check_paths(config: Config) -> None:
    """Raises UserError, naming the key, on the first path that nothing can be read from or written to.

    Whether a file is there is for the stage to say that needs it.
    """
    for name, takes in free_text().items():
        value = attrgetter(name)(config)
        for path in value if takes == "folders" and value is not None else [value]:
            kind = PATHS.get(takes)
            if name == "data.image_file" and isinstance(path, str) and is_url(path):
                continue
            if kind and isinstance(path, str) and path not in WORDS and (why := refused(path, kind)):
                raise UserError(f"{name}={shown(path)}: {why}")
