"""From a record to the heads that look at the described object, and from many rankings to the heads that do so again
and again.

    ranking = rank_heads(record, logic)               # the heads of one sample, best first
    counts = selection_frequency(rankings, 10, (32, 32))    # [layers, heads]: how often a head was among the 10 best
    heads = most_selected(counts, 3)                  # the localization heads
    trials = selection_trials(picks, (32, 32), 10, 1000, 0)  # [trials, layers, heads]: counts in random subsets

Two criteria, as in arXiv 2503.06287: a head must look at the image enough (attention sum above a threshold), and in few
places (low spatial entropy of its map). All functions are pure and take arrays.

Many heads of a sample look at a single place, so that their entropies are equal but for rounding noise. As published
(`logic.entropy.digits` null) the noise of the record's own precision decides between them. With `digits`, weights are
first rounded to half precision, as a record with data.save_dtype=float16 holds them; sums of such numbers are exact in
float64, in whatever order they are added. Sums and entropies are then rounded to so many decimals, and `logic.ties`
says which of equal heads comes first. The ranking is then the same in float32 and float16, eager and fused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from conf.schema import EntropyConfig, EntropyWeight, LogicConfig, ThresholdConfig, ThresholdMethod, Ties
from lab.base.chunks import cast, in_chunks
from lab.base.errors import UserError
from lab.records.record import Record
from lab.records.subset import Scores

if TYPE_CHECKING:
    import torch

Head = tuple[int, int]  # (layer, head), zero-based

EIGHT_NEIGHBOURS = np.ones((3, 3), bool)
NOISE = 1e-6  # nats: entropies that differ by no more are the same but for rounding


@dataclass(frozen=True)
class HeadScore:
    """One head of one sample. `layer` and `head` are zero-based."""

    layer: int
    head: int
    attn_sum: float  # weight on all image tokens, 0 to 1; higher: looks at the image more
    spatial_entropy: (
        float  # nats, 0 to inf; lower: looks at fewer places; inf: under the threshold, or nothing stands out
    )
    bottom_row_focus: bool  # a cell of the last grid row holds more than filter.bottom_row
    num_components: int  # places it looks at

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values by field name. An infinite entropy stays float("inf"), which JSON cannot hold."""
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class HeadTable:
    """The scores of every head of one sample; fields as in HeadScore.

    Heads that do not pass have entropy inf and no components.
    """

    attn_sum: Float[np.ndarray, "layers heads"]
    passes: Bool[np.ndarray, "layers heads"]  # looks at the image enough
    spatial_entropy: Float[np.ndarray, "layers heads"]
    bottom_row_focus: Bool[np.ndarray, "layers heads"]
    num_components: Int[np.ndarray, "layers heads"]

    def only(self, passes: Bool[np.ndarray, "layers heads"]) -> "HeadTable":
        """The same scores with another, stricter threshold."""
        entropy, components = np.where(passes, self.spatial_entropy, np.inf), np.where(passes, self.num_components, 0)
        focus = self.bottom_row_focus & passes
        return replace(self, passes=passes, spatial_entropy=entropy, bottom_row_focus=focus, num_components=components)

    def rows(self, heads: Sequence[Head]) -> list[HeadScore]:
        """The scores of some heads, in their order."""
        at = tuple(zip(*heads, strict=True)) or ((), ())
        columns = (self.attn_sum, self.spatial_entropy, self.bottom_row_focus, self.num_components)
        return [
            HeadScore(*head, *scores)
            for head, *scores in zip(heads, *(column[at].tolist() for column in columns), strict=True)
        ]


# Criterion 1: does the head look at the image?


def attention_sums(record: Record, digits: int | None = None) -> Float[np.ndarray, "layers heads"]:
    """Each head's weight on all image tokens, 0 to 1, float64.

    It holds a value of the record's precision or, with `digits`, one of so many decimals. A record that keeps some
    heads' maps only stores the sums: raises UserError if they were measured with other `digits`.
    """
    return record.subset.attention_sums(record.sum_settings(digits), lambda: _row_sums(record, digits))


def _row_sums(record: Record, digits: int | None) -> Float[np.ndarray, "layers heads"]:
    import torch

    weights = record.weights if digits is None else _halved(record.weights)
    precision = record.dtype if digits is None else "float64"
    rows = torch.from_numpy(weights).flatten(0, 1)  # [layers * heads, image tokens]
    sums = torch.cat([piece.sum(1) for piece in in_chunks(rows, getattr(torch, precision))])
    found = sums.double().numpy().reshape(record.num_layers, record.num_heads)
    return found if digits is None else found.round(digits)


