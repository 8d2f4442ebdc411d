"""From a record to the heads that look at the described object, and from many rankings to the heads that do so again and again.

    ranking = rank_heads(record, logic)                       # the heads of one sample, best first
    heads = chosen_heads(record, ranking, logic)              # the (layer, head) pairs that make the heat map
    counts = selection_frequency(rankings, 10, (32, 32))      # [layers, heads]: how often a head was among the 10 best
    heads = most_selected(counts, 3)                          # the localization heads
    trials = selection_trials(picks, (32, 32), 10, 1000, 0)   # [trials, layers, heads]: the same in random subsets of the samples

Two criteria, as in arXiv 2503.06287: a head must look at the image enough (attention sum above a threshold), and in few places
(low spatial entropy of its map). All functions are pure and take arrays.

Sums and entropies are computed in the record's own precision, by torch and in a fixed order. Heads that look at a single place have
an entropy of rounding noise only, so their order depends on the last bit; this way it does not change from one version to the next.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from conf.schema import EntropyConfig, LogicConfig, ThresholdConfig
from lab.errors import UserError
from lab.records import Record

if TYPE_CHECKING:
    import torch

Head = tuple[int, int]  # (layer, head), zero-based

EIGHT_NEIGHBOURS_IN_EACH_MAP = np.zeros((3, 3, 3), bool)  # axes: map, row, col; nothing connects one map with the next
EIGHT_NEIGHBOURS_IN_EACH_MAP[1] = True


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch on this thread: waking its others for a fraction of a millisecond of work can take ten times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class HeadScore:
    """One head of one sample. `layer` and `head` are zero-based."""

    layer: int
    head: int
    attn_sum: float  # weight on all image tokens, 0 to 1; higher: looks at the image more
    spatial_entropy: float  # nats, 0 to inf; lower: looks at fewer places; inf: under the threshold, or nothing stands out
    bottom_row_focus: bool  # a cell of the last grid row holds more than filter.bottom_row
    num_components: int  # places it looks at

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values by field name. An infinite entropy stays float("inf"), which JSON cannot hold."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class HeadTable:
    """The scores of every head of one sample; fields as in HeadScore. Heads that do not pass have entropy inf and no components."""

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
        return [HeadScore(*head, *scores) for head, *scores in zip(heads, *(column[at].tolist() for column in columns), strict=True)]


# Criterion 1: does the head look at the image?


@_one_thread()
def attention_sums(record: Record) -> Float[np.ndarray, "layers heads"]:
    """Each head's weight on all image tokens, 0 to 1, float64 that holds a value of the record's precision."""
    return record.tensor()[:, :, 0].sum(-1).double().numpy()


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


def passes_threshold(sums: Float[np.ndarray, "layers heads"], config: ThresholdConfig) -> Bool[np.ndarray, "layers heads"]:
    """Which heads look at the image enough. `sums` may be one sample's or the mean over many."""
    if config.method == "none":
        return np.ones(sums.shape, bool)
    if config.method == "chord":
        return sums >= chord_elbow(sums)
    raise UserError(f"logic.threshold.method is {config.method!r}; expected chord or none")


# Criterion 2: does it look at few places?


@_one_thread()
def spatial_entropy(
    maps: "Float[np.ndarray, 'maps rows cols'] | torch.Tensor", config: EntropyConfig
) -> tuple[Float[np.ndarray, " maps"], Int[np.ndarray, " maps"]]:
    """How scattered each map is, in nats, and the number of places (8-connected components) in it.

    A map loses `config.center` times its mean, negative values become 0, and what exceeds `config.min_value` forms the components;
    with p a component's part of the whole, the entropy is -sum p ln p. Lower is better: 0 for one place, inf if nothing is left.
    With weight "mass" the whole is everything left, also the cells that belong to no component; with "area" it is the components'
    cells. Computed in the precision of `maps`.
    """
    above, total = _above_centre(maps, config.center)
    positive = above > config.min_value
    labels, count = ndimage.label(positive, structure=EIGHT_NEIGHBOURS_IN_EACH_MAP)  # numbered map by map, 1 to count
    cells = np.flatnonzero(positive)
    component = labels.ravel()[cells] - 1
    map_of = np.zeros(count, np.intp)
    map_of[component] = cells // (above.shape[1] * above.shape[2])
    num_components = np.bincount(map_of, minlength=len(above))

    share = _shares(config.weight, above.ravel()[cells], component, map_of, total)
    entropy = np.zeros(len(above), share.dtype)
    np.subtract.at(entropy, map_of, share * np.log(share))  # one after the other, as a loop over the components would
    entropy[(num_components == 0) & ~((total > 0) & config.flat_is_focused)] = np.inf
    return entropy, num_components


