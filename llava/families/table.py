"""The families as a Markdown table, from their classes.

python -m llava.families.table             # prints it
python -m llava.families.table --write     # puts it into examples/guides/checkpoints.md
"""

from pathlib import Path

from lab.base.marked import print_or_write
from llava.families import KINDS

GUIDE = Path(__file__).parents[2] / "examples" / "guides" / "checkpoints.md"


def family_table() -> str:
    """A row for each family."""
    rows = [f"| {', '.join(f'`{kind}`' for kind in one.model_types)} | {one.special} |" for one in KINDS]
    return "\n".join(["| `model_type` in config.json | its pictures |", "|---|---|", *rows])


if __name__ == "__main__":
    print_or_write(GUIDE, "families", "llava.families.table", family_table())
