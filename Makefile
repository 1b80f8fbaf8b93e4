# Every target sets up .venv by itself. `make` alone lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
BIN := .venv/bin
READY := .venv/ready

# One thread a process and AVX2 kernels: the same bits on every x86-64 CPU with AVX2.
NUMERICS := OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR"
# --dist loadfile keeps the cells of a notebook on one worker.
PARALLEL := -n $(JOBS) --dist loadfile
NBVAL := --nbval-current-env --nbval-cell-timeout 900 --nbval-sanitize-with tests/nbval-sanitize.cfg

.DEFAULT_GOAL := help
OFFLINE := _build/does-it-forget
.PHONY: help book html pdf archive changed converter test lint coverage bench gpu lock serve clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

book: $(READY)  ## re-execute every chapter in place, then compile the book (about 15 minutes on two cores)
	rm -rf _build
	UNLEARN_CACHE=$(CURDIR)/_build/models $(BIN)/unlearn run notebooks/*.ipynb --in-place --force --jobs $(JOBS)
	@$(MAKE) --no-print-directory html

html: $(READY)  ## compile the book from the committed outputs, without executing anything (under a minute)
	rm -rf _build/html _build/.doctrees _build/jupyter_execute  # not what else lies there, such as cached models
	$(BIN)/unlearn pages
	$(BIN)/jupyter-book build . -W -n --keep-going

pdf: html  ## the whole book as one PDF, where there is a Chromium (a few minutes)
	$(BIN)/python book/_ext/book_print.py pdf _build/html $(OFFLINE).pdf

archive: html  ## the book as one zip file that works offline
	$(BIN)/python book/_ext/book_print.py archive _build/html $(OFFLINE).zip

changed: $(READY)  ## pages that differ from SINCE (default main), for whoever reviews: make changed SINCE=main
	@$(BIN)/unlearn changed --since $(or $(SINCE),main)

converter: $(READY)  ## dry run of the Jupyter Book 2 converter on a copy; counts its warnings and never fails
	-@$(BIN)/python book/_ext/book_converter.py

lint: $(READY)  ## ruff on code and notebooks (seconds)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check unlearnlib tests book/_ext

test: lint  ## lint, unit tests, and every notebook re-executed and compared (about 25 minutes on two cores)
	$(NUMERICS) $(BIN)/python -m pytest tests $(PARALLEL)
	$(NUMERICS) $(BIN)/python -m pytest notebooks --nbval-lax $(NBVAL) $(PARALLEL)
	$(NUMERICS) $(BIN)/python -m pytest tests/canary.ipynb --nbval $(NBVAL)

coverage: $(READY)  ## unit tests with line and branch coverage (a few minutes)
	$(NUMERICS) $(BIN)/python -m pytest tests $(PARALLEL) --cov --cov-report=term-missing

bench: $(READY)  ## timings against peers, as ratios within one run (about 10 minutes; wants a quiet machine)
	$(BIN)/python benchmarks

gpu: $(READY)  ## what needs an accelerator: its test cases, and its rows of the benchmarks
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.accelerator.is_available())'; then \
	  $(BIN)/python -m pytest tests -m accelerator && \
	  UNLEARN_FAST=1 $(BIN)/python benchmarks accelerator --output book/benchmarks/accelerator.json; \
	else echo "no accelerator on this machine: nothing was run"; fi

lock: $(READY)  ## write requirements.lock anew from requirements.txt (needs a package index)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --prerelease disallow --generate-hashes --no-header requirements.txt -o requirements.lock

serve: html  ## compile, then serve the book at port 8000 (stop with Ctrl-C)
	$(BIN)/python -m http.server 8000 --bind localhost --directory _build/html

clean:  ## remove what is built; .venv and cached models stay
	rm -rf _build build book/generated .pytest_cache .ruff_cache .hypothesis *.egg-info
