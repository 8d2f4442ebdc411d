# make demo   what the tool does, on the shipped model (no GPU, no download)
# make test   linters, types and the whole test suite
# make fuzz   2,000 made-up inputs, each in a process of its own
# make bench  the speeds that README.md tells, on this machine
# make bench-gpu   the same on one GPU, for a model of a real size, in under eight minutes
# make figures  the pictures in README.md
# make app    the live page, http://127.0.0.1:7860
# make notebook  runs examples/notebooks anew and keeps what it shows
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test fuzz lint bench figures app notebook clean

demo: $(VENV)/runtime
	$(BIN)/python pipeline.py stage=pipeline

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

fuzz: $(VENV)/dev
	FUZZ_CASES=2000 $(BIN)/python -m pytest tests/fuzz

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/runtime: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt --constraint constraints.txt
	touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/runtime
	$(BIN)/pip install --quiet --requirement requirements-dev.txt --constraint constraints.txt
	touch $@

bench: $(VENV)/runtime
	$(BIN)/python -m lab.bench

bench-gpu: $(VENV)/runtime
	$(BIN)/python -m lab.bench.gpu

figures: $(VENV)/runtime
	$(BIN)/python -m lab.picturebook.figures out=examples/images

app: $(VENV)/app
	$(BIN)/python -m lab.app

$(VENV)/app: requirements-app.txt $(VENV)/runtime
	$(BIN)/pip install --quiet --requirement requirements-app.txt --constraint constraints.txt
	touch $@

notebook: $(VENV)/dev
	$(BIN)/jupyter execute --inplace examples/notebooks/localization_heads.ipynb

clean:
	rm -rf $(VENV) outputs
