"""Folders of records in, everything that the page tells out."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from conf.schema import ReportConfig
from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.images import header_size
from lab.base.paths import exists, find, resolved
from lab.base.workers import in_workers
from lab.datasets import Sample, Truth, read_jsonl
from lab.heads.reading import ModelOfRecords
from lab.measure.overview import tell_asked_otherwise
from lab.report.contents import Gathered, Run, Shown
from lab.report.folder import RunFolder, SampleFiles, read_folder
from lab.report.pictures import Outline, outline
from lab.report.samples import Finding, Pictures, Rules, find_sample, scored, truth_of

log = logging.getLogger(__name__)


def two_folders(named: Sequence[str]) -> list[RunFolder]:
    """The two folders of `data.runs`.

    A folder of results stands for the records that they were made of, so that two settings over the same records can be
    compared. Raises UserError unless there are two.
    """
    if len(named) != 2 or resolved(named[0]) == resolved(named[1]):
        raise UserError(f"data.runs={list(named)}: give two different folders of records, data.runs=[A,B]")
    return [read_folder(find(name)) for name in named]


def check_common(one: RunFolder, other: RunFolder) -> None:
    """Raises UserError unless some sample is in both."""
    if not set(one.ids) & set(other.ids):
        counts = f"{len(one.ids)} and {len(other.ids)} samples"
        nothing = f"data.runs: {one.results} and {other.results} have no sample in common ({counts})"
        raise UserError(f"{nothing}; give two runs over the same data")


def known_samples(folder: RunFolder, data_file: str | None) -> dict[str, Sample]:
    """The samples of `data_file` if it is about this folder, else of the one that the run names. {} if none is."""
    saved = [str(part["data_file"]) for part in (folder.metrics, folder.summary) if part and part.get("data_file")]
    for name in dict.fromkeys([*([data_file] if data_file else []), *saved]):
        if name != data_file and not exists(find(name)):
            log.warning("the run's data file %s is not there: the report tells no truth from it", name)
            continue
        samples = {sample.id: sample for sample in read_jsonl(find(name))}
        if samples.keys() & set(folder.ids):
            return samples
    return {}


# samples


@dataclass(frozen=True)
class Asked:
    """One sample, to be read in a worker process."""

    name: str
    known: Sample | None
    files: tuple[SampleFiles, ...]  # by run


@dataclass(frozen=True, eq=False)
class Read:
    """What was read of it. The truth is without its masks, which are as large as the picture."""

    findings: tuple[Finding, ...]
    truth: Truth | None
    outline: Outline | None
    no_truth: str


def gather(runs: Sequence[Run], config: ReportConfig, seed: int, workers: int | None = None) -> Gathered:
    """Reads every sample that is shown, in worker processes, in order of their names.

    Raises UserError if records of a run are of different models, if its rules choose heads that the model does not
    have, or if the runs are about different pictures.
    """
    names, total = shown_ids(runs, config.max_samples, seed)
    models = [ModelOfRecords() for _ in runs]
    jobs = [Asked(name, _known(name, runs), tuple(run.folder.of(name) for run in runs)) for name in names]
    read = in_workers(partial(read_sample, rules=[run.rules for run in runs]), jobs, workers)
    found = []
    for job, sample in progress(read, "report", total=len(jobs)):
        _check(job, sample, models)
        found.append((job, sample, _named(sample.findings)))
    for place in range(len(runs)):
        of_run = [(job.known, sample.findings[place]) for job, sample, _ in found]
        tell_asked_otherwise([(one, finding.query) for one, finding in of_run if one and finding.status == "done"])
    pictures = Pictures(config.max_side)
    pictures.read([named.image_file for _, _, named in found if named.image_file is not None], workers)
    shown = tuple(_shown(job, sample, named, pictures) for job, sample, named in found)
    return Gathered(tuple(runs), shown, tuple(pictures.texts), total)


def shown_ids(runs: Sequence[Run], most: int | None, seed: int) -> tuple[list[str], int]:
    """The samples that are shown, sorted, and how many there are: of the runs and, as missing, of their data files.

    If there are more than `most`, they are drawn; those that no run has touched come last.
    """
    touched = sorted({name for run in runs for name in run.folder.ids})
    untouched = sorted({name for run in runs for name in run.known} - set(touched))
    total = len(touched) + len(untouched)
    if most is None or total <= most:
        return sorted(touched + untouched), total
    rng = np.random.default_rng(seed)
    order = [*rng.permutation(touched).tolist(), *rng.permutation(untouched).tolist()]
    return sorted(order[:most]), total


def _known(name: str, runs: Sequence[Run]) -> Sample | None:
    return next((run.known[name] for run in runs if name in run.known), None)


def _named(findings: Sequence[Finding]) -> Finding:
    """The finding that tells the picture."""
    return next((finding for finding in findings if finding.status == "done"), findings[0])


def read_sample(job: Asked, rules: Sequence[Rules]) -> Read:
    """One sample in every run, beside its truth."""
    found = [find_sample(job.name, files, job.known, of_run) for files, of_run in zip(job.files, rules, strict=True)]
    truth, no_truth = truth_of(job.known, _size(_named(found)))
    findings = tuple(
        scored(finding, truth, inclusive=of_run.inclusive) for finding, of_run in zip(found, rules, strict=True)
    )
    if truth is None:
        return Read(findings, None, None, no_truth)
    drawn = None if truth.mask is None else outline(truth.mask)
    return Read(findings, replace(truth, mask=None, ignore=None), drawn, no_truth)


def _size(named: Finding) -> tuple[int, int] | None:
    """The picture's (width, height) as the record or, failing that, the picture says."""
    if named.image_size is None and named.image_file is not None:
        with suppress(UserError):
            return header_size(resolved(named.image_file))
    return named.image_size


def _check(job: Asked, sample: Read, models: Sequence[ModelOfRecords]) -> None:
    for finding, files, model in zip(sample.findings, job.files, models, strict=True):
        if files.record is not None and finding.shape is not None:
            model.compare(files.record, (finding.meta or {}).get("model_name"), finding.shape)
        if finding.wrong is not None:
            raise UserError(finding.wrong)
    names = {Path(one.image_file).name for one in sample.findings if one.image_file and one.status == "done"}
    if len(names) > 1:
        pictures = " in one run and ".join(sorted(names))
        raise UserError(f"data.runs: sample {job.name} is about {pictures} in the other; compare the same data")


def _shown(job: Asked, sample: Read, named: Finding, pictures: Pictures) -> Shown:
    picture, size, no_picture = pictures.add(named.image_file, named.image_size)
    notes = tuple(filter(None, (no_picture, sample.no_truth)))
    absent = job.known is not None and not job.known.present
    return Shown(job.name, picture, size, sample.truth, sample.outline, notes, sample.findings, absent)
