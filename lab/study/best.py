"""Which criterion finds the best heads: boxes, masks, presence and what the model loses without them, side by side.

Boxes and masks come from the records. Presence and knock-outs need the model to be asked anew (`study.ask`); the stage
brings them as figures, by row.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.base.console import markdown
from lab.measure.intervals import paired_bootstrap
from lab.study.plan import Row, name_heads
from lab.study.report import Study

Heads = tuple[tuple[int, int], ...]
Interval = tuple[float, float, float]  # value, low, high

ACC, CIOU = "Acc@0.5", "cIoU"
PAPER = "both"
RANDOM, ORACLE = "random, same layers", "oracle"
SETS = 5  # of random heads, about which the model is asked


@dataclass(frozen=True)
class Column:
    """A figure of every row: its header, and how it is printed."""

    title: str
    scale: float = 100.0
    digits: int = 1
    sign: bool = False


COLUMNS = {
    ACC: Column("Acc@0.5, %"),
    CIOU: Column("cIoU, %"),
    "auroc": Column("presence, AUROC, %"),
    "zero exact": Column("output zero: whole answers, points", sign=True),
    "zero divergence": Column("output zero: divergence, nats", 1.0, 3),
    "swap other": Column("looks swapped: the other's word, %"),
    "swap divergence": Column("looks swapped: divergence, nats", 1.0, 3),
}
NEEDS = "Presence and knock-outs: study.ask=500 asks the model about so many of the samples."
NOTE = (
    "Heads that a criterion selects most often, without labels; the oracle's by the labels. Presence: minus the "
    "entropy of the summed, smoothed maps, for a picture's own expressions against those of other pictures. Output "
    "zero: from the last prompt token on. Looks swapped: their attention to the picture replaced by that of another "
    "expression about it. Random heads: in square brackets the range of 95 % of the sets; of {sets} of these sets, the "
    "mean AUROC and the mean ends of its intervals, and what a knock-out of one of them does."
)


@dataclass(frozen=True)
class BestRow:
    """A criterion, the heads that it finds, and their figures by column."""

    name: str
    sets: tuple[Heads, ...]  # one, or several of random heads
    figures: dict[str, Interval] = field(default_factory=dict)

    @property
    def heads(self) -> Heads | None:
        """The heads, if they are the same in all sets."""
        return self.sets[0] if len(self.sets) == 1 else None


@dataclass(frozen=True)
class Best:
    """The table, and its winner."""

    rows: Sequence[BestRow]
    winner: str
    gain: Interval  # of the winner over the paper's criteria, Acc@0.5
    asked: int = 0  # samples that the model was asked about

    @classmethod
    def of(cls, study: Study) -> "Best":
        """What the records tell."""
        found = {row.labels[1]: row for row in study.plan.tables["criteria"].rows if row.labels[0] == "fixed"}
        heads = study.plan.tables["heads"].rows
        random = next(row for row in heads if row.labels[0].startswith("random"))
        rows = [_row(study, name, row) for name, row in {**found, RANDOM: random, ORACLE: heads[-1]}.items()]
        winner = max(found, key=lambda name: study.estimate(found[name], ACC)[0])  # of equal ones the first
        return cls(rows, winner, _gain(study, found[PAPER], found[winner]))

    def with_asked(self, figures: Mapping[str, Mapping[str, Interval]], asked: int) -> "Best":
        """The same with what the model told, by row and column."""
        rows = [BestRow(row.name, row.sets, {**row.figures, **figures.get(row.name, {})}) for row in self.rows]
        return Best(rows, self.winner, self.gain, asked)

    def sets(self) -> dict[str, tuple[Heads, ...]]:
        """The heads of every row, as the model is asked about them."""
        return {row.name: row.sets[:SETS] for row in self.rows}

    def settings(self) -> str:
        """The winner's heads, as they are set."""
        heads = next(row.heads for row in self.rows if row.name == self.winner) or ()
        return f"logic.heads=[{','.join(f'[{layer},{head}]' for layer, head in heads)}]"

    def verdict(self) -> str:
        """Who wins, and by how much."""
        by_name = {row.name: row for row in self.rows}
        same = set(by_name[self.winner].sets[0]) == set(by_name[PAPER].sets[0])
        value, low, high = (100 * part for part in self.gain)
        if same:
            return f"No criterion finds better heads than the paper's two; theirs: {self.settings()}"
        clear = "" if low > 0 else ", which is not clear"
        gain = f"{value:+.1f} points of {ACC} ({low:+.1f} to {high:+.1f}) over the paper's two{clear}"
        return f"The best heads by {ACC}: {self.winner}, {gain}: {self.settings()}"

    def markdown(self) -> str:
        """The section of study.md."""
        told = [name for name in COLUMNS if any(name in row.figures for row in self.rows)]
        lines = [
            (row.name, "" if row.heads is None else name_heads(row.heads), *(_cell(row, name) for name in told))
            for row in self.rows
        ]
        text = markdown(("criterion", "heads", *(COLUMNS[name].title for name in told)), lines)
        sets = min(SETS, max(len(row.sets) for row in self.rows))
        note = f"{NOTE.format(sets=sets)} The model was asked about {self.asked} samples." if self.asked else NEEDS
        return f"{text}\n\n{note}\n\n{self.verdict()}."

    def to_json(self) -> dict[str, Any]:
        """The same for study.json."""
        rows = [
            {
                "criterion": row.name,
                "heads": [[list(head) for head in heads] for heads in row.sets],
                **{
                    key: dict(zip(("value", "low", "high"), figure, strict=True)) for key, figure in row.figures.items()
                },
            }
            for row in self.rows
        ]
        gain = dict(zip(("value", "low", "high"), self.gain, strict=True))
        return {"rows": rows, "winner": self.winner, "gain": gain, "settings": self.settings(), "asked": self.asked}


def _row(study: Study, name: str, row: Row) -> BestRow:
    figures = {metric: study.estimate(row, metric) for metric in (ACC, CIOU)}
    measured = {metric: figure for metric, figure in figures.items() if math.isfinite(figure[0])}
    return BestRow(name, tuple(case.heads or () for case in row.cases), measured)


def _gain(study: Study, first: Row, second: Row) -> Interval:
    parts = study.measured.parts[ACC]
    one, other = (parts[:, [study.plan.index[row.cases[0].key]]].swapaxes(0, 1) for row in (first, second))
    settings = study.settings
    (before, after), low, high = paired_bootstrap(
        one, other, study.measured.pictures, resamples=settings.resamples, seed=settings.seed
    )
    return float(after[0] - before[0]), float(low[0]), float(high[0])


def _cell(row: BestRow, name: str) -> str:
    if name not in row.figures:
        return ""
    column, (value, low, high) = COLUMNS[name], row.figures[name]
    several = len(row.sets) > 1 and name in (ACC, CIOU)
    left, right = "[]" if several else "()"
    texts = [f"{column.scale * part:{'+' if column.sign else ''}.{column.digits}f}" for part in (value, low, high)]
    return f"{texts[0]} {left}{texts[1]} to {texts[2]}{right}"
