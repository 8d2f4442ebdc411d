"""What the page tells in words and numbers: run facts, figures with their intervals, differences between two runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from analyze import Head
from conf.schema import PRESET, Contrast, LogicConfig, Weights
from lab.base.numbers import many
from lab.heads.choice import PRESET_KEY
from lab.measure.intervals import Estimate, compare, metric_names, summarize
from lab.measure.metrics import Score
from lab.report.contents import Gathered, Run
from lab.report.samples import Finding

OWN_PLACES = (
    "stage",
    "save_fig",
    "show_plot",
    "data.output_dir",
    "data.attention_dir",
    "data.attention_file",
    "data.runs",
    "report",
)
RULES = ("logic", "metrics")  # the parts of the configuration that decide what is found and how it is measured
HIT = 0.5  # IoU
COLUMNS = metric_names()


@dataclass(frozen=True)
class Table:
    """One row per name; a cell is (value, low, high) in % or None."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[float, float, float] | None, ...]], ...]


# facts


def facts(run: Run, findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """What a reader must know of a run, in order."""
    done = [finding for finding in findings if finding.status == "done"]
    meta: Mapping[str, Any] = next((finding.meta for finding in findings if finding.meta), {})
    shape = shape_of(findings)
    size = f", {shape[0]} layers x {shape[1]} heads" if shape else ""
    grids = sorted({f"{f.maps.levels.shape[1]} x {f.maps.levels.shape[2]}" for f in done if f.maps})
    versions = ", ".join(f"{name} {number}" for name, number in dict(meta.get("versions") or {}).items())
    told = [
        ("Model", f"{model_name(run, findings)}{size}"),
        ("Heads", heads_in_words(run, shape)),
        ("Rules", rules_in_words(run.rules.logic)),
        ("Image tokens", " or ".join(grids)),
        ("Prompt", str(meta.get("conv_mode", ""))),
        ("Precision", ", ".join(str(meta[key]) for key in ("dtype", "attn_implementation") if meta.get(key))),
        ("Versions", versions),
        ("Data", str((run.folder.metrics or run.folder.summary or {}).get("data_file") or "")),
        ("Samples", _counts(findings)),
        ("Collected", run.folder.collected),
        ("Duration", _duration(run.folder.summary)),
        ("Failures", _failures(run, findings)),
    ]
    return [(term, value) for term, value in told if value]


def model_name(run: Run, findings: Sequence[Finding]) -> str:
    """The model as the first record tells that names one; else the one of the configuration."""
    told = (finding.meta["model_name"] for finding in findings if finding.meta and finding.meta.get("model_name"))
    return next(told, run.settings["model"]["name"])


def shape_of(findings: Sequence[Finding]) -> tuple[int, int] | None:
    """(layers, heads) of the model or, if only rankings tell of it, the smallest that holds every head they name."""
    known = next((finding.shape for finding in findings if finding.shape), None)
    named = [head for finding in findings for head in finding.best]
    return known or ((max(named)[0] + 1, max(head for _, head in named) + 1) if named else None)


def fixed(run: Run, shape: tuple[int, int] | None) -> list[Head] | None:
    """The heads that are the same for all samples; None if they are picked for each."""
    return run.rules.choice.fixed(shape) if shape else None


def heads_in_words(run: Run, shape: tuple[int, int] | None) -> str:
    """The fixed heads and where they are from, or that they are picked anew."""
    heads, choice = fixed(run, shape), run.rules.choice
    if heads is None:
        return f"the {choice.top_k} best of each sample, picked anew"
    source = {"logic.heads": "as given", PRESET_KEY: PRESET}.get(choice.source, choice.source)
    return f"{', '.join(f'L{layer} H{head}' for layer, head in heads)}, the same for all samples ({source})"


def rules_in_words(logic: LogicConfig) -> str:
    """What tells this logic from another at a glance."""
    evened = f"power {logic.smoothing.power:g}, " if logic.smoothing.power != 1 else ""
    grid = f" on a grid of {logic.smoothing.per_cells}" if logic.smoothing.per_cells else ""
    smoothing = f"{evened}sigma {logic.smoothing.sigma:g}{grid}"
    sharpened = f" of power {logic.mask.power:g}" if logic.mask.power != 1 else ""
    cuts = f", cells cut into {logic.mask.cuts} x {logic.mask.cuts}" if logic.mask.cuts > 1 else ""
    entropy = f"entropy by {logic.entropy.weight} above {logic.entropy.center:g} x mean"
    heads = f"threshold {logic.threshold.method}; {entropy}; layers from {logic.filter.first_layer}"
    contrast = f"; {logic.contrast} to the generic prompt" if logic.contrast != Contrast.none else ""
    weights = f"; heads weighted by {logic.weights}" if logic.weights != Weights.none else ""
    return f"{heads}{contrast}{weights}; {smoothing}; mask {logic.mask.method}{sharpened}{cuts}; box {logic.box.region}"


def _counts(findings: Sequence[Finding]) -> str:
    states = [finding.status for finding in findings]
    named = (("done", "done"), ("ranked", "without attention"), ("unreadable", "unreadable"), ("missing", "missing"))
    return ", ".join(f"{states.count(state):,} {name}" for state, name in named if state in states)


def _duration(summary: Mapping[str, Any] | None) -> str:
    try:
        seconds, samples, before = (float((summary or {})[key]) for key in ("seconds", "samples", "skipped"))
    except (LookupError, TypeError, ValueError):
        return ""
    now = samples - before
    rate = f", {now / seconds:.1f} per second" if now and seconds else ""
    return f"{seconds:,.1f} s for {now:,.0f} samples{rate}" + (f"; {before:,.0f} were there before" if before else "")


def _failures(run: Run, findings: Sequence[Finding]) -> str:
    told = []
    if run.folder.summary is not None or run.folder.errors:
        told.append(f"{len(run.folder.errors) or 'none'} in the last batch")
    if unreadable := sum(finding.status == "unreadable" for finding in findings):
        told.append(f"{many(unreadable, 'file')} cannot be read")
    return ", ".join(told)


# figures


def scores_of_run(gathered: Gathered, index: int) -> list[Score]:
    """The scores of one run, of the samples whose truth is known."""
    return [score for sample in gathered.samples if (score := sample.findings[index].score) is not None]


def metric_table(rows: Mapping[str, Sequence[Estimate]], group: str = "all") -> Table:
    """The figures of one group, the columns in which nothing stands left out."""
    found = {name: {one.metric: one for one in estimates if one.group == group} for name, estimates in rows.items()}
    columns = tuple(name for name in COLUMNS if any(name in estimates for estimates in found.values()))
    return Table(
        columns,
        tuple((name, tuple(_cell(estimates.get(column)) for column in columns)) for name, estimates in found.items()),
    )


def _cell(one: Estimate | None) -> tuple[float, float, float] | None:
    return None if one is None else (100 * one.value, 100 * one.low, 100 * one.high)


def group_table(estimates: Sequence[Estimate]) -> Table | None:
    """The same figures by split and by size of object; None if there is but one group."""
    groups = [group for group in dict.fromkeys(one.group for one in estimates) if group != "all"]
    if len(groups) < 2:
        return None
    parts = {f"{g} (n = {max(e.n for e in estimates if e.group == g)})": g for g in groups}
    columns = metric_table({"": estimates}).columns
    cells = {(one.group, one.metric): _cell(one) for one in estimates}
    return Table(
        columns, tuple((name, tuple(cells.get((g, column)) for column in columns)) for name, g in parts.items())
    )


def saved_estimates(metrics: Mapping[str, Any] | None, rows: str = "metrics") -> dict[str, list[Estimate]]:
    """The rows of metrics.json, or those of sharp masks (`refined`); {} if there are none, or of another version."""
    try:
        return {name: [Estimate(**one) for one in estimates] for name, estimates in (metrics or {})[rows].items()}
    except (LookupError, TypeError, AttributeError):
        return {}


def fresh_estimates(scores: Sequence[Score], resamples: int, seed: int) -> list[Estimate]:
    """The figures of the samples on the page; [] if none has a truth."""
    return summarize(scores, resamples=resamples, seed=seed) if scores else []


def differences(gathered: Gathered, resamples: int, seed: int) -> tuple[list[dict[str, Any]], int, int]:
    """Rows {metric, first, second, value, low, high, reading} in % over the samples that both runs answer.

    How many; how many only one does.
    """
    pairs = [sample.findings for sample in gathered.samples if all(finding.score for finding in sample.findings)]
    both = [pair for pair in pairs if all(finding.status == "done" for finding in pair)]
    one_only = sum(sum(finding.status == "done" for finding in pair) == 1 for pair in pairs)
    if not both:
        return [], 0, one_only
    first, second = ([pair[i].score for pair in both] for i in (0, 1))
    found = compare(first, second, resamples=resamples, seed=seed)  # type: ignore[arg-type]
    order = {name: place for place, name in enumerate(COLUMNS)}
    rows = sorted(
        (one for one in found if one.group == "all" and one.metric in order), key=lambda one: order[one.metric]
    )
    keys = ("first", "second", "value", "low", "high")
    return (
        [
            {"metric": r.metric, **{k: 100 * getattr(r, k) for k in keys}, "reading": reading(r.value, r.low, r.high)}
            for r in rows
        ],
        len(both),
        one_only,
    )


def reading(value: float, low: float, high: float) -> str:
    """What a difference B - A with its interval says: a run is higher only if the interval leaves out 0."""
    if value == low == high == 0:
        return "the same"
    if low <= 0 <= high:
        return "not clear"
    return "B is higher" if value > 0 else "A is higher"


# heads and configuration


def head_counts(findings: Sequence[Finding], top_n: int) -> Int[np.ndarray, "layers heads"] | None:
    """How many samples have each head among their `top_n` best; None if nothing was ranked."""
    shape = shape_of(findings)
    if shape is None or not any(finding.best for finding in findings):
        return None
    counts = np.zeros(shape, int)
    for finding in findings:
        for head in finding.best[:top_n]:
            counts[head] += 1
    return counts


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; a list is a leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, first value, second value) where two configurations differ in more than where they read and write."""
    one, other = dict(flat(first)), dict(flat(second))
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    return [(key, _told(one, key), _told(other, key)) for key in keys if not key.startswith(OWN_PLACES)]


def _told(config: Mapping[str, Any], key: str) -> str:
    return "null" if key in config and config[key] is None else str(config.get(key, "-"))


def other_rules(metrics: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> list[str]:
    """`key=value` of the rules that metrics.json was made with and this page was not."""
    saved = (metrics or {}).get("config")
    if not isinstance(saved, Mapping):
        return []
    changed = config_differences(saved, settings)
    # How heads are counted over samples, and what stands beside the grid's mask, are no rules of what is found in one;
    # the calibration follows from the heads.
    others = ("logic.select", "logic.refine", "logic.presence.file")
    return [f"{key}={then}" for key, then, _ in changed if key.startswith(RULES) and not key.startswith(others)]
