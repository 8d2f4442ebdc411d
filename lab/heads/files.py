"""Files of localization heads, as stage=select writes them, read and checked; conf/heads holds those that are known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.base.checkpoints import same_model
from lab.base.errors import UserError, in_words
from lab.base.files import check_pointer, read_json
from lab.base.numbers import text_or_none, whole
from lab.base.paths import PROJECT, exists, find, is_file

NAME = "localization_heads.json"
KNOWN = PROJECT / "conf" / "heads"
EXPECTED = f"expected a {NAME} as stage=select writes it"


def heads_file(named: str) -> Path:
    """The file that `logic.heads` names: a path or, where no file is there, one in conf/heads, by its name or by the
    model whose heads it holds.
    """
    path, known = find(named), KNOWN / f"{named}.json"
    if is_file(path):
        return path
    if exists(known):
        return known
    return next((file for file in sorted(KNOWN.glob("*.json")) if same_model(_model_in(file), named)), path)


def _model_in(file: Path) -> str:
    return str(read_heads(file)["model"])


def read_heads(path: Path) -> dict[str, Any]:
    """A file of stage=select as {file, model, shape, heads, frequency, found}.

    heads: [[layer, head], ...], zero-based, the one selected most often first. shape: [layers, heads] of the model,
    model: its name; both None if the file was counted from rankings alone. frequency: in what share of the samples each
    head was selected, 0 to 1, or None. found: how they were found, in words, or None. Raises UserError if there is no
    such file or it is malformed.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in KNOWN.glob("*.json")))
        expected = f"expected null, preset, [[layer, head], ...], a {NAME}, one of {known}, or a model of theirs"
        raise UserError(f"logic.heads={path}: no such file; {expected}") from None
    except OSError as error:
        raise UserError(f"logic.heads={path}: cannot be read ({error.strerror or error}); {EXPECTED}") from None
    except ValueError as error:  # not UTF-8, not JSON, or empty
        check_pointer(path)
        raise UserError(f"logic.heads={path}: not JSON ({error}); {EXPECTED}") from None
    try:
        shape = (
            [whole(content[key]) for key in ("num_layers", "num_heads")] if content["num_layers"] is not None else None
        )
        heads = [[whole(row["layer"]), whole(row["head"])] for row in content["heads"]]
        frequency = _frequency(content["heads"])
        model, found = (text_or_none(content, key) for key in ("model", "found"))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"logic.heads={path}: malformed ({in_words(error)}); {EXPECTED}") from None
    if not heads:
        raise UserError(f"logic.heads={path}: names no heads; {EXPECTED}")
    return {"file": str(path), "model": model, "shape": shape, "heads": heads, "frequency": frequency, "found": found}


def _frequency(rows: Sequence[Any]) -> list[float] | None:
    """The heads' frequencies if every head has one. Raises ValueError if one is no share."""
    if not all("frequency" in row for row in rows):
        return None
    found = [float(row["frequency"]) for row in rows]
    if not all(0 <= share <= 1 for share in found):
        raise ValueError("a frequency that is not between 0 and 1")
    return found
