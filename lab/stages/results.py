"""What the stages make of one sample: ranking, mask, box and figures beside the record, and in words."""

import io
import json
import logging
import math
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from analyze import HeadScore, chosen_heads
from bbox import Localization, localize
from conf.schema import Config
from lab.base.console import table
from lab.base.errors import UserError
from lab.base.files import write_atomic
from lab.base.images import open_image
from lab.base.paths import find
from lab.heads.files import same_model
from lab.records.record import Record
from lab.stages.common import _image_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


log = logging.getLogger(__name__)


def localize_record(record: Record, ranking: list[HeadScore], cfg: Config) -> Localization:
    """Heads as `logic.heads` says, then their mask and box. Refuses a preset's heads on a record of another model."""
    made_by = record.meta.get("model_name")
    if cfg.logic.heads == "preset" and made_by and not same_model(str(made_by), cfg.model.name):
        raise UserError(
            f"logic.heads=preset are the heads of {cfg.model.name}, but the record is of {made_by}: set model, or logic.heads=null"
        )
    return localize(record, chosen_heads(record, ranking, cfg.logic, cfg.model.localization_heads), cfg.logic)


def write_ranking(path: Path, ranking: list[HeadScore]) -> list[Path]:
    """The ranking beside its record, a list of dicts, best first: `X_analysis.pkl`, and `X_analysis.json` with null for
    infinity.
    """
    written = [sibling(path, "_analysis.pkl"), sibling(path, "_analysis.json")]
    rows = [score.to_dict() for score in ranking]
    write_atomic(written[0], pickle.dumps(rows))
    lines = (json.dumps(row | {"spatial_entropy": None} if row["spatial_entropy"] == math.inf else row) for row in rows)
    write_atomic(written[1], "[\n" + ",\n".join(lines) + "\n]")
    return written


def write_localization(cfg: Config, path: Path, record: Record, result: Localization) -> list[Path]:
    """`X_mask.png`, `X_bbox.json` and, unless `save_fig=false`, the figures beside the record."""
    figures = _draw(cfg, record, result) if cfg.save_fig or cfg.show_plot else {}  # first: they may lack their picture
    written = [sibling(path, "_mask.png"), sibling(path, "_bbox.json")]
    buffer = io.BytesIO()
    Image.fromarray(result.mask.astype(np.uint8) * 255).save(buffer, format="png")
    write_atomic(written[0], buffer.getvalue())
    write_atomic(written[1], box_json(record, result))
    if not figures:
        return written
    import viz

    if cfg.save_fig:
        for figure, file in zip(figures.values(), figure_files(cfg, path, result), strict=True):
            viz.save_figure(figure, file)
            written.append(file)
    if cfg.show_plot:
        viz.show(*figures.values())
    return written


def figure_files(cfg: Config, path: Path, result: Localization) -> list[Path]:
    """The files of `viz.sample_figures`, in its order."""
    names = [
        f"top{len(result.heads)}",
        *(["heads"] if cfg.viz.heads else []),
        *(["components"] if cfg.viz.components else []),
    ]
    return [sibling(path, f"_{name}.{cfg.save_format}") for name in names]


def box_json(record: Record, result: Localization) -> str:
    """The content of `X_bbox.json`."""
    return json.dumps(
        {
            "bbox_xyxy": result.box_xyxy,
            "bbox_xywh": result.box_xywh,
            "image_size": record.image_size,
            "selected_heads": [list(head) for head in result.heads],
        }
    )


def _draw(cfg: Config, record: Record, result: Localization) -> "dict[str, Figure]":
    import viz  # matplotlib, only where a figure is wanted

    picture = open_image(_picture_of(record, cfg))
    if record.image_size not in (None, picture.size):
        known = "data.image_file must name the picture that the record was made from"
        raise UserError(
            f"the picture is {picture.width} x {picture.height} pixels, the record's {record.image_size}: {known}"
        )
    return viz.sample_figures(record, result, picture, cfg)


def _picture_of(record: Record, cfg: Config) -> Path:
    """The picture that a record was made from, or `data.image_file` for records that name none or that have moved."""
    named = record.meta.get("image_file")
    if named and find(str(named)).exists():
        return find(str(named))
    log.warning(
        "the record's picture %s is not there: using data.image_file=%s", named or "(none named)", cfg.data.image_file
    )
    return _image_file(cfg)


def sibling(path: Path, suffix: str) -> Path:
    """`X.pkl` or `X.pkl.gz` -> `X<suffix>` in the same folder."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".pkl") + suffix)


# tables on screen


def heads_table(scores: list[HeadScore]) -> str:
    """One line per head, in order."""
    rows = [
        (i + 1, s.layer, s.head, f"{s.attn_sum:.3f}", f"{abs(s.spatial_entropy):.3f}", s.num_components)
        for i, s in enumerate(scores)
    ]
    return table(("rank", "layer", "head", "attention sum", "spatial entropy", "components"), rows)


def box_line(result: Localization) -> str:
    """The box in words."""
    if result.box_xyxy is None:
        return "no box: the mask is empty"
    x0, y0, x1, y1 = result.box_xyxy
    return f"box  x {x0} to {x1}, y {y0} to {y1} (pixels, inclusive), {x1 - x0 + 1} x {y1 - y0 + 1}"
