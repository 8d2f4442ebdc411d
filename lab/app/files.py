"""What a visitor takes along: the files that the command line would have written."""

from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import viz
from conf.schema import VizConfig
from lab.api import Found
from lab.base.errors import UserError
from lab.base.files import check_id, safe_name, write_atomic
from lab.records.folder import sibling, write_record
from lab.stages.results import box_json, mask_png, write_ranking

FORMAT = "pkl"


def write_files(found: Found, file: str, folder: Path) -> list[str]:
    """Record, ranking, mask, box and figures in a new folder within `folder`. `file` is what the picture is called."""
    record = replace(found.record, meta={**found.record.meta, "image_file": file})
    path = write_record(Path(mkdtemp(dir=folder)), _named(Path(file).stem), record, FORMAT)
    written = [path, *write_ranking(path, found.ranking), sibling(path, "_mask.png"), sibling(path, "_bbox.json")]
    write_atomic(written[-2], mask_png(found.mask))
    write_atomic(written[-1], box_json(found.record, found.localization))
    figures = viz.sample_figures(found.record, found.localization, found.picture, found.logic, VizConfig())
    for name, figure in figures.items():
        written.append(sibling(path, f"_{name}.png"))
        viz.save_figure(figure, written[-1])
    return [str(one) for one in written]


def _named(stem: str) -> str:
    """The picture's name as the command line takes it; of one that it refuses, what can be kept."""
    try:
        return check_id(stem)
    except UserError:
        return safe_name(stem)
