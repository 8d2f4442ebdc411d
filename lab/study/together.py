"""The claims of several studies side by side: what holds on one set of scenes may not on another.

    python -m lab.study.together runs/a/MODEL/study.json runs/b/MODEL/study.json

Prints a table: of each claim what each study measured, and the verdict that all of them share, or `open`.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.base.console import exit_in_one_line, markdown
from lab.base.errors import UserError
from lab.base.files import read_json
from lab.study.claims import Claim
from lab.study.report import claim_number


def read_study(path: Path) -> Mapping[str, Any]:
    """A study.json. Raises UserError if it is none."""
    try:
        study = read_json(path)
        return {"samples": int(study["scored"]), "claims": [_claim(claim) for claim in study["claims"]]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: no study.json ({error}); expected one that stage=study wrote") from None


def _claim(saved: Mapping[str, Any]) -> Claim:
    """A claim of the file; null is what could not be measured."""
    values = {key: float("nan") if saved[key] is None else saved[key] for key in ("value", "low", "high", "bound")}
    return Claim(
        saved["text"],
        **values,
        above=saved["above"],
        unit=saved["unit"],
        note=saved["note"],
        few=saved.get("few", False),
    )


def together(studies: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown. Raises UserError if the studies make different claims."""
    texts = [[claim.text for claim in study["claims"]] for study in studies]
    if any(other != texts[0] for other in texts):
        raise UserError("the studies make different claims: make them with the same configuration")
    rows = []
    for claims in zip(*(study["claims"] for study in studies), strict=True):
        verdicts = {claim.verdict for claim in claims}
        rows.append(
            (claims[0].text, *map(claim_number, claims), f"**{verdicts.pop() if len(verdicts) == 1 else 'open'}**")
        )
    headers = [f"study {i + 1}, {study['samples']} samples" for i, study in enumerate(studies)]
    return markdown(("claim", *headers, "in all"), rows)


if __name__ == "__main__":
    with exit_in_one_line():
        if len(sys.argv) < 3:
            raise UserError("give two files or more: python -m lab.study.together A/study.json B/study.json")
        print(together([read_study(Path(path)) for path in sys.argv[1:]]))
