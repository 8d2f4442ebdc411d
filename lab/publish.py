"""Results of a folder, put on the hub, where others find them: only when asked to, and only what is named here.

    python -m lab.publish runs/found/MODEL --to user/name           # says what would be sent, and sends nothing
    python -m lab.publish runs/found/MODEL --to user/name --push    # sends it, with the token of HF_TOKEN

Records, pictures and masks stay where they are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from lab.base.arguments import Parser
from lab.base.console import exit_in_one_line, table
from lab.base.errors import UserError
from lab.base.numbers import many, size
from lab.base.places import readable_folder

RESULTS = (
    "localization_heads.json", "selection_frequency.*", "presence.json", "presence.md", "metrics.json", "metrics.md",
    "head_iou.*", "samples.csv", "predictions.coco.json", "truth.coco.json", "study.json", "study.md", "study_*.*",
    "ablate.*", "report.html", "summary.json", "summary-*of*.json", "config.yaml", "config.*.yaml",
)  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    """Lists the results of the folder and, with --push, sends them in one commit."""
    options = _options(arguments)
    files = results(options.folder)
    print(table(("file", "size"), [(path.name, size(path.stat().st_size)) for path in files]))
    print("\nthe configuration and the tables may name folders of this machine: look at them first")
    if not options.push:
        print(f"nothing was sent; --push sends {many(len(files), 'file')} to {options.to}")
        return
    print(f"sent to {push(files, options.to, private=options.private)}")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m lab.publish", description="Puts the results of a folder on the hub.")
    parser.add_argument("folder", type=_folder, help="where stages wrote their results: <output_dir>/<model>")
    made = "data set on the hub; made if it is not there"
    parser.add_argument("--to", required=True, type=_repository, metavar="USER/NAME", help=made)
    parser.add_argument("--push", action="store_true", help="send them; without, only say what would be sent")
    parser.add_argument("--private", action="store_true", help="make the data set private if it is made")
    return parser.parse_args(arguments)


def _folder(text: str) -> Path:
    """Raises ArgumentTypeError for an empty text, which Path takes for the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; expected a folder with results, <output_dir>/<model>")
    return Path(text)


def _repository(text: str) -> str:
    """The name of a data set on the hub. Raises ArgumentTypeError if none can have it."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        text = ""
    if text.count("/") != 1:
        raise argparse.ArgumentTypeError("expected USER/NAME, of letters, digits, -, _ and .")
    return text


def results(folder: Path) -> list[Path]:
    """The files of RESULTS that are there. Raises UserError if there are none."""
    if not readable_folder(folder):
        raise UserError(f"{folder} is no folder; expected one with results, <output_dir>/<model>")
    found = sorted({path for pattern in RESULTS for path in folder.glob(pattern) if path.is_file()})
    if not found:
        raise UserError(f"no results in {folder}: stage=select, evaluate, study and others write them")
    return found


def push(files: Sequence[Path], repository: str, *, private: bool = False) -> str:
    """Sends the files in one commit. Returns the address. Raises UserError if the hub refuses."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()  # takes the token from the environment
    try:
        made = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        operations = [CommitOperationAdd(path.name, path) for path in files]
        api.create_commit(made.repo_id, operations, commit_message="Results of localization heads", repo_type="dataset")
    except Exception as error:  # it fails in as many ways as there are libraries between here and the hub
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{repository}: {reason}; {_hint(error)}") from None
    return str(made)


def _hint(error: Exception) -> str:
    """What may be wrong, by the hub's answer, if there was one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403, 404) or isinstance(error, LocalTokenNotFoundError):
        return "is HF_TOKEN set, and may it write there?"
    return "can the hub be reached from here?" if status is None else "try again later"


if __name__ == "__main__":
    with exit_in_one_line():
        main(sys.argv[1:])
