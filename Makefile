# Everything is built into .venv, .changeover and one cache folder; `make help` lists the targets.
# What somebody gives a target (STACK, FILE, …) goes through the environment: make and the shell would run what is in
# it if it stood in a recipe as make's own variable.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up cli down adopt status watch dashboard usage advise report gc parity keys model ci-setup wake recover review apply drift rollback comment certificate fetch-review \
  drift-issue test test-long test-agents check render clean-all lock venv

PYTHON ?= python3
STACK ?= local
CACHE := $(or $(CHANGEOVER_CACHE),$(HOME)/.cache/changeover)
VENV := .venv
RUN := $(VENV)/bin/python -m
PYTEST := $(VENV)/bin/pytest -v --numprocesses 2 --dist loadfile --no-loadscope-reorder
export PIP_CACHE_DIR := $(CACHE)/pip
export UV_CACHE_DIR := $(CACHE)/uv
export STACK
# set in many containers: each program then compiles its packages anew, seconds of every `pulumi` command
unexport PYTHONDONTWRITEBYTECODE

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

up: venv ## set everything up and deploy the stack `local` (or STACK=…)
	@$(RUN) tools.up

cli: venv ## the Pulumi CLI and its plugins in this folder; nothing is deployed
	@$(RUN) tools.environment

down: venv ## remove the stack, keep weights and history (WEIGHTS=delete removes them too; OWNER=… of another state)
	@$(RUN) tools.down

adopt: venv ## take over a stack here whose state is lost, while it serves (asks first; YES=1 answers)
	@$(RUN) tools.adopt "$$STACK"

status: venv ## what serves, since when, and the last change (STACK=local)
	@$(RUN) tools.status "$$STACK"

watch: venv ## one screen that follows the stack, until `q` (STACK=local; ONCE=1 prints one frame)
	@$(RUN) tools.watch "$$STACK"

dashboard: venv ## the address of the page of a stack with `monitor: true` (STACK=local)
	@$(RUN) tools.dashboard "$$STACK"

usage: venv ## requests and tokens of each tenant and day (STACK=local; CSV=file writes them there, too)
	@$(RUN) tools.usage "$$STACK"

advise: venv ## hour by hour, the requests of the last days, and which engine they speak for (STACK=local)
	@$(RUN) tools.advise "$$STACK"

report: venv ## both engines on this card, beside what is claimed (asks first; YES=1 answers; TRAFFIC=yesterday)
	@$(RUN) tools.report "$$STACK"

gc: venv ## free old weights and images on the host, never those of the way back (STACK=local)
	@$(RUN) tools.gc "$$STACK"

parity: venv ## do both engines behave the same? (asks first; YES=1 answers)
	@$(RUN) tools.parity "$$STACK"

keys: venv ## make the SSH keys of a stack on AWS, once (STACK=…)
	@$(RUN) tools.keys "$$STACK"

ci-setup: venv ## write the policies of CI's two roles for this repository (.changeover/ci/)
	@$(RUN) tools.ci_setup

model: venv ## an entry of the catalogue (OLLAMA=qwen3:8b HF=Qwen/Qwen3-8B-AWQ, CONFIG=config.json without internet)
	@$(RUN) tools.model

wake: venv ## start the stopped instance of a stack on AWS (STACK=…)
	@$(RUN) tools.wake "$$STACK"

recover: venv ## bring back a stack on AWS whose instance is gone or dead (STACK=…)
	@$(RUN) tools.recover "$$STACK"

review: venv ## preview the stack and write reviews/<stack>/ (STACK=local)
	@$(RUN) tools.review review "$$STACK"

apply: venv ## apply a review, and nothing else (STACK=local REVIEW=reviews/local)
	@$(RUN) tools.review apply "$$STACK"

drift: venv ## what was changed behind Pulumi's back; fails if anything was (STACK=local)
	@$(RUN) tools.review drift "$$STACK"

rollback: venv ## back to what ran before (asks first; YES=1 answers; TO=… another update)
	@$(RUN) tools.rollback "$$STACK"

comment: venv ## CI: FILE under TITLE as the pull request's one comment of that title
	@$(RUN) tools.github comment "$$TITLE" "$$FILE"

certificate: venv ## CI: the newest certificate of the stack as the pull request's comment (STACK=…)
	@$(RUN) tools.github certificate "$$STACK"

fetch-review: venv ## CI: find the review of what is checked out (STACK=…)
	@$(RUN) tools.github fetch-review "$$STACK"

drift-issue: venv ## CI: one open issue while the stack has drifted (STACK=…)
	@$(RUN) tools.github drift-issue "$$STACK"

check: venv ## lint, types, unit tests: the fast part
	@$(VENV)/bin/ruff format --check --quiet . && $(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary
	@$(RUN) tools.render --check
	@$(RUN) tools.actionlint
	@$(VENV)/bin/pytest -q --numprocesses 2 tests/unit

test: check ## what a change has to pass, on the real engines
	@$(RUN) tools.up --tests
	@$(PYTEST) -m "not long" tests/engine tests/conformance

test-long: venv ## more cases of what the tests show: more moments, and every field of a request at its extremes
	@$(RUN) tools.up --tests
	@$(PYTEST) -m long tests/engine tests/conformance

test-agents: venv ## coding agents as they are, by the guide in docs/agents.md: for a new version of one (1.6 GB)
	@$(RUN) tools.up --tests
	@$(RUN) offline.agents
	@$(VENV)/bin/pytest -v tests/agents

render: venv ## write rendered/<stack>/, what a reviewer reads
	@$(RUN) tools.render

clean-all: venv ## remove what was built (refuses while a stack exists)
	@$(RUN) tools.down --clean-all

lock: venv ## bring the two lock files up to date with pyproject.toml
	@$(VENV)/bin/uv pip compile --quiet pyproject.toml --group dev --generate-hashes --no-header --no-annotate \
	  -o requirements.lock
	@$(VENV)/bin/uv pip compile --quiet --group proxy --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 --python-platform linux -o proxy/requirements.lock

venv: $(VENV)/.synced

$(VENV)/.synced: requirements.lock tools/uv.txt
	@echo "Python: installing the packages of requirements.lock into $(VENV)"
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --require-hashes --no-deps -r tools/uv.txt
	@$(VENV)/bin/uv pip sync --quiet --python $(VENV)/bin/python --require-hashes requirements.lock
	@touch $@
