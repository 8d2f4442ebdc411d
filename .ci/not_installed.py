"""The build backend of pyproject.toml: what `pip install .` is told instead of building anything."""

raise SystemExit("the project is run from its folder: pip install -r requirements.txt -c constraints.txt (README.md)")