def _halved(weights: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The weights rounded to half precision, as float32."""
    import torch

    return cast(cast(torch.from_numpy(np.ascontiguousarray(weights)), torch.float16), torch.float32).numpy()


def chord_elbow(values: Float[np.ndarray, "..."]) -> float:
    """Where the sorted values bend: the value farthest from the straight line between the smallest and the largest.

    Two values or fewer: the smallest (0 if there is none). All alike: that value.
    """
    heights = np.sort(np.asarray(values, np.float64), axis=None)
    if heights.size <= 2:
        return float(heights[0]) if heights.size else 0.0
    points = np.stack([np.arange(heights.size), heights], axis=1)  # [n, 2]
    points -= points[0].copy()
    chord = points[-1] / np.linalg.norm(points[-1])  # never zero: ranks differ
    along = points @ chord
    return float(heights[np.argmax(np.linalg.norm(points - np.outer(along, chord), axis=1))])


def passes_threshold(
    sums: Float[np.ndarray, "layers heads"], config: ThresholdConfig
) -> Bool[np.ndarray, "layers heads"]:
    """Which heads look at the image enough. `sums` may be one sample's or the mean over many."""
    return sums >= sum_threshold(sums, config)


def sum_threshold(sums: Float[np.ndarray, "layers heads"], config: ThresholdConfig) -> float:
    """The attention sum from which on a head looks at the image enough; -inf: every head does.

    Layers in which no head can look at it (linear attention, layers that see text alone) take no part.
    """
    looks = (sums > 0).any(axis=1)
    return SUM_THRESHOLDS[config.method](sums[looks] if looks.any() else sums, config)


SUM_THRESHOLDS: dict[ThresholdMethod, Callable[[np.ndarray, ThresholdConfig], float]] = {
    ThresholdMethod.chord: lambda sums, config: chord_elbow(sums),
    ThresholdMethod.value: lambda sums, config: config.value,
    ThresholdMethod.none: lambda sums, config: -np.inf,
}


# Criterion 2: does it look at few places?


def spatial_entropy(
    maps: "Float[np.ndarray, 'maps rows cols'] | torch.Tensor", config: EntropyConfig, dtype: str | None = None
) -> tuple[Float[np.ndarray, " maps"], Int[np.ndarray, " maps"]]:
    """How scattered each map is, in nats, and the number of places (8-connected components) in it.

    A map loses `config.center` times its mean, negative values become 0, and what exceeds `config.min_value` forms the
    components; with p a component's part of the whole, the entropy is -sum p ln p. Lower is better: 0 for one place,
    inf if nothing is left. With weight "mass" the whole is everything left, also the cells that belong to no component;
    with "area" it is the components' cells. Computed in the precision of `maps`, or in `dtype` if it is given.
    """
    number, rows, cols = maps.shape
    above, total = _above_centre(maps.reshape(number, rows * cols), config.center, dtype)
    positive = (above > config.min_value).reshape(maps.shape)
    apart = np.zeros(
        (number, rows + 1, cols), bool
    )  # the maps below each other, an empty row between each and the next
    apart[:, :rows] = positive
    labels, count = ndimage.label(
        apart.reshape(-1, cols), structure=EIGHT_NEIGHBOURS
    )  # numbered map by map, 1 to count
    cells = np.flatnonzero(positive)
    component = labels.reshape(apart.shape)[:, :rows].ravel()[cells] - 1
    map_of = np.zeros(count, np.intp)
    map_of[component] = cells // (rows * cols)
    num_components = np.bincount(map_of, minlength=number)

    share = _shares(config.weight, above.ravel()[cells], component, map_of, total)
    entropy = np.zeros(number, share.dtype)
    np.subtract.at(entropy, map_of, share * np.log(share))  # one after the other, as a loop over the components would
    entropy[(num_components == 0) & ~((total > 0) & config.flat_is_focused)] = np.inf
    return entropy, num_components


def components(
    attention: Float[np.ndarray, "rows cols"], config: EntropyConfig
) -> tuple[Int[np.ndarray, "rows cols"], Float[np.ndarray, " components"]]:
    """The places that `spatial_entropy` counts in one map.

    The number of each cell's component from 1 (0: none), and their shares p.
    """
    above, total = _above_centre(attention.reshape(1, -1), config.center, None)
    labels, count = ndimage.label((above > config.min_value).reshape(attention.shape), structure=EIGHT_NEIGHBOURS)
    cells = np.flatnonzero(labels)
    share = _shares(config.weight, above.ravel()[cells], labels.ravel()[cells] - 1, np.zeros(count, np.intp), total)
    return labels, share


def _above_centre(
    maps: "Float[np.ndarray, 'maps cells'] | torch.Tensor", center: float, dtype: str | None
) -> tuple[Float[np.ndarray, "maps cells"], Float[np.ndarray, " maps"]]:
    """What each map holds above its centre, float32, and the sum of that, both as they are in the precision of the
    maps.
    """
    import torch

    above, total = np.empty(maps.shape, np.float32), np.empty(len(maps), np.float32)
    done = 0
    for weights in in_chunks(torch.as_tensor(maps), getattr(torch, dtype) if dtype else None):
        here = slice(done, done := done + len(weights))
        piece = torch.relu(weights - weights.mean(1, keepdim=True) * center)
        above[here], total[here] = piece.float().numpy(), piece.sum(1).float().numpy()
    return above, total


def _shares(
    weight: EntropyWeight, mass: np.ndarray, component: np.ndarray, map_of: np.ndarray, total: np.ndarray
) -> Float[np.ndarray, " components"]:
    """Each component's part of its map.

    `mass` and `component` are per cell, `map_of` per component, `total` per map.
    """
    area = np.bincount(component, minlength=len(map_of))
    if weight == EntropyWeight.area:
        return area / np.bincount(map_of, weights=area, minlength=len(total))[map_of]
    starts = np.cumsum(area) - area
    by_component = np.argsort(
        component.astype(np.uint16) if len(area) < 2**16 else component, kind="stable"
    )  # 16 bits: radix sort
    # A zero in front of each component makes reduceat add in the same order as sum() of that component alone.
    padded = np.zeros(len(mass) + len(area), mass.dtype)
    padded[np.arange(len(mass)) + component[by_component] + 1] = mass[by_component]
    sums = np.add.reduceat(padded, starts + np.arange(len(area))) if len(area) else mass
    return sums / total[map_of]


def bottom_row_max(maps: "Float[np.ndarray, 'maps rows cols'] | torch.Tensor") -> Float[np.ndarray, " maps"]:
    """The largest weight in each map's last row, 0 to 1.

    Heads that rest on the bottom edge do not look at an object.
    """
    import torch

    return torch.as_tensor(maps)[:, -1].float().amax(1).numpy()


# Both together


def score_heads(
    record: Record, logic: LogicConfig, passes: Bool[np.ndarray, "layers heads"] | None = None
) -> HeadTable:
    """The scores of every head of one sample.

    `passes` replaces the sample's own threshold, for one threshold over many samples: passes_threshold(mean of the
    sums, ...).
    """
    sums = attention_sums(record, logic.entropy.digits)
    passes = passes_threshold(sums, logic.threshold) if passes is None else passes
    table = HeadTable(sums, passes, np.full(sums.shape, np.inf), np.zeros(sums.shape, bool), np.zeros(sums.shape, int))
    table.spatial_entropy[passes], table.num_components[passes], bottom_row = measure_heads(
        record, passes, logic.entropy
    )
    if logic.filter.bottom_row is not None:
        table.bottom_row_focus[passes] = bottom_row > logic.filter.bottom_row
    return table


def measure_heads(record: Record, wanted: Bool[np.ndarray, "layers heads"], config: EntropyConfig) -> Scores:
    """Spatial entropy, number of components and largest weight of the last grid row of some heads, in (layer, head)
    order.

    With `config.digits`, weights are rounded to half precision first and entropies to so many decimals, never below 0.
    A record that keeps some heads' maps only stores the scores: raises UserError if they were measured by another
    `config`.
    """

    def measure() -> Scores:
        weights = record.weights[wanted]
        if config.digits is None:
            maps = record.canvas.maps(weights)
            return *spatial_entropy(maps, config, record.dtype), bottom_row_max(maps)
        maps = record.canvas.maps(_halved(weights))
        entropy, places = spatial_entropy(maps, config, "float64")
        return np.maximum(entropy.astype(np.float64).round(config.digits), 0.0), places, bottom_row_max(maps)

    return record.subset.scores(wanted, record.score_settings(config), measure)


def rank_heads(
    record: Record, logic: LogicConfig, passes: Bool[np.ndarray, "layers heads"] | None = None
) -> list[HeadScore]:
    """The heads of one sample that meet both criteria and the filters, by ascending entropy, ties by `logic.ties`.

    If fewer than `logic.threshold.min_keep` do: that many with the largest sums instead, from all layers and with any
    entropy, except heads that rest on the bottom row. `passes` is as for `score_heads`.
    """
    return rank_table(score_heads(record, logic, passes), logic)


def rank_table(table: HeadTable, logic: LogicConfig, most: int | None = None) -> list[HeadScore]:
    """The same from the scores of a sample's heads; the first `most` of them, unless it is None."""
    kept = table.passes & np.isfinite(table.spatial_entropy) & ~table.bottom_row_focus
    kept[: logic.filter.first_layer] = False
    candidates = np.flatnonzero(kept)
    if len(candidates) < logic.threshold.min_keep:
        by_sum = np.argsort(-table.attn_sum, axis=None, kind="stable")
        candidates = by_sum[~table.bottom_row_focus.ravel()[by_sum]][: logic.threshold.min_keep]
    # the last key comes first, and what is alike in all of them keeps its order
    keys = [*TIES[logic.ties](table.attn_sum.ravel()[candidates]), table.spatial_entropy.ravel()[candidates]]
    best_first = candidates[np.lexsort(keys)][:most]
    return table.rows([divmod(index, table.passes.shape[1]) for index in best_first.tolist()])


# What decides between heads of the same entropy, before the order in which they come: sort keys, ascending.
TIES: dict[Ties, Callable[[np.ndarray], list[np.ndarray]]] = {
    Ties.order: lambda sums: [],
    Ties.sum: lambda sums: [-sums],
}


def tied_at(ranking: Sequence[HeadScore], k: int) -> bool:
    """Whether the k-th head of a ranking and the next one have the same entropy, so that it does not decide which of
    them is among the first k.
    """
    if not 0 < k < len(ranking):
        return False
    last, next_one = ranking[k - 1].spatial_entropy, ranking[k].spatial_entropy
    return last == next_one or abs(next_one - last) <= NOISE


def scores_of(record: Record, heads: Sequence[Head], logic: LogicConfig) -> list[HeadScore]:
    """The scores of given heads, whether they are in the ranking or not, in their order."""
    wanted = np.zeros((record.num_layers, record.num_heads), bool)
    wanted[tuple(zip(*heads, strict=True)) or ((), ())] = True
    return score_heads(record, logic, wanted).rows(heads)


def score_all(record: Record, logic: LogicConfig) -> HeadTable:
    """The scores of every head, with the entropy also of those that do not look at the image enough;

    `passes` tells them apart.
    """
    everything = score_heads(record, logic, np.ones((record.num_layers, record.num_heads), bool))
    return replace(everything, passes=passes_threshold(everything.attn_sum, logic.threshold))


# Over many samples


def selection_frequency(
    rankings: Iterable[Sequence[HeadScore]], top_n: int, shape: tuple[int, int]
) -> Int[np.ndarray, "layers heads"]:
    """How many of the samples have each head among their `top_n` best. `shape` is (layers, heads)."""
    counts = np.zeros(shape, int)
    for ranking in rankings:
        for score in ranking[:top_n]:
            counts[score.layer, score.head] += 1
    return counts


def selection_trials(
    picks: Int[np.ndarray, "samples top_n 2"], shape: tuple[int, int], trials: int, samples: int, seed: int
) -> Int[np.ndarray, "trials layers heads"]:
    """How many samples have each head among their best, in each of `trials` random subsets of `samples` samples.

    A subset holds no sample twice and depends only on `seed` and its own number.

    Args:
        picks: (layer, head) of the best heads of each sample; -1 fills up samples that have fewer.
        shape: (layers, heads).
    """
    size = shape[0] * shape[1]
    index = np.where(
        picks[..., 0] < 0, size, picks[..., 0].astype(np.intp) * shape[1] + picks[..., 1]
    )  # [samples, top_n]
    counts = np.empty((trials, size), np.intp)
    for trial in range(trials):
        subset = np.random.default_rng((seed, trial)).choice(len(index), samples, replace=False)
        counts[trial] = np.bincount(index[subset].ravel(), minlength=size + 1)[:size]
    return counts.reshape(trials, *shape)


def most_selected(counts: Int[np.ndarray, "layers heads"] | Float[np.ndarray, "layers heads"], k: int) -> list[Head]:
    """The `k` heads with the largest counts, ties in (layer, head) order.

    Raises UserError if fewer were ever selected.
    """
    selected = np.count_nonzero(counts)
    if not 1 <= k <= selected:
        raise UserError(
            f"{k} localization heads asked for, but {selected} heads were ever selected; expected 1 to that many"
        )
    order = np.argsort(-counts, axis=None, kind="stable")[:k]
    return [divmod(int(index), counts.shape[1]) for index in order]