def _above_centre(maps: Any, center: float) -> tuple[Float[np.ndarray, "maps rows cols"], Float[np.ndarray, " maps"]]:
    import torch

    weights = torch.as_tensor(maps).flatten(1)  # [maps, rows * cols]
    above = torch.relu(weights - weights.mean(1, keepdim=True) * center)
    return above.float().numpy().reshape(maps.shape), above.sum(1).float().numpy()


def _shares(
    weight: str, mass: np.ndarray, component: np.ndarray, map_of: np.ndarray, total: np.ndarray
) -> Float[np.ndarray, " components"]:
    """Each component's part of its map. `mass` and `component` are per cell, `map_of` per component, `total` per map."""
    area = np.bincount(component, minlength=len(map_of))
    if weight == "area":
        return area / np.bincount(map_of, weights=area, minlength=len(total))[map_of]
    if weight != "mass":
        raise UserError(f"logic.entropy.weight is {weight!r}; expected mass or area")
    starts = np.cumsum(area) - area
    by_component = np.argsort(component.astype(np.uint16) if len(area) < 2**16 else component, kind="stable")  # 16 bits: radix sort
    # A zero in front of each component makes reduceat add in the same order as sum() of that component alone.
    sums = np.add.reduceat(np.insert(mass[by_component], starts, 0), starts + np.arange(len(area))) if len(area) else mass
    return sums / total[map_of]


def bottom_row_max(maps: "Float[np.ndarray, 'maps rows cols'] | torch.Tensor") -> Float[np.ndarray, " maps"]:
    """The largest weight in each map's last row, 0 to 1; heads that rest on the bottom edge do not look at an object."""
    import torch

    return torch.as_tensor(maps)[:, -1].float().amax(1).numpy()


# Both together


@_one_thread()
def score_heads(record: Record, logic: LogicConfig, passes: Bool[np.ndarray, "layers heads"] | None = None) -> HeadTable:
    """The scores of every head of one sample.

    `passes` replaces the sample's own threshold, for one threshold over many samples: passes_threshold(mean of the sums, ...).
    """
    sums = attention_sums(record)
    passes = passes_threshold(sums, logic.threshold) if passes is None else passes
    grid = record.grid
    maps = record.tensor()[:, :, 0, grid.tokens][passes].reshape(-1, grid.rows, grid.cols)
    table = HeadTable(sums, passes, np.full(sums.shape, np.inf), np.zeros(sums.shape, bool), np.zeros(sums.shape, int))
    table.spatial_entropy[passes], table.num_components[passes] = spatial_entropy(maps, logic.entropy)
    if logic.filter.bottom_row is not None:
        table.bottom_row_focus[passes] = bottom_row_max(maps) > logic.filter.bottom_row
    return table


def rank_heads(record: Record, logic: LogicConfig, passes: Bool[np.ndarray, "layers heads"] | None = None) -> list[HeadScore]:
    """The heads of one sample that meet both criteria and the filters, by ascending entropy, ties in (layer, head) order.

    If fewer than `logic.threshold.min_keep` do: that many with the largest sums instead, from all layers and with any entropy,
    except heads that rest on the bottom row. `passes` is as for `score_heads`.
    """
    return rank_table(score_heads(record, logic, passes), logic)


def rank_table(table: HeadTable, logic: LogicConfig) -> list[HeadScore]:
    """The same from the scores of a sample's heads."""
    kept = table.passes & np.isfinite(table.spatial_entropy) & ~table.bottom_row_focus
    kept[: logic.filter.min_layer] = False
    candidates = np.flatnonzero(kept)
    if len(candidates) < logic.threshold.min_keep:
        by_sum = np.argsort(-table.attn_sum, axis=None, kind="stable")
        candidates = by_sum[~table.bottom_row_focus.ravel()[by_sum]][: logic.threshold.min_keep]
    best_first = candidates[np.argsort(table.spatial_entropy.ravel()[candidates], kind="stable")]
    return table.rows([divmod(index, table.passes.shape[1]) for index in best_first.tolist()])


def scores_of(record: Record, heads: Sequence[Head], logic: LogicConfig) -> list[HeadScore]:
    """The scores of given heads, whether they are in the ranking or not, in their order."""
    wanted = np.zeros((record.num_layers, record.num_heads), bool)
    wanted[tuple(zip(*heads, strict=True)) or ((), ())] = True
    return score_heads(record, logic, wanted).rows(heads)


