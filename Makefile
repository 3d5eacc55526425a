# recount needs Python 3.11 or newer and make; everything else is installed below this folder.
#
#   make report              fetch, train, evaluate and report what config.yaml says
#   make report SUITE=open   the same for another suite
#   make test                the tests, in at most ten minutes on two slow cores
#   make test-more           the long ones: the whole workflow, kills of several processes
#   make test-search         the properties with new examples
#   make test-full           at paper size
#   make test-cluster        the workflow on a real SLURM, started for it (root; Debian: apt install slurm-wlm munge)
#   make test-environments   each kind of job in an environment of what its conda file declares, built by uv
#   make mutants             do the tests notice a line that somebody breaks? about half an hour
#   make lint                style, types, layers, workflow
#   make bench               how fast the costly parts are
#   make costs               what a training step of each system costs on a card, counted without one; tables of docs/gpu.md
#   make simulate            how often the rules of the verdicts err and what they find; writes the tables of docs/verdicts.md
#
# PYTHON=python3.12 chooses the Python; CORES=4 limits the processor cores; ARGS="-n" hands options on.

PYTHON = python3
CORES = all
SUITE = $$(sed -n 's/^suite: *//p' config.yaml)
ARGS =
BIN = .venv/bin
READY = .venv/.recount-is-installed
# A process holds up to a gigabyte, and a container may show more cores than it has.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile
APART = full_size or cluster or environments

.PHONY: report test test-more test-search test-full test-cluster test-environments mutants lint format bench costs simulate schemas lock clean-environment

report: $(READY)
	$(BIN)/snakemake --cores $(CORES) --config suite=$(SUITE) $(ARGS)
	@echo "The report: file://$$PWD/reports/$(SUITE)/index.html"

test: $(READY)
	$(PYTEST) -m "not more and not ($(APART))" $(ARGS)

test-more: $(READY)
	$(PYTEST) -m "more and not ($(APART))" $(ARGS)

test-search: $(READY)
	$(PYTEST) -m "hypothesis and not ($(APART))" --hypothesis-profile=searching $(ARGS)

test-full: $(READY)
	$(BIN)/pytest -s -m full_size $(ARGS)

# Snakemake's plugins for clusters lie beside the environment: installed in it, they slow each start.
test-cluster: $(READY) .bin/cluster
	PYTHONPATH=$$PWD/.bin/cluster $(BIN)/pytest -rs -m cluster -n 0 tests/cluster $(ARGS)

.bin/cluster: Makefile | .bin/uv
	.bin/uv pip install --quiet --no-deps --python $(BIN)/python --target .bin/cluster \
		"snakemake-executor-plugin-slurm>=2.0" "snakemake-executor-plugin-slurm-jobstep>=0.6" \
		"snakemake-executor-plugin-cluster-generic>=1.0.9"
	touch .bin/cluster

test-environments: $(READY) | .bin/uv
	OMP_NUM_THREADS=1 $(BIN)/pytest -rs -m environments -n 0 tests/workflow/test_conda.py $(ARGS)

# ARGS="TEXT": those that have TEXT in their file or name; all of them write their table into docs/reliability.md.
mutants: $(READY)
	nice $(BIN)/python tests/mutants/mutants.py $(ARGS)

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/snakefmt Snakefile workflow

bench: $(READY)
	for file in bench/bench_*.py; do $(BIN)/python "$$file" || exit 1; done

costs: $(READY)
	nice $(BIN)/python bench/count_costs.py $(ARGS)

simulate: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/scoring/simulate_root_intervals.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/judging/simulate.py $(ARGS)

# JSON schemas of the YAML files and of the systems' settings, for editors: workflow/schemas/, which is not in git.
schemas: $(READY)
	$(BIN)/recount schemas

# requirements.lock, from pyproject.toml: newest versions, for Linux and macOS and every Python from 3.11, with the
# packages that build recount itself.
lock: .bin/uv
	printf 'hatchling\neditables\n' | UV_CUSTOM_COMPILE_COMMAND="make lock" .bin/uv pip compile --quiet --upgrade \
		--universal --python-version 3.11 --generate-hashes --no-annotate --extra dev pyproject.toml - \
		--output-file requirements.lock

# The environment: exactly what requirements.lock says, and recount as it stands here.
$(READY): requirements.lock pyproject.toml | .bin/uv
	test -x $(BIN)/python || .bin/uv venv --quiet --python "$(PYTHON)" .venv
	.bin/uv pip sync --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	.bin/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)

# uv, the installer: the one on the PATH, or one in an environment of its own.
.bin/uv:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "recount needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@mkdir -p .bin
	@if command -v uv > /dev/null; then ln -s "$$(command -v uv)" .bin/uv; else \
		"$(PYTHON)" -m venv .bin/venv || { rm -rf .bin/venv; echo "on Debian: apt install python3-venv" >&2; exit 1; }; \
		.bin/venv/bin/python -m pip install --quiet uv && ln -s venv/bin/uv .bin/uv; fi

clean-environment:
	rm -rf .venv .bin
