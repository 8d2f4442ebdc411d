"""Sharp masks in the stages: SAM behind the heads, where `logic.refine` says so.

A picture is looked at once. Expressions about it that come one after the other are asked together.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bbox import Localization
from conf.schema import Config, Refine
from lab.base.errors import DiskFull, NotWritten, reason
from lab.base.files import read_json, write_atomic
from lab.base.paths import find
from lab.base.processes import processes
from lab.records.folder import name_of, sibling
from lab.records.record import Record
from lab.refine.refiner import Refiner
from lab.stages.common import device_name
from lab.stages.results import Sharp, asked_with, picture_of

if TYPE_CHECKING:  # torch and transformers take seconds: wrong input is told before
    from lab.refine.refined import Refined

log = logging.getLogger(__name__)

UNREFINED = "unrefined.jsonl"


def refiner_of(config: Config) -> Refiner | None:
    """As a configuration says; None with logic.refine=none. Raises UserError if the checkpoint is no SAM."""
    if config.logic.refine == Refine.none:
        return None
    from lab.refine.kinds import kind_of  # the hub's library

    asked = config.refine.of(config.model.name)
    kind_of(str(find(str(asked.checkpoint))))
    return Refiner(asked, processes().device(device_name(config)))


def sharp(refiner: Refiner, refined: "Refined") -> Sharp:
    """A sharp mask as it is written: how it was asked for, so that any SAM can be, and what came."""
    told = {**asked_with(refiner.config), **refined.to_dict()}
    return Sharp(None if refined.why else refined.mask, told)


def sharp_mask(refiner: Refiner | None, record: Record, result: Localization, image_file: str | None) -> Sharp | None:
    """That of one sample; None without a refiner. `image_file` as for picture_of."""
    if refiner is None:
        return None
    return sharp(refiner, refiner(picture_of(record, image_file), [(record, result)])[0])


def print_sharp(found: Sharp | None) -> None:
    """What is told of a sharp mask, in a line."""
    if found is None:
        return
    if found.mask is None:
        print(f"no sharp mask: {found.told['why']}")
    else:
        share = 100 * found.mask.mean()
        print(f"sharp mask of {share:.1f} % of the picture, IoU {found.told['estimate']:.2f} by SAM's own estimate")


@dataclass(frozen=True, eq=False)
class Located:
    """A record that was read, and where its heads look."""

    path: Path  # the record's file
    record: Record
    result: Localization
    picture: Path


Failure = NotWritten | str
Write = Callable[[Located, "Refined"], list[Path]]


def refine_files(
    files: Iterable[Path], read: Callable[[Path], Located], refiner: Refiner, write: Write
) -> Iterator[tuple[Path, Failure | list[Path]]]:
    """Each record's file, and the files that were written of it or why it failed; one failure ends no other's work.

    Raises DiskFull, and UserError if SAM cannot be loaded.
    """
    read_all = (_attempt(path, partial(read, path)) for path in files)
    for _, group in groupby(read_all, key=lambda one: one.picture if isinstance(one, Located) else one):
        some = list(group)
        good = [one for one in some if isinstance(one, Located)]
        yield from ((one[0], one[1]) for one in some if not isinstance(one, Located))
        if not good:
            continue
        assert refiner.sam is not None  # what is wrong with it is wrong for all
        found = [(one.record, one.result) for one in good]
        masks = _attempt(good[0].path, partial(refiner, good[0].picture, found))
        if isinstance(masks, tuple):
            yield from ((one.path, masks[1]) for one in good)
            continue
        for one, mask in zip(good, masks, strict=True):
            written = _attempt(one.path, partial(write, one, mask))
            yield one.path, written[1] if isinstance(written, tuple) else written


def _attempt(path: Path, work: Callable[[], Any]) -> Any:
    """What the work gives, or (path, why it failed). Raises DiskFull."""
    try:
        return work()
    except DiskFull:
        raise
    except NotWritten as error:
        return path, error
    except Exception as error:  # one record must not end the others' work
        return path, reason(error)


def list_unrefined(file: Path, records: Iterable[Path]) -> None:
    """Lists the samples without a sharp mask, and why, in a file, `unrefined.jsonl`; no file if all have one.

    `records` are the records' files or names as their results lie beside them.
    """
    told = [(name_of(path), _told(sibling(path, "_bbox.json"))) for path in records]
    lines = [{"id": name, "why": one["why"]} for name, one in told if "why" in one]
    if not lines:
        file.unlink(missing_ok=True)  # of an earlier run
        return
    write_atomic(file, "".join(json.dumps(line) + "\n" for line in lines))
    log.warning("%d of %d samples have no sharp mask: %s lists them", len(lines), len(told), file)


def _told(file: Path) -> dict[str, Any]:
    """What a file of a box tells of the sharp mask; nothing if it is not there, or damaged."""
    try:
        told = read_json(file)
    except (OSError, ValueError):
        return {}
    return (told.get("refine") or {}) if isinstance(told, dict) else {}
