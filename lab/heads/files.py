"""Files of localization heads, as stage=select writes them, read and checked."""

import json
from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import check_pointer
from lab.base.numbers import whole

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
