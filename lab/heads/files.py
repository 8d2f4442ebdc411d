"""Files of localization heads, as stage=select writes them: read, checked, and put in place of `logic.heads=path`."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from conf.schema import PRESET, Config
from lab.base.errors import UserError
from lab.base.files import check_pointer
from lab.base.numbers import whole
from lab.base.paths import find, same_model
from lab.heads.choice import HeadChoice

log = logging.getLogger(__name__)

NAME = "localization_heads.json"
EXPECTED = f"expected a {NAME} as stage=select writes it"


def read_heads(path: Path) -> dict[str, Any]:
    """A file of stage=select as {file, model, shape, heads}.

    heads: [[layer, head], ...], zero-based, the one selected most often first. shape: [layers, heads] of the model,
    model: its name; both None if the file was counted from rankings alone. Raises UserError if there is no such file or
    it is malformed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"logic.heads={path}: no such file; expected null, preset, [[layer, head], ...] or a {NAME}"
        ) from None
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
        model = content.get("model")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"logic.heads={path}: malformed ({type(error).__name__}: {error}); {EXPECTED}") from None
    if not heads:
        raise UserError(f"logic.heads={path}: names no heads; {EXPECTED}")
    return {"file": str(path), "model": model if isinstance(model, str) else None, "shape": shape, "heads": heads}


def with_heads_of_file(config: Config) -> Config:
    """The configuration with what is in the file in place of `logic.heads=path`: its first `top_k` heads.

    Unchanged if that names no file. stage=select ranks every sample, so that it may write the very file that
    `logic.heads` names.
    """
    if not isinstance(config.logic.heads, str) or config.logic.heads == PRESET:
        return config
    heads: dict[str, Any] | None = None
    if config.stage != "select":
        heads = read_heads(find(config.logic.heads))
        heads["heads"] = heads["heads"][: config.logic.top_k]
    return replace(config, logic=replace(config.logic, heads=heads))


def warn_of_foreign_heads(of: str, name: str) -> None:
    """Says that the preset's heads are of the checkpoint `of`, not of the model `name`, and how to find its own."""
    find_its_own = f"python pipeline.py stage=select model.name={name} data.data_file=FILE data.process_all=true"
    log.warning(
        "the preset's heads are of %s, not of %s: heads are ranked for each sample; to find its own: %s",
        of,
        name,
        find_its_own,
    )


def warn_of_another_model(choice: HeadChoice, name: str) -> None:
    """Says so if the heads were found in another model than `name`: of the same shape, but not the same heads."""
    if choice.model and not choice.is_preset and not same_model(choice.model, name):
        log.warning("the heads of %s were found in %s, and this is %s", choice.source, choice.model, name)
