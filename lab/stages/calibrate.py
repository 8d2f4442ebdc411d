"""stage=calibrate: how surely the chosen heads tell whether the described thing is in the picture, without labels.

    python pipeline.py stage=calibrate data.data_file=samples.jsonl

Each picture is asked its own expressions and those of others. The rule that tells the two apart is saved as
`presence.json`, beside the file of heads if one names them; how well it does is measured on pictures that it was not
fitted on.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from bbox import numbers_of
from conf.schema import Config
from lab.base.console import markdown, table
from lab.base.errors import UserError
from lab.base.files import check_writable, write_atomic
from lab.base.paths import find
from lab.datasets import Sample
from lab.heads.choice import HeadChoice
from lab.heads.files import KNOWN
from lab.measure.intervals import numbered
from lab.measure.presence import COLUMNS, Separation, by_category, cells, separation
from lab.presence.files import NAME, Calibration
from lab.presence.rule import Rule, fit
from lab.presence.swap import Ask, asks, check_enough
from lab.stages import common
from lab.stages.asking import asked_records
from lab.stages.batch import chosen_samples
from lab.stages.common import check_results, make_results_folder, print_written

if TYPE_CHECKING:  # torch
    from llava.family import LoadedModel

log = logging.getLogger(__name__)

FOLDS = 5  # of pictures: the rule of four is measured on the fifth
TABLE = "presence.md"


@dataclass(frozen=True, eq=False)
class Asked:
    """What the heads told of every expression that was asked."""

    samples: list[Sample]
    own: Bool[np.ndarray, " asks"]  # whether it is an expression of the picture
    numbers: list[Mapping[str, float]]

    @property
    def pictures(self) -> Int[np.ndarray, " asks"]:
        """A number for the picture of each."""
        return numbered([str(sample.image_file) for sample in self.samples])


def run(config: Config, choice: HeadChoice) -> int:
    """Asks, fits, prints how well presence is told, and writes the rule. Returns 1 if something could not be asked."""
    heads = choice.named
    if heads is None:
        raise UserError("stage=calibrate needs fixed heads: set logic.heads, or find them with stage=select")
    if config.model.answers:
        raise UserError(
            "stage=calibrate reads prompts: set model.use_generate=false, and model.read=last or expression"
        )
    if config.data.data_file is None:
        raise UserError("no data file: set data.data_file=samples.jsonl")
    wanted = asks(list(chosen_samples(config.data)), config.calibrate.swaps, np.random.default_rng(config.seed))
    beside = None if choice.file is None else find(choice.file).parent
    if beside == KNOWN:  # they are of the project, and serve others too
        beside = None
    if all(one.own for one in wanted):
        raise UserError("all pictures have the same expressions, so that there are none to swap")
    if beside is None:
        check_results(config, NAME, TABLE)
    else:
        check_writable(beside, NAME, TABLE)
    asked, failed = ask_all(common.model_with_heads(config, choice), wanted, config, heads)
    rule = fit(asked.numbers, asked.own)
    found = Calibration.of(rule, heads, config.logic, config.model)
    rows = measured(asked, config.calibrate.resamples, config.seed)
    folder = make_results_folder(config) if beside is None else beside
    written = [folder / NAME, folder / TABLE]
    content = found.to_dict() | {
        "data_file": config.data.data_file,
        "pictures": len(set(asked.pictures.tolist())),
        "own": int(asked.own.sum()),
        "swapped": int((~asked.own).sum()),
        "separation": [asdict(row) for row in rows],
    }
    write_atomic(written[0], json.dumps(content, indent=1))
    write_atomic(written[1], report(rows, rule))
    print(table(COLUMNS, cells(rows)))
    print(f"\nweights: {in_words(rule)}")
    print_written(written)
    if beside is None:
        print(f"\nuse it: logic.presence.file={written[0]}")
    return 1 if failed else 0


def ask_all(
    loaded: "LoadedModel", wanted: Sequence[Ask], config: Config, heads: Sequence[tuple[int, int]]
) -> tuple[Asked, int]:
    """What the heads tell of every expression, and how many could not be asked.

    Raises UserError if none of one side can, or too few pictures are left.
    """
    own = {one.sample.id: one.own for one in wanted}
    asked, failed = Asked([], np.zeros(0, bool), []), list[str]()
    for sample, record in asked_records(loaded, [one.sample for one in wanted], config, "calibrate", failed):
        asked.samples.append(sample)
        asked.numbers.append(numbers_of(record, heads, config.logic.smoothing))
    missed = f"{len(failed)} of {len(wanted)} expressions could not be asked"
    if failed:
        log.warning("%s, the first one because: %s", missed, failed[0])
    sides = np.array([own[sample.id] for sample in asked.samples], bool)
    if sides.all() or not sides.any():
        raise UserError(f"{missed}, so nothing can be calibrated")
    found = Asked(asked.samples, sides, asked.numbers)
    check_enough(int(sides.sum()), len(set(found.pictures.tolist())))
    return found, len(failed)


def measured(asked: Asked, resamples: int, seed: int) -> list[Separation]:
    """How well own and swapped expressions are told apart: all of them, and by category."""
    groups = {"swapped": np.ones(len(asked.own), bool)} | by_category(asked.samples, asked.own)
    scores = held_out(asked, seed)
    return separation(scores, asked.own, asked.pictures, groups, resamples=resamples, seed=seed)


def held_out(asked: Asked, seed: int) -> Float[np.ndarray, " asks"]:
    """The log-odds that a rule gives which was fitted on other pictures."""
    pictures, scores = asked.pictures, np.zeros(len(asked.own))
    fold = np.random.default_rng(seed).permutation(pictures.max() + 1)[pictures] % FOLDS
    for number in range(FOLDS):
        rest = fold != number
        rule = fit([one for one, there in zip(asked.numbers, rest, strict=True) if there], asked.own[rest])
        for at in np.flatnonzero(~rest).tolist():
            scores[at] = rule.log_odds(asked.numbers[at])
    return scores


def in_words(rule: Rule) -> str:
    """The rule's weights."""
    return ", ".join(f"{name} {weight:.3g}" for name, weight in rule.weights.items())


def report(rows: Sequence[Separation], rule: Rule) -> str:
    """presence.md"""
    notes = "AUROC and what is rejected with 95 % of the own expressions kept, in %, with 95 % bootstrap intervals by "
    notes += "picture, of rules fitted on other pictures. Swapped: expressions of other pictures, some of which are "
    notes += "true by chance."
    return f"{markdown(COLUMNS, cells(rows, interval=True))}\n\n{notes}\n\nWeights: {in_words(rule)}.\n"
