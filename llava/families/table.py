"""The families as a Markdown table, from their classes.

python -m llava.families.table             # prints it
python -m llava.families.table --write     # puts it into examples/guides/checkpoints.md
"""

import sys
from pathlib import Path

from llava.families import KINDS

GUIDE = Path(__file__).parents[2] / "examples" / "guides" / "checkpoints.md"
BEGIN, END = "<!-- families: python -m llava.families.table --write -->", "<!-- end of families -->"


def family_table() -> str:
    """A row for each family."""
    rows = [f"| {', '.join(f'`{kind}`' for kind in one.model_types)} | {one.special} |" for one in KINDS]
    return "\n".join(["| `model_type` in config.json | its pictures |", "|---|---|", *rows])


def with_table(text: str) -> str:
    """The text with today's table between its marks. Raises ValueError if it has no marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{family_table()}\n\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        GUIDE.write_text(with_table(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(family_table())
