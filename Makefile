# Every target does its own set-up: a fresh machine needs Python 3.11 with venv and pip, make, and
# the package indexes. What is installed is pinned by hash in requirements-*.lock and lands in
# .venv; Debian packages come by apt-get as root, or are named and missed.

VENV    ?= .venv
# One more than the two cores of a small machine: a worker waits for a quarter of its time.
WORKERS ?= 3
BUILD   := .build
WHEEL   := $(BUILD)/wheel
BIN     := $(VENV)/bin
PYTHON  ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))

# No option here may need a newer pip than the 23.2 that comes with Python 3.11.
PIP     := $(BIN)/python -m pip --disable-pip-version-check --no-input
LOCKED  := --quiet --require-hashes --no-deps --only-binary :all:
UV      := $(BIN)/python -m uv pip install --compile-bytecode $(LOCKED)

# Tests start Python a thousand times, and without bytecode it compiles what it imports each time.
unexport PYTHONDONTWRITEBYTECODE

PYTEST  := $(BIN)/python -m pytest -p tools.outcomes -p tools.together --durations 15
LONG    := full or browser
LEFT_OUT :=
# Whose tests hold the packages on which the evidence rests to their coverage: tools/coverage_gates.py.
# Being measured, a test takes twice its time. These try the same at many places, or on much.
MANY    := $(addprefix tests/archive/test_,crash_points.py drill_on_the_sample.py purge_crashes.py \
	tampering.py)
HELD    := tests/protocols $(filter-out $(MANY),$(wildcard tests/archive/test_*.py)) tests/masking \
	tests/test_policy.py tests/test_identity.py tests/test_cli.py \
	$(addprefix tests/gateway/test_,archive_files.py orders.py stream.py) \
	$(addprefix tests/analysis/test_,postgres_results.py postgres_values.py session.py)
# It needs the wheel: by itself it begins when that is there, beside the other long tests.
STORY    := tests/jupyter/test_story.py
LOCKS   := gateway lab demo dev
PEERS   := postgresql pgbouncer chromium fonts-dejavu-core fonts-liberation openssl golang-go \
	golang-golang-x-mod-dev openssh-server openssh-client rsync git vim less tmux

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help native front demo lab test test-all ready peers measured unmeasured rest long doctest lint docs notebook wheel installed story coverage bench bench-archive bench-masking bench-ssh bench-workbench soak soak-ssh fuzz fuzz-briefly lock clean distclean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- run it ------------------------------------------------------------------------------------

demo: $(VENV)/.demo $(VENV)/.front  ## the main job on embedded parts, with a summary, in under five minutes
	$(BIN)/agentaudit demo demo-run

lab: $(VENV)/.demo $(VENV)/.front  ## open JupyterLab on the demo's archive, or on the sample where there is none
	$(BIN)/agentaudit lab $(firstword $(wildcard demo-run/archive) sample_data/archive)

bench: $(VENV)/.native  ## the gateway's speed and memory beside pgbouncer and no gateway: a row a target
	tools/debian postgresql pgbouncer
	$(BIN)/python -m benchmarks $(BENCH)

bench-archive: $(VENV)/.native  ## seal, verify and ask an archive of EVENTS events (20000000)
	$(BIN)/python -m benchmarks.archive $(addprefix --events ,$(EVENTS)) $(addprefix --dir ,$(DIR))

bench-ssh: $(VENV)/.native  ## SSH through the gateway beside a jump host, as ratios
	tools/debian openssh-server openssh-client
	$(BIN)/python -m benchmarks.ssh

bench-masking: $(VENV)/.native  ## detectors on a labelled set and sample data, then what masks cost: ROUNDS (12)
	tools/debian postgresql pgbouncer
	$(BIN)/python -m benchmarks.masking_quality
	$(BIN)/python -m benchmarks.masking $(addprefix --rounds ,$(ROUNDS))

bench-workbench: $(VENV)/.native $(VENV)/.front  ## Explorer and Timeline with COMMANDS commands (10000000), in the kernel and in a browser
	tools/debian chromium fonts-dejavu-core fonts-liberation
	$(BIN)/python -m benchmarks.workbench --browser $(addprefix --commands ,$(COMMANDS)) $(addprefix --dir ,$(DIR))

# --- test it -----------------------------------------------------------------------------------

