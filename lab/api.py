"""The same as the stages, in a few lines of Python.

    from lab.api import load

    model = load("examples/models/picturebook")              # any folder, hub id or preset
    found = model.find("photo.jpg", "the cup on the left")
    found.show()                                             # in a notebook, `found` alone shows itself
    found.box_xyxy, found.mask, found.heads, found.record
    found.sharp_mask                                         # SAM's, with load(..., "logic.refine=sam")

Options are those of the command line: load("llava15_7b", "logic=paper", "model.dtype=float16").
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image

from analyze import Head, HeadScore, rank_heads
from bbox import Box, Localization, localize_record
from collector import prepare
from conf.presets import preset_of, refuse_unknown
from conf.schema import Config, LogicConfig, VizConfig, configuration, free_text
from lab.base.arguments import hydra_arguments
from lab.base.console import WRONG, one_line
from lab.base.errors import UserError, quoted, shown
from lab.base.images import as_rgb, image_of_bytes, open_image
from lab.base.paths import find
from lab.base.remote import is_url, kept_at
from lab.batch.batcher import AdaptiveBatcher, automatic_size
from lab.batch.plan import MOST_EXPRESSIONS
from lab.batch.rows import ReadyRow
from lab.batch.storage import at_precision
from lab.datasets import Sample
from lab.heads.choice import HeadChoice, check_owner, head_choice
from lab.measure.coco import coco_prediction
from lab.measure.metrics import exclusive
from lab.measure.predictions import prediction
from lab.presence.files import calibrated
from lab.records.record import Record
from lab.refine.refiner import Refiner
from lab.stages.common import load_model, wants_generic
from lab.stages.refining import refiner_of
from llava.family import LoadedModel

if TYPE_CHECKING:  # a second to import, for figures only
    from matplotlib.figure import Figure

    from lab.refine.refined import Refined

ASKED = ("model.read", "model.use_generate", "model.max_new_tokens")  # what needs no other weights
IMAGE = "image"  # of a row of a data set: the key of its picture
FLOATS = "; values from 0 to 1 times 255, rounded, are such"
BYTES, PATH = "bytes", "path"  # of a picture of a data set that was not decoded: its keys
Picture: TypeAlias = str | Path | Image.Image | np.ndarray | torch.Tensor | Mapping[str, Any]


@dataclass(frozen=True, eq=False, repr=False)
class Found:
    """Where the chosen heads look in one picture."""

    picture: Image.Image
    expression: str
    record: Record
    ranking: list[HeadScore]  # of this picture, best first
    localization: Localization
    logic: LogicConfig
    refined: "Refined | None" = None  # SAM's answer, with logic.refine=sam

    def __repr__(self) -> str:
        return f"Found({self.expression!r}, box_xyxy={self.box_xyxy}, heads={self.heads}, presence={self.presence})"

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that were used, (layer, head), zero-based."""
        return self.localization.heads

    @property
    def heat(self) -> Float[np.ndarray, "rows cols"]:
        """What they together give each cell of the record's canvas, float32: see `bbox.in_attention`."""
        return self.localization.heat

    @property
    def mask(self) -> Bool[np.ndarray, "height width"]:
        """On the picture."""
        return self.localization.mask

    @property
    def sharp_mask(self) -> Bool[np.ndarray, "height width"] | None:
        """SAM's, on the picture. None without logic.refine=sam, and where `refined.why` tells why there is none."""
        return None if self.refined is None or self.refined.why else self.refined.mask

    @property
    def box_xyxy(self) -> Box | None:
        """Pixels; x1 and y1 are the last ones inside, as in `_bbox.json`. None: see `localization.why_no_box`."""
        return self.localization.box_xyxy

    @property
    def presence(self) -> float | None:
        """The probability that the described thing is there at all, 0 to 1; None if the heads are not calibrated."""
        return self.localization.presence

    def figure(self) -> "Figure":
        """The picture with mask, sharp mask and box, and what each head looks at."""
        import viz

        alone = VizConfig(heads=False, components=False)
        drawn = (self.record, self.localization, self.picture, self.logic, alone, self.sharp_mask)
        figures = viz.sample_figures(*drawn)
        return next(iter(figures.values()))

    def show(self) -> None:
        """Shows the figure: in the notebook, or in a window."""
        import viz

        try:
            from IPython import get_ipython
            from IPython.display import display
        except ImportError:
            viz.show(self.figure())
            return
        display(self) if get_ipython() is not None else viz.show(self.figure())

    def _repr_png_(self) -> bytes:
        import viz

        return viz.figure_bytes(self.figure(), "png", dpi=110)

    def to_coco(self, image_id: Any = 0) -> dict[str, Any] | None:
        """A row of COCO's results: bbox [x, y, width, height], segmentation (RLE), score. None without a box."""
        found = prediction(str(image_id), self.localization, self.record.grid)
        return coco_prediction(found, {found.id: image_id})

    def to_supervision(self) -> Any:
        """As `supervision.Detections` of one object, or of none without a box. Needs the package supervision.

        Its confidence is `presence`, None where that is not known.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and error.name == "supervision":
                why = "to_supervision needs a package that is not installed: pip install supervision"
                raise UserError(why) from None
            why = f"to_supervision: supervision is installed, but cannot be imported: {shown(error, 200)}"
            raise UserError(why) from error
        if self.box_xyxy is None:
            return Detections.empty()
        box, named = np.array([exclusive(self.box_xyxy)], np.float32), np.array([self.expression])
        sure = None if self.presence is None else np.array([self.presence], np.float32)
        one, data = np.zeros(1, int), {"class_name": named}
        return Detections(xyxy=box, mask=self.mask[None], confidence=sure, class_id=one, data=data)


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A loaded checkpoint, and the rules by which it finds."""

    loaded: LoadedModel
    config: Config
    choice: HeadChoice
    options: tuple[str, ...]  # as the command line takes them
    refiner: Refiner | None = None  # with logic.refine=sam; loaded when it is first asked

    def __repr__(self) -> str:
        shape = f"{self.loaded.num_layers} layers x {self.loaded.num_heads} heads"
        return f"Model({self.config.model.name!r}, {shape}, options={list(self.options)})"

    def find(self, picture: Picture | Iterable[Picture], expression: str | Sequence[Any]) -> Any:
        """Where the chosen heads look: one `Found`, or as many as are asked for.

        Expressions of one picture are asked behind it together, and pictures in batches that fit memory.

        Args:
            picture: a path, a web address, a PIL image, an array [height, width] or [height, width, 3 or 4], a tensor
                [1, 3 or 4, height, width], or a row of a `datasets.Dataset`, whose `image` is one of these or, not
                decoded, a file's bytes or path; or several of these, such as the data set itself or a slice of it.
            expression: one, or several. Of several pictures: one for all, or for each its own, one or several.

        Returns:
            A `Found` for one picture and one expression; else a list, and of several expressions of several pictures a
            list of lists.

        Raises:
            UserError: a picture cannot be read, an expression cannot be asked, or there are not as many of one as of
                the other.
        """
        picture = _column(picture)
        if _is_one(picture):
            return self._find([picture], [expression])[0]
        pictures = _listed(picture)
        each = [expression] * len(pictures) if isinstance(expression, str) else _listed(expression)
        if len(each) != len(pictures):
            raise UserError(f"{len(pictures)} pictures, but {len(each)} expressions: give one for all, or one for each")
        return self._find(pictures, each)

    def with_options(self, *options: str) -> "Model":
        """The same weights by other rules: with_options("logic.top_k=5", "logic.mask.method=otsu").

        Raises UserError on an option that the command line refuses, and on one that is neither of `logic` or `refine`
        nor one of `ASKED`.
        """
        _check_texts(options)
        keys = [one.partition("=")[0] for one in options]
        if others := [
            one
            for one, key in zip(options, keys, strict=True)
            if key.partition(".")[0] not in ("logic", "refine") and key not in ASKED
        ]:
            can = f"only logic, refine and {', '.join(ASKED)} can change while a model is loaded"
            raise UserError(f"{others[0]}: {can}; load it again")
        every = tuple({one.partition("=")[0]: one for one in (*self.options, *options)}.values())  # the last counts
        config = _configured(every)
        return Model(self.loaded, config, _fitting(config, self.loaded), every, _refiner(config, self.refiner))

    def with_logic(self, logic: LogicConfig) -> "Model":
        """The same by rules that are there already, which takes no time. Raises UserError on heads it does not have."""
        config = replace(self.config, logic=logic)
        refiner = _refiner(config, self.refiner)
        return replace(self, config=config, choice=_fitting(config, self.loaded), refiner=refiner)

    def localize(self, record: Record, picture: Picture) -> Found:
        """What the rules find in a record, without asking the model again."""
        image = _image(_unwrapped(picture))
        return self._sharp(image, [self._found(record, image)])[0]

    def _find(self, pictures: Sequence[Picture], each: Sequence[str | Sequence[str]]) -> list[Any]:
        pictures = [_unwrapped(picture) for picture in pictures]
        images = [_image(picture) for picture in pictures]
        queries = [_texts(one) for one in each]
        found: list[list[Found]] = [[] for _ in pictures]
        for row, answers, number in self._batcher().answers(self._rows(pictures, images, queries)):
            if answers is None:
                raise UserError(row.failed[0][1])
            place = int(row.samples[0].id)
            found[place] += [self._found(record, images[place]) for record in answers.of(number)]
        found = [self._sharp(image, own) for image, own in zip(images, found, strict=True)]
        return [own[0] if isinstance(one, str) else own for own, one in zip(found, each, strict=True)]

    def _rows(
        self, pictures: Sequence[Picture], images: Sequence[Image.Image], queries: Sequence[Sequence[str]]
    ) -> Iterator[ReadyRow]:
        model, generic = self.config.model, wants_generic(self.config)
        together = 1 if model.answers else MOST_EXPRESSIONS
        for number, (picture, image, own) in enumerate(zip(pictures, images, queries, strict=True)):
            named = None if isinstance(picture, Image.Image | np.ndarray) else str(picture)
            for first in range(0, len(own), together):
                part = own[first : first + together]
                question = prepare(self.loaded, image, part, model, image_file=named, generic=generic)
                yield ReadyRow(tuple(Sample(str(number), query, Path(named or "")) for query in part), question)

    def _batcher(self) -> AdaptiveBatcher:
        size = self.config.data.batch_size or automatic_size(self.loaded)
        alone = self.config.model.answers
        return AdaptiveBatcher(self.loaded, self.config.model, size=1 if alone else size, grows=True, apart=alone)

    def _found(self, record: Record, image: Image.Image) -> Found:
        logic = calibrated(self.config, self.choice.named, self.choice.file)
        logic = replace(logic, heads=self.choice.as_setting)  # as the stages do: what a file tells of them counts
        record = at_precision(record, self.config.data).under(logic)  # as the stages do, so that files say the same
        ranking = rank_heads(record, logic)
        located = localize_record(record, ranking, logic, self.choice)
        return Found(image, str(record.meta.get("query", "")), record, ranking, located, logic)

    def _sharp(self, image: Image.Image, found: list[Found]) -> list[Found]:
        """The same with SAM's answers about one picture, if there is a SAM."""
        if self.refiner is None or not found:
            return found
        answers = self.refiner(image, [(one.record, one.localization) for one in found])
        return [replace(one, refined=answer) for one, answer in zip(found, answers, strict=True)]


