# Every command sets up what it needs, with nothing but Python >= 3.11 and a package index.
# `make` alone lists the commands.

.DEFAULT_GOAL := help
.PHONY: help demo test test-all coverage lint format reference api bench dist ollama clean
SHELL := /bin/sh
MAKEFLAGS += --no-print-directory

IN_VENV := .venv/bin/python
# Several processes test at once: threads of NumPy in each of them would wait for one another.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# What setup.sh has installed is up to date while its stamp is newer than what it depends on.
DEMO := .venv/.ready-demo
TEST := .venv/.ready-test
DEV := .venv/.ready-dev
# What users import; the rooms behind these are described in docs/architecture.md.
API := cascade $(addprefix cascade.,agents confidence evaluation integrations ledger middleware models policies teaching testing)

.venv/.ready-%: pyproject.toml scripts/setup.sh scripts/uv.sh
	@scripts/setup.sh $*

help: ## this list
	@echo "make <command> [ARGS='...']"; echo
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1 /p' Makefile | awk '{n = $$1; $$1 = ""; printf "  %-10s%s\n", n, $$0}'

demo: $(DEMO) ## a real small model answers, checks itself, escalates; what that costs and saves
	@.venv/bin/cascade demo $(ARGS)

test: $(TEST) ## tests for people: a few minutes, nothing heavy; ARGS='-k word' runs some
	@$(ONE_THREAD) $(IN_VENV) -m pytest -m "not heavy" $(or $(ARGS),--numprocesses 2 --dist loadfile)

test-all: $(TEST) ## what starts clusters, browsers and servers as well
	@$(ONE_THREAD) $(IN_VENV) -m pytest -m heavy $(or $(ARGS),--numprocesses 2 --dist loadfile)

coverage: $(TEST) ## both, and how much of the lines and branches they reach
	@$(MAKE) test ARGS="--numprocesses 2 --dist loadfile --cov --cov-report="
	@$(MAKE) test-all ARGS="--numprocesses 2 --dist loadfile --cov --cov-append --cov-report="
	@$(IN_VENV) -m coverage report

lint: $(DEV) ## style, format, types (ruff, mypy, pyright)
	@$(IN_VENV) -m ruff check .
	@$(IN_VENV) -m ruff format --check .
	@$(IN_VENV) -m mypy cascade scripts benchmarks tests/conftest.py tests/house $(wildcard examples/*.py)
	@$(IN_VENV) -m pyright

format: $(DEV) ## mend style and format where a program can
	@$(IN_VENV) -m ruff check --fix-only --quiet .
	@$(IN_VENV) -m ruff format .

reference: $(TEST) ## write the reference of commands and configuration into docs/; ARGS=--check: only look
	@$(IN_VENV) scripts/reference.py $(ARGS)

api: $(TEST) ## write the reference of the Python interface, as pages of HTML, into site/ (or ARGS=folder)
	@$(IN_VENV) -W ignore -m pdoc --no-show-source --docformat google --output-directory $(or $(ARGS),site) $(API)

bench: $(TEST) ## run every benchmark; ARGS='--json' prints JSON lines
	@$(IN_VENV) scripts/bench.py $(ARGS)

dist: $(TEST) ## wheel and source distribution, tried on every Python there is; ARGS=--extras: all of it
	@$(IN_VENV) scripts/dist.py $(ARGS)

ollama: ## the official Ollama server into .tools/ollama, for the live tests (needs Go)
	@scripts/install_ollama.sh

clean: ## remove what make has made
	rm -rf .venv .tools .cache .coverage* htmlcov dist build site .hypothesis .mypy_cache .pytest_cache .ruff_cache .benchmarks demo-output