test: $(VENV)/.native $(VENV)/.front  ## unit tests and one end-to-end run per protocol
	tools/debian postgresql
	$(call pytest,test,-m "not ($(LONG))" $(addprefix --ignore ,$(LEFT_OUT)) tests)

# The same tests in two parts, for .ci/run: coverage is measured where the gates need it. It doubles
# the time of what runs in Python, and adds a third to that of a gateway.
measured: $(VENV)/.native $(VENV)/.front
	tools/debian postgresql
	mkdir -p $(BUILD)/coverage
	$(call pytest,measured,-p tools.interpreted --cov --cov-report= -m "not ($(LONG))" $(HELD))

unmeasured:
	$(MAKE) test LEFT_OUT="$(HELD)"

test-all:  ## everything: make test, lint, docs, long and browser tests, notebook, wheel, coverage
	.ci/run

# Tests make archives by the thousand, of many small files each: in memory, where that has room.
MEMORY := $(shell test "$$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)" -gt 4000000 2>/dev/null && echo /dev/shm)
test measured long: export TMPDIR := $(or $(MEMORY),$(TMPDIR),/tmp)

soak: $(VENV)/.native  ## MINUTES (60) of load, cancels, kills and slow readers; then all accounts are compared
	$(BIN)/python -m tests.soak $(addprefix --minutes ,$(MINUTES))

soak-ssh: $(VENV)/.native  ## MINUTES (10) of 50 SSH clients that do everything at once; then all accounts are compared
	$(BIN)/python -m tests.soak.ssh $(addprefix --minutes ,$(MINUTES))

fuzz: $(VENV)/.fuzz $(VENV)/.native  ## each reader of foreign bytes under atheris, for SECONDS (60)
	mkdir -p $(BUILD)/fuzz
	$(BIN)/python -m tests.fuzz $(addprefix --seconds ,$(SECONDS)) --found $(BUILD)/fuzz

fuzz-briefly: SECONDS := 5
fuzz-briefly: fuzz

# All of test-all that `make test` leaves out, so that .ci/run repeats nothing. Of what could be
# tried without end it tries a share: tests/tries.py.
rest: export AGENTAUDIT_TRIES := share
rest: long lint docs fuzz-briefly doctest notebook wheel story coverage

# Each worker collects what it is given: of all tests, for longer than many of the long ones take. Should
# a file be missed, tools/outcomes.py tells of tests that were never run.
#
# What all targets of .ci/run need, of which two things can be had at once. Not two by apt-get.
ready: $(VENV)/.native $(VENV)/.front peers

peers: | $(VENV)/.compiler
	tools/debian $(PEERS)

long: $(VENV)/.native $(VENV)/.front  ## long and browser tests, each trying all that it can: before a release
	tools/debian $(PEERS)
	$(call pytest,long,-m "$(LONG)" $(filter-out $(STORY),$(shell grep -rlE 'mark\.(full|browser)|import.* parts' --include 'test_*.py' tests)))

doctest: WORKERS := 0
doctest: $(VENV)/.native $(VENV)/.front
	$(call pytest,doctest,-p tools.interpreted --doctest-modules --ignore src/agentaudit/gateway/migrations src/agentaudit)

notebook: $(VENV)/.native $(VENV)/.front  ## execute the notebooks on the sample archive
	$(call pytest,notebook,--nbmake --nbmake-timeout=120 notebooks)

# Each run writes what became of its tests. Coverage is not measured in the long tests: they kill and
# time real processes, and tracing would change what they are about.
pytest = mkdir -p $(BUILD)/outcomes && $(PYTEST) -n $(WORKERS) \
	--outcomes $(BUILD)/outcomes/$(1).json $(2)

measured: export COVERAGE_FILE = $(CURDIR)/$(BUILD)/coverage/test

coverage: $(VENV)/.dev
	$(BIN)/python -m tools.coverage_gates $(BUILD)/coverage

lint: $(VENV)/.dev $(VENV)/.front  ## style, types, layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m tools.front check

docs: $(VENV)/.native $(VENV)/.front  ## build the documentation, warnings being errors, and run its examples
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html docs docs/_build/html
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder doctest docs docs/_build/doctest

PACKED := $(wildcard $(shell git ls-files src notebooks) pyproject.toml hatch_build.py README.md LICENSE)
FRESH   = $(UV) --python $(1)/bin/python -r $(2) || \
	$(1)/bin/python -m pip --disable-pip-version-check install $(LOCKED) -r $(2)

