"""stage=analyze with data.attention_dir.

The ranking of every record of a folder, in worker processes, memory flat in their number.

A record that cannot be ranked is listed in analysis_errors.jsonl, and the others are ranked all the same.
"""

import json
import logging
import time
from functools import partial
from pathlib import Path

from analyze import rank_heads
from conf.schema import Config, LogicConfig
from lab.base.console import progress, table
from lab.base.errors import DiskFull, InARow, NotWritten, UserError
from lab.base.files import check_writable, write_atomic
from lab.base.paths import find
from lab.base.workers import in_workers, worker_count
from lab.records.files import load_record
from lab.records.folder import list_samples
from lab.stages.results import write_ranking

log = logging.getLogger(__name__)


ERRORS = "analysis_errors.jsonl"


def analyze_folder(config: Config) -> int:
    """Writes `X_analysis.pkl` and `.json` beside every record of `data.attention_dir`.

    Returns 1 if a record could not be ranked.
    """
    folder, files = _records(config)
    workers = worker_count(config.data.workers, len(files))
    began = time.monotonic()
    outcomes = in_workers(partial(rank_file, logic=config.logic), files, workers)
    errors, unwritten = [], InARow()
    for path, error in progress(outcomes, "analyze", total=len(files)):
        if error is not None:
            log.error("%s", error)
            name = path.name.removesuffix(".gz").removesuffix(".pkl")
            errors.append({"id": name, "file": str(path), "error": str(error)})
        unwritten.count(error)
    seconds = time.monotonic() - began
    if errors:
        write_atomic(folder / ERRORS, "".join(json.dumps(error) + "\n" for error in errors))
    else:
        (folder / ERRORS).unlink(missing_ok=True)  # of an earlier run
    row = (len(files), len(errors), f"{seconds:.1f}", f"{len(files) / seconds:.0f}", workers)
    print(table(("records", "failed", "seconds", "records/s", "workers"), [row]))
    print(f"\nwrote *_analysis.pkl and .json in {folder}{f' ({ERRORS} lists what failed)' if errors else ''}")
    return 1 if errors else 0


def _records(config: Config) -> tuple[Path, list[Path]]:
    """The folder and its records in order of their names.

    Raises UserError if there are none or results cannot be written.
    """
    if config.data.attention_file is not None:
        raise UserError(
            "data.attention_file names one record, data.attention_dir a folder of them: give one of the two"
        )
    folder = find(str(config.data.attention_dir))
    files = list(list_samples(folder)["records"].values())
    if not files:
        raise UserError(
            f"no records in {folder}: set data.attention_dir to a folder of .pkl or .pkl.gz files, as "
            "stage=batch writes them"
        )
    check_writable(folder, ERRORS)
    return folder, files


def rank_file(path: Path, logic: LogicConfig) -> NotWritten | str | None:
    """Ranks the record in a file and writes the ranking beside it.

    What is wrong with the record, or why the ranking cannot be written, or None. Raises DiskFull.
    """
    try:
        write_ranking(path, rank_heads(load_record(path, logic.grids), logic))
    except DiskFull:
        raise
    except NotWritten as error:
        return error
    except UserError as error:
        return str(error)
    except Exception as error:  # one record must not end the others' ranking
        return f"{path}: {type(error).__name__}: {error}"
    return None
