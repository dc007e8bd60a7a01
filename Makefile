# Penstock. `make serve` and `make test` set up what they need; the rest is for those who work on it.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DATA   ?= ./data
SEED   ?= 1
OPS    ?= 2000
SEEDS  ?= 301-1000
CYCLES ?= 500
CUTS   ?= 1000
KIND   ?= ext4
RUNS   ?= 200
SECS   ?= 3600
STATES ?= 1000000
TWO    := -n 2 --dist worksteal
THREE  := -n 3 --dist worksteal
SHARE  ?= 1.0
SCENARIO ?=
PEERS  ?= all

# The tests start some thousand processes: each would compile what it imports.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help serve test check format lint types house unit faults integration sim sim-one sim-many kafka crash coverage-table crash-states failing-calls rot mutants kill disk powercut fsyncgate diskfull gate wheel demo bench compare profile micro clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/.base:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Penstock needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.server: $(VENV)/.base pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[server]'
	@touch $@

$(VENV)/.loadtest: $(VENV)/.server
	$(BIN)/python -m pip install --quiet --editable '.[loadtest]'
	@touch $@

$(VENV)/.peers: $(VENV)/.loadtest
	$(BIN)/python -m pip install --quiet --editable '.[peers]'
	@touch $@

$(VENV)/.dev: $(VENV)/.base pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[peers]' --group dev
	@touch $(VENV)/.server $(VENV)/.loadtest $(VENV)/.peers $@

serve: $(VENV)/.server  ## set up, and run the broker with its data in ./data
	@exec $(BIN)/penstock serve --data $(DATA)

test: check faults  ## set up, and run every test that CI runs
	@$(MAKE) --no-print-directory --jobs 3 sim crash disk  # two wait for the disk, one knows no real time
	@$(MAKE) --no-print-directory wheel  # by itself: its clients and brokers have real deadlines
	@echo "all tests passed"

gate:  ## `make test`, and nothing of it may have been left out
	@log=$$(mktemp) && $(MAKE) test 2>&1 | tee $$log; \
	grep -q '^all tests passed' $$log && ! grep '^NOT RUN' $$log; code=$$?; rm -f $$log; exit $$code

check: format lint types house unit  ## the quick part: format, lint, types, house rules, unit and model tests

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/pyright --warnings --pythonpath $(BIN)/python

house: $(VENV)/.dev
	$(BIN)/pytest -q $(TWO) tests/house

unit: $(VENV)/.dev
	$(BIN)/pytest -q $(TWO) tests/unit tests/format tests/fakes tests/model tests/sim/test_history.py

faults: $(VENV)/.dev  ## every power cut, failing call and rotten byte of the storage, in short; and that mutants die
	$(BIN)/pytest -q $(TWO) tests/storage_faults tests/mutants

crash-states: $(VENV)/.dev  ## by hand and for long: make crash-states STATES=1000000 SEED=1
	$(BIN)/python -m tests.storage_faults.crash_states --states $(STATES) --seed $(SEED)

failing-calls: $(VENV)/.dev  ## by hand, with another order of jobs: make failing-calls SEED=2
	$(BIN)/python -m tests.storage_faults.failing_calls --seed $(SEED)

rot: $(VENV)/.dev  ## by hand, every byte of every kind of file: make rot SEED=1
	$(BIN)/python -m tests.storage_faults.rot --share $(SHARE) --seed $(SEED)

mutants: $(VENV)/.dev  ## every bug of the bank, one by one: each must be noticed by the test named for it
	$(BIN)/python -m tests.mutants.run

coverage-table: $(VENV)/.dev  ## tests/COVERAGE.md: what is tried under which fault
	$(BIN)/python -m tests.coverage_table >/dev/null

integration: $(VENV)/.dev  ## against the source; `make test` runs the same against the wheel
	$(BIN)/pytest -q $(THREE) tests/integration

sim: $(VENV)/.dev  ## the whole node from seeds
	$(BIN)/pytest -q $(TWO) tests/sim

sim-one: $(VENV)/.dev  ## one of them: make sim-one SEED=7
	$(BIN)/python -m tests.sim.run --seed $(SEED) --ops $(OPS)

sim-many: $(VENV)/.dev  ## by hand and for long: make sim-many SEEDS=1-10000
	$(BIN)/python -m tests.sim.run --seeds $(SEEDS) --ops $(OPS)

crash: $(VENV)/.dev  ## kill -9 over the real process
	$(BIN)/pytest -q tests/crash

kafka: $(VENV)/.dev  ## by hand: Kafka is asked what the page for its users says; needs Java and its jars
	ASK_KAFKA=1 $(BIN)/pytest -q $(TWO) tests/integration/test_coming_from_kafka*.py

kill: $(VENV)/.dev  ## the same by hand and for long: make kill CYCLES=500 SEED=1
	$(BIN)/python -m tests.crash.run --cycles $(CYCLES) --seed $(SEED)

disk: $(VENV)/.dev  ## power cuts, failed syncs and full disks on real file systems; needs root and loop devices
	$(BIN)/pytest -q tests/disk

powercut: $(VENV)/.dev  ## by hand and for long: make powercut CUTS=1000 KIND=xfs SEED=1
	$(BIN)/python -m tests.disk.powercut --cuts $(CUTS) --kind $(KIND) --seed $(SEED)

fsyncgate: $(VENV)/.dev  ## by hand and for long: make fsyncgate RUNS=200 SEED=1
	$(BIN)/python -m tests.disk.fsyncgate --runs $(RUNS) --seed $(SEED)

diskfull: $(VENV)/.dev  ## by hand and for long: make diskfull SECS=3600 SEED=1
	$(BIN)/python -m tests.disk.full --seconds $(SECS) --seed $(SEED)

wheel: $(VENV)/.dev  ## build the wheel, and run the integration tests against it
	rm -rf dist $(VENV)-wheel
	$(BIN)/python -m build --wheel --outdir dist . >/dev/null
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet "$$(ls dist/*.whl)[loadtest]"
	$(VENV)-wheel/bin/python -c 'import penstock, penstock_broker.__main__, penstock_loadtest.command'
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$(ls -d $(VENV)-wheel/lib/python*/site-packages)/tools.pth
	cd tests && ../$(VENV)-wheel/bin/python -m pytest -q $(THREE) -o pythonpath=.. -p no:cacheprovider integration

demo: $(VENV)/.server  ## real text through a topic and a queue, with a worker killed and the broker, too
	$(BIN)/python -m penstock_loadtest.demo $(FILES)

bench: $(VENV)/.loadtest  ## put it under load: make bench SCENARIO="queue topic", all that are short without
	$(BIN)/penstock loadtest $(SCENARIO)

compare: $(VENV)/.peers  ## beside other brokers: make compare SCENARIO=queue PEERS=redis-always,nats
	$(BIN)/penstock loadtest compare --peers $(PEERS) $(or $(SCENARIO),queue)

profile: $(VENV)/.dev  ## flame graphs of broker and clients: make profile SCENARIO=queue
	$(BIN)/penstock loadtest $(or $(SCENARIO),queue) --profile bench-results/profile

micro: $(VENV)/.loadtest  ## micro-benchmarks of the hot rooms, beside those of earlier commits
	$(BIN)/python -m penstock_loadtest.micro

clean:  ## remove what was made, but no data
	rm -rf $(VENV) $(VENV)-wheel dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
