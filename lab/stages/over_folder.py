"""A stage over every record of `data.attention_dir`, in worker processes, memory flat in their number.

A record for which it fails is listed in a file of errors, and the others are done all the same.
"""

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from conf.schema import Config
from lab.base.console import progress, table
from lab.base.errors import DiskFull, InARow, NotWritten, UserError
from lab.base.files import write_atomic
from lab.base.paths import find
from lab.base.workers import in_workers, worker_count
from lab.records.folder import list_samples, name_of
from lab.stages.common import check_results, make_results_folder

log = logging.getLogger(__name__)

# the files, the folder of the results -> each file, and what is wrong with it
Together = Callable[[Collection[Path], Path], Iterator[tuple[Path, NotWritten | str | None]]]
Work = Callable[[Path, Path], None]  # a record's file, and the same name in the folder of the results


def over_folder(
    config: Config,
    files: Collection[Path],
    work: Work,
    *,
    errors_name: str,
    wrote: str,
    together: Together | None = None,
) -> int:
    """Does the work for every record of `records_of`; returns 1 if it failed for one, else 0.

    `work` can be sent to other processes; `together` takes its place where one process does all. `wrote` names the
    files that it writes into `results_folder`.
    """
    check_results(config, errors_name)
    folder = make_results_folder(config)
    workers = worker_count(config.data.workers, len(files)) if together is None else 1
    began = time.monotonic()
    each = in_workers(partial(_done, work=work, folder=folder), files, workers)
    outcomes = each if together is None else together(files, folder)
    errors, unwritten = [], InARow()
    for path, error in progress(outcomes, config.stage, total=len(files)):
        if error is not None:
            log.error("%s", error)
            errors.append({"id": name_of(path), "file": str(path), "error": str(error)})
        unwritten.count(error)
    seconds = time.monotonic() - began
    if errors:
        write_atomic(folder / errors_name, "".join(json.dumps(error) + "\n" for error in errors))
    else:
        (folder / errors_name).unlink(missing_ok=True)  # of an earlier run
    row = (len(files), len(errors), f"{seconds:.1f}", f"{len(files) / seconds:.0f}", workers)
    print(table(("records", "failed", "seconds", "records/s", "workers"), [row]))
    print(f"\nwrote {wrote} in {folder}{f' ({errors_name} lists what failed)' if errors else ''}")
    return 1 if errors else 0


def records_of(config: Config) -> Collection[Path]:
    """The records of `data.attention_dir`, in order of their names. Raises UserError if there are none."""
    if config.data.attention_file is not None:
        raise UserError(
            "data.attention_file names one record, data.attention_dir a folder of them: give one of the two"
        )
    folder = find(str(config.data.attention_dir))
    files = list_samples(folder)["records"].values()
    if not files:
        raise UserError(
            f"no records in {folder}: set data.attention_dir to a folder of .pkl, .pkl.gz or .safetensors "
            "files, as stage=batch writes them"
        )
    return files


def _done(path: Path, work: Work, folder: Path) -> NotWritten | str | None:
    """Does the work for one record. What is wrong with it, or why its results cannot be written, or None.

    Raises DiskFull.
    """
    try:
        work(path, folder / path.name)
    except DiskFull:
        raise
    except NotWritten as error:
        return error
    except UserError as error:
        return str(error)
    except Exception as error:  # one record must not end the others' work
        return f"{path}: {type(error).__name__}: {error}"
    return None
