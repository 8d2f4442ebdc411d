"""What was found, on screen, as ablate.md and as ablate.json."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from analyze import Head
from lab.ablate.estimates import AGAINST, Row
from lab.ablate.interventions import INTERVENTIONS
from lab.ablate.sets import CHOSEN, UNTOUCHED, HeadSet, head_name
from lab.ablate.trial import METRICS, SHARES
from lab.base.console import markdown, table
from lab.base.numbers import finite

QUESTIONS = {"steer": "Do they steer?", "suffice": "Do they suffice?", "needed": "Are they needed?"}
IN_WORDS = {
    "exact": "whole answer right, %",
    "words": "words right, %",
    "first_word": "first word right, %",
    "logprob": "log-probability of the answer, nats",
    "other": "says the other's word, %",
    "other_logprob": "log-probability of the other's answer, nats",
    "divergence": "divergence of the next token, nats",
    "others_there": "other heads behind them look there, gain in % of their attention",
    "box_other": "writes the other's box, %",
    "box_target": "writes the box of what is meant, %",
    "others_target": "other heads behind them look at what is meant, gain in %",
}
COLUMNS = {  # on screen, and the sets of each; where all but a set are changed, all are if none is kept
    "before": (UNTOUCHED,), "chosen": (CHOSEN,), "random": ("random",), "any": ("any",), "matched": ("matched",),
    "others": ("others",), "all": ("all", "none"),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Ablation:
    """What one run found."""

    rows: Sequence[Row]
    interventions: Sequence[str]
    sets: Sequence[HeadSet]
    each: Mapping[str, Mapping[str, Float[np.ndarray, " sets"]]]  # intervention, metric -> the figure of every set
    heads: Sequence[Head]  # the chosen ones
    source: str  # where they come from
    ranked: Sequence[Head]
    samples: int
    pictures: int
    random: str  # which sets of the same layers were taken
    failed: Mapping[str, str]  # sample -> why it could not be asked

    def of(self, intervention: str, metric: str) -> dict[str, Row]:
        """The rows of one intervention and metric by name."""
        return {row.name: row for row in self.rows if (row.intervention, row.metric) == (intervention, metric)}

    def headline(self, intervention: str) -> str | None:
        """The metric that tells most or, without answers, the divergence; None if nothing was measured."""
        wanted = (INTERVENTIONS[intervention].headline, "divergence")
        return next((metric for metric in wanted if self.of(intervention, metric)), None)

    @property
    def measured(self) -> dict[str, str]:
        """The interventions that found a sample, with their headlines."""
        found = {name: self.headline(name) for name in self.interventions}
        return {name: metric for name, metric in found.items() if metric is not None}


def shown(value: float, metric: str, *, sign: bool = False) -> str:
    """A figure as it is printed."""
    if not np.isfinite(value):
        return ""
    number, digits = (100 * value, 1) if metric in SHARES else (value, 3)
    return f"{round(number, digits) + 0.0:{'+' * sign}.{digits}f}"  # + 0.0: never -0.0


def _interval(value: float, low: float, high: float, metric: str, *, sign: bool = False) -> str:
    bounds = f"({shown(low, metric, sign=sign)} to {shown(high, metric, sign=sign)})"
    return f"{shown(value, metric, sign=sign)} {bounds}" if np.isfinite(value) else ""


def screen(found: Ablation) -> str:
    """The headline of every intervention, 80 columns wide."""
    lines = []
    for name, metric in found.measured.items():
        rows = found.of(name, metric)
        cells = [next((shown(rows[of].value, metric) for of in sets if of in rows), "") for sets in COLUMNS.values()]
        lines.append((name, metric, *cells))
    *notes, _ = _notes(found)
    header, *lines = _without_empty([("heads changed", "metric", *COLUMNS), *lines])
    return table(header, lines) + "\n\n" + "\n".join(notes)


def _without_empty(lines: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The lines of a table, its header first, without columns that say nothing."""
    kept = [number for number in range(len(lines[0])) if any(line[number] for line in lines[1:])]
    return [tuple(line[number] for number in kept) for line in lines]