$(WHEEL)/.built: $(PACKED) $(VENV)/.dev $(VENV)/.front
	rm -rf $(WHEEL)
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir $(WHEEL) .
	@touch $@

# Each its own virtual environment, of the wheel and what is pinned: for gateways, and for JupyterLab.
$(WHEEL)/venv/.made: requirements-gateway.lock
$(WHEEL)/lab/.made: requirements-lab.lock
$(WHEEL)/%/.made: $(WHEEL)/.built
	rm -rf $(WHEEL)/$*
	$(PYTHON) -m venv $(WHEEL)/$*
	$(call FRESH,$(WHEEL)/$*,$(filter %.lock,$^))
	$(WHEEL)/$*/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $(WHEEL)/*.whl
	@touch $@

wheel: $(WHEEL)/venv/.made  ## build the wheel and try it in a virtual environment of its own
	rm -rf $(WHEEL)/try
	$(BIN)/python -m tools.wheel $(WHEEL)

installed: $(WHEEL)/lab/.made

story: WORKERS := 0
story: installed $(VENV)/.native  ## the whole path in JupyterLab from the wheel, by mouse and by keyboard
	tools/debian chromium fonts-dejavu-core fonts-liberation
	$(call pytest,story,$(STORY))

# --- set it up ---------------------------------------------------------------------------------

lock: $(VENV)/.dev  ## make the lock files again from pyproject.toml
	$(BIN)/python -m tools.lock $(LOCKS)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "agentaudit: no python3 is installed" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "agentaudit: Python 3.11 or newer is needed; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A demo runs without a compiler, as slower Python; tests are of what is compiled too.
DECLARED := $(shell find src -name '*.pxd')
NATIVE   := hatch_build.py tools/native.py $(shell find src -name '*.pyx') $(DECLARED) $(DECLARED:.pxd=.py)
$(VENV)/.dev: export AGENTAUDIT_NATIVE = skip
$(WHEEL)/.built: export AGENTAUDIT_NATIVE = require

native: $(VENV)/.native  ## compile the data path in place, after a change to it

$(VENV)/.native: $(NATIVE) $(VENV)/.dev | $(VENV)/.compiler
	$(BIN)/python -m tools.native
	@touch $@

$(VENV)/.compiler: | $(BIN)/python
	@command -v cc >/dev/null || tools/debian gcc libc6-dev
	@test -f "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
		tools/debian python3-dev
	@touch $@

front: $(VENV)/.front  ## bundle widgets and the JupyterLab plugin in place, after a change to extension/

FRONT := $(shell find extension \( -name node_modules -o -path extension/lab/lib \) -prune -o -type f -print)
$(VENV)/.front: $(FRONT) | $(VENV)/.build
	$(BIN)/python -m tools.front build
	@touch $@

# The stamp is younger than all that decides what is installed.
$(VENV)/.build: requirements-build.lock | $(BIN)/python
	$(PIP) install $(LOCKED) -r requirements-build.lock
	@touch $@

INSTALLED = requirements-$(1).lock $(VENV)/.build pyproject.toml hatch_build.py

$(VENV)/.demo: $(NATIVE) $(call INSTALLED,demo)
	$(PIP) install $(LOCKED) -r requirements-demo.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# What is needed to develop is two hundred packages: uv, itself one of the lock, installs them in a
# tenth of the time. It does not read pip's settings; where these alone know the index, pip does it.
$(VENV)/.dev: $(call INSTALLED,dev)
	sed -n '/^uv==/,/[^\\]$$/p' requirements-dev.lock >$(VENV)/uv.lock
	$(PIP) install $(LOCKED) -r $(VENV)/uv.lock
	$(UV) --python $(BIN)/python -r requirements-dev.lock || \
		$(PIP) install $(LOCKED) -r requirements-dev.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.fuzz: requirements-fuzz.lock $(VENV)/.dev
	$(PIP) install $(LOCKED) -r requirements-fuzz.lock
	@touch $@

clean:  ## remove what make made, but for .venv and the demo's archive
	rm -rf $(BUILD) artifacts docs/_build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find src tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove .venv, what it compiled and the demo's archive too
	rm -rf $(VENV) demo-run
	find src -name '*.so' -exec rm -f {} +
	rm -rf src/agentaudit/widgets/static src/agentaudit/analysis/report/static src/agentaudit/labextension extension/lab/lib extension/node_modules
