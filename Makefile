# Each target sets up what it needs, so `make demo` or `make test` in a fresh clone is the whole installation.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long lint validate check bench bench-gpu bench-gpu-pack lock sbom audit mini-report mini clean chromium

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check -c constraints.txt
QUIETER := | { grep -v '^Requirement already satisfied' || true; }

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## learn the twelve demo concepts with the shipped model; ends by naming the report
	$(PY) jobs/invert_all.py jobs/demo/manifest.csv --protocol jobs/demo/demo.toml --steps 80 --slots 2 --output runs/demo

check: lint test test-long  ## the one gate: what a change has to pass

test: $(VENV)/.installed-dev chromium  ## all tests but the long ones
	$(PY) -m pytest -q -n 2 --dist loadfile

test-long: $(VENV)/.installed-dev  ## machines killed, taken away and starved, a store that fails: over an hour
	$(PY) -m pytest -q -m long

lint: $(VENV)/.installed-dev  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

validate: $(VENV)/.installed-dev  ## the cluster files against the schemas of whatever will read them, offline
	$(PY) -m cluster.validate

bench: $(VENV)/.installed-dev  ## measure, and write runs/bench.json
	$(PY) jobs/bench/bench.py

lock: $(VENV)/.installed-supply  ## pin the image's packages by hash: cluster/image.lock
	$(VENV)/bin/uv pip compile pyproject.toml --extra gcs --extra launcher --constraints constraints.txt --generate-hashes \
	    --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-find-links --no-emit-index-url \
	    --custom-compile-command 'make lock' --upgrade --quiet --output-file cluster/image.lock

# The hashes stay in the lock, where pip checks them.
sbom: $(VENV)/.installed-supply  ## the image's packages as a CycloneDX bill of materials, cluster/image.cdx.json
	sed -E 's/ *\\$$//; /^ *--hash/d' cluster/image.lock | $(VENV)/bin/cyclonedx-py requirements - --pyproject pyproject.toml \
	    --mc-type application --output-reproducible --of JSON --output-file cluster/image.cdx.json

audit: $(VENV)/.installed-supply  ## ask OSV for known advisories of the image's packages
	$(VENV)/bin/pip-audit --vulnerability-service osv --require-hashes --disable-pip --requirement cluster/image.lock

bench-gpu: $(VENV)/.installed  ## measure on a GPU in nine minutes, and write runs/bench-gpu.json and .md
	$(PY) jobs/bench/bench_gpu.py

bench-gpu-pack: $(VENV)/.installed  ## what bench-gpu needs on a machine that has torch only: runs/bench-gpu-pack*.tar.gz
	$(PY) -m jobs.bench.gpu.pack runs/bench-gpu-pack.tar.gz
	$(PY) -m jobs.bench.gpu.pack runs/bench-gpu-pack-without-jobs.tar.gz --without-jobs

mini-report: $(VENV)/.installed-mini  ## measure the shipped model, and draw its sheets
	$(PY) jobs/mini/mini_report.py

mini: $(VENV)/.installed-mini  ## make the shipped model again (hours; DEVICE=cuda: on a GPU, unmeasured; goes on where it was)
	$(PY) jobs/mini/make_mini.py --device $(or $(DEVICE),cpu)

clean:  ## remove caches and build output; runs/ and .venv/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Python 3.11 comes first because constraints.txt was tested with it. A pyenv shim may exist for a version that is not
# installed, and Debian packages Python without ensurepip: so each candidate is asked, not looked up.
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

$(PY):
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    if "$$python" -c '$(SUITABLE)' 2>/dev/null; then \
	        echo "making $(VENV) with $$("$$python" --version)"; \
	        exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "wordmint needs Python 3.11, 3.12 or 3.13 with its venv module, and none was found." >&2; \
	echo "On Debian or Ubuntu: apt-get install python3-venv. Elsewhere: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	exit 1

$(VENV)/.installed: pyproject.toml constraints.txt | $(PY)
	$(PIP_INSTALL) -e . $(QUIETER)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(PY)
	$(PIP_INSTALL) -e '.[test,lint]' $(QUIETER)
	@touch $(VENV)/.installed $@

$(VENV)/.installed-supply: pyproject.toml constraints.txt | $(PY)
	$(PIP_INSTALL) -e '.[supply]' $(QUIETER)
	@touch $(VENV)/.installed $@

$(VENV)/.installed-mini: pyproject.toml constraints.txt | $(PY)
	@command -v npm >/dev/null || { echo "make mini needs npm, which fetches the drawings." >&2; exit 1; }
	$(PIP_INSTALL) -e '.[mini]' $(QUIETER)
	@touch $(VENV)/.installed $@

# The report is tested in a real browser.
chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then \
	    exit 0; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium </dev/null; \
	else \
	    echo "make test looks at the report in Chromium, which is not installed. On Debian or Ubuntu, as root:" >&2; \
	    echo "    apt-get install chromium" >&2; \
	    exit 1; \
	fi
