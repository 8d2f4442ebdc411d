"""Every key of the configuration as Markdown tables, from the schema.

python -m conf.keys             # prints them
python -m conf.keys --write     # puts them into conf/README.md
"""

import sys
from itertools import groupby
from pathlib import Path

from conf.help import as_typed, value_of
from conf.schema import configuration, keys

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- keys: python -m conf.keys --write -->", "<!-- end of keys -->"


def key_tables() -> str:
    """One table for each group; the rules' defaults are those of logic=selection_v1."""
    config, parts = configuration(["logic=selection_v1"]), []
    for group, rows in groupby(keys(), key=lambda row: row[0].rpartition(".")[0]):
        lines = [f"| `{group or 'top'}` | default | meaning |", "|---|---|---|"]
        for name, one in rows:
            lines.append(f"| `{name}` | {as_typed(value_of(config, name))} | {one.metadata['text']} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def with_tables(text: str) -> str:
    """The text with today's tables between its marks. Raises ValueError if it has no marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{key_tables()}\n\n{END}{after}"


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(key_tables())
