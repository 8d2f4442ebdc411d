"""The stages: one file for each, and one table of them.

    STAGES["batch"].run(config, choice)     # the exit code

A stage gets the whole configuration and, if it uses heads, the ones that were chosen. It prints a short table and
returns an exit code. What lies below the stages gets the parts that it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conf.schema import Config
from lab.base.console import CONTINUES

if TYPE_CHECKING:  # numpy: a wrong key is told before it is imported
    from lab.heads.choice import HeadChoice


@dataclass(frozen=True)
class Stage:
    """What `stage=NAME` does."""

    run: "Callable[[Config, HeadChoice], int]"
    text: str  # one line, for --help
    many: bool = False  # whether it divides its work among the processes of a launcher
    heads: bool = True  # whether it uses `logic.heads`
    presence: bool = True  # whether it tells presence
    finds: bool = False  # whether it finds heads: the file that `logic.heads` names may be the one that it writes
    again: str = ""  # what the same command does once it was stopped, if not all of it anew


KEEPS = "the same command keeps the records that are there"  # and does anew what follows from them


# Each stage is imported when it runs: it starts without the libraries of the others, which saves up to a second.


def _collect(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.collect import run

    return run(config, choice)


def _analyze(config: Config, _choice: "HeadChoice") -> int:
    from lab.stages.analyze import run

    return run(config)


def _visualize(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.visualize import run

    return run(config, choice)


def _pipeline(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.pipeline import run

    return run(config, choice)


def _batch(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.batch import run

    return run(config, choice)


def _select(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.select import run

    return run(config, choice)


def _evaluate(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.evaluate import run

    return run(config, choice)


def _study(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.study import run

    return run(config, choice)


def _ablate(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.ablate import run

    return run(config, choice)


def _calibrate(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.calibrate import run

    return run(config, choice)


def _report(config: Config, choice: "HeadChoice") -> int:
    from lab.stages.report import run

    return run(config, choice)


STAGES = {
    "collect": Stage(_collect, "picture and expression -> record: what every head looks at"),
    "analyze": Stage(_analyze, "record, or a folder of them -> the heads, best first", heads=False),
    "visualize": Stage(_visualize, "record -> mask, box and figures"),
    "pipeline": Stage(_pipeline, "collect, analyze and visualize one picture"),
    "batch": Stage(_batch, "a JSONL of samples -> a record and a ranking for each", many=True, again=CONTINUES),
    "select": Stage(_select, "records -> the heads that are selected again and again", finds=True, again=KEEPS),
    "evaluate": Stage(_evaluate, "records and the truth -> how good boxes and masks are", again=KEEPS),
    "study": Stage(_study, "records and the truth -> the paper's tables in miniature", presence=False, again=KEEPS),
    "ablate": Stage(_ablate, "samples -> whether the model uses the heads, or they only look", presence=False),
    "calibrate": Stage(_calibrate, "samples -> how surely the heads tell whether the thing is there", presence=False),
    "report": Stage(_report, "a folder of records, or two -> one page with everything"),
}


def again(stage: str) -> str:
    """What is told of the same command where this stage was stopped; nothing of a stage that there is not."""
    return STAGES[stage].again if stage in STAGES else ""
