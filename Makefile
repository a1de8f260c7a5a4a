# make demo       clips of the bundled model, with and without IV-mixed (no WebUI, no download of models)
# make test       everything that needs no WebUI: lint, test-code and test-page beside each other, each shown as it ends
# make test-thorough  every fault at every place of every host's double, long searches and trainings: a quarter of an hour
# make test-live  the claims against a running WebUI, named by WEBUI_URL
# make check-gpu  what is claimed of speed, memory and exactness, tried on your GPU in five minutes
# make lint       ruff and mypy alone
# make clean      removes the virtual environment

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# in a log what each target says comes as a whole, where make can do that; in a terminal it comes at once
TOGETHER := $(if $(MAKE_TERMOUT),,$(if $(filter output-sync,$(.FEATURES)),--output-sync=target))

.PHONY: help demo test test-code test-page test-thorough test-live check-gpu lint clean

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

demo: $(VENV)/.demo
	$(BIN)/ivmixed demo

# the page waits for the browser half of the time, mypy has one core: beside each other they leave no core idle
test:
	$(MAKE) --no-print-directory --jobs=3 $(TOGETHER) lint test-code test-page

test-code: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal --ignore tests/browser

test-page: $(READY)
	$(BIN)/python -m pytest tests/browser

test-thorough: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "thorough or hypothesis" --hypothesis-profile thorough

ifeq ($(strip $(WEBUI_URL)),)
test-live:
	@echo "The live tests are SKIPPED: no WebUI given. Run: make test-live WEBUI_URL=http://127.0.0.1:7860"
else
test-live: $(READY)
	WEBUI_URL="$(WEBUI_URL)" $(BIN)/python -m pytest -m live tests/live
endif

check-gpu: $(VENV)/.demo
	$(BIN)/python -m benchmarks.gpu --out gpu.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

# the mark comes last, so that a half-made environment is not taken for ready
$(READY): pyproject.toml tests/constraints.txt tests/gradio4.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint tests/constraints.txt --editable ".[dev]"
	# brisque is read for its numbers alone, k-diffusion for its samplers: what else they are made of would be a lot
	$(BIN)/python -m pip install --quiet --no-deps brisque==0.2.0 k-diffusion==0.1.1.post1
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/gradio4 --requirement tests/gradio4.txt
	@touch $(READY)

# the demo and the check of a GPU need less; the constraints keep its packages fit for the tests as well
$(VENV)/.demo: pyproject.toml tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint tests/constraints.txt --editable ".[standalone]"
	@touch $(VENV)/.demo

clean:
	rm -rf $(VENV)
