# Everything a contributor runs. Python, git and make are enough; the rest installs itself into ./.venv*.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
# Tests wait for AWS and for workers more than they compute, so more processes than cores pay off. "loadgroup" gives
# each test to the next free process, and keeps the tests of a module that share a fixture in one (tests/conftest.py).
WORKERS ?= 5
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadgroup
# Several targets at once, each target's output in one piece.
TOGETHER = $(MAKE) --no-print-directory $(if $(filter output-sync,$(.FEATURES)),--output-sync=target) --jobs

# Tests start hundreds of interpreters. With this variable set, each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo docs screenshots test test-all lint unit emulator processes oldest bench dist clean python
.PHONY: environments fast slow aws django compatibility compatibility-leg release-check sbom

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: .venv/demo.stamp ## The demo shop, on an embedded AWS: prints its address. ARGS=--check without the page, ARGS=--help
	@cd demo_project && ../$(BIN)/python -m show $(ARGS)

ifeq ($(ARGS),)
test: environments ## What everybody runs: lint, tests on both emulators and with real workers
	@$(TOGETHER) lint fast STREAM=+
else
test: fast # only the tests that ARGS selects
endif

test-all: test ## make test, and then the long tests, those with the oldest Celery and those on Django 6
	@$(MAKE) --no-print-directory slow oldest django

environments:
	@$(MAKE) --no-print-directory --jobs .venv/dev.stamp .venv-ministack

# Of several targets at once, this one shows its output as it comes: make does not hold back what "+" starts.
fast: .venv/dev.stamp .venv-ministack
	$(STREAM)@$(PYTEST) $(ARGS)

slow: .venv/dev.stamp .venv-ministack
	@$(PYTEST) -m slow $(ARGS)

lint: .venv/dev.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: .venv/dev.stamp ## Fast tests
	$(PYTEST) tests/unit $(ARGS)

emulator: .venv/dev.stamp .venv-ministack ## Tests through kombu on moto and ministack
	$(PYTEST) tests/emulator $(ARGS)

processes: .venv/dev.stamp ## Tests with real Celery workers
	$(PYTEST) tests/processes $(ARGS)

# The tests that touch kombu or Celery; the others say nothing new there. Without what needs a newer kombu (the options of
# its sqs://), or is not about either (the documentation).
OF_KOMBU = $(filter-out %/test_options.py $(wildcard tests/unit/test_docs*.py), \
  $(shell grep -lE "^(from|import) (kombu|celery)[. ]|^from fakes import .*connected" tests/unit/test_*.py))

oldest: .venv-oldest/5.4.stamp .venv-ministack ## Unit tests and groups with the oldest kombu and Celery that will do
	.venv-oldest/bin/python -m pytest --numprocesses=2 --dist=loadgroup $(OF_KOMBU) tests/processes/test_celery_groups.py

# In an environment of its own: Django 6 needs Python 3.12. The demo's tests, and those of django.tasks.
django: .venv/dev.stamp ## Tests on Django 6, with a Python 3.12 or later if there is one: PYTHON6=/path/to/python
	@PYTHON6=$(PYTHON6) $(BIN)/python tests/django6.py $(ARGS)

# The tools of tests/campaign: minutes to hours long, so no part of `make test`, which has small versions of them.
campaign: .venv/dev.stamp ## Events under every kind of fault, workers killed: ARGS="--events 500 --kinds black-hole"
	@cd tests && ../$(BIN)/python -m campaign.kinds $(ARGS)

outage: .venv/dev.stamp ## Two minutes without AWS in mid-load: ARGS="--kind black-hole --seconds 120"
	@cd tests && ../$(BIN)/python -m campaign.outage $(ARGS)

soak: .venv/dev.stamp ## Mixed load, random faults, what grows: ARGS="--minutes 30"
	@cd tests && ../$(BIN)/python -m campaign.soak $(ARGS)

# The tool of tests/hostile. The same figures come from `make test ARGS="-m release tests/hostile"`, without a report.
hostile: .venv/dev.stamp ## Hostile messages at real workers of each pool: ARGS="one-by-one --pools prefork --count 320"
	@cd tests && ../$(BIN)/python -m hostile.campaign $(ARGS)

# The tool of tests/aws_leg. It says what it makes and costs; it makes nothing without ARGS=--yes.
aws: .venv/dev.stamp ## The contract on a real AWS account, and how late AWS is: ARGS=--yes, ARGS=--help
	@PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python -m aws_leg $(ARGS)

bench: | python ## Throughput, latency and cost beside the peers (its own environment)
	$(PYTHON) benchmarks/run.py $(ARGS)

docs: .venv/docs.stamp ## The pages as a site in ./site; links are checked. ARGS=serve shows it while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build) --strict

screenshots: .venv/dev.stamp ## The pictures of the demo in docs/images, made anew (needs Chromium)
	$(BIN)/python tests/screenshots.py

compatibility: | python ## Tests with each Python, kombu, Celery and boto3 of docs/compatibility.md; writes its table. Takes long
	$(PYTHON) tools/compatibility.py $(ARGS)

# One leg with $(PYTHON), as CI runs it: make compatibility-leg CELERY=5.4 BOTO3=floor
CELERY ?= 5.7
BOTO3 ?= latest
compatibility-leg: | python
	$(PYTHON) tools/compatibility.py --leg $(CELERY) $(BOTO3) $(ARGS)

dist: .venv-release/dist.stamp ## Wheel and source archive in ./dist, checked as the package index does
	rm -rf build dist
	.venv-release/bin/python -m build
	.venv-release/bin/python -m twine check --strict dist/*

release-check: dist ## make dist, and the README's quick start from the wheel with each Python of this machine
	.venv-release/bin/python tools/release_check.py $(ARGS)

sbom: .venv-release/dist.stamp # of the wheel in ./dist
	.venv-release/bin/python tools/release_check.py --sbom sbom/kombu-hake.cdx.json

clean: ## Remove all that this Makefile made
	rm -rf .venv .venv-ministack .venv-oldest .venv-django6 .venv-release .venv-compatibility build dist sbom site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Virtual environments: made once, and again when what they are made from changes.

.venv/pyvenv.cfg: | python
	$(PYTHON) -m venv .venv

.venv/demo.stamp: setup.cfg pyproject.toml | .venv/pyvenv.cfg
	@echo "Installing into .venv (once, takes about a minute)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

.venv/docs.stamp: setup.cfg pyproject.toml | .venv/pyvenv.cfg
	@echo "Installing into .venv (once, takes some seconds)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

.venv/dev.stamp: setup.cfg pyproject.toml | .venv/pyvenv.cfg
	@echo "Installing into .venv (once, takes about two minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ .venv/demo.stamp .venv/docs.stamp

.PHONY: .venv-ministack
.venv-ministack: .venv-ministack/1.5.33.stamp

# Of its own: it pins another botocore.
.venv-ministack/%.stamp: | python
	$(PYTHON) -m venv --clear .venv-ministack
	.venv-ministack/bin/python -m pip install --quiet --disable-pip-version-check ministack==$*
	@touch $@

.venv-release/dist.stamp: | python
	$(PYTHON) -m venv --clear .venv-release
	.venv-release/bin/python -m pip install --quiet --disable-pip-version-check 'build>=1.2' 'twine>=6' 'cyclonedx-bom>=7'
	@touch $@

.venv-oldest/%.stamp: setup.cfg | python
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' \
	  'kombu==$*.*' 'celery==$*.*'
	@touch $@

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "$(PYTHON) is missing, or older than Python 3.10: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make virtual environments (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
