"""stage=evaluate: how good the boxes and masks are, and whether it is these heads that make them good."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from scipy.stats import spearmanr

from conf.schema import Config
from lab.base.console import markdown, table
from lab.base.errors import UserError
from lab.base.files import write_atomic
from lab.base.paths import find
from lab.datasets import Sample, need_truth, read_jsonl
from lab.measure.coco import coco_predictions
from lab.measure.controls import COLUMNS, CONTROLS, Overview, make_pickers, measure, merge_draws, overview, record_files
from lab.measure.intervals import Estimate, summarize
from lab.measure.metrics import Prediction, Score, misses
from lab.stages.common import model_folder, print_written

SHORT = [name.replace("@0.", "@.").replace("pointing", "point") for name in COLUMNS]  # on screen


def run_evaluate(cfg: Config) -> int:
    """Measures the records of a data file's samples, prints the table, writes metrics and predictions.

    Returns an exit code.
    """
    _check_controls(cfg)
    samples = samples_with_truth(cfg)
    failed = collect_first(cfg)
    folder = find(cfg.data.attention_dir) if cfg.data.attention_dir is not None else model_folder(cfg)
    files = record_files(folder, samples)
    view = overview(samples, files, cfg)
    pickers = make_pickers(view, cfg)
    scores, predictions = measure(samples, files, pickers, cfg)
    rows = {name: summarize(found, resamples=cfg.evaluate.resamples, seed=cfg.seed) for name, found in scores.items()}
    rows = merge_draws(rows)
    written = _write(folder, cfg, view, rows, scores["chosen"], predictions)
    print(table(("heads", *SHORT), [(name, *_cells(estimates)) for name, estimates in rows.items()]))
    if missed := misses(scores["chosen"]):
        print(
            f"\n{len(missed)} of {len(samples)} samples have no usable prediction and count as misses (metrics.json lists them)"
        )
    print_written(written)
    return 1 if failed else 0


# what is measured


def _check_controls(cfg: Config) -> None:
    unknown = [name for name in cfg.evaluate.controls if name not in CONTROLS]
    if unknown:
        raise UserError(f"evaluate.controls names {', '.join(unknown)}; choose from {', '.join(CONTROLS)}")


def samples_with_truth(cfg: Config) -> list[Sample]:
    """The data file's samples. Raises UserError, naming the keys, unless each has a box or a mask."""
    if cfg.data.data_file is None:
        raise UserError("no data file with the truth: set data.data_file=samples.jsonl")
    samples = read_jsonl(find(cfg.data.data_file))
    need_truth(samples, cfg.data.data_file)
    return samples


def collect_first(cfg: Config) -> bool:
    """With `data.process_all`: collects what is missing. Whether a sample failed."""
    if not cfg.data.process_all:
        return False
    if cfg.data.attention_dir is not None:
        raise UserError(
            "data.attention_dir names a folder to read, data.process_all=true a data file to collect: give one of the two"
        )
    from lab.stages.batch import run_batch

    return run_batch(cfg) != 0


# results


def rank_correlation(view: Overview) -> tuple[float | None, int]:
    """Spearman's rho between how often a head is selected and how good its own box is, and the number of heads ever
    selected.

    None with fewer than three such heads, or if the boxes of all heads are not known.
    """
    seen = view.selected > 0
    if seen.sum() < 3 or np.isnan(view.head_iou).any():
        return None, int(seen.sum())
    return float(spearmanr(view.selected[seen], view.head_iou[seen]).statistic), int(seen.sum())


def _cells(estimates: Sequence[Estimate], *, group: str = "all", interval: bool = False) -> list[str]:
    values = {one.metric: one for one in estimates if one.group == group}
    cells = []
    for name in COLUMNS:
        one = values.get(name)
        text = "" if one is None else f"{100 * one.value:.1f}"
        cells.append(f"{text} ({100 * one.low:.1f} to {100 * one.high:.1f})" if one and interval else text)
    return cells


def _write(
    folder: Path,
    cfg: Config,
    view: Overview,
    rows: dict[str, list[Estimate]],
    scores: Sequence[Score],
    predictions: Sequence[Prediction],
) -> list[Path]:
    """metrics.json, metrics.md, predictions.coco.json and, unless save_fig=false, the map of each head's own boxes."""
    rho, selected_heads = rank_correlation(view)
    mean_iou = view.head_iou / view.samples
    content = {
        "data_file": cfg.data.data_file,
        "model": cfg.model.name,
        "metrics": {name: [asdict(one) for one in estimates] for name, estimates in rows.items()},
        "misses": dict(misses(scores)),
        "head_mean_iou": None if np.isnan(mean_iou).any() else mean_iou.round(4).tolist(),
        "selection_counts": view.selected.astype(int).tolist(),
        "spearman_selection_iou": {"rho": rho, "heads": selected_heads},
        "config": OmegaConf.to_container(cfg, resolve=True),
    }
    write_atomic(folder / "metrics.json", json.dumps(content, indent=1))
    write_atomic(folder / "metrics.md", report(rows, view))
    write_atomic(folder / "predictions.coco.json", json.dumps(coco_predictions(predictions)))
    written = [folder / name for name in ("metrics.json", "metrics.md", "predictions.coco.json")]
    if cfg.save_fig and not np.isnan(mean_iou).any():
        import viz

        written.append(folder / f"head_iou.{cfg.save_format}")
        viz.save_figure(viz.head_quality_figure(mean_iou, view.selected / view.samples, rho), written[-1])
    return written


def report(rows: dict[str, list[Estimate]], view: Overview) -> str:
    """The tables as Markdown: every row with its intervals, then the chosen heads by split and size of object."""
    chosen = rows["chosen"]
    groups = {one.group: max(e.n for e in chosen if e.group == one.group) for one in chosen}
    rho, heads = rank_correlation(view)
    notes = f"In %; behind the figures 95 % bootstrap intervals (of random heads: 95 % of the draws). {view.samples} records."
    if rho is not None:
        notes += f" Spearman's rho between how often a head is selected and the mean IoU of its own boxes: {rho:.2f} over {heads} heads."
    parts = [
        markdown(("heads", *COLUMNS), [(name, *_cells(estimates, interval=True)) for name, estimates in rows.items()]),
        markdown(
            ("chosen heads on", "samples", *COLUMNS), [(g, n, *_cells(chosen, group=g)) for g, n in groups.items()]
        ),
        notes,
    ]
    return "\n\n".join(parts) + "\n"
