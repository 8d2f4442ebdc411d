"""What a page tells: its runs, its samples, its pictures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.datasets import Sample, Truth
from lab.report.folder import RunFolder
from lab.report.pictures import Outline
from lab.report.samples import Finding, Rules


@dataclass(frozen=True, eq=False)
class Run:
    """A folder, how its records are read, and what is known of its samples."""

    folder: RunFolder
    rules: Rules
    settings: Mapping[str, Any]  # the whole configuration, by group, to be shown and compared
    known: Mapping[str, Sample]  # of its data file


@dataclass(frozen=True, eq=False)
class Shown:
    """One sample of the page. `findings` has one entry per run."""

    id: str
    picture: int | None  # its place among the page's pictures
    image_size: tuple[int, int] | None
    truth: Truth | None  # without masks
    outline: Outline | None  # of the true mask
    notes: tuple[str, ...]  # why there is no picture or no truth
    findings: tuple[Finding, ...]
    absent: bool = False  # the data file says that the expression describes nothing in the picture


@dataclass(frozen=True, eq=False)
class Gathered:
    """Everything that the page tells."""

    runs: tuple[Run, ...]
    samples: tuple[Shown, ...]
    pictures: tuple[str, ...]
    total: int  # samples there are; more than `samples` if they were drawn

    def unreadable(self, run: int) -> dict[str, str]:
        """The samples shown whose file in a run, by its place among `runs`, is damaged, and why each cannot be read."""
        findings = {sample.id: sample.findings[run] for sample in self.samples}
        return {name: finding.why for name, finding in findings.items() if finding.status == "unreadable"}
