"""The table of sharp masks that stage=evaluate and stage=study share: a row for each way to ask SAM."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.schema import BoxConvention, Config
from lab.base.console import markdown, table
from lab.datasets import Sample
from lab.heads.choice import HeadChoice
from lab.measure.absent import no_target_figures
from lab.measure.intervals import Estimate, metric_names, summarize
from lab.measure.presence import in_percent
from lab.measure.sharp import measure_sharp
from lab.refine.refiner import Refiner

COLUMNS = [name for name in metric_names() if name != "pointing"]
FIRST = "SAM is asked with"
NOTE = "In each row the mask of SAM, asked with what the chosen heads found, and the tight box around that mask."


@dataclass(frozen=True)
class SharpTable:
    """The figures of each row, and the samples without a sharp mask with the reason."""

    rows: dict[str, list[Estimate]]
    beside: dict[str, list[Estimate]]  # the same with samples without target; nothing if there are none
    unrefined: dict[str, str]

    @classmethod
    def of(
        cls,
        refiner: Refiner | None,
        config: Config,
        choice: HeadChoice,
        samples: Sequence[Sample],
        files: Mapping[str, Path],
    ) -> "SharpTable | None":
        """Of samples and their records; None without a refiner."""
        if refiner is None:
            return None
        inclusive = config.metrics.box == BoxConvention.inclusive
        found = measure_sharp(samples, files, choice, config.logic, refiner, inclusive=inclusive)
        resamples, seed = config.evaluate.resamples, config.seed
        rows = {
            name: summarize(found.scores, others=row, resamples=resamples, seed=seed)
            for name, row in found.rows.items()
        }
        absent = not all(sample.present for sample in samples)
        beside = {
            name: no_target_figures(told, resamples=resamples, seed=seed) for name, told in found.told.items() if absent
        }
        return cls(rows, beside, found.unrefined)

    def on_screen(self) -> str:
        """In short."""
        short = [name.replace("@0.", "@.") for name in COLUMNS]
        own = table((FIRST, *short), [(name, *_cells(some)) for name, some in self.rows.items()])
        return "\n\n".join([own, *self._beside(table)])

    def markdown(self) -> str:
        """With intervals, and what the table does not say by itself."""
        rows = [(name, *_cells(some, interval=True)) for name, some in self.rows.items()]
        lost = f" {len(self.unrefined)} samples have no sharp mask and count as misses." if self.unrefined else ""
        own = markdown((FIRST, *COLUMNS), rows)
        return "\n\n".join([own, *self._beside(markdown, interval=True), f"{NOTE}{lost}"])

    def _beside(self, draw: Callable[..., str], *, interval: bool = False) -> list[str]:
        if not self.beside:
            return []
        names = [one.metric for one in next(iter(self.beside.values()))]
        rows = [(name, *(in_percent(one, interval=interval) for one in some)) for name, some in self.beside.items()]
        return [draw((f"with no-target samples, {FIRST}", *names), rows)]

    def to_json(self) -> dict[str, Any]:
        """For the files of results."""
        own, beside = (
            {name: [asdict(one) for one in estimates] for name, estimates in some.items()}
            for some in (self.rows, self.beside)
        )
        return {"refined": own, "refined_without_target": beside or None, "unrefined": self.unrefined}


def _cells(estimates: Sequence[Estimate], *, interval: bool = False) -> list[str]:
    values = {one.metric: one for one in estimates if one.group == "all"}
    found = [values.get(name) for name in COLUMNS]
    texts = ["" if one is None else f"{100 * one.value:.1f}" for one in found]
    if not interval:
        return texts
    return [
        text if one is None else f"{text} ({100 * one.low:.1f} to {100 * one.high:.1f})"
        for text, one in zip(texts, found, strict=True)
    ]
