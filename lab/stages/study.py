"""stage=study: reads the records twice, compares, and writes study.md, study.json and two figures beside them."""

import json
import math
from pathlib import Path
from typing import Any

from conf.schema import Config
from lab.base.console import table
from lab.base.files import write_atomic
from lab.base.paths import find
from lab.stages.common import model_folder, print_written
from lab.stages.evaluate import collect_first, samples_with_truth
from lab.study.claims import agreements, claims, rank_correlations, trial_counts
from lab.study.find import find_heads, split
from lab.study.measure import measure_plan
from lab.study.plan import make_plan
from lab.study.report import Study, to_json, to_markdown


def run_study(cfg: Config) -> int:
    """Measures, writes, and prints the claims. Returns 1 if a sample could not be collected."""
    samples = samples_with_truth(cfg)
    failed = collect_first(cfg)
    folder = find(cfg.data.attention_dir) if cfg.data.attention_dir is not None else model_folder(cfg)
    study = make_study(samples, folder, cfg)
    written = write(study, folder, cfg)
    print(table(("claim", "verdict"), [(claim.text, claim.verdict) for claim in study.claims]))
    print_written(written)
    return 1 if failed else 0


def make_study(samples: Any, folder: Path, cfg: Config) -> Study:
    """Everything that is measured, from the records in a folder."""
    parts = split(samples, folder, cfg)
    found = find_heads(parts, cfg)
    plan = make_plan(found, cfg)
    measured = measure_plan(plan, parts, found, cfg)
    counts, per_trial = trial_counts(found, cfg)
    agreement, rhos = agreements(counts, cfg.logic.top_k), rank_correlations(found, cfg)
    verdicts = claims(plan, measured, rhos, agreement, cfg)
    return Study(parts, found, plan, measured, counts, per_trial, agreement, rhos, verdicts, cfg)


def write(study: Study, folder: Path, cfg: Config) -> list[Path]:
    """The files, study.md last, so that it never stands beside older figures."""
    figures: list[Path] = []
    if cfg.save_fig:
        from lab.study.figures import draw

        figures = draw(study, folder)
    content = json.dumps(_finite(to_json(study)), indent=1, allow_nan=False)
    write_atomic(folder / "study.json", content)
    write_atomic(folder / "study.md", to_markdown(study, [path.name for path in figures]))
    return [folder / "study.md", folder / "study.json", *figures]


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null instead."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
