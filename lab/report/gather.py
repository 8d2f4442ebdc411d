"""Folders of records in, everything that the page tells out."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conf.schema import Config, ReportConfig
from lab.base.console import progress
from lab.base.errors import UserError
from lab.base.paths import exists, find, resolved
from lab.datasets import Sample, read_jsonl
from lab.heads.reading import ModelOfRecords
from lab.report.contents import Gathered, Run, Shown
from lab.report.folder import RunFolder, read_folder, saved_config
from lab.report.samples import Finding, Pictures, Rules, find_sample, scored, truth_of

log = logging.getLogger(__name__)


def read_run(path: Path, config: Config, data_file: str | None, results: Path | None = None) -> Run:
    """The run in a folder, whose records are read as `config` says.

    `results` is where other stages wrote what they made of the records, if that is another folder.
    """
    folder = read_folder(path, results)
    return Run(folder, Rules.of(config), config, known_samples(folder, data_file))


def read_two_runs(folders: Sequence[str], config: Config) -> list[Run]:
    """Two runs, each with the configuration that it was made with; `config` where its folder tells none.

    A folder of results stands for the records that they were made of, so that two settings over the same records can be
    compared.

    Raises UserError unless there are two, about the same pictures.
    """
    if len(folders) != 2 or resolved(folders[0]) == resolved(folders[1]):
        raise UserError(f"data.runs={list(folders)}: give two different folders of records, data.runs=[A,B]")
    paths = [find(folder) for folder in folders]
    runs = [read_run(path, saved_config(read_folder(path), config), config.data.data_file) for path in paths]
    if not set(runs[0].folder.ids) & set(runs[1].folder.ids):
        counts = f"{len(runs[0].folder.ids)} and {len(runs[1].folder.ids)} samples"
        nothing = f"data.runs: {folders[0]} and {folders[1]} have no sample in common ({counts})"
        raise UserError(f"{nothing}; give two runs over the same data")
    return runs


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


def gather(runs: Sequence[Run], config: ReportConfig, seed: int) -> Gathered:
    """Reads every sample that is shown, one at a time, in order of their names."""
    names, total = shown_ids(runs, config.max_samples, seed)
    pictures, models = Pictures(config.max_side), [ModelOfRecords() for _ in runs]
    samples = tuple(_shown(name, runs, models, pictures) for name in progress(names, "report"))
    return Gathered(tuple(runs), samples, tuple(pictures.texts), total)


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


def _shown(name: str, runs: Sequence[Run], models: Sequence[ModelOfRecords], pictures: Pictures) -> Shown:
    known = next((run.known[name] for run in runs if name in run.known), None)
    findings = [find_sample(name, run.folder, known, model, run.rules) for run, model in zip(runs, models, strict=True)]
    _check_same_picture(name, findings)
    named = next((finding for finding in findings if finding.status == "done"), findings[0])
    picture, size, no_picture = pictures.add(named.image_file, named.image_size)
    truth, no_truth = truth_of(known, size)
    found = tuple(
        scored(finding, truth, inclusive=run.rules.inclusive) for finding, run in zip(findings, runs, strict=True)
    )
    return Shown(name, picture, size, truth, tuple(filter(None, (no_picture, no_truth))), found)


def _check_same_picture(name: str, findings: Sequence[Finding]) -> None:
    names = {Path(finding.image_file).name for finding in findings if finding.image_file and finding.status == "done"}
    if len(names) > 1:
        pictures = " in one run and ".join(sorted(names))
        raise UserError(f"data.runs: sample {name} is about {pictures} in the other; compare the same data")
