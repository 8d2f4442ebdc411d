"""What is compared: tables of rows, each row one or several settings whose heads and rules are known before anything is
scored.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from analyze import Head
from conf.schema import (
    BoxConfig,
    Contrast,
    LogicConfig,
    MaskMethod,
    Region,
    Resolution,
    Ties,
    Weights,
)
from lab.heads.weights import frequencies, with_frequencies
from lab.measure.controls import sets_of_same_layers
from lab.measure.criteria import NEEDS
from lab.study.chance import Chance, found_again, oracle_again
from lab.study.find import Found, first_heads
from lab.study.settings import Settings

MASKS, REGIONS, CONTRASTS = tuple(MaskMethod), tuple(Region), tuple(Contrast)
CUTS = (1, 2, 4, 8)  # of a cell, in each direction
EVENED, SHARPENED = (1.0, 0.6, 0.4), (1.0, 1.75)  # powers of a head's map and of the heat map


@dataclass(frozen=True)
class Case:
    """One setting: heads, or the criterion that picks them anew for each sample, and the rules that make the box."""

    logic: LogicConfig
    heads: tuple[Head, ...] | None = None
    greedy: str | None = None  # of `Found.picks`
    whole: bool = True  # also the mask; without it, several times faster

    @cached_property
    def rules(self) -> str:
        """Everything that turns heads into a box and a mask, to tell equal settings by."""
        known = frequencies(self.logic.heads) if self.logic.weights == Weights.frequency else {}
        return repr(
            (self.logic.contrast, self.logic.weights, known, self.logic.smoothing, self.logic.mask, self.logic.box)
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """The same for settings that give the same."""
        return self.heads, self.greedy, self.rules, self.whole


@dataclass(frozen=True)
class Row:
    """A row of a table: one setting, or several whose mean it tells.

    `again` holds the settings that the pictures of each draw would have led to, where a claim needs them. `drawn` says
    that the settings were drawn from more of their kind.
    """

    labels: tuple[str, ...]
    cases: tuple[Case, ...]
    again: tuple[Case, ...] = ()
    drawn: bool = False


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
        every = {case.key: case for table in tables for row in table.rows for case in (*row.cases, *row.again)}
        return cls({table.key: table for table in tables}, sorted(every.values(), key=lambda case: not case.whole))

    @cached_property
    def index(self) -> dict[tuple[Any, ...], int]:
        """Where each setting is among `cases`."""
        return {case.key: i for i, case in enumerate(self.cases)}


def make_plan(found: Found, settings: Settings, chance: Chance) -> Plan:
    """Raises UserError if fewer heads were ever selected than a table needs, or `logic.heads` fits the model not."""
    given, known = settings.logic, found.frequencies("both", settings.logic)
    logic = replace(given, heads=with_frequencies(known))
    settings = replace(settings, logic=logic)
    heads = found.fixed("both", logic.top_k, logic)
    tables = [
        _heads_table(found, heads, settings, chance, given),
        _number_table(found, settings, chance),
        _criteria_table(found, logic, chance),
        _sigma_table(heads, logic, settings),
        _kernel_table(heads, logic, settings),
        _weights_table(heads, logic),
        _mask_table(heads, logic),
        _cuts_table(heads, logic),
        _power_table(heads, logic),
        _discovery_table(found, logic, settings),
    ]
    if found.generic:
        rows = [Row((str(name),), (Case(replace(logic, contrast=name), heads),)) for name in CONTRASTS]
        note = (
            "Each head's map as it is, divided by, or reduced by that of a prompt that asks for nothing in particular."
        )
        tables.insert(5, Table("contrast", "Against a generic prompt", ("contrast",), rows, note))
    return Plan.of(tables)


def _fixed_row(
    labels: tuple[str, ...], found: Found, criterion: str, k: int, logic: LogicConfig, chance: Chance
) -> Row:
    """The heads that a criterion finds, and those that it finds on the pictures of each draw."""
    again = (Case(logic, heads, whole=False) for heads in found_again(found, criterion, k, logic, chance))
    return Row(labels, (Case(logic, found.fixed(criterion, k, logic)),), tuple(again))


def name_heads(heads: Sequence[Head]) -> str:
    """`L14 H24, L14 H13`."""
    return ", ".join(f"L{layer} H{head}" for layer, head in heads)


def _heads_table(
    found: Found, heads: tuple[Head, ...], settings: Settings, chance: Chance, given: LogicConfig
) -> Table:
    logic = settings.logic
    k, rng = logic.top_k, np.random.default_rng(settings.seed)
    rows = [_fixed_row((f"found here: {name_heads(heads)}",), found, "both", k, logic, chance)]
    configured = tuple(settings.choice.fixed(found.shape) or ())
    if configured and set(configured) != set(heads):
        rows.append(Row((f"of logic.heads: {name_heads(configured)}",), (Case(given, configured),)))
    rows.append(Row(("picked anew for each sample",), (Case(logic, greedy="both"),)))
    random = sets_of_same_layers(heads, found.shape[1], settings.draws, rng)
    cases = tuple(Case(logic, drawn, whole=False) for drawn in random.sets)
    rows.append(Row(("random heads of the same layers",), cases, drawn=not random.all))
    for number in dict.fromkeys((1, k)):
        best = found.oracle(number)
        again = tuple(Case(logic, drawn, whole=False) for drawn in oracle_again(found, number, chance))
        rows.append(Row((f"oracle, best {number}: {name_heads(best)}",), (Case(logic, best),), again))
    note = (
        f"Random: the mean of {random.note}, and in square brackets the range of 95 % of them. Oracle: the heads whose "
        f"own boxes are best by the labels of {len(found.measured)} scored samples."
    )
    return Table("heads", "The heads", ("heads",), rows, note)


def _number_table(found: Found, settings: Settings, chance: Chance) -> Table:
    logic = settings.logic
    most = found.fixed("both", max(settings.study.top_k), logic)
    rows = [_fixed_row((str(k),), found, "both", k, logic, chance) for k in settings.study.top_k]
    return Table("number", "How many heads", ("k",), rows, f"The most selected, in this order: {name_heads(most)}.")


def _criteria_table(found: Found, logic: LogicConfig, chance: Chance) -> Table:
    names = found.criteria(logic)
    rows = [_fixed_row(("fixed", name), found, name, logic.top_k, logic, chance) for name in names]
    rows += [Row(("per sample", name), (Case(logic, greedy=name),)) for name in names if found.by_all(name)]
    fixed = "; ".join(f"{name}: {name_heads(found.fixed(name, logic.top_k, logic))}" for name in names)
    ties = (
        f"In {100 * found.tied.mean():.1f} % of the samples head {logic.top_k} and the next one have the same entropy"
    )
    rule = {Ties.sum: "the larger attention sum", Ties.order: "the lower layer and number"}[logic.ties]
    return Table(
        "criteria",
        "Which criteria",
        ("heads", "criteria"),
        rows,
        "Both: the paper's, attention sum and spatial entropy, by the rules of this study; selection_v1, by those of "
        "the published code, in the same layers. The others, among the heads that look at the picture enough: peak, "
        "those with the highest cell; focus, with the least Shannon entropy; relative, with the most weight beyond a "
        "generic prompt's; wordings, whose attention stays at its place in other words for one thing; "
        f"mirrored, whose attention turns with the picture. Fixed heads by {fixed}. {ties}; {rule} decides."
        f"{_lacking(found, names)}",
    )


def _lacking(found: Found, names: Sequence[str]) -> str:
    """What would be needed for the criteria that are not there."""
    lacking = [f"{name} needs {needs}" for name, needs in NEEDS.items() if name not in names]
    partly = [
        f"{name} over {found.told.get(name, 0)} records" for name in NEEDS if name in names and not found.by_all(name)
    ]
    return "".join(f" {text}." for text in (*lacking, *partly))


def _weights_table(heads: tuple[Head, ...], logic: LogicConfig) -> Table:
    rows = [Row((str(name),), (Case(replace(logic, weights=name), heads),)) for name in Weights]
    known = frequencies(logic.heads)
    note = "What a head's map counts in the heat map: as much as any other; how often the head was selected here"
    note += f" ({', '.join(f'{known[head]:.2f}' for head in heads)}); 1 / (1 + Shannon's entropy of its smoothed map)."
    return Table("weights", "How heads are weighted", ("weights",), rows, note)


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
    return Case(replace(logic, smoothing=replace(logic.smoothing, sigma=sigma, kernel=kernel)), heads)


def _kernel_name(kernel: int | None) -> str:
    return "4 sigma to each side" if kernel is None else str(kernel)


def _cells(logic: LogicConfig) -> str:
    per = logic.smoothing.per_cells
    return f"In cells of a grid of {per} x {per}, scaled to the grid that is there." if per else "In cells of the grid."


def _mask_table(heads: tuple[Head, ...], logic: LogicConfig) -> Table:
    def case(method: MaskMethod, region: Region) -> Case:
        mask = replace(logic.mask, method=method, resolution=Resolution.grid)
        return Case(replace(logic, mask=mask, box=BoxConfig(region)), heads)

    rows = [Row((str(method), str(region)), (case(method, region),)) for method in MASKS for region in REGIONS]
    mask = logic.mask
    note = (
        f"Thresholds on the grid. Quantile: the cells above the {mask.quantile:g} quantile. Peak: above {mask.peak:g} "
        f"of the highest. Mass: the fewest cells that hold {mask.mass:g} of the sum. Stable: at the level at which the "
        "region around the peak changes least."
    )
    return Table("mask", "Mask and box", ("threshold", "region"), rows, note)


def _cuts_table(heads: tuple[Head, ...], logic: LogicConfig) -> Table:
    rows = [Row((str(cuts),), (Case(replace(logic, mask=replace(logic.mask, cuts=cuts)), heads),)) for cuts in CUTS]
    note = "Each cell is cut into so many by so many, between which the map is interpolated, before it is thresholded."
    return Table("cuts", "Finer than cells", ("cuts",), rows, note)


def _power_table(heads: tuple[Head, ...], logic: LogicConfig) -> Table:
    def case(evened: float, sharpened: float) -> Case:
        smoothing, mask = replace(logic.smoothing, power=evened), replace(logic.mask, power=sharpened)
        return Case(replace(logic, smoothing=smoothing, mask=mask), heads)

    evened = sorted({*EVENED, logic.smoothing.power}, reverse=True)
    sharpened = sorted({*SHARPENED, logic.mask.power})
    rows = [Row((f"{one:g}", f"{other:g}"), (case(one, other),)) for one in evened for other in sharpened]
    note = (
        "Each cell's attention to the first power before it is smoothed: below 1 evens out what a head looks at. The "
        "heat map to the second before it is thresholded: above 1 leaves out more of what is pale."
    )
    return Table("power", "Evened and sharpened maps", ("evened", "sharpened"), rows, note)


def _discovery_table(found: Found, logic: LogicConfig, settings: Settings) -> Table:
    total = len(found.finding)
    rows = [
        Row((str(n),), tuple(Case(logic, heads, whole=False) for heads in discovered(found, n, logic, settings)))
        for n in sizes(found, settings)
    ]
    rows.append(Row((f"{total} (all)",), (Case(logic, found.fixed("both", logic.top_k, logic), whole=False),)))
    note = (
        f"Random subsets of each size, at most {settings.study.draws}, no sample in two of them: their mean, in square "
    )
    note += "brackets the range of 95 % of them, and the share of the heads that two of them have in common; of all "
    note += "samples the bootstrap interval."
    return Table("discovery", "How many samples it takes to find the heads", ("samples",), rows, note)


def sizes(found: Found, settings: Settings) -> list[int]:
    """The numbers of samples to find heads with: those of the configuration that two disjoint subsets can have."""
    return [n for n in settings.study.discovery if 2 * n <= len(found.finding)]


def discovered(found: Found, n: int, logic: LogicConfig, settings: Settings) -> list[tuple[Head, ...]]:
    """The localization heads of at most `study.draws` random subsets of `n` samples, no sample in two of them.

    Fewer than `top_k` if no more were selected.
    """
    votes = found.votes("both", logic)
    order = in_random_order(found, (settings.seed, 4, n))
    subsets = [order[start : start + n] for start in range(0, len(order) - n + 1, n)][: settings.study.draws]
    return [tuple(first_heads(votes[subset].sum(0), logic.top_k)) for subset in subsets]


def in_random_order(found: Found, seed: Sequence[int]) -> Int[np.ndarray, " found"]:
    """The records that find, picture by picture, the pictures in a random order."""
    place = np.random.default_rng(seed).permutation(found.picture_of.max() + 1)
    return found.finding[np.argsort(place[found.picture_of[found.finding]], kind="stable")]


def told(table: Table) -> dict[str, Any]:
    """Title, note and headers, for study.json."""
    return {key: value for key, value in asdict(replace(table, rows=[])).items() if key in ("title", "note", "headers")}
