"""The first reading of the records: which heads are selected, by which criterion, and how good each head's own box is.

No label is read for the selection. Labels are read for `iou` alone, which serves the oracle rows and the rank correlation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from analyze import Head, HeadScore, HeadTable, attention_sums, most_selected, passes_threshold, rank_table, score_heads
from conf.schema import Config
from lab.datasets import Sample, read_truth
from lab.errors import UserError
from lab.evaluate import allowed, check_contrast, head_ious, record_files
from lab.records import Record
from lab.select import ModelOfRecords, list_samples

CRITERIA = ("both", "sum only", "entropy only")
FOLDS = 50  # groups of samples that the rank correlation's bootstrap draws


@dataclass(frozen=True)
class Split:
    """Whose heads are counted and who is scored. The same samples may be both: counting reads no label."""

    scored: tuple[Sample, ...]
    files: dict[str, Path]  # records of the scored samples, by id; a sample without one is a miss
    finding: tuple[Path, ...]  # records over which the heads are counted
    note: str

    @property
    def paths(self) -> list[Path]:
        """Every record that is read, once, in a fixed order."""
        return list(dict.fromkeys([*(self.files[s.id] for s in self.scored if s.id in self.files), *self.finding]))


@dataclass(eq=False)
class Found:
    """What the first reading gives. `picks` holds (layer, head) of each record's best heads, best first, -1 where there are fewer."""

    shape: tuple[int, int]
    model: str | None
    row_of: dict[Path, int]  # of each record in `picks`
    picks: dict[str, Int[np.ndarray, "records top_n 2"]]  # by criterion
    finding: Int[np.ndarray, " found"]  # rows of `picks` over which the heads are counted
    sums: Float[np.ndarray, "layers heads"]  # mean attention sums over those
    generic: bool  # whether every record holds the generic prompt's attention
    selected: Int[np.ndarray, "folds layers heads"]  # how often each head is among the best of a record that finds
    iou: Float[np.ndarray, "folds layers heads"]  # IoU of each head's own box, added up
    measured: Int[np.ndarray, " folds"]  # samples in `iou`
    min_layer: int = 0
    fixed: dict[str, list[Head]] = field(default_factory=dict)  # by criterion, as many heads as any table needs

    @property
    def counts(self) -> Int[np.ndarray, "layers heads"]:
        """How often each head is selected by both criteria."""
        return self.selected.sum(0)

    @property
    def mean_iou(self) -> Float[np.ndarray, "layers heads"]:
        """Of each head's own box."""
        return self.iou.sum(0) / max(1, self.measured.sum())

    def greedy(self, criterion: str, path: Path, k: int) -> list[Head]:
        """The `k` best heads of one record."""
        return [(int(layer), int(head)) for layer, head in self.picks[criterion][self.row_of[path], :k] if layer >= 0]

    def best(self, k: int) -> list[Head]:
        """The `k` heads whose own boxes are best, by the labels."""
        order = np.argsort(-self.iou.sum(0), axis=None, kind="stable")[:k]
        return [divmod(int(index), self.shape[1]) for index in order]


