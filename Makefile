# make test       everything that needs no WebUI
# make test-live  the claims against a running WebUI, named by WEBUI_URL
# make lint       ruff and mypy alone
# make clean      removes the virtual environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help test test-live lint clean

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

test: lint
	$(BIN)/python -m pytest

ifeq ($(strip $(WEBUI_URL)),)
test-live:
	@echo "The live tests are SKIPPED: no WebUI given. Run: make test-live WEBUI_URL=http://127.0.0.1:7860"
else
test-live: $(READY)
	WEBUI_URL="$(WEBUI_URL)" $(BIN)/python -m pytest -m live tests/live
endif

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

# the mark comes last, so that a half-made environment is not taken for ready
$(READY): pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint tests/constraints.txt --editable ".[dev]"
	@touch $(READY)

clean:
	rm -rf $(VENV)
