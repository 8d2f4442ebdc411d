"""stage=ablate: whether the model uses the heads that look, or whether they only look.

    python pipeline.py stage=ablate data.data_file=samples.jsonl

The model is asked again, so no records are needed. The data is read twice: once for what is selected and said on
average, once with the heads changed.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conf.schema import AblateConfig, Config, as_dict
from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.files import write_atomic
from lab.datasets import Sample
from lab.heads.choice import HeadChoice
from lab.stages import common
from lab.stages.batch import chosen_samples
from lab.stages.common import check_results, make_results_folder, print_written
from lab.stages.results import remove_formats

if TYPE_CHECKING:  # torch
    from lab.ablate.report import Ablation
    from lab.ablate.trial import Trial
    from lab.batch.rows import ReadyRow
    from llava.family import LoadedModel

log = logging.getLogger(__name__)

FILES = ("ablate.json", "ablate.md")


def run(config: Config, choice: HeadChoice) -> int:
    """Changes heads, measures, prints the headlines, writes the rest. Returns 1 if a sample could not be asked."""
    from lab.ablate.report import screen

    samples = asked_samples(config)
    check_results(config, *FILES, figures=["ablate"])
    found = ablate(common.model_with_heads(config, choice), samples, config, choice)
    written = write(found, config)
    print(screen(found))
    print_written(written)
    return 1 if found.failed else 0


def asked_samples(config: Config) -> list[Sample]:
    """The chosen lines of the data file. Raises UserError if one has a malformed answer or thing, or a key is wrong."""
    from lab.ablate.interventions import check_interventions
    from lab.ablate.sets import check_kinds
    from lab.ablate.things import answer_of, things_beside

    if config.model.read != "last":
        raise UserError(f"stage=ablate reads the last prompt token: leave out model.read={config.model.read}")
    check_interventions(config.ablate.interventions, config.ablate.box)
    check_kinds(config.ablate.sets)
    if config.data.data_file is None:
        raise UserError("no data file: set data.data_file=samples.jsonl")
    samples = list(chosen_samples(config.data))
    for sample in samples:
        answer_of(sample)
        things_beside(sample, ())
    return samples


def ablate(loaded: "LoadedModel", samples: Sequence[Sample], config: Config, choice: HeadChoice) -> "Ablation":
    """Everything that is measured. Raises UserError if nothing can be."""
    from lab.ablate.estimates import each_set, estimates
    from lab.ablate.report import Ablation
    from lab.ablate.sets import head_sets
    from lab.ablate.survey import survey
    from lab.ablate.trial import Trial
    from lab.batch.plan import plan_rows
    from lab.batch.rows import RowDataset, feed
    from lab.measure.intervals import numbered

    wanted, failed = config.ablate, dict[str, str]()
    if wanted.written and loaded.family.box_rule is None:
        raise UserError(f"ablate.written=true: how {loaded.name} writes boxes is not known here; leave it out")
    rows = RowDataset(plan_rows(samples, share_image=True), loaded, config.model, generic=False)
    workers = config.data.workers or 0

    def read() -> Iterator["ReadyRow"]:
        return feed(rows, workers=workers, pin=loaded.device.type == "cuda")

    first = survey(loaded, progress(read(), "ablate 1/2", total=len(rows)), config.model, config.logic)
    ranked = first.ranked()
    fixed = choice.fixed(first.selected.shape)
    chosen = ranked[: config.logic.top_k] if fixed is None else fixed
    rng = np.random.default_rng(config.seed)
    sets, note = head_sets(wanted.sets, chosen, ranked, first.sums, best=wanted.best, draws=wanted.draws, rng=rng)
    trial = Trial(loaded, sets, first.means, wanted, config.seed, config.model.max_new_tokens)
    for _ in progress(_taken(trial, read(), failed), "ablate 2/2", total=len(samples)):
        pass
    if not trial.samples:
        raise UserError(f"no sample could be asked, the first because: {next(iter(failed.values()))}")
    _tell_unmeasured(trial, wanted)
    words, pictures = np.array(trial.words), numbered([str(one.image_file) for one in trial.samples])
    figures = estimates(
        trial.scores, words, pictures, wanted.interventions, sets, resamples=wanted.resamples, seed=config.seed
    )
    each = {
        name: {
            metric: each_set(values[i], words if metric == "words" else np.ones(len(words)))
            for metric, values in trial.scores.items()
        }
        for i, name in enumerate(wanted.interventions)
    }
    source = "the selection here" if fixed is None else choice.source
    count = len(np.unique(pictures))
    return Ablation(figures, wanted.interventions, sets, each, chosen, source, ranked, len(words), count, note, failed)


def _taken(trial: "Trial", rows: Iterator["ReadyRow"], failed: dict[str, str]) -> Iterator[Sample]:
    """The samples, one after the other, as they are measured or have failed."""
    for row in rows:
        for sample, why in row.failed:
            log.error("%s: %s", sample.id, why)
            failed[sample.id] = why
            yield sample
        if row.question is not None:
            for name, why in trial.take(row.samples, row.question).items():
                log.error("%s: %s", name, why)
                failed[name] = why
            yield from row.samples


def _tell_unmeasured(trial: "Trial", wanted: AblateConfig) -> None:
    """Warns of what no sample allows, with what it takes. Raises UserError if no intervention could be made."""
    from lab.ablate.interventions import INTERVENTIONS
    from lab.ablate.trial import BOXES

    names = wanted.interventions
    divergence = trial.scores.get("divergence")
    idle = [name for i, name in enumerate(names) if divergence is None or not np.isfinite(divergence[i]).any()]
    lacking = [f"{name} needs {INTERVENTIONS[name].needs}" for name in idle if INTERVENTIONS[name].needs]
    if len(idle) == len(names):
        raise UserError(f"no sample allows any of ablate.interventions: {'; '.join(lacking) or 'none can be asked'}")
    if wanted.written and not trial.scores.keys() & set(BOXES):
        lacking.append("ablate.written needs redirect or swap, a box of the line, and a model that writes one")
    for text in lacking:
        log.warning("not measured: %s", text)


def write(found: "Ablation", config: Config) -> list[Path]:
    """ablate.json, the figure, and ablate.md, which shows it."""
    from lab.ablate.report import to_json, to_markdown

    folder, figures = make_results_folder(config), list[Path]()
    remove_formats(folder / "ablate")
    if config.save_fig:
        import viz
        from lab.ablate.figure import ablation_figure

        if (figure := ablation_figure(found)) is not None:
            figures.append(folder / f"ablate.{config.save_format}")
            viz.save_figure(figure, figures[-1])
    about = {"data_file": config.data.data_file, "model": config.model.name}
    content = to_json(found, **about) | {"config": as_dict(config)}
    write_atomic(folder / "ablate.json", json.dumps(content, indent=1, allow_nan=False))
    write_atomic(folder / "ablate.md", to_markdown(found, [path.name for path in figures]))
    return [*(folder / name for name in FILES), *figures]
