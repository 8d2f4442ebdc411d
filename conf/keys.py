"""Every key of the configuration as Markdown tables, from the schema.

python -m conf.keys             # prints them
python -m conf.keys --write     # puts them into conf/README.md
"""

from itertools import groupby
from pathlib import Path

from conf.help import as_typed, value_of
from conf.schema import configuration, keys
from lab.base.marked import print_or_write

README = Path(__file__).parent / "README.md"


def key_tables() -> str:
    """One table for each group; the rules' defaults are those of logic=selection_v1."""
    config, parts = configuration(["logic=selection_v1"]), []
    for group, rows in groupby(keys(), key=lambda row: row[0].rpartition(".")[0]):
        lines = [f"| `{group or 'top'}` | default | meaning |", "|---|---|---|"]
        for name, one in rows:
            lines.append(f"| `{name}` | {as_typed(value_of(config, name))} | {one.metadata['text']} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print_or_write(README, "keys", "conf.keys", key_tables())
