"""What the study found, as Markdown and as JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analyze import Head
from lab.base.console import markdown
from lab.heads.reading import by_name
from lab.study.claims import Agreement, Claim, Correlation
from lab.study.find import Found, Split, first_heads
from lab.study.measure import METRICS, Measured
from lab.study.plan import Plan, Row, Table, discovered, name_heads, sizes, told
from lab.study.settings import Settings
from lab.study.tokens import GAIN, Token


@dataclass(frozen=True)
class Study:
    """Everything that is told."""

    split: Split
    found: Found
    plan: Plan
    measured: Measured
    trials: Float[np.ndarray, "trials layers heads"]  # how often each head is selected
    per_trial: Int[np.ndarray, " trials"]  # samples
    agreements: list[Agreement]
    rhos: list[Correlation]
    claims: list[Claim]
    settings: Settings
    tokens: Sequence[Token] = ()

    def estimate(self, row: Row, metric: str) -> tuple[float, float, float]:
        """Value and 95 % interval of a row: of several settings their mean, and the range of 95 % of them."""
        values = self.measured.values[metric][[self.plan.index[case.key] for case in row.cases]]
        if len(values) == 1:
            return tuple(values[0].tolist())
        return (float(values[:, 0].mean()), *np.quantile(values[:, 0], [0.025, 0.975]).tolist())

    def discovery_overlap(self, n: int) -> list[float]:
        """Share of the heads that each two of the subsets of `n` samples have in common."""
        subsets = [set(heads) for heads in discovered(self.found, n, self.settings.logic, self.settings)]
        return [len(one & other) / max(1, len(one)) for one, other in combinations(subsets, 2)]


TOKENS_NOTE = (
    "The heads are found anew for each token whose attention is read, and the same samples are scored. The gain over "
    "the first row is in points, each picture drawn for both."
)


# Markdown


def to_markdown(study: Study, figures: Sequence[str]) -> str:
    """study.md. `figures` are files beside it."""
    parts = ["# Study", _what(study), "## What the paper claims, here", _claims_table(study.claims)]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in figures[:1]]
    for table in study.plan.tables.values():
        parts += [f"## {table.title}", _table(study, table), table.note]
    if study.tokens:
        parts += ["## Which token", _tokens(study.tokens), TOKENS_NOTE]
    parts += ["## How much two trials agree", *_trials(study)]
    parts += ["## Selected often, and good?", _rho(study)]
    parts += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in figures[1:]]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(study: Study) -> str:
    settings, missing = study.settings, len(study.split.scored) - len(study.split.files)
    lost = f" {missing} of them have no record and count as misses." if missing else ""
    return (
        f"`{study.found.model or settings.model}` on `{settings.data_file}`: {len(study.split.scored)} samples "
        f"are scored.{lost} "
        f"{study.split.note} Labels are read to score, for the oracle rows, and for the quality of single heads "
        f"({len(study.found.measured)} samples); never to find heads or set a threshold. Rules: the configuration in "
        "study.json, unless a table "
        f"says otherwise. In %, with 95 % bootstrap intervals ({settings.resamples} resamples, seed {settings.seed}), "
        f"{len(np.unique(study.measured.pictures))} pictures drawn with all their samples; in the tables the "
        "heads stay, in the claims each resample finds its own. Acc@0.5 is the share of boxes with an IoU of 0.5 or "
        "more."
    )


def _claims_table(claims: Sequence[Claim]) -> str:
    rows = [(claim.text, claim_number(claim), f"**{claim.verdict}**", claim.note) for claim in claims]
    return markdown(("claim", "measured", "verdict", ""), rows)


def claim_number(claim: Claim) -> str:
    """What was measured, with its interval and unit."""
    scale, digits = {"points": (100, 1), "times": (1, 1), "share": (100, 0), "": (1, 2)}[claim.unit]
    value, low, high = (f"{scale * v:.{digits}f}" for v in (claim.value, claim.low, claim.high))
    unit = " %" if claim.unit == "share" else f" {claim.unit}" if claim.unit else ""
    return f"{value}{unit}" if low == high == value else f"{value} ({low} to {high}){unit}"


def _table(study: Study, table: Table) -> str:
    metrics = [name for name in METRICS if any(math.isfinite(study.estimate(row, name)[0]) for row in table.rows)]
    extra = ("shared by two",) if table.key == "discovery" else ()
    rows = []
    for row in table.rows:
        cells = [_cell(*study.estimate(row, name), spread=len(row.cases) > 1) for name in metrics]
        rows.append((*row.labels, *([_overlap(study, row)] if extra else ()), *cells))
    return markdown((*table.headers, *extra, *metrics), rows)


def _overlap(study: Study, row: Row) -> str:
    """Mean share in % that two subsets have in common; nothing where there are not two."""
    label = row.labels[0]
    shares = study.discovery_overlap(int(label)) if label.isdigit() else []
    return f"{100 * np.mean(shares):.0f}" if shares else ""


def _cell(value: float, low: float, high: float, *, spread: bool) -> str:
    """Behind the value its interval or, in square brackets, how far several settings spread."""
    if not math.isfinite(value):
        return ""
    left, right = "[]" if spread else "()"
    return f"{100 * value:.1f} {left}{100 * low:.1f} to {100 * high:.1f}{right}"


def _tokens(tokens: Sequence[Token]) -> str:
    metrics = [name for name in METRICS if any(math.isfinite(one.metrics[name][0]) for one in tokens)]
    rows = [
        (
            one.read,
            "" if one.read == "last" else one.token,
            name_heads(one.heads),
            *(_cell(*one.metrics[name], spread=False) for name in metrics),
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * value for value in one.gain)),
        )
        for one in tokens
    ]
    return markdown(("model.read", "logic.token", "heads", *metrics, f"{GAIN} over the first"), rows)


def _trials(study: Study) -> list[str]:
    trials, k = len(study.trials), study.settings.logic.top_k
    shares = study.trials / study.per_trial[:, None, None]
    heads = first_heads(study.trials.sum(0), max(k, 5))
    rates = [shares[:, layer, head] for layer, head in heads]
    frequency = [
        (i + 1, name_heads([head]), f"{100 * rate.mean():.1f}", f"{100 * rate.std():.1f}")
        for i, (head, rate) in enumerate(zip(heads, rates, strict=True))
    ]
    overlap = [
        (
            one.k,
            f"{100 * one.value:.0f} ({100 * one.low:.0f} to {100 * one.high:.0f})",
            f"{100 * one.least:.0f} to {100 * one.most:.0f}",
        )
        for one in study.agreements
    ]
    sizes = " to ".join(str(size) for size in dict.fromkeys((study.per_trial.min(), study.per_trial.max())))
    note = f"{trials} trials of {sizes} samples each, no picture in two of them; every pair of trials is compared."
    return [
        markdown(("heads", "shared, mean %", "smallest to largest"), overlap),
        markdown(("rank", "head", "selected, mean %", "± std over the trials"), frequency),
        note,
    ]


def _rho(study: Study) -> str:
    rows = [(one.over, one.heads, f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})") for one in study.rhos]
    note = (
        "Spearman's rho between how often a head is selected and the mean IoU of the boxes that it gives alone. With "
    )
    note += f"{study.settings.logic.select.top_n} votes a sample, heads that look nowhere in particular get votes by "
    note += "chance; the second row leaves out those that get no more than an average head."
    return f"{markdown(('over the heads', 'heads', 'rho'), rows)}\n\n{note}"


# JSON


def to_json(study: Study) -> dict[str, Any]:
    """study.json: every number of the tables, and the configuration."""
    settings = study.settings
    return {
        "data_file": settings.data_file,
        "model": study.found.model or settings.model,
        "scored": len(study.split.scored),
        "records": len(study.split.files),
        "unreadable": by_name(study.split.unreadable),
        "found_over": len(study.split.finding),
        "found_note": study.split.note,
        "claims": [{**asdict(claim), "verdict": claim.verdict} for claim in study.claims],
        "tables": {key: {**told(table), "rows": _rows(study, table)} for key, table in study.plan.tables.items()},
        "tokens": [one.to_dict() for one in study.tokens],
        "ties_at_cut": float(study.found.tied.mean()),
        "discovery_shared_heads": {str(n): study.discovery_overlap(n) for n in sizes(study.found, settings)},
        "trials": {"samples": study.per_trial.tolist(), "agreement": [asdict(one) for one in study.agreements]},
        "rank_correlation": [asdict(one) for one in study.rhos],
        "selection_counts": study.found.counts("both", settings.logic).astype(int).tolist(),
        "head_mean_iou": study.found.mean_iou.astype(float).round(4).tolist(),
        "config": settings.config,
    }


def _rows(study: Study, table: Table) -> list[dict[str, Any]]:
    return [
        {
            "labels": list(row.labels),
            "heads": [_pairs(case.heads) for case in row.cases],
            "metrics": {
                name: dict(zip(("value", "low", "high"), study.estimate(row, name), strict=True)) for name in METRICS
            },
        }
        for row in table.rows
    ]


def _pairs(heads: Sequence[Head] | None) -> list[list[int]] | None:
    return None if heads is None else [list(head) for head in heads]
