# One word per chore. `make demo` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup demo test check bench arm-check fuzz fix lock lock-torch clean

setup: $(STAMP)

$(STAMP): requirements/dev.txt requirements/torch.txt pyproject.toml tools/setup_system.sh
	@sh tools/setup_system.sh
	@echo "Making $(VENV) from requirements/dev.txt (pinned and hashed) ..."
	@$(PYTHON) -c 'import sys; assert (3,11) <= sys.version_info < (3,14), "edgefleet needs Python 3.11 to 3.13, this is " + sys.version.split()[0]'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/torch.txt \
	  || echo "No CPU build of PyTorch for this machine: everything works but PyTorch sources, whose tests are skipped."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --no-index -e .
	@touch $(STAMP)
	@echo "Ready: $(BIN)/edgefleet --help"

demo: setup
	@$(BIN)/edgefleet demo $(ARGS)

# Three workers on two processors: many tests wait for processes they started. Types are checked beside the tests.
test: setup
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/lint-imports
	@$(BIN)/mypy & types=$$!; \
	  $(BIN)/python tools/run_tests.py -q -n 3 --dist loadfile --no-loadscope-reorder --durations 12 $(ARGS); tests=$$?; \
	  wait $$types && exit $$tests

check: setup
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/lint-imports && $(BIN)/mypy
	@$(BIN)/python -m pytest -q -x -n 2 tests/unit tests/property tests/contract tests/architecture $(ARGS)

bench: setup
	@test -n "$(NAME)" || { echo "usage: make bench NAME=one of: $$(ls benchmarks | sed -n 's/^bench_\(.*\)\.py/\1/p' | tr '\n' ' ')"; exit 2; }
	@$(BIN)/python -m benchmarks.bench_$(NAME) $(ARGS)

# The agent as a Raspberry Pi 3, 4 and 5 would run it, under QEMU; about fifteen minutes. Not part of the tests.
arm-check: setup
	@sh tools/arm_userland.sh build/arm
	@rm -rf build/arm/run && $(BIN)/python tools/arm_check.py build/arm build/arm/run $(ARGS)

# Fuzz one decoder of network bytes for SECONDS; findings stay in .fuzz/. Not part of the tests.
fuzz: setup
	@test -n "$(DECODER)" || { echo "usage: make fuzz DECODER=one of the following, SECONDS=600:"; $(BIN)/python tests/fuzz/atheris_targets.py; exit 2; }
	@test -x .fuzz/venv/bin/python || $(PYTHON) -m venv .fuzz/venv
	@.fuzz/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt -r requirements/fuzz.txt
	@.fuzz/venv/bin/python tests/fuzz/atheris_targets.py $(DECODER) $(or $(SECONDS),60)

fix: setup
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# Refresh the pinned lists (needs uv). The lists carry versions and hashes, never an address.
lock: 
	@for extra in agent server dev fuzz; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	    --no-emit-index-url --no-emit-find-links --extra $$extra -o requirements/$$extra.txt pyproject.toml; done

# PyTorch's CPU build is no part of the package index: name the folder or page that has it.
lock-torch:
	@test -n "$(WHEELS)" || { echo "usage: make lock-torch WHEELS=where the CPU build of torch lies"; exit 2; }
	@uv pip compile --quiet --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links --find-links $(WHEELS) -c requirements/dev.txt -o requirements/torch.txt requirements/torch.in

clean:
	rm -rf $(VENV)
