"""What a run makes of each record, new or found: its ranking and, if asked for, mask, box and figures."""

import threading
from pathlib import Path

from analyze import rank_heads
from conf.schema import Config
from lab.records.record import Record
from lab.stages.results import box_json, figure_files, localize_record, sibling, write_localization, write_ranking

DRAWING = threading.Lock()  # matplotlib is not made for threads


def finish(cfg: Config, path: Path, record: Record, *, fresh: bool) -> None:
    """Ranking and, if asked for, mask, box and figure; the latter are left alone if they are what they would become."""
    ranking = rank_heads(record, cfg.logic)
    write_ranking(path, ranking)
    if not cfg.data.visualize_batch:
        return
    result = localize_record(record, ranking, cfg)
    box, mask, *figures = sibling(path, "_bbox.json"), sibling(path, "_mask.png"), *figure_files(cfg, path, result)
    there = box.exists() and mask.exists() and (not cfg.save_fig or all(figure.exists() for figure in figures))
    if fresh or not there or box.read_text() != box_json(record, result):
        with DRAWING:
            write_localization(cfg, path, record, result)
