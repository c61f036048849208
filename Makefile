# Everything is built into .venv, .changeover and one cache folder; `make help` lists the targets.
# What somebody gives a target (STACK, FILE, …) goes through the environment: make and the shell would run what is in
# it if it stood in a recipe as make's own variable.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up cli down adopt status watch dashboard usage advise report gc parity keys model ci-setup wake recover review apply drift rollback rollback-review comment certificate fetch-review \
  drift-issue parts test test-cluster test-long test-agents check render clean-all lock venv venv-dev

PYTHON ?= python3
STACK ?= local
CACHE := $(or $(CHANGEOVER_CACHE),$(HOME)/.cache/changeover)
VENV := .venv
RUN := $(VENV)/bin/python -m
COMPILE := $(VENV)/bin/uv pip compile --quiet --generate-hashes --no-header --no-annotate
PYTEST := $(VENV)/bin/pytest -v --numprocesses 2 --dist loadfile --no-loadscope-reorder
# on a cluster of three nodes, where Kubernetes has been built (`make test-cluster`)
FLIPS := tests/cluster/test_flip.py::test_flips_back_and_forth_lose_nothing_and_nobody_waits
export PIP_CACHE_DIR := $(CACHE)/pip
export UV_CACHE_DIR := $(CACHE)/uv
export STACK
# texts here are UTF-8, whatever the locale is
export PYTHONUTF8 := 1
# set in many containers: each program then compiles its packages anew, seconds of every `pulumi` command
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: venv ## set everything up and deploy the stack `local` (or STACK=…)
	@$(RUN) tools.up

cli: venv ## set up the Pulumi CLI and its plugins in this folder; deploy nothing
	@$(RUN) tools.environment

down: venv ## remove the stack, keep weights and history (WEIGHTS=delete removes them, too; OWNER=… names another state)
	@$(RUN) tools.down

adopt: venv ## take over a stack here whose state is lost, while it serves (asks first; YES=1 answers)
	@$(RUN) tools.adopt "$$STACK"

status: venv ## show what serves, since when, and the last change (STACK=local)
	@$(RUN) tools.status "$$STACK"

watch: venv ## follow the stack on one screen, until `q` (STACK=local; ONCE=1 prints one frame)
	@$(RUN) tools.watch "$$STACK"

dashboard: venv ## print the address of the page of a stack with `monitor: true` (STACK=local)
	@$(RUN) tools.dashboard "$$STACK"

usage: venv ## count requests and tokens by tenant and day (STACK=local; CSV=file also writes them to a file)
	@$(RUN) tools.usage "$$STACK"

advise: venv ## show the last days' requests by the hour, and advise an engine (STACK=local)
	@$(RUN) tools.advise "$$STACK"

report: venv ## measure both engines on this card (asks first; YES=1 answers; TRAFFIC=yesterday replays real traffic)
	@$(RUN) tools.report "$$STACK"

gc: venv ## free old weights and images on the host, except those that a way back needs (STACK=local)
	@$(RUN) tools.gc "$$STACK"

parity: venv ## compare how both engines behave (asks first; YES=1 answers)
	@$(RUN) tools.parity "$$STACK"

keys: venv ## make the SSH keys of a stack on AWS, once (STACK=…)
	@$(RUN) tools.keys "$$STACK"

ci-setup: venv ## write the policies of CI's two roles for this repository (.changeover/ci/)
	@$(RUN) tools.ci_setup

model: venv ## add a model to the catalogue (OLLAMA=qwen3:8b HF=Qwen/Qwen3-8B-AWQ; CONFIG=config.json without internet)
	@$(RUN) tools.model

wake: venv ## start the stopped instance of a stack on AWS (STACK=…)
	@$(RUN) tools.wake "$$STACK"

recover: venv ## bring back a stack on AWS whose instance is gone or dead (STACK=…)
	@$(RUN) tools.recover "$$STACK"

review: venv ## preview the stack and write reviews/<stack>/ (STACK=local)
	@$(RUN) tools.review review "$$STACK"

apply: venv ## apply a review, and nothing else (STACK=local REVIEW=reviews/local)
	@$(RUN) tools.review apply "$$STACK"

