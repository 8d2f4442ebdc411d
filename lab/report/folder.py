"""What a run left in its folder: records and rankings, and what the other stages wrote beside them."""

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lab.base.errors import UserError
from lab.base.files import read_json, read_regular
from lab.base.paths import find
from lab.base.shards import ERRORS, SUMMARY, files_of_shards
from lab.records.folder import REFINED, list_samples, status
from lab.records.shards import FOLDER

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleFiles:
    """What a folder holds of one sample."""

    record: Path | None
    ranking: Path | None
    error: str | None  # what went wrong as it was collected
    sharp: Path | None = None  # its sharp mask


@dataclass(frozen=True, eq=False)
class RunFolder:
    """The files of one run. What a stage has not written is None or empty."""

    path: Path
    results: Path  # where the other stages wrote what they made of the records; often the same
    records: Mapping[str, Path]  # by sample
    rankings: Mapping[str, Path]
    errors: Mapping[str, str]  # of errors.jsonl: sample -> what went wrong
    summary: Mapping[str, Any] | None  # of stage=batch
    metrics: Mapping[str, Any] | None  # of stage=evaluate
    selection: Mapping[str, Any] | None  # of stage=select

    def of(self, name: str) -> SampleFiles:
        """The files of a sample."""
        masks = [folder / f"{name}{REFINED}" for folder in (self.results, self.path)]
        sharp = next((mask for mask in masks if mask.exists()), None)
        return SampleFiles(self.records.get(name), self.rankings.get(name), self.errors.get(name), sharp)

    @property
    def ids(self) -> list[str]:
        """Every sample that the folder knows of, in order of their names."""
        return sorted(self.records.keys() | self.rankings.keys() | self.errors.keys())

    @property
    def collected(self) -> str:
        """When the first and the last record were written, to the minute."""
        if not self.records:
            return ""
        times = np.fromiter((status(path).st_mtime for path in self.records.values()), float, len(self.records))
        first, last = (datetime.fromtimestamp(t).strftime("%Y-%m-%d %H:%M") for t in (times.min(), times.max()))
        return first if first == last else f"{first} to {last}"


def read_folder(path: Path, results: Path | None = None) -> RunFolder:
    """The records of a folder, and the results there or, if they went elsewhere, in the folder `results`.

    A folder of results without records stands for those that it was made of. Raises UserError if the folder cannot be
    read or holds neither records nor rankings.
    """
    listed = list_samples(path)
    if not listed["records"] and results is None and (made_of := _made_of(path)):
        return read_folder(made_of, path)
    results = results or path
    if results != path and results.is_dir():
        listed["analyses"] = {**listed["analyses"], **list_samples(results)["analyses"]}
    if not listed["records"] and not listed["analyses"]:
        inside = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir() and folder.name != FOLDER][:3]
        hint = f"; did you mean one of the folders in it ({', '.join(inside)})?" if inside else ""
        raise UserError(f"no records in {path}: give a folder that stage=batch has filled, <output_dir>/<model>{hint}")
    lines = (row for _, file in files_of_shards(path, ERRORS) for row in _json_lines(file))
    failed = [row for row in lines if isinstance(row, Mapping) and "id" in row]
    return RunFolder(
        path,
        results,
        listed["records"],
        listed["analyses"],
        {str(row["id"]): str(row.get("error", "failed")) for row in failed},
        _summary(path),
        read_json_object(results / "metrics.json"),
        read_json_object(results / "localization_heads.json"),
    )


def _made_of(results: Path) -> Path | None:
    """The folder of records that the results in a folder were made of, as a configuration beside them tells."""
    for path in sorted(results.glob("config.*.yaml"), key=_written, reverse=True):
        with suppress(OmegaConfBaseException, YAMLError, OSError, ValueError):
            named = OmegaConf.select(_yaml(path), "data.attention_dir")
            if named and find(str(named)).is_dir():
                return find(str(named))
    return None


def _summary(path: Path) -> Mapping[str, Any] | None:
    """What stage=batch tells of its run; of several jobs their sums, and the time of the longest."""
    told = [found for _, file in files_of_shards(path, SUMMARY) if (found := read_json_object(file))]
    if len(told) < 2:
        return told[0] if told else None
    try:
        counts = {name: sum(one[name] for one in told) for name in ("samples", "done", "skipped", "failed")}
        return {**told[-1], **counts, "seconds": max(one["seconds"] for one in told)}
    except (LookupError, TypeError):  # one is damaged
        return told[-1]


def read_json_object(path: Path) -> Mapping[str, Any] | None:
    found = _json_lines(path, whole=True)
    return found[0] if found and isinstance(found[0], Mapping) else None


def _json_lines(path: Path, *, whole: bool = False) -> list[Any]:
    """The file's values, one per line or one in all; nothing if it is not there or damaged, which is logged."""
    if not path.exists():
        return []
    try:
        if whole:
            return [read_json(path)]
        return [json.loads(line) for line in read_regular(path).splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s is left out: it cannot be read (%s)", path, error)
        return []


def _yaml(path: Path) -> Any:
    """A saved configuration. Raises OSError, ValueError, and the errors of YAML and OmegaConf."""
    try:
        return OmegaConf.create(read_regular(path).decode())
    except RecursionError:
        raise ValueError("lists and objects in one another, too deep to be read") from None


def _written(path: Path) -> float:
    return path.stat().st_mtime


def saved_settings(folder: RunFolder) -> tuple[Path, Mapping[str, Any]] | None:
    """The file that tells the configuration which the run was evaluated with or, failing that, made with, and what it
    tells, by group; None if there is none.

    Raises UserError naming the file if it is no configuration.
    """
    if saved := (folder.metrics or {}).get("config"):
        return folder.results / "metrics.json", saved
    of_run = folder.results / "config.yaml"
    latest = [of_run] if of_run.exists() else sorted(folder.results.glob("config.*.yaml"), key=_written)[-1:]
    if not latest:
        return None
    try:
        return latest[0], OmegaConf.to_container(_yaml(latest[0]))  # type: ignore[return-value]
    except (OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        raise not_of_this_version(latest[0], error) from None


def not_of_this_version(path: Path, error: Exception) -> UserError:
    """For a saved configuration that cannot be read as one of today's."""
    reason = str(error).splitlines()[0]
    return UserError(f"{path}: its configuration is not one of this version ({reason}); run stage=evaluate there again")
