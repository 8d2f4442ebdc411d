"""The paper's figures beside those of a run (arXiv 2503.06287), as `examples/paper/run.sh` prints them at its end.

    python -m examples.paper.compare METRICS HEADS --dataset refcoco --split val

METRICS is the metrics.json of stage=evaluate, HEADS the localization_heads.json of stage=select.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.base.arguments import Parser
from lab.base.console import exit_in_one_line, table
from lab.base.errors import UserError

# All of arXiv 2503.06287; heads as (layer, head), zero-based; in %. Boxes: Acc@0.5. Masks: cIoU of SAM, prompted with
# the box. The rows of criteria are its ablation on RefCOCO val with LLaVA-1.5-13B.
HEADS = {"7b": ((14, 24), (14, 13), (14, 26)), "13b": ((15, 39), (16, 30), (7, 2))}
BOXES = {
    "7b": {
        "refcoco": {"val": 86.5, "testA": 89.8, "testB": 80.2},
        "refcoco+": {"val": 80.1, "testA": 86.3, "testB": 71.9},
        "refcocog": {"val": 82.3, "test": 83.0},
    },
    "13b": {
        "refcoco": {"val": 87.2, "testA": 90.0, "testB": 83.3},
        "refcoco+": {"val": 82.7, "testA": 88.5, "testB": 74.0},
        "refcocog": {"val": 84.3, "test": 85.5},
    },
}
MASKS = {"7b": {"refcoco": {"val": 74.2}}, "13b": {"refcoco": {"val": 76.1}}}
NOTE = """Boxes of the run: heads fixed over all samples, but for the row `picked per sample`.
Masks: the paper's are SAM's, prompted with the box."""
CRITERIA = {"picked per sample": 67.4, "attention sum only": 23.9, "entropy only": 31.3}

Published = Mapping[str, Mapping[str, Mapping[str, float]]]


def comparison(metrics: Mapping[str, Any], heads: Mapping[str, Any], dataset: str, split: str) -> str:
    """The heads, and a table: the paper's figure (empty where it gives none), this run's, its 95 % interval."""
    size, number = size_of(str(metrics["model"])), int(metrics["config"]["logic"]["top_k"])
    found = [(row["layer"], row["head"]) for row in heads["heads"][:number]]
    rows: list[tuple[str, ...]] = []
    boxes, masks = (_published(table, size, dataset, split) for table in (BOXES, MASKS))
    rows += _row("boxes, Acc@0.5", boxes, metrics, "chosen", "Acc@0.5")
    ablation = (size, dataset, split) == ("13b", "refcoco", "val")
    for name, value in CRITERIA.items():
        rows += _row(f"  {name}", value if ablation else None, metrics, name, "Acc@0.5")
    rows += _row("  random, same layers", None, metrics, "random, same layers", "Acc@0.5")
    rows += _row("masks of the heads, cIoU", None, metrics, "chosen", "cIoU")
    for name in metrics.get("refined", ()):
        published = masks if name == "box" else None
        rows += _row(f"masks of SAM asked with {name}, cIoU", published, metrics, name, "cIoU", "refined")
    names = [f"heads of the paper  {_names(HEADS[size])}"] if size else []
    names.append(f"heads found here    {_names(found)}")
    return "\n".join([*names, "", table(("what", "paper", "here", "95 % interval"), rows)])


def size_of(model: str) -> str:
    """`7b` or `13b` for LLaVA-1.5, by its name; empty for a model that the paper's figures say nothing about."""
    match = re.search(r"llava[-_]?(?:v)?1\.5[-_](7b|13b)", model.lower())
    return match[1] if match else ""


def _published(values: Published, size: str, dataset: str, split: str) -> float | None:
    return values.get(size, {}).get(dataset, {}).get(split)


def _row(
    title: str, published: float | None, metrics: Mapping[str, Any], row: str, metric: str, rows: str = "metrics"
) -> list[tuple[str, ...]]:
    """One line, or none if the run has no such row or metric."""
    for one in metrics[rows].get(row, ()):
        if one["group"] == "all" and one["metric"] == metric:
            value, low, high = (f"{100 * one[key]:.1f}" for key in ("value", "low", "high"))
            return [(title, "" if published is None else f"{published:.1f}", value, f"{low} to {high}")]
    return []


def _names(heads: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"L{layer} H{head}" for layer, head in heads)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); expected a file that examples/paper/run.sh makes") from None


def main() -> None:
    parser = Parser(prog="python -m examples.paper.compare", description="The paper's figures beside a run's.")
    parser.add_argument("metrics", type=Path, help="metrics.json of stage=evaluate")
    parser.add_argument("heads", type=Path, help="localization_heads.json of stage=select")
    parser.add_argument("--dataset", default="refcoco", help="refcoco, refcoco+ or refcocog (refcoco)")
    parser.add_argument("--split", default="val", help="val, testA, testB or test (val)")
    options = parser.parse_args()
    print(comparison(_read(options.metrics), _read(options.heads), options.dataset, options.split))
    print(f"\n{NOTE}")


if __name__ == "__main__":
    with exit_in_one_line():
        main()