def load(name: str | Path = "picturebook", *options: str, device: str = "auto") -> Model:
    """A model that is ready to find.

    Args:
        name: a folder, a hub id, or a preset of conf/model. A checkpoint that a preset names is asked as the preset
            says; of any other, its config.json tells the family.
        options: as the command line takes them: "logic=paper", "model.attention=fused".
        device: auto, cpu, cuda or cuda:N.

    Raises:
        UserError: the checkpoint, that of the SAM, or an option cannot be used.
    """
    every, config = settings(name, *options, device=device)
    refiner = _refiner(config, None)
    loaded = load_model(config)
    return Model(loaded, config, _fitting(config, loaded), every, refiner)


def settings(name: str | Path, *options: str, device: str = "auto") -> tuple[tuple[str, ...], Config]:
    """All options of `load`, as the command line takes them, and the configuration that they make.

    Raises UserError as `load`, but for what only the weights tell.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise UserError(f"a model is a folder, a hub id or a preset, as a text, not {quoted(name)}")
    name, preset = str(name), preset_of(str(name))
    refuse_unknown(name)
    named = () if name == preset else (f"model.name={name}",)
    every = (f"model={preset}", *named, f"device={device}", *options)
    config = _configured(every)
    head_choice(config.logic, config.model)
    return every, config


def _check_texts(options: Sequence[Any]) -> None:
    if wrong := [one for one in options if not isinstance(one, str)]:
        raise UserError(f'an option is a text such as "logic.top_k=5", not {quoted(wrong[0])}')


def _configured(options: Sequence[str]) -> Config:
    _check_texts(options)
    try:
        return configuration(hydra_arguments(options, free_text()))
    except WRONG as error:  # Hydra's errors are of several lines
        raise UserError(one_line(error)) from None


def _refiner(config: Config, known: Refiner | None) -> Refiner | None:
    """The SAM that a configuration names, the one that is known if it is that."""
    found = refiner_of(config)
    return known.asked(found.config) if known and found else found


def _fitting(config: Config, loaded: LoadedModel) -> HeadChoice:
    choice = head_choice(config.logic, config.model)
    choice.fixed((loaded.num_layers, loaded.num_heads))
    check_owner(choice, loaded.name)
    return choice


def _is_one(picture: Any) -> TypeGuard[Picture]:
    if isinstance(picture, np.ndarray | torch.Tensor):
        return picture.ndim == 0 or (picture.ndim < 4 and picture.dtype != object)  # else it holds several
    return isinstance(picture, str | Path | Image.Image | Mapping | bytes)


def _column(picture: Any) -> Any:
    """The pictures of a slice of a data set, which has its rows by columns; anything else as it is."""
    held = picture.get(IMAGE) if isinstance(picture, Mapping) else None
    return held if held is not None and not _is_one(held) and isinstance(held, Iterable) else picture


def _listed(given: Any) -> list[Any]:
    alone = isinstance(given, Mapping | bytes) or not isinstance(given, Iterable)
    return [given] if alone else list(given)


def _unwrapped(picture: Any) -> Any:
    """The picture of a row of a data set, be it decoded or not, and a tensor as an array; anything else as it is."""
    if isinstance(picture, Mapping) and not _is_file(picture):
        if IMAGE not in picture:
            has = shown(", ".join(map(str, picture)))
            raise UserError(f'a row needs a key "{IMAGE}" with the picture, but has {has}')
        picture = picture[IMAGE]
    if _is_file(picture):
        content, path = picture[BYTES], picture[PATH]
        return path if content is None else image_of_bytes(content, "of a row" if path is None else shown(path))
    return _channels_last(picture) if isinstance(picture, torch.Tensor) else picture


def _is_file(picture: Any) -> bool:
    """Whether this is a picture as a data set holds it that does not decode it."""
    known = isinstance(picture, Mapping) and picture.keys() == {BYTES, PATH}
    return known and isinstance(picture[BYTES], bytes | None)


def _channels_last(tensor: torch.Tensor) -> np.ndarray:
    """[channels, height, width] -> [height, width, channels], a single channel -> [height, width]."""
    shape = list(tensor.shape)
    if tensor.dtype != torch.uint8 or len(shape) != 3 or shape[0] not in (1, 3, 4):
        expected = "expected uint8 [1, 3 or 4, height, width]"
        hint = FLOATS if tensor.is_floating_point() else ""
        raise UserError(f"a tensor {shape} of {str(tensor.dtype).removeprefix('torch.')}: {expected}{hint}")
    array = tensor.permute(1, 2, 0).cpu().numpy()  # [H, W, C]
    return array[..., 0] if shape[0] == 1 else array


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else _listed(given)
    if wrong := [one for one in texts if not isinstance(one, str)]:
        raise UserError(f"an expression is a text, not {quoted(wrong[0])}")
    if any(not text.strip() for text in texts):
        raise UserError("an expression is empty: say what to look for, such as the cup on the left")
    return texts


def _image(picture: Any) -> Image.Image:
    if isinstance(picture, Image.Image):
        if 0 in picture.size:
            raise UserError(f"an image of {picture.width} x {picture.height} pixels shows nothing")
        return _converted(picture)
    if not isinstance(picture, str | Path | np.ndarray):
        raise UserError(f"a picture is a path, a web address, a PIL image, an array or a tensor, not {quoted(picture)}")
    if not isinstance(picture, np.ndarray):
        return open_image(kept_at(picture) if isinstance(picture, str) and is_url(picture) else find(str(picture)))
    shape = picture.shape
    if picture.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))) or 0 in shape:
        found = f"an array {list(shape)} of {picture.dtype}"
        hint = FLOATS if picture.dtype.kind == "f" else ""
        raise UserError(f"{found}: expected uint8 [height, width], [height, width, 3] or [height, width, 4]{hint}")
    return as_rgb(Image.fromarray(picture))


def _converted(image: Image.Image) -> Image.Image:
    """A picture of our own: whoever draws on theirs afterwards does not change what was found."""
    try:
        upright = as_rgb(image)
        return image.copy() if upright is image else upright
    except Exception as error:  # it reads the file only now, and raises anything from OSError to SyntaxError
        why = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, AssertionError) or "closed" in why:
            why = "it was closed before; give it open, or call its load() while it is"
        raise UserError(f"the PIL image cannot be read: {shown(why, 200)}") from error
