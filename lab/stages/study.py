"""stage=study: reads the records twice, compares, and writes study.md, study.json and two figures beside them."""

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from conf.schema import BoxConvention, Config, as_dict
from lab.base.console import table
from lab.base.files import write_atomic
from lab.base.numbers import finite
from lab.datasets import Sample
from lab.heads.choice import HeadChoice
from lab.measure.overview import shape_of
from lab.stages.batch import collect_first
from lab.stages.common import check_results, make_results_folder, print_written, records_folder
from lab.stages.evaluate import samples_with_truth
from lab.stages.refining import refiner_of
from lab.stages.results import remove_formats
from lab.stages.sharp_table import SharpTable
from lab.stages.study_model import ask_model, check_asking
from lab.study.best import Best
from lab.study.chance import Chance
from lab.study.claims import agreements, claims, rank_correlations, trial_counts
from lab.study.find import find_heads, split
from lab.study.measure import measure_plan
from lab.study.plan import make_plan
from lab.study.report import Study, to_json, to_markdown
from lab.study.settings import Settings
from lab.study.tokens import which_token

FIGURES = ("study_settings", "study_heads")


def run(config: Config, choice: HeadChoice) -> int:
    """Measures, writes, and prints the claims. Returns 1 if a sample cannot be collected, or a record not be read."""
    every = samples_with_truth(config.data)
    samples, absent = ([one for one in every if one.present is there] for there in (True, False))
    check_asking(samples, config)
    refiner = refiner_of(config)
    failed = collect_first(config, choice)
    folder = records_folder(config)
    check_results(config, "study.md", "study.json", *(f"{name}.png" for name in FIGURES if config.save_fig))
    study = make_study(samples, folder, settings_of(config, choice), absent)
    sharp = SharpTable.of(refiner, config, choice, study.split.scored, study.split.files)
    best = Best.of(study)
    if config.study.ask:
        best = ask_model(best, study.split.scored, config, choice)
    written = write(study, make_results_folder(config), best, figures=config.save_fig, sharp=sharp)
    print(table(("claim", "verdict"), [(claim.text, claim.verdict) for claim in study.claims]))
    if any(claim.verdict == "open" for claim in study.claims):
        print("\nopen: on these samples it cannot be told")
    print(f"\n{fill(best.verdict(), 80, break_long_words=False, break_on_hyphens=False)}")
    print_written(written)
    return 1 if failed or study.split.unreadable else 0


def settings_of(config: Config, choice: HeadChoice) -> Settings:
    """What the study needs of the configuration."""
    return Settings(
        config.logic,
        choice,
        config.study,
        config.data.data_file,
        config.model.name,
        draws=config.evaluate.draws,
        resamples=config.evaluate.resamples,
        seed=config.seed,
        inclusive=config.metrics.box == BoxConvention.inclusive,
        workers=config.data.workers,
        config=as_dict(config),
    )


def make_study(samples: Sequence[Sample], folder: Path, settings: Settings, absent: Sequence[Sample] = ()) -> Study:
    """Everything that is measured, from the records in a folder, which may hold those of `absent` things too."""
    parts = split(samples, folder, settings, absent)
    shape_of(parts.paths, settings.choice)  # whose heads they are is told before all records are read
    found = find_heads(parts, settings)
    chance = Chance.of(found, found.scored_picture_of, settings.resamples, settings.seed)
    plan = make_plan(found, settings, chance)
    measured = measure_plan(plan, parts, found, settings)
    counts, per_trial = trial_counts(found, settings)
    agreement = agreements(counts, settings.logic.top_k, settings)
    rhos = rank_correlations(found, settings, chance)
    verdicts = claims(plan, measured, chance, rhos, agreement, settings)
    tokens = which_token(parts, samples, folder, settings, absent)
    return Study(parts, found, plan, measured, counts, per_trial, agreement, rhos, verdicts, settings, tokens)


def write(study: Study, folder: Path, best: Best, *, figures: bool, sharp: SharpTable | None = None) -> list[Path]:
    """The files, study.md last, so that it never stands beside older figures."""
    drawn: list[Path] = []
    for name in FIGURES:
        remove_formats(folder / name)
    if figures:
        from lab.study.figures import draw  # matplotlib, only where a figure is wanted

        drawn = draw(study, folder)
    content = to_json(study) | {"best": best.to_json()}
    text = to_markdown(study, [path.name for path in drawn])
    text += f"\n## Which criterion finds the best heads\n\n{best.markdown()}\n"
    if sharp is not None:
        content |= sharp.to_json()
        text += f"\n## Sharp masks\n\n{sharp.markdown()}\n"
    write_atomic(folder / "study.json", json.dumps(finite(content), indent=1, allow_nan=False))
    write_atomic(folder / "study.md", text)
    return [folder / "study.md", folder / "study.json", *drawn]
