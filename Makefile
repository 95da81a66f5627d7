# make quickstart: install, then search, export, apply and retrain on a small data set (minutes)
# make test:       install, then check style, types and behaviour
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
READY := $(VENV)/.ready
BROWSER := $(VENV)/.browser

.PHONY: quickstart test lint clean

quickstart: $(READY)
	$(VENV)/bin/python -m experiments.quickstart

test: lint $(BROWSER)
	$(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(READY): requirements.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(BROWSER): | $(READY)
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } || \
	  echo "no chromium here: the tests that open the report in a browser will be skipped"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