def to_markdown(found: Ablation, figures: Iterable[str] = ()) -> str:
    """ablate.md: the headlines by question, then every figure with its interval."""
    parts = [f"# Do the heads do it?\n\n{' '.join(_notes(found))}"]
    parts += [f"![one dot for each set of heads]({name})" for name in figures]
    for question, title in QUESTIONS.items():
        names = [name for name in found.measured if INTERVENTIONS[name].question == question]
        if names:
            parts += [f"## {title}", _headlines(found, names), *(_details(found, name) for name in names)]
    return "\n\n".join(parts) + "\n"


def _headlines(found: Ablation, names: Sequence[str]) -> str:
    header = ("what is done", "metric", "untouched", "chosen", "same layers", "chosen less same layers", "samples")
    lines = []
    for name in names:
        metric = found.measured[name]
        rows = found.of(name, metric)
        untouched, chosen, random, less = (rows.get(of) for of in (UNTOUCHED, CHOSEN, "random", f"{AGAINST}random"))
        cells = [
            "" if one is None else _interval(one.value, one.value_low, one.value_high, metric)
            for one in (untouched, chosen, random)
        ]
        difference = "" if less is None else _interval(less.difference, less.low, less.high, metric, sign=True)
        text = INTERVENTIONS[name].text
        lines.append((f"`{name}`: {text}", IN_WORDS[metric], *cells, difference, rows[UNTOUCHED].n))
    return markdown(header, lines)


def _details(found: Ablation, name: str) -> str:
    """Every set in every metric: the figure, and its difference to the untouched model."""
    metrics = [metric for metric in METRICS if found.of(name, metric)]
    by_set: dict[str, dict[str, Row]] = {}
    for metric in metrics:
        for row in found.of(name, metric).values():
            if not row.name.startswith(AGAINST):
                by_set.setdefault(row.name, {})[metric] = row
    lines = []
    for of, rows in by_set.items():
        number = next(iter(rows.values())).sets
        cells = [_with_difference(rows.get(metric), metric) for metric in metrics]
        lines.append((f"{of} ({number} sets)" if number > 1 else of, *cells))
    return f"`{name}`\n\n{markdown(('heads', *(IN_WORDS[metric] for metric in metrics)), lines)}"


def _with_difference(row: Row | None, metric: str) -> str:
    if row is None:
        return ""
    if row.name == UNTOUCHED:
        return shown(row.value, metric)
    return f"{shown(row.value, metric)}, {_interval(row.difference, row.low, row.high, metric, sign=True)}"


def _notes(found: Ablation) -> list[str]:
    heads = ", ".join(head_name(head) for head in found.heads)
    return [
        f"Chosen: {heads}, from {found.source}; {found.samples} samples of {found.pictures} pictures.",
        *([f"Random: {found.random}."] if found.random else []),
        "Behind the figures the differences to the untouched model on the same samples, with 95 % bootstrap intervals: "
        "pictures are drawn anew and, of controls of several sets, one set.",
    ]


def to_json(found: Ablation, **about: Any) -> dict[str, Any]:
    """ablate.json; what was not measured is null."""
    return {
        **about,
        "heads": [list(head) for head in found.heads],
        "heads_from": found.source,
        "heads_by_selection": [list(head) for head in found.ranked],
        "samples": found.samples,
        "pictures": found.pictures,
        "random_sets": found.random,
        "failed": dict(found.failed),
        "rows": [finite(asdict(row)) for row in found.rows],
        "sets": [{"name": one.name, "heads": [list(head) for head in one.heads]} for one in found.sets],
        "each_set": {
            name: {metric: finite(values.tolist()) for metric, values in metrics.items()}
            for name, metrics in found.each.items()
        },
    }
