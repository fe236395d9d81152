# Commands of the project; `make` alone lists them. All use .venv, activated or not.

PY := .venv/bin/python
WORKERS ?= 2  # processes that share the tests

.DEFAULT_GOAL := help
.PHONY: help setup serve demo test test-slow check bench venv

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: ## make the project ready: ffmpeg, .venv, all packages (PYTHON=python3.12: another Python)
	@scripts/setup.sh

serve: venv ## Prefect's server and runner for `prefect deployment run build-shards` (DEFAULTS=file.toml, PORT=4200)
	@exec $(PY) -m flows.serve $(if $(DEFAULTS),--defaults "$(DEFAULTS)") $(if $(PORT),--port "$(PORT)")

demo: setup ## from music videos to scores in minutes (MEDIA=folder: your videos; LABELS=mved or a CSV)
	@$(PY) -m scripts.demo --media "$(MEDIA)" --labels "$(LABELS)"

test: venv ## the quick tests (WORKERS=2)
	$(PY) -m pytest -m "not slow" -n $(strip $(WORKERS)) --dist loadscope --no-loadscope-reorder

test-slow: venv ## the slow tests: soaks and long rounds (WORKERS=2)
	@$(PY) -m pytest -m slow -n $(strip $(WORKERS)) --dist loadscope --no-loadscope-reorder; status=$$?; \
	if [ $$status -eq 5 ]; then echo "no test is marked slow yet"; else exit $$status; fi

check: venv ## lint, format, types, imports; all are run, and it fails if one does
	@failed=; \
	run() { name=$$1; shift; echo "$$ $$*"; "$$@" || failed="$$failed $$name"; }; \
	run lint $(PY) -m ruff check . ; \
	run format $(PY) -m ruff format --check . ; \
	run types $(PY) -m mypy -p pipeline -p flows -p trainer -p scripts ; \
	run imports .venv/bin/lint-imports ; \
	if [ -n "$$failed" ]; then echo "check: failed:$$failed" >&2; exit 1; fi

bench: venv ## how fast and how large: results and the table of aims (MEDIA=folder, PEER=python, LONG=1)
	@$(PY) -m benchmarks $(if $(MEDIA),--media "$(MEDIA)") $(if $(PEER),--video2dataset "$(PEER)") $(if $(LONG),--long)

venv:
	@[ -x $(PY) ] || { echo "no .venv here; run: make setup" >&2; exit 1; }
