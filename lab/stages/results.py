"""What the stages make of one sample: ranking, mask, box and figures as files beside the record, and in words."""

import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool
from PIL import Image

from analyze import HeadScore
from bbox import Localization
from conf.schema import Config, FigureFormat, LogicConfig, RefineConfig, VizConfig
from lab.base.console import table
from lab.base.errors import UserError
from lab.base.files import read_json, read_regular, write_atomic
from lab.base.images import open_image
from lab.base.paths import exists, find
from lab.base.pickles import dump_plain
from lab.base.remote import is_url, kept_at
from lab.base.tars import there
from lab.records.folder import REFINED, sibling
from lab.records.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigureOptions:
    """Which figures of a sample are made, and what becomes of them."""

    save: bool
    show: bool
    format: FigureFormat
    viz: VizConfig
    image_file: str | None  # instead of the picture that the record names

    @classmethod
    def of(cls, config: Config) -> "FigureOptions":
        """As a configuration says."""
        return cls(config.save_fig, config.show_plot, config.save_format, config.viz, config.data.image_file)

    def files(self, path: Path, result: Localization) -> list[Path]:
        """The files of `viz.sample_figures`, in its order, beside the record."""
        extra = [name for name in ("heads", "components") if getattr(self.viz, name)]
        return [sibling(path, f"_{name}.{self.format}") for name in (f"top{len(result.heads)}", *extra)]


def write_ranking(path: Path, ranking: list[HeadScore], left_out: Sequence[int] = ()) -> list[Path]:
    """The ranking beside its record, a list of dicts, best first.

    `X_analysis.pkl`, and `X_analysis.json` with null for infinity. Where image tokens were left out as sinks, each head
    names them.
    """
    written = [sibling(path, "_analysis.pkl"), sibling(path, "_analysis.json")]
    sinks = {"sinks": list(left_out)} if left_out else {}
    rows = [score.to_dict() | sinks for score in ranking]
    write_atomic(written[0], dump_plain(rows))
    lines = (json.dumps(row | {"spatial_entropy": None} if row["spatial_entropy"] == math.inf else row) for row in rows)
    write_atomic(written[1], "[\n" + ",\n".join(lines) + "\n]")
    return written


@dataclass(frozen=True, eq=False)
class Sharp:
    """A sharp mask, bool [height, width], and what is told of it; without a prompt there is none."""

    mask: Bool[np.ndarray, "height width"] | None
    told: Mapping[str, Any]


def asked_with(config: RefineConfig) -> dict[str, Any]:
    """How a sharp mask is asked for, as plain values: all that decides it."""
    names = ("checkpoint", "positives", "negatives", "multimask", "choose")
    asked = {name: getattr(config, name) for name in names}
    plain = {name: value if isinstance(value, int) else str(value) for name, value in asked.items()}
    return {"by": "sam", "kind": str(config.prompt), **plain}


def write_localization(
    path: Path,
    record: Record,
    result: Localization,
    logic: LogicConfig,
    options: FigureOptions,
    sharp: Sharp | None = None,
) -> list[Path]:
    """`X_mask.png`, `X_bbox.json` and, unless `save_fig=false`, the figures beside the record.

    With a sharp mask also `X_refined.png`.
    """
    # The figures first: their picture may be missing.
    refined = None if sharp is None else sharp.mask
    figures = _draw(record, result, logic, options, refined) if options.save or options.show else {}
    written = [sibling(path, "_mask.png"), sibling(path, "_bbox.json")]
    mask, box = mask_png(result.mask), box_json(record, result, sharp)
    if _read(written[0]) != mask or _read(written[1]) != box.encode():
        remove_figures(path)  # of an earlier run, about another box or mask
    write_atomic(written[0], mask)
    if refined is not None:
        written.append(sibling(path, REFINED))
        write_atomic(written[-1], mask_png(refined))
    else:
        sibling(path, REFINED).unlink(missing_ok=True)  # of an earlier run
    write_atomic(written[1], box)
    if not figures:
        return written
    import viz  # matplotlib, only where a figure is wanted

    if options.save:
        for figure, file in zip(figures.values(), options.files(path, result), strict=True):
            viz.save_figure(figure, file)
            written.append(file)
    if options.show:
        viz.show(*figures.values())
    return written


