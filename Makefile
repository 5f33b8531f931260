# Each target creates .venv and installs what it needs, once: `make quickstart` works on a fresh clone.
PYTHON ?= python3
PYTHON_OLDEST ?= python3.10
# A virtual environment belongs to the Python it was made with. `make test PYTHON=python3.12` beside a .venv of 3.11 makes
# .venv-3.12.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
MADE_WITH := $(shell sed -nE 's/^version(_info)? *= *([0-9]+\.[0-9]+).*/\2/p' .venv/pyvenv.cfg 2>/dev/null)
VENV := .venv$(addprefix -,$(if $(MADE_WITH),$(filter-out $(MADE_WITH),$(VERSION))))
OLDEST := .venv-oldest
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet -c constraints.txt
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help quickstart test test-all test-slow test-multiworker test-torch test-gpu test-wheel test-oldest test-times mutations bench lint clean

help:
	@echo "make quickstart        pre-train on the built-in digits, on a CPU"
	@echo "make test              the default tests"
	@echo "make test-all          the default, slow, multiworker and torch tests"
	@echo "make test-TIER         one tier: slow, multiworker, torch, wheel or gpu"
	@echo "make test-oldest       the default tests with the oldest versions that setup.py admits, on $(PYTHON_OLDEST)"
	@echo "make test-times        how long the tests of each file take"
	@echo "make mutations         breaks the package in many places, and says which tests notice"
	@echo "make bench             every benchmark of minutes, one after the other"
	@echo "make lint              ruff: rules and format; mypy: types"
	@echo "make clean             remove the virtual environments"
	@echo "With PYTHON=python3.12 any of them runs on that Python, here in $(VENV)."

quickstart: $(VENV)/.stamp-test
	$(BIN)/python train.py --flagfile=configs/quickstart.cfg

# Two processes, since most of a test is done by one core: tracing, importing, compiling.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(VENV)/.stamp-test
	$(PYTEST)

test-all: test test-slow test-multiworker test-torch test-wheel

test-slow: $(VENV)/.stamp-services
	$(PYTEST) -m slow

test-torch: $(VENV)/.stamp-torch
	$(PYTEST) -m torch

# Their tests start processes of their own, one after the other. pytest answers 5 where no test is collected, as without
# a GPU: no failure.
test-multiworker test-gpu test-wheel: test-%: $(VENV)/.stamp-test
	@$(BIN)/python -m pytest -m $* || \
	  { status=$$?; [ $$status -eq 5 ] || exit $$status; echo "make $@: no tests collected"; }

test-oldest: $(OLDEST)/.stamp
	$(OLDEST)/bin/python -m pytest -n 2 --dist worksteal

# The table of docs/tests.md.
test-times: $(VENV)/.stamp-test
	$(PYTEST) --junitxml=$(VENV)/default.xml
	$(PYTEST) -m slow --junitxml=$(VENV)/slow.xml
	$(BIN)/python -m tests.times default=$(VENV)/default.xml slow=$(VENV)/slow.xml

# Which tests notice that the package is broken, in each of the places of tests/mutations: half an hour.
mutations: $(VENV)/.stamp-test $(VENV)/.stamp-torch
	$(BIN)/python -m tests.mutations

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
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-3.* $(OLDEST)

# One stamp per extra: $(VENV)/.stamp-EXTRA is newer than the metadata once that extra is installed.
$(VENV)/.stamp-%: setup.py pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(PIP_INSTALL) -e ".[test,$*]"
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Python must be 3.11, 3.12 or 3.13 for the versions in constraints.txt." \
	       "Received: $$($(PYTHON) --version 2>&1). Run make PYTHON=/path/to/python3.11."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(OLDEST)/.stamp: setup.py pyproject.toml constraints-oldest.txt
	@$(PYTHON_OLDEST) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' || { \
	  echo "Python must be 3.10 for the versions in constraints-oldest.txt." \
	       "Received: $$($(PYTHON_OLDEST) --version 2>&1). Run make test-oldest PYTHON_OLDEST=/path/to/python3.10."; exit 1; }
	$(PYTHON_OLDEST) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet -c constraints-oldest.txt -e ".[test]"
	@touch $@
