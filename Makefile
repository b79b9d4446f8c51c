# Everything runs in .venv, made from constraints.txt on first use. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOB ?= examples/doudizhu.yaml

.DEFAULT_GOAL := help
.PHONY: help setup train test check format lint types imports protos protos-current clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Make .venv with everything that training and testing need

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Troupe needs Python 3.11 or newer, this is %d.%d; try: make PYTHON=python3.11 setup" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Setting up $(VENV) (a minute or two, once)"
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,rlcard]'
	@touch $@

train: setup ## Train Dou Dizhu by self-play for about five minutes, then judge it
	@$(BIN)/troupe train $(JOB)

test: setup ## Run every test
	@$(BIN)/pytest --numprocesses=auto --dist=loadfile

check: setup format lint types imports protos-current test ## All that CI runs

format: setup
	@$(BIN)/ruff format --check .

lint: setup
	@$(BIN)/ruff check .

types: setup
	@$(BIN)/mypy

imports: setup
	@$(BIN)/lint-imports

PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos \
	--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc

protos: setup ## Generate the gRPC stubs from protos/ into platform/
	@$(PROTOC) --python_out=platform --pyi_out=platform --grpc_python_out=platform \
		--mypy_grpc_out=platform protos/troupe/wire/*.proto

protos-current: setup
	@rm -rf $(VENV)/protos && mkdir -p $(VENV)/protos
	@$(PROTOC) --python_out=$(VENV)/protos --pyi_out=$(VENV)/protos --grpc_python_out=$(VENV)/protos \
		--mypy_grpc_out=$(VENV)/protos protos/troupe/wire/*.proto
	@for file in $(VENV)/protos/troupe/wire/*; do \
		cmp -s $$file platform/troupe/wire/$$(basename $$file) \
		|| { echo "platform/troupe/wire/$$(basename $$file) is stale: run make protos"; exit 1; }; done

clean: ## Delete .venv and caches; runs/ stays
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
