# minimand: `make run` shows the main job, `make test` runs the tests. Both set up what they need in .venv.

PYTHON ?= python3
BIN := .venv/bin
# Modules are compiled as they are imported, and kept so: most of what is installed never is.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml constraints.txt

.PHONY: run test lint format bench bench-optim docs clean browser
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/study: $(SOURCES)
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[study]"
	@touch $@

.venv/dev: $(SOURCES)
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[study,ray,docs,dev]"
	@touch $@ .venv/study .venv/docs

.venv/docs: $(SOURCES)
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[study,docs]"
	@touch $@ .venv/study

.venv/bench: .venv/dev
	$(PIP) -e ".[bench]"
	@touch $@

run: .venv/study  ## train several losses on digits with wrong labels and say which is better
	$(BIN)/minimand compare

test: .venv/dev browser  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/dev  ## check style, types and that every claim's evidence is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/minimand claims check

format: .venv/dev  ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/bench  ## speed and memory beside peers; results go to benchmarks/results
	cd benchmarks && ../$(BIN)/python trials.py && ../$(BIN)/python rules.py && ../$(BIN)/python startup.py \
	  && ../$(BIN)/python divergences.py && ../$(BIN)/python transport.py && ../$(BIN)/python spherical.py

bench-optim: .venv/bench  ## step times of the update rules beside peers and the memory floor, on a GPU where there is one
	cd benchmarks && ../$(BIN)/python rules.py

docs: .venv/docs  ## build the documentation; open site/index.html, no server needed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The report's and the site's tests open them in Chromium. Where no browser can be installed they are skipped and say so.
browser:
	@command -v chromium chromium-browser google-chrome >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	  echo "no Chromium found: the tests that need a browser will be skipped"

clean:  ## remove the environment and caches
	rm -rf .venv .pytest_cache .ruff_cache build dist site
