# Everything a newcomer needs: `make demo` and `make test`. Each makes .venv on first use.

VENV := .venv
PY := $(VENV)/bin/python
ARGS ?=

.PHONY: demo test check bench simulate nat clean

demo: $(VENV)/.demo
	$(VENV)/bin/moshgrid demo $(ARGS)

test: $(VENV)/.dev
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev
	$(PY) -m mypy
	$(PY) -m ruff check .
	$(VENV)/bin/lint-imports

BENCH_PARTS := benchmarks/fault_worker.py benchmarks/link_relay.py benchmarks/peer_process.py

bench: $(VENV)/.dev
	@set -e; for script in $(filter-out $(BENCH_PARTS),$(wildcard benchmarks/*.py)); do \
		echo "== $$script"; $(PY) "$$script" $(ARGS); done

simulate: $(VENV)/.dev
	$(PY) -m pytest -m slow --timeout=3600 $(ARGS)

# Peers behind home routers, made of network namespaces; as root, on Linux, with nftables and iproute2.
nat: $(VENV)/.dev
	$(PY) -m pytest tests/nat -m "" $(ARGS)

clean:
	rm -rf $(VENV) demo-report dist

$(VENV)/.demo: pyproject.toml constraints.txt
	@sh scripts/prerequisites.sh
	python3 -m venv $(VENV)
	@echo 'installing into $(VENV): a few minutes the first time'
	@$(PY) -m pip install --quiet -c constraints.txt -e '.[demo]'
	@touch $@

# The development environment holds all that the demo needs.
$(VENV)/.dev: pyproject.toml constraints.txt
	@sh scripts/prerequisites.sh
	python3 -m venv $(VENV)
	@echo 'installing into $(VENV): a few minutes the first time'
	@$(PY) -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo
