"""Samples asked one picture after the other, and their records as they come, for stages that keep none."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from conf.schema import Config
from lab.base.console import progress
from lab.datasets import Sample
from lab.records.record import Record

if TYPE_CHECKING:  # torch
    from lab.batch.rows import ReadyRow
    from llava.family import LoadedModel


def prepared(loaded: "LoadedModel", samples: Sequence[Sample], config: Config) -> Iterator["ReadyRow"]:
    """The samples of each picture together, ready to be asked."""
    from lab.batch.plan import plan_rows
    from lab.batch.rows import RowDataset, feed

    rows = RowDataset(plan_rows(samples, share_image=True), loaded, config.model, generic=False)
    return feed(rows, workers=config.data.workers or 0, pin=loaded.device.type == "cuda")


def asked_records(
    loaded: "LoadedModel", samples: Sequence[Sample], config: Config, title: str, failed: list[str]
) -> Iterator[tuple[Sample, Record]]:
    """What the model looks at for each sample, by `config.logic`, behind a progress bar.

    Why a sample could not be asked is added to `failed`.
    """

    def told() -> Iterator[tuple[Sample, Record]]:
        from collector import ask

        for row in prepared(loaded, samples, config):
            failed.extend(why for _, why in row.failed)
            if row.question is not None:
                records = ask(loaded, [row.question], config.model).of(0)
                yield from ((one, record.under(config.logic)) for one, record in zip(row.samples, records, strict=True))

    return progress(told(), title, total=len(samples))
