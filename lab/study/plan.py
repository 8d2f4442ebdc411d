"""What is compared: tables of rows, each row one or several settings whose heads and rules are known before anything is
scored.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from analyze import Head
from conf.schema import BoxConfig, Contrast, LogicConfig, MaskConfig, MaskMethod, Region, Resolution, SmoothingConfig
from lab.measure.controls import same_layers
from lab.study.find import CRITERIA, Found, first_heads
from lab.study.settings import Settings

MASKS, REGIONS, CONTRASTS = tuple(MaskMethod), tuple(Region), tuple(Contrast)


@dataclass(frozen=True)
class Case:
    """One setting: heads, or the criterion that picks them anew for each sample, and the rules that make the box."""

    logic: LogicConfig
    heads: tuple[Head, ...] | None = None
    greedy: str | None = None  # of CRITERIA
    whole: bool = True  # also the mask; without it, several times faster

    @cached_property
    def rules(self) -> str:
        """Everything that turns heads into a box and a mask, to tell equal settings by."""
        return repr((self.logic.contrast, self.logic.smoothing, self.logic.mask, self.logic.box))

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for settings that give the same."""
        return self.heads, self.greedy, self.rules, self.whole


@dataclass(frozen=True)
class Row:
    """A row of a table: one setting, or several random ones whose mean it tells."""

    labels: tuple[str, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Table:
    """`headers` name the rows' labels."""

    key: str
    title: str
    headers: tuple[str, ...]
    rows: list[Row]
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """All tables, and every different setting once."""

    tables: dict[str, Table]
    cases: list[Case] = field(default_factory=list)

    @classmethod
    def of(cls, tables: Sequence[Table]) -> "Plan":
        """Masks first: what they tell includes what is asked without."""
        every = {case.key: case for table in tables for row in table.rows for case in row.cases}
        return cls({table.key: table for table in tables}, sorted(every.values(), key=lambda case: not case.whole))

    @cached_property
    def index(self) -> dict[tuple[Any, ...], int]:
        """Where each setting is among `cases`."""
        return {case.key: i for i, case in enumerate(self.cases)}


def make_plan(found: Found, settings: Settings) -> Plan:
    """Raises UserError if fewer heads were ever selected than a table needs, or `logic.heads` fits the model not."""
    logic = settings.logic
    heads = found.fixed("both", logic.top_k, logic)
    tables = [
        _heads_table(found, heads, logic, settings),
        _number_table(found, logic, settings),
        _criteria_table(found, logic),
        _sigma_table(heads, logic, settings),
        _kernel_table(heads, logic, settings),
        _mask_table(heads, logic),
        _discovery_table(found, logic, settings),
    ]
    if found.generic:
        rows = [Row((str(name),), (Case(replace(logic, contrast=name), heads),)) for name in CONTRASTS]
        note = (
            "Each head's map as it is, divided by, or reduced by that of a prompt that asks for nothing in particular."
        )
        tables.insert(5, Table("contrast", "Against a generic prompt", ("contrast",), rows, note))
    return Plan.of(tables)


def name_heads(heads: Sequence[Head]) -> str:
    """`L14 H24, L14 H13`."""
    return ", ".join(f"L{layer} H{head}" for layer, head in heads)


def _heads_table(found: Found, heads: tuple[Head, ...], logic: LogicConfig, settings: Settings) -> Table:
    k, rng = logic.top_k, np.random.default_rng(settings.seed)
    rows = [Row((f"found here: {name_heads(heads)}",), (Case(logic, heads),))]
    configured = tuple(settings.choice.fixed(found.shape) or ())
    if configured and set(configured) != set(heads):
        rows.append(Row((f"of logic.heads: {name_heads(configured)}",), (Case(logic, configured),)))
    rows.append(Row(("picked anew for each sample",), (Case(logic, greedy="both"),)))
    draws = [tuple(same_layers(heads, found.shape[1], rng)) for _ in range(settings.draws)]
    rows.append(Row(("random heads of the same layers",), tuple(Case(logic, drawn, whole=False) for drawn in draws)))
    for number in dict.fromkeys((1, k)):
        best = found.oracle(number)
        rows.append(Row((f"oracle, best {number}: {name_heads(best)}",), (Case(logic, best),)))
    note = (
        f"Random: mean of {settings.draws} draws, and the range of 95 % of them. Oracle: the heads whose own "
        "boxes are best by the "
    )
    return Table("heads", "The heads", ("heads",), rows, note + f"labels of {found.measured} scored samples.")


def _number_table(found: Found, logic: LogicConfig, settings: Settings) -> Table:
    most = found.fixed("both", max(settings.study.top_k), logic)
    rows = [Row((str(k),), (Case(logic, most[:k]),)) for k in settings.study.top_k]
    return Table("number", "How many heads", ("k",), rows, f"The most selected, in this order: {name_heads(most)}.")


def _criteria_table(found: Found, logic: LogicConfig) -> Table:
    rows = [Row(("fixed", name), (Case(logic, found.fixed(name, logic.top_k, logic)),)) for name in CRITERIA]
    rows += [Row(("per sample", name), (Case(logic, greedy=name),)) for name in CRITERIA]
    fixed = "; ".join(f"{name}: {name_heads(found.fixed(name, logic.top_k, logic))}" for name in CRITERIA)
    return Table("criteria", "Which criteria", ("heads", "criteria"), rows, f"Fixed heads by {fixed}.")


def _sigma_table(heads: tuple[Head, ...], logic: LogicConfig, settings: Settings) -> Table:
    rows = [
        Row((f"{sigma:g}",), (_smoothed(heads, logic, sigma, logic.smoothing.kernel),))
        for sigma in settings.study.sigmas
    ]
    return Table(
        "sigma",
        "Smoothing: sigma",
        ("sigma",),
        rows,
        _cells(logic) + f" Kernel: {_kernel_name(logic.smoothing.kernel)}.",
    )


def _kernel_table(heads: tuple[Head, ...], logic: LogicConfig, settings: Settings) -> Table:
    rows = [
        Row((_kernel_name(kernel),), (_smoothed(heads, logic, logic.smoothing.sigma, kernel),))
        for kernel in settings.study.kernels
    ]
    return Table(
        "kernel", "Smoothing: kernel", ("kernel",), rows, _cells(logic) + f" Sigma: {logic.smoothing.sigma:g}."
    )


def _smoothed(heads: tuple[Head, ...], logic: LogicConfig, sigma: float, kernel: int | None) -> Case:
    return Case(replace(logic, smoothing=SmoothingConfig(sigma, kernel, logic.smoothing.per_cells)), heads)


def _kernel_name(kernel: int | None) -> str:
    return "4 sigma to each side" if kernel is None else str(kernel)


def _cells(logic: LogicConfig) -> str:
    per = logic.smoothing.per_cells
    return f"In cells of a grid of {per} x {per}, scaled to the grid that is there." if per else "In cells of the grid."


def _mask_table(heads: tuple[Head, ...], logic: LogicConfig) -> Table:
    def case(method: MaskMethod, region: Region) -> Case:
        mask = MaskConfig(method, logic.mask.quantile, Resolution.grid)
        return Case(replace(logic, mask=mask, box=BoxConfig(region)), heads)

    rows = [Row((str(method), str(region)), (case(method, region),)) for method in MASKS for region in REGIONS]
    note = f"Thresholds on the grid. Quantile: the cells above the {logic.mask.quantile:g} quantile."
    return Table("mask", "Mask and box", ("threshold", "region"), rows, note)


def _discovery_table(found: Found, logic: LogicConfig, settings: Settings) -> Table:
    total = len(found.finding)
    rows = [
        Row((str(n),), tuple(Case(logic, heads, whole=False) for heads in discovered(found, n, logic, settings)))
        for n in sizes(found, settings)
    ]
    rows.append(Row((f"{total} (all)",), (Case(logic, found.fixed("both", logic.top_k, logic), whole=False),)))
    note = f"Mean of {settings.study.draws} random subsets of each size, and the range of 95 % of them; "
    note += "of all samples the bootstrap interval."
    return Table("discovery", "How many samples it takes to find the heads", ("samples",), rows, note)


def sizes(found: Found, settings: Settings) -> list[int]:
    """The numbers of samples to find heads with: those of the configuration that are fewer than there are."""
    return [n for n in settings.study.discovery if n < len(found.finding)]


def discovered(found: Found, n: int, logic: LogicConfig, settings: Settings) -> list[tuple[Head, ...]]:
    """The localization heads of each of `study.draws` random subsets of `n` samples.

    Fewer than `top_k` if no more were selected.
    """
    subsets = []
    for draw in range(settings.study.draws):
        chosen = np.random.default_rng((settings.seed, 4, n, draw)).choice(found.finding, n, replace=False)
        counts = replace(found, finding=chosen).counts("both", logic.select.top_n)
        subsets.append(tuple(first_heads(counts, logic.top_k)))
    return subsets


def told(table: Table) -> dict[str, Any]:
    """Title, note and headers, for study.json."""
    return {key: value for key, value in asdict(replace(table, rows=[])).items() if key in ("title", "note", "headers")}
