PYTHON ?= python3
RUN ?= runs/digits
JOBS ?= 2
VENV ?= .venv
CONSTRAINTS ?=

installed := $(VENV)/.installed

.PHONY: help demo test test-oldest check clean distclean

help:
	@echo "make demo         slim a network on the embedded digits, into $(RUN)"
	@echo "make test         run the tests, in $(JOBS) processes (JOBS=1: one after the other)"
	@echo "make test-oldest  the same with the lowest versions that pyproject.toml allows, in .venv-oldest/"
	@echo "make check        lint, format, types, and who may import whom"
	@echo "make clean        remove caches and builds; runs/ and .venv/ stay"
	@echo "make distclean    remove the environments too"

demo: $(installed)
	$(VENV)/bin/slimsight run configs/digits.yaml --out $(RUN)

test: $(installed)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=tests/oldest-requirements.txt

check: $(installed)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy
	$(VENV)/bin/python -m mypy --config-file benchmarks/mypy.ini benchmarks
	$(VENV)/bin/lint-imports

# The stamp goes first and comes last: an interrupted install never looks complete.
$(installed): pyproject.toml $(CONSTRAINTS)
	@rm -f $@
	@command -v $(PYTHON) >/dev/null || { echo "error: '$(PYTHON)' is not on the PATH; slimsight needs Python 3.11 or newer: install it, or say 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); slimsight needs Python 3.11 or newer: say 'make PYTHON=/path/to/python3.11'" >&2; exit 1; }
	@echo "installing slimsight and what it needs into $(VENV): about 6 GB, a few minutes the first time"
	@$(PYTHON) -m venv $(VENV) || { echo "error: '$(PYTHON) -m venv' failed; Debian and Ubuntu need the package python3-venv" >&2; exit 1; }
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' $(addprefix --constraint ,$(CONSTRAINTS)) || { echo "error: the installation failed (see above); 'make $(or $(MAKECMDGOALS),test)' again continues it" >&2; exit 1; }
	@touch $@

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path "./.venv*" -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-oldest
