"""Text that a command writes into a Markdown file between two marks."""

import sys
from pathlib import Path


def between(text: str, name: str, command: str, made: str) -> str:
    """The text with what was made between its marks. Raises ValueError if it has no marks."""
    begin, end = f"<!-- {name}: {command} -->", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n\n{made}\n\n{end}{after}"


def print_or_write(file: Path, name: str, module: str, made: str) -> None:
    """Prints what was made or, with --write on the command line, puts it into the file."""
    if "--write" in sys.argv[1:]:
        text = between(file.read_text(encoding="utf-8"), name, f"python -m {module} --write", made)
        file.write_text(text, encoding="utf-8")
    else:
        print(made)
