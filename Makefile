# Everything sets itself up: a virtual environment in .venv, then the work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DATA := .real-data
OUT ?= glasshouse-demo
WORKERS ?= 2

.PHONY: demo test quick check format bench docs figures clean

demo: $(VENV)/.demo ## explain a real classifier's decisions on real photographs, and write a report
	$(BIN)/glasshouse demo --out $(OUT)

test: $(VENV)/.dev ## the full suite, with real weights and photographs, beside the peers that can be installed
	-@$(MAKE) --no-print-directory $(VENV)/.peers
	$(BIN)/python scripts/fetch_real.py $(DATA)
	GLASSHOUSE_REAL_DATA=$(abspath $(DATA)) GLASSHOUSE_REQUIRE_REAL=1 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

quick: $(VENV)/.dev ## what runs in under two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow"

check: $(VENV)/.dev ## style, types, and which folder may import which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.dev $(VENV)/.bench ## speed beside Captum and pytorch-grad-cam, as ratios
	$(BIN)/python -m benchmarks

docs: $(VENV)/.dev $(VENV)/.docs ## the documentation, into site/
	$(BIN)/zensical build --clean

figures: $(VENV)/.dev ## draw the figures of the documentation again
	for example in examples/*.py examples/*/*.py; do \
		GLASSHOUSE_FIGURES=docs/figures GLASSHOUSE_STEPS=256 GLASSHOUSE_IMAGES=100 $(BIN)/python $$example > /dev/null || exit 1; done

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch

$(VENV)/.%: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) .cache .real-data site glasshouse-demo
