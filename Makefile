# Each target creates .venv and installs what it needs, once: `make quickstart` works on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet -c constraints.txt
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help quickstart test test-all test-slow test-multiworker test-torch test-gpu bench lint clean

help:
	@echo "make quickstart        pre-train on the built-in digits, on a CPU"
	@echo "make test              the default tests"
	@echo "make test-all          the default, slow, multiworker and torch tests"
	@echo "make test-TIER         one tier: slow, multiworker, torch or gpu"
	@echo "make bench             every benchmark of minutes, one after the other"
	@echo "make lint              ruff: rules and format"
	@echo "make clean             remove $(VENV)"

quickstart: $(VENV)/.stamp-test
	$(BIN)/python train.py --flagfile=configs/quickstart.cfg

# Two processes, each with whole files, since many tests wait for one core: tracing, importing, compiling.
test: $(VENV)/.stamp-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: test test-slow test-multiworker test-torch

# pytest answers 5 when a tier holds no test: that is said, and is no failure.
test-slow test-multiworker test-gpu: test-%: $(VENV)/.stamp-test
	@$(BIN)/python -m pytest -m $* || \
	  { status=$$?; [ $$status -eq 5 ] || exit $$status; echo "make $@: no tests collected"; }

test-torch: $(VENV)/.stamp-torch
	@$(BIN)/python -m pytest -m torch -n 2 --dist loadfile || \
	  { status=$$?; [ $$status -eq 5 ] || exit $$status; echo "make $@: no tests collected"; }

# What pages of docs are made of has its commands there: docs/mechanisms.md (hours), docs/reading_the_curves.md.
PAGES := $(addprefix benchmarks/,mechanisms.py plot_mechanisms.py curves.py plot_curves.py)
bench: $(VENV)/.stamp-test | runs/quickstart/export/backbone.keras
	@for script in $(filter-out $(PAGES),$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

# What benchmarks/detection.py starts from.
runs/quickstart/export/backbone.keras:
	$(MAKE) quickstart

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV)

# One stamp per extra: $(VENV)/.stamp-EXTRA is newer than the metadata once that extra is installed.
$(VENV)/.stamp-%: setup.py pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP_INSTALL) -e ".[test,$*]"
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python must be 3.11 or newer for the versions in constraints.txt. Received: $$($(PYTHON) --version 2>&1)." \
	       "Run make PYTHON=/path/to/python3.11."; exit 1; }
	$(PYTHON) -m venv $(VENV)