def split(samples: Sequence[Sample], folder: Path, cfg: Config) -> Split:
    """As `study.find` says. Raises UserError if a side would be empty."""
    files = record_files(folder, samples)
    kept = tuple(samples)
    where = cfg.study.find
    if where == "all":
        note = f"Heads are counted over the {len(files)} records of the samples that are scored: counting reads no label."
        return Split(kept, files, tuple(files.values()), note)
    if where == "half":
        if len(files) < 2:
            raise UserError(f"study.find=half needs two records or more, but {folder} holds {len(files)} of these samples")
        order = np.random.default_rng((cfg.seed, 1)).permutation(sorted(files))
        finders = set(order[: len(order) // 2].tolist())
        note = f"Heads are counted over {len(finders)} samples, drawn at random, and scored on the others."
        return Split(tuple(s for s in kept if s.id not in finders), files, tuple(p for i, p in files.items() if i in finders), note)
    other = Path(where).expanduser()
    if not other.is_dir():
        raise UserError(f"study.find={where}: no such folder; expected all, half or a folder of records")
    finding = tuple(list_samples(other)["records"].values())
    if not finding:
        raise UserError(f"study.find={where}: no records there; expected all, half or a folder of records")
    return Split(kept, files, finding, f"Heads are counted over the {len(finding)} records in {other}; other samples are scored.")


def find_heads(parts: Split, cfg: Config, most: int) -> Found:
    """Reads every record once, and those that find once more if they share one threshold. `most`: heads that a table needs.

    Raises UserError naming the files if records are of different models, or if fewer than `most` heads are ever selected.
    """
    common = _common_threshold(parts.finding, cfg) if cfg.logic.select.threshold == "dataset" else None
    paths, finding = parts.paths, set(parts.finding)
    measured = _measured(parts, cfg)
    found: Found | None = None
    rng = np.random.default_rng((cfg.seed, 2))
    folds = rng.permutation(len(paths)) % FOLDS
    for row, (path, record, table) in enumerate(_tables(paths, cfg)):
        found = found or _empty(record, parts, max(cfg.logic.select.top_n, cfg.logic.top_k), cfg)
        best = _best_of(table, common, cfg)
        for criterion, heads in best.items():
            kept = heads[: found.picks[criterion].shape[1]]
            found.picks[criterion][row, : len(kept)] = np.reshape(kept, (-1, 2))
        if path in finding:
            found.sums += table.attn_sum / len(finding)
            for head in best["both"][: cfg.logic.select.top_n]:
                found.selected[(folds[row], *head)] += 1
        if path in measured:
            found.iou[folds[row]] += head_ious(record, read_truth(measured[path], record.image_size).box_xyxy, cfg.logic)
            found.measured[folds[row]] += 1
        found.generic &= record.generic is not None
    assert found is not None  # record_files found at least one
    found.fixed = _fixed(found, cfg, most)
    return found


def _tables(paths: Sequence[Path], cfg: Config) -> Iterator[tuple[Path, Record, HeadTable]]:
    for path, record in zip(paths, ModelOfRecords().read(paths, "find"), strict=True):
        check_contrast(record, cfg.logic.contrast, path)
        yield path, record, score_heads(record, cfg.logic, np.ones((record.num_layers, record.num_heads), bool))


def _common_threshold(files: Sequence[Path], cfg: Config) -> Bool[np.ndarray, "layers heads"]:
    total = sum((attention_sums(record) for record in ModelOfRecords().read(files, "threshold")), np.float64(0))
    return passes_threshold(np.asarray(total) / len(files), cfg.logic.threshold)


def _measured(parts: Split, cfg: Config) -> dict[Path, Sample]:
    """The records on which every head's own box is measured: `study.head_samples` of them at most, drawn at random."""
    seen = [sample for sample in parts.scored if sample.id in parts.files]
    order = np.random.default_rng((cfg.seed, 3)).permutation(len(seen))
    return {parts.files[seen[i].id]: seen[i] for i in order[: cfg.study.head_samples]}


def _empty(record: Record, parts: Split, top_n: int, cfg: Config) -> Found:
    shape, paths = (record.num_layers, record.num_heads), parts.paths
    row_of = {path: row for row, path in enumerate(paths)}
    return Found(
        shape,
        record.meta.get("model_name"),
        row_of,
        {criterion: np.full((len(paths), top_n, 2), -1, np.int16) for criterion in CRITERIA},
        np.array([row_of[path] for path in parts.finding]),
        np.zeros(shape),
        True,
        np.zeros((FOLDS, *shape), int),
        np.zeros((FOLDS, *shape)),
        np.zeros(FOLDS, int),
    )


def _best_of(table: HeadTable, common: Bool[np.ndarray, "layers heads"] | None, cfg: Config) -> dict[str, list[Head]]:
    """One record's heads, best first, by each criterion; the layers that may hold a selected head are the same for all."""
    passes = passes_threshold(table.attn_sum, cfg.logic.threshold) if common is None else common
    by_sum = np.argsort(-allowed(table.attn_sum, cfg.logic), axis=None, kind="stable").tolist()

    def heads(ranking: Sequence[HeadScore]) -> list[Head]:
        return [(score.layer, score.head) for score in ranking]

    return {
        "both": heads(rank_table(table.only(passes), cfg.logic)),
        "sum only": [divmod(index, table.passes.shape[1]) for index in by_sum],
        "entropy only": heads(rank_table(table, cfg.logic)),
    }


def _fixed(found: Found, cfg: Config, most: int) -> dict[str, list[Head]]:
    by_entropy = np.zeros(found.shape, int)
    picks = found.picks["entropy only"][found.finding][:, : cfg.logic.select.top_n].reshape(-1, 2)
    np.add.at(by_entropy, tuple(picks[picks[:, 0] >= 0].T), 1)
    return {
        "both": most_selected(found.counts, most),
        "sum only": most_selected(allowed(found.sums, cfg.logic), cfg.logic.top_k),
        "entropy only": most_selected(by_entropy, cfg.logic.top_k),
    }
