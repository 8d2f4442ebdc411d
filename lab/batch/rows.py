"""From rows of samples to questions: images read ahead, and prompts made of their expressions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch.utils.data import DataLoader, Dataset

from collector import Question, make_prompt, prepare
from conf.schema import ModelConfig
from lab.base.errors import UserError, reason
from lab.base.images import open_image
from lab.batch.plan import Row
from lab.datasets import Sample
from lab.datasets.sample import check_size
from llava.family import LoadedModel, Picture
from llava.prompt import Prompt


@dataclass(frozen=True, eq=False)
class ReadyRow:
    """A row as a worker process hands it over: what can be asked, and why the rest cannot."""

    samples: Row = ()
    question: Question | None = None
    failed: list[tuple[Sample, str]] = field(default_factory=list)

    def pin_memory(self) -> "ReadyRow":
        return replace(self, question=self.question.pin_memory()) if self.question else self


class RowDataset(Dataset):
    """Rows as questions.

    An image that cannot be read or an expression that cannot be asked fails its own samples only.
    """

    def __init__(self, rows: Sequence[Row], loaded: LoadedModel, config: ModelConfig, *, generic: bool) -> None:
        self.rows, self.config, self.generic = rows, config, generic
        self.loaded = loaded.without_weights()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> ReadyRow:
        row = self.rows[number]
        failed: list[tuple[Sample, str]] = []
        try:
            image, image_file = open_image(row[0].image_file), str(row[0].image_file)
            picture = self.loaded.family.picture(image)  # before the prompts: it tells how many image tokens they hold
            sized = [sample for sample in row if self._fits(sample, image.size, failed)]
            asked = [(sample, prompt) for sample in sized if (prompt := self._prompt(sample, picture, failed))]
            if not asked:
                return ReadyRow(failed=failed)
            samples, prompts = zip(*asked, strict=True)
            question = prepare(
                self.loaded,
                image,
                [sample.query for sample in samples],
                self.config,
                image_file=image_file,
                generic=self.generic,
                picture=picture,
                prompts=prompts,
            )
        except Exception as error:  # one image must not end the others' run
            before = {sample.id for sample, _ in failed}
            return ReadyRow(failed=failed + [(sample, reason(error)) for sample in row if sample.id not in before])
        return ReadyRow(samples, question, failed)

    def _fits(self, sample: Sample, image_size: tuple[int, int], failed: list[tuple[Sample, str]]) -> bool:
        """Whether the image is the one that the sample speaks of; its truth would be about another one."""
        try:
            check_size(sample, image_size)
        except UserError as error:
            failed.append((sample, str(error)))
            return False
        return True

    def _prompt(self, sample: Sample, picture: Picture, failed: list[tuple[Sample, str]]) -> Prompt | None:
        try:
            return make_prompt(self.loaded, sample.query, picture, self.config)
        except UserError as error:
            failed.append((sample, str(error)))
            return None


def feed(rows: RowDataset, *, workers: int, pin: bool) -> Iterator[ReadyRow]:
    """The rows in order, prepared by worker processes, up to two rows ahead of the caller in each.

    With `workers=0`, this process prepares them itself.
    """
    yield from DataLoader(
        rows, batch_size=None, num_workers=workers, pin_memory=pin, prefetch_factor=2 if workers else None
    )