def chosen_heads(
    record: Record, ranking: Sequence[HeadScore], logic: LogicConfig, localization_heads: Sequence[Sequence[int]] | None = None
) -> list[Head]:
    """The heads that make the heat map: the fixed ones, or the first `top_k` of the ranking (fewer if it is shorter)."""
    fixed = fixed_heads((record.num_layers, record.num_heads), logic, localization_heads)
    return [(score.layer, score.head) for score in ranking[: logic.top_k]] if fixed is None else fixed


def fixed_heads(shape: tuple[int, int], logic: LogicConfig, localization_heads: Sequence[Sequence[int]] | None = None) -> list[Head] | None:
    """The heads that `logic.heads` fixes for a model of `shape` (layers, heads): all of a list, the first `top_k` of a preset or file.

    A file comes here as what `lab.heads.read_heads` makes of it. None if no heads are fixed. Raises UserError if a head does not exist
    or is named twice, if a file was made with a model of another shape, or if `top_k` heads cannot be had.
    """
    if not 1 <= logic.top_k <= shape[0] * shape[1]:
        raise UserError(f"logic.top_k is {logic.top_k}; expected 1 to {shape[0] * shape[1]}, the number of heads in the model")
    if logic.heads is None:
        return None
    if isinstance(logic.heads, Mapping) and {"file", "shape", "heads"} <= logic.heads.keys():
        return _heads_of_file(logic.heads, shape, logic.top_k)
    if logic.heads != "preset":
        return _checked_heads(logic.heads, shape, "logic.heads")
    if not localization_heads:
        raise UserError("logic.heads is preset, but the model preset names no localization_heads; set them, or logic.heads=null to rank")
    return _first(_checked_heads(localization_heads, shape, "model.localization_heads"), logic.top_k, "model.localization_heads")


def _heads_of_file(content: Mapping[str, Any], shape: tuple[int, int], top_k: int) -> list[Head]:
    of_model = tuple(content["shape"] or shape)
    if of_model != shape:
        layers_heads = "{} layers x {} heads".format
        raise UserError(f"{content['file']} is of a model of {layers_heads(*of_model)}; this one has {layers_heads(*shape)}: use its own")
    return _first(_checked_heads(content["heads"], shape, content["file"]), top_k, content["file"])


def _first(heads: list[Head], top_k: int, key: str) -> list[Head]:
    if len(heads) < top_k:
        raise UserError(f"logic.top_k is {top_k}, but {key} names {len(heads)} heads; expected at most that many")
    return heads[:top_k]


def _checked_heads(pairs: Any, shape: tuple[int, int], key: str) -> list[Head]:
    expected = f"expected [[layer, head], ...], zero-based, each once, layer < {shape[0]} and head < {shape[1]}"
    heads: list[Head] = []
    for pair in pairs if isinstance(pairs, Sequence) and not isinstance(pairs, str) else [pairs]:
        whole = isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
        if not whole or not all(0 <= index < limit for index, limit in zip(pair, shape, strict=True)) or tuple(pair) in heads:
            raise UserError(f"{key}: {pair!r} is not a head of this model or is named twice; {expected}")
        heads.append((pair[0], pair[1]))
    if not heads:
        raise UserError(f"{key} is empty; {expected}")
    return heads


# Over many samples


def selection_frequency(rankings: Iterable[Sequence[HeadScore]], top_n: int, shape: tuple[int, int]) -> Int[np.ndarray, "layers heads"]:
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
    index = np.where(picks[..., 0] < 0, size, picks[..., 0].astype(np.intp) * shape[1] + picks[..., 1])  # [samples, top_n]
    counts = np.empty((trials, size), np.intp)
    for trial in range(trials):
        subset = np.random.default_rng((seed, trial)).choice(len(index), samples, replace=False)
        counts[trial] = np.bincount(index[subset].ravel(), minlength=size + 1)[:size]
    return counts.reshape(trials, *shape)


def most_selected(counts: Int[np.ndarray, "layers heads"], k: int) -> list[Head]:
    """The `k` heads with the largest counts, ties in (layer, head) order. Raises UserError if fewer were ever selected."""
    selected = np.count_nonzero(counts)
    if not 1 <= k <= selected:
        raise UserError(f"{k} localization heads asked for, but {selected} heads were ever selected; expected 1 to that many")
    order = np.argsort(-counts, axis=None, kind="stable")[:k]
    return [divmod(int(index), counts.shape[1]) for index in order]