def remove_localization(path: Path) -> None:
    """Removes the mask, the box, the sharp mask and the figures that an earlier run wrote beside a record."""
    remove_figures(path)
    for ending in ("_mask.png", REFINED, "_bbox.json"):  # which tells of the figures, so that it goes last
        sibling(path, ending).unlink(missing_ok=True)


def remove_figures(path: Path) -> None:
    """Removes the figures of a record whose box an earlier run wrote, in whatever format."""
    try:
        heads = len(read_json(sibling(path, "_bbox.json"))["selected_heads"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, LookupError, TypeError):
        heads = 0
    for name in (f"top{heads}", "heads", "components"):
        remove_formats(sibling(path, f"_{name}"))


def remove_formats(stem: Path) -> None:
    """Removes a figure of an earlier run in whatever format; `stem` is its path without the ending."""
    for kind in FigureFormat:
        with suppress(OSError):  # another user's: it is not ours to remove
            stem.with_name(f"{stem.name}.{kind}").unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    """What an earlier run wrote, if it did."""
    try:
        return read_regular(path)
    except OSError:
        return None


def mask_png(mask: Bool[np.ndarray, "height width"]) -> bytes:
    """The content of `X_mask.png` and `X_refined.png`: 255 inside, 0 outside.

    Runs of equal pixels are all that zlib looks for, which is quicker.
    """
    buffer = io.BytesIO()
    white = np.multiply(mask, 255, dtype=np.uint8)  # the one copy: Pillow reads the array itself
    Image.fromarray(white).save(buffer, format="png", compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def box_json(record: Record, result: Localization, sharp: Sharp | None = None) -> str:
    """The content of `X_bbox.json`."""
    return json.dumps(
        {
            "bbox_xyxy": result.box_xyxy,
            "bbox_format": "xyxy_inclusive",  # x1 and y1 are the last pixels inside
            "bbox_xywh": result.box_xywh,
            "image_size": record.image_size,
            "selected_heads": [list(head) for head in result.heads],
            **({} if result.presence is None else {"presence": round(result.presence, 6)}),
        }
        | ({} if sharp is None else {"refine": dict(sharp.told)})
    )


def _draw(
    record: Record, result: Localization, logic: LogicConfig, options: FigureOptions, refined: np.ndarray | None
) -> "dict[str, Figure]":
    import viz  # matplotlib, only where a figure is wanted

    picture = open_image(picture_of(record, options.image_file))
    if record.image_size not in (None, picture.size):
        sizes = f"the picture is {picture.width} x {picture.height} pixels, the record's {record.image_size}"
        raise UserError(f"{sizes}: data.image_file must name the picture that the record was made from")
    return viz.sample_figures(record, result, picture, logic, options.viz, refined)


def picture_of(record: Record, image_file: str | None) -> Path:
    """The picture that `image_file` names; without a name, the one that the record was made from.

    Raises UserError if that is not there.
    """
    if image_file is not None:
        return kept_at(image_file) if is_url(image_file) else find(image_file)
    named = record.meta.get("image_file")
    if named and (exists(find(str(named))) or there(find(str(named)))):
        return find(str(named))
    why = f"the record's picture {named} is not there" if named else "the record names no picture"
    raise UserError(f"{why}: set data.image_file=path/to/picture")


# tables on screen


def heads_table(scores: list[HeadScore]) -> str:
    """One line per head, in order."""
    rows = [
        (i + 1, s.layer, s.head, f"{s.attn_sum:.3f}", f"{abs(s.spatial_entropy):.3f}", s.num_components)
        for i, s in enumerate(scores)
    ]
    return table(("rank", "layer", "head", "attention sum", "spatial entropy", "components"), rows)


def sinks_line(record: Record) -> str:
    """What was left out as a sink, in words; nothing if nothing was."""
    number = len(record.left_out)
    if not number:
        return ""
    return f"\nleft out: {number} of {record.attn.shape[-1]} image tokens, at which most heads look"


def box_line(result: Localization) -> str:
    """The box in words."""
    told = "" if result.presence is None else f"\npresence {result.presence:.2f}: the probability that it is there"
    if result.box_xyxy is None:
        return f"no box: {result.why_no_box}{told}"
    x0, y0, x1, y1 = result.box_xyxy
    return f"box  x {x0} to {x1}, y {y0} to {y1} (pixels, inclusive), {x1 - x0 + 1} x {y1 - y0 + 1}{told}"