drift: venv ## show what was changed behind Pulumi's back, and fail if anything was (STACK=local)
	@$(RUN) tools.review drift "$$STACK"

rollback: venv ## go back to what ran before (asks first; YES=1 answers; TO=… names another update)
	@$(RUN) tools.rollback run "$$STACK"

rollback-review: venv ## write the review of a rollback into reviews/<stack>.rollback/, and change nothing (TO=…)
	@$(RUN) tools.rollback review "$$STACK"

comment: venv ## CI: post FILE as the pull request's only comment with the title TITLE
	@$(RUN) tools.github comment "$$TITLE" "$$FILE"

certificate: venv ## CI: post the newest certificate of the stack as a comment on the pull request (STACK=…)
	@$(RUN) tools.github certificate "$$STACK"

fetch-review: venv ## CI: find the review of the files that are checked out (STACK=…)
	@$(RUN) tools.github fetch-review "$$STACK"

drift-issue: venv ## CI: keep one issue open while the stack has drifted (STACK=…)
	@$(RUN) tools.github drift-issue "$$STACK"

check: venv-dev ## run the fast part: format, lint, types, rendered files, workflows, unit tests
	@$(VENV)/bin/ruff format --check --quiet . && $(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary
	@$(RUN) tools.render --check
	@$(RUN) tools.actionlint
	@$(VENV)/bin/pytest -q --numprocesses 2 tests/unit

# more workers than cores: what runs there is mostly waited for
parts: check ## run the fast part, and tests of programs and servers that run, which need no Docker
	@$(VENV)/bin/pytest -q --numprocesses 4 tests/parts

test: parts ## run what a change has to pass, on the real engines
	@$(RUN) tools.up --tests
	@$(PYTEST) -m "not long" tests/engine tests/conformance $(FLIPS)

test-cluster: venv-dev ## run the tests on a cluster of three nodes here: for `target: kubernetes`, which it builds first
	@$(RUN) tools.up --tests --cluster
	@$(VENV)/bin/pytest -v -m "not long" tests/cluster

test-long: venv-dev ## run every test with Docker: also on a cluster, and at more moments and extremes (some hours)
	@$(RUN) tools.up --tests --cluster
	@$(PYTEST) tests/engine tests/conformance tests/cluster

test-agents: venv-dev ## run coding agents by the guide in docs/agents.md: for a new version of one (1.6 GB)
	@$(RUN) tools.up --tests
	@$(RUN) offline.agents
	@$(VENV)/bin/pytest -v tests/agents

render: venv ## write rendered/<stack>/, what a reviewer reads
	@$(RUN) tools.render

clean-all: venv ## remove what was built (refuses while a stack exists)
	@$(RUN) tools.down --clean-all

lock: venv ## bring the lock files up to date with pyproject.toml, and the policy pack's with its own list
	@$(COMPILE) pyproject.toml -o requirements.lock
	@$(COMPILE) pyproject.toml --group dev --constraints requirements.lock -o requirements-dev.lock
	@$(COMPILE) --group proxy --python-version 3.11 --python-platform linux -o proxy/requirements.lock
	@$(COMPILE) policy/requirements.in -o policy/requirements.txt

venv: $(VENV)/.synced # what the program and the make targets need
venv-dev: $(VENV)/.synced-dev # with what checks, tests and measurements need beside it

# An environment that is ready for tests stays so, whatever is made next.
$(VENV)/.synced: LOCK = $(if $(wildcard $(VENV)/bin/pytest),requirements-dev.lock,requirements.lock)
$(VENV)/.synced-dev: LOCK = requirements-dev.lock
$(VENV)/.synced-dev: requirements-dev.lock
$(VENV)/.synced $(VENV)/.synced-dev: requirements.lock tools/uv.txt
	@echo "Python: installing the packages of $(LOCK) into $(VENV)"
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --require-hashes --no-deps -r tools/uv.txt
	@$(VENV)/bin/uv pip sync --quiet --python $(VENV)/bin/python --require-hashes --only-binary :all: $(LOCK)
	@touch $(VENV)/.synced $@
