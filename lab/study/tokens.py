"""Which token's attention points best: heads are found anew for each token that was read, and scored.

Records hold the tokens of `model.read`; those of other tokens of the same samples lie in the folders of `study.reads`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from analyze import Head
from conf.schema import TOKENS, LogicConfig
from lab.base.checkpoints import same_model
from lab.base.errors import UserError
from lab.base.paths import find
from lab.datasets import Sample
from lab.measure.intervals import bootstrap
from lab.records.files import load_record
from lab.study.find import Split, find_heads, split
from lab.study.measure import METRICS, Measured, measure_plan
from lab.study.plan import Case, Plan, Row, Table
from lab.study.settings import Settings

GAIN = "Acc@0.5"
Estimates = tuple[float, float, float]  # value and 95 % interval


@dataclass(frozen=True)
class Token:
    """One choice of the token, the heads that it finds, and how good they are."""

    read: str  # model.read of the records
    token: str | int  # logic.token
    heads: tuple[Head, ...]
    metrics: dict[str, Estimates]
    gain: Estimates  # of GAIN over the first choice, each picture drawn for both

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for study.json."""
        named = {name: dict(zip(("value", "low", "high"), found, strict=True)) for name, found in self.metrics.items()}
        gain = dict(zip(("value", "low", "high"), self.gain, strict=True))
        heads = [list(head) for head in self.heads]
        return {"read": self.read, "token": self.token, "heads": heads, "metrics": named, f"{GAIN} gain": gain}


def which_token(
    known: Split, samples: Sequence[Sample], folder: Path, settings: Settings, absent: Sequence[Sample] = ()
) -> list[Token]:
    """Every choice that the records allow; nothing if they allow only one. Those of `known`, of `folder`, come first.

    Raises UserError if a folder of `study.reads` is of another model or lacks samples.
    """
    folders = [folder, *map(_read_folder, settings.study.reads or ())]
    if len(folders) > 1 and settings.study.find not in ("all", "half"):
        raise UserError(
            f"study.find={settings.study.find}: the records there are of one model.read; with study.reads choose from "
            "all, half"
        )
    alone = replace(settings, study=replace(settings.study, mirrored=None))
    others = [split(samples, one, alone, absent) for one in folders[1:]]
    parts = [replace(one, beside={}) for one in (known, *others)]  # the criteria that need it are of no use here
    for one, own in zip(folders, parts, strict=True):
        if lacking := set(parts[0].files) ^ set(own.files):
            raise UserError(
                f"study.reads: {one} and {folder} do not hold the same samples, such as {min(lacking)!r}: collect both "
                "from one data file"
            )
    choices = [
        (own, read, token)
        for own in parts
        for read, several in [_kept(own.paths[0], settings.logic)]
        for token in (TOKENS if several else (settings.logic.token,))
    ]
    if len(choices) < 2:
        return []
    found: list[tuple[str, str | int, tuple[Head, ...], Measured]] = []
    model: str | None = None
    for own, read, token in choices:
        chosen = replace(settings, logic=replace(settings.logic, token=token))
        seen = find_heads(own, chosen)
        model = model or seen.model
        if seen.model and model and not same_model(seen.model, model):
            raise UserError(f"study.reads: {own.paths[0].parent} is of model {seen.model}, {folder} of {model}")
        heads = seen.fixed("both", chosen.logic.top_k, chosen.logic)
        plan = Plan.of([Table("token", "", (), [Row((), (Case(chosen.logic, heads),))])])
        found.append((read, token, heads, measure_plan(plan, own, seen, chosen)))
    first = found[0][3]
    return [
        Token(
            read, token, heads, {name: _estimate(one.values[name][0]) for name in METRICS}, _gain(one, first, settings)
        )
        for read, token, heads, one in found
    ]


def _read_folder(named: str) -> Path:
    path = find(named)
    if not path.is_dir():
        raise UserError(f"study.reads={named}: no such folder; expected folders of records, [A,B]")
    return path


def _kept(path: Path, logic: LogicConfig) -> tuple[str, bool]:
    """`model.read` of a record, and whether it may keep several tokens; a record of another read has as many."""
    record = load_record(path, replace(logic, token=TOKENS[0]))
    read = record.read
    return read, read != "last"


def _gain(one: Measured, first: Measured, settings: Settings) -> Estimates:
    (hits, counted), (before, _) = (np.asarray(measured.parts[GAIN])[:, :1] for measured in (one, first))
    found = bootstrap(hits - before, counted, one.pictures, resamples=settings.resamples, seed=settings.seed)
    return _estimate(np.stack(found, axis=1)[0])


def _estimate(values: np.ndarray) -> Estimates:
    value, low, high = values.tolist()
    return value, low, high
