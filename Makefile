# Everything runs inside $(VENV), which is made on the first use and again when pyproject.toml or
# constraints.txt change. `make help` lists the targets.

VENV ?= .venv
PYTHON ?= python3
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1

# A module stays on one worker: it may hold real processes in a fixture. Swarm tests come first.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench bench-swarm attacks lab proto errors clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -c constraints.txt -e '.[peer,coordinator,dev]'
	touch $@

install: $(STAMP)  ## Make the virtual environment and install everything into it

demo: $(STAMP)  ## A whole network on this machine: one cycle from data to credits
	$(PY) scripts/demo.py

test: $(STAMP)  ## All tests
	$(PY) -m pytest $(PYTEST_ARGS)

lint: $(STAMP)  ## Style, types and the direction of imports
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	PYTHONPATH=.:peer:coordinator:dht_bootstrap $(VENV)/bin/lint-imports --no-cache

format: $(STAMP)  ## Mend what ruff can mend
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(STAMP)  ## The benchmarks; results go to benchmarks/results
	$(PY) -m benchmarks

attacks: $(STAMP)  ## Attacks against several rules of aggregation: docs/attacks.md and its picture
	$(PY) -m benchmarks.attacks

lab: $(STAMP)  ## A scenario behind home links, in network namespaces (root): make lab SCENARIO=cut
	$(PY) -m benchmarks.lab $(or $(SCENARIO),home-4) $(LAB_ARGS)

bench-swarm: $(STAMP)  ## Ours against hivemind.Optimizer behind home links (root): bytes, time to the same loss
	$(PY) -m benchmarks.lab.side_by_side --output benchmarks/results/swarm.json

proto: $(STAMP)  ## Generate ares_p2p/wire/v1 from proto/
	$(PY) scripts/make_proto.py

errors: $(STAMP)  ## Generate docs/errors.md from ares_p2p/errors.py
	$(PY) scripts/make_errors_doc.py

clean:  ## Remove what was built, except the virtual environment and its packages
	rm -rf build dist htmlcov demo-out lab-out .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -print | xargs -r rm -rf
