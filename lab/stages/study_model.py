"""What stage=study asks the model about the heads of each criterion: presence, and what is lost without them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bbox import numbers_of
from conf.schema import AblateTokens, Config
from lab.base.console import progress
from lab.base.errors import UserError
from lab.datasets import Sample
from lab.heads.choice import HeadChoice
from lab.measure.intervals import numbered
from lab.measure.presence import separation
from lab.presence.swap import LEAST, asks
from lab.stages import common
from lab.stages.asking import asked_records, prepared
from lab.study.best import Best, Heads, Interval

if TYPE_CHECKING:  # torch
    from lab.ablate.estimates import Row as Figure
    from llava.family import LoadedModel

log = logging.getLogger(__name__)

Sets = Mapping[str, tuple[Heads, ...]]  # by row, one or several
KNOCK_OUTS = ("zero", "swap")  # of `lab.ablate.interventions`
SHOWN = {"zero": ("exact", "divergence"), "swap": ("other", "divergence")}  # the first that is measured
CHANGES = ("exact",)  # told as a difference to the untouched model


def ask_model(best: Best, samples: Sequence[Sample], config: Config, choice: HeadChoice) -> Best:
    """The table with what the model tells about `study.ask` of the samples, pictures drawn at random.

    Raises UserError if the model cannot be asked so.
    """
    some = drawn(samples, config.study.ask, config.seed)
    loaded = common.model_with_heads(config, choice)
    told = presence(loaded, some, best.sets(), config)
    for name, figures in knock_outs(loaded, some, best.sets(), config).items():
        told.setdefault(name, {}).update(figures)
    return best.with_asked(told, len(some))


def check_asking(samples: Sequence[Sample], config: Config) -> None:
    """Raises UserError if `study.ask` is set, but the model is read otherwise, or too few pictures would be drawn."""
    number = config.study.ask
    if not number:
        return
    if config.model.read != "last" or config.model.answers:
        raise UserError(f"study.ask={number} reads the last prompt token: leave out model.read and model.use_generate")
    pictures = len({str(sample.image_file) for sample in drawn(samples, number, config.seed)})
    if pictures < LEAST:
        few = f"study.ask={number} asks about {pictures} pictures, too few to tell presence"
        raise UserError(f"{few}; expected {LEAST} pictures or more")


def drawn(samples: Sequence[Sample], number: int, seed: int) -> list[Sample]:
    """Whole pictures at random until there are so many samples, in the order of the file."""
    pictures = numbered([str(sample.image_file) for sample in samples])
    taken, left = set[int](), number
    for picture in np.random.default_rng((seed, 7)).permutation(pictures.max() + 1).tolist():
        if left <= 0:
            break
        taken.add(picture)
        left -= int((pictures == picture).sum())
    return [sample for sample, picture in zip(samples, pictures.tolist(), strict=True) if picture in taken]


def presence(
    loaded: "LoadedModel", samples: Sequence[Sample], sets: Sets, config: Config
) -> dict[str, dict[str, Interval]]:
    """AUROC of minus the heat map's entropy: a picture's own expressions against those of others, nothing fitted."""
    wanted = asks(samples, config.calibrate.swaps, np.random.default_rng(config.seed))
    own = {one.sample.id: one.own for one in wanted}
    each = list(dict.fromkeys(heads for several in sets.values() for heads in several))
    asked, scores, failed = list[Sample](), list[list[float]](), list[str]()
    for sample, record in asked_records(loaded, [one.sample for one in wanted], config, "study, presence", failed):
        asked.append(sample)
        smoothing = config.logic.smoothing
        scores.append([numbers_of(record, heads, smoothing)["focus"] for heads in each])
    if failed:
        log.warning("%d of %d expressions could not be asked, the first because: %s", len(failed), len(own), failed[0])
    there = np.array([own[sample.id] for sample in asked], bool)
    pictures, everything = numbered([str(sample.image_file) for sample in asked]), {"all": np.ones(len(asked), bool)}
    chance = {"resamples": config.evaluate.resamples, "seed": config.seed}
    found = {
        heads: separation(column, there, pictures, everything, **chance)[0]
        for heads, column in zip(each, np.array(scores).T, strict=True)
    }
    ends = {name: [(found[s].value, found[s].low, found[s].high) for s in several] for name, several in sets.items()}
    return {name: {"auroc": tuple(np.mean(rows, axis=0).tolist())} for name, rows in ends.items()}


def knock_outs(
    loaded: "LoadedModel", samples: Sequence[Sample], sets: Sets, config: Config
) -> dict[str, dict[str, Interval]]:
    """What the model says with each row's heads changed, from the last prompt token on."""
    from lab.ablate.estimates import estimates
    from lab.ablate.sets import CHOSEN, UNTOUCHED, HeadSet
    from lab.ablate.survey import survey
    from lab.ablate.trial import Trial

    each = [HeadSet(name, heads) for name, several in sets.items() for heads in several]
    named = [HeadSet(UNTOUCHED, ()), HeadSet(CHOSEN, each[0].heads), *each]
    failed: list[str] = []
    first = None
    for row in prepared(loaded, samples, config):
        failed += [why for _, why in row.failed]
        if row.question is not None:
            first = row
            break
    if first is None:
        raise UserError(f"no sample could be asked for study.ask, the first because: {failed[0]}")
    means = survey(loaded, [first], config.model, config.logic).means  # their shapes: neither knock-out takes a mean
    wanted = replace(config.ablate, interventions=list(KNOCK_OUTS), tokens=AblateTokens.onward)
    trial = Trial(loaded, named, means, wanted, config.seed)
    for row in progress(prepared(loaded, samples, config), "study, knock-outs"):
        if row.question is not None:
            for name, why in trial.take(row.samples, row.question).items():  # an answer or a thing that is malformed
                log.warning("left out of the knock-outs: %s: %s", name, why)
    words, pictures = np.array(trial.words), numbered([str(one.image_file) for one in trial.samples])
    rows = estimates(
        trial.scores, words, pictures, KNOCK_OUTS, named, resamples=config.evaluate.resamples, seed=config.seed
    )
    told = {(one.name, one.intervention, one.metric): one for one in rows}
    return {name: _shown(name, told) for name in sets}


def _shown(name: str, told: Mapping[tuple[str, str, str], "Figure"]) -> dict[str, Interval]:
    """The figures of a row that its table shows, by column."""
    found: dict[str, Interval] = {}
    for intervention, metrics in SHOWN.items():
        metric = next((one for one in metrics if (name, intervention, one) in told), None)
        if metric is not None:
            one = told[name, intervention, metric]
            ends = (one.difference, one.low, one.high), (one.value, one.value_low, one.value_high)
            found[f"{intervention} {metric}"] = ends[0] if metric in CHANGES else ends[1]
    return found
