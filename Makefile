# Everything a person does here. Each target makes its own .venv first; nothing is done by hand.
# the first of the Pythons that the project runs on
PYTHON ?= $(shell for version in 3.11 3.12 3.13 3.14; do python$$version -c '' 2>/dev/null && echo python$$version && exit; done; echo python3)
BIN := .venv/bin
RUNTIME := .venv/.runtime
DEVELOPMENT := .venv/.development
BENCHMARKS := .venv/.benchmarks
TOOLS := .tools/bin

.PHONY: help setup run up env test test-slow chaos attack check bench gpu audit lock sbom scan clean

help:  ## what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUNTIME)  ## install what running needs

$(RUNTIME): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,serving]'
	@touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,serving,cluster,lm-eval,dev]'
	@touch $@ $(RUNTIME)

$(BENCHMARKS): $(DEVELOPMENT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[pipeline,serving,cluster,lm-eval,dev,bench]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench-native]' \
		|| echo 'llama.cpp does not compile here; benchmarks.serving says so and goes on'
	@touch $@ $(DEVELOPMENT) $(RUNTIME)

run: $(RUNTIME)  ## the whole chain once, a question to the service, its answer
	$(BIN)/devopsgpt run

up: $(RUNTIME)  ## Dagster on :3000, MLflow on :5000, the service on :8000; Ctrl-C stops all three
	$(BIN)/devopsgpt up

env:  ## a .env with random secrets for docker-compose.yml
	$(PYTHON) deploy/make_env.py

test: $(DEVELOPMENT)  ## all but the slow tests, no network
	$(BIN)/python -m pytest

test-slow: $(DEVELOPMENT)  ## load, soak and whole-chain tests that take longer
	$(BIN)/python -m pytest -m slow

chaos: $(DEVELOPMENT)  ## faults: kill -9, a full disk, a jumping clock, a lost database; ten minutes at most
	timeout -s INT 600 $(BIN)/python -m pytest -n 3 --dist loadfile -m chaos tests/chaos

attack: $(DEVELOPMENT)  ## attacks on the service, the scraper, the home and the proxy; minutes, loopback only
	$(BIN)/python -m pytest -m attack tests/attack

check: $(DEVELOPMENT)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(BENCHMARKS)  ## ours against its peers, one after the other; `make bench NAME=extraction` runs one
	$(BIN)/python -m benchmarks $(NAME)

gpu:  ## what waits for a GPU, in nine minutes; needs no .venv where torch is (PYTHON=...)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu

audit: $(DEVELOPMENT)  ## known vulnerabilities of the pinned versions; needs the network
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	$(BIN)/pip-audit --vulnerability-service osv --requirement constraints.txt --no-deps --disable-pip

lock: $(TOOLS)/uv  ## constraints.lock: the hashes of what constraints.txt pins, but for torch's; needs the network
	$(TOOLS)/uv pip compile constraints.txt --quiet --no-deps --generate-hashes --no-emit-package torch \
		--python-version 3.11.16 --no-annotate --no-emit-index-url --custom-compile-command 'make lock' \
		--output-file constraints.lock

sbom: $(RUNTIME)  ## a bill of materials of what is installed, bom.cdx.json
	@$(MAKE) --silent $(TOOLS)/cyclonedx-py || { echo 'no bill of materials: cyclonedx-bom could not be installed'; exit 0; }; \
	$(TOOLS)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file bom.cdx.json $(BIN)/python \
		&& echo 'wrote bom.cdx.json'

scan:  ## known vulnerabilities of the images, where trivy or grype is installed; fails for findings alone
	@$(PYTHON) deploy/scan.py

$(TOOLS)/%:  # programs that share no environment with ours
	@test -x $(TOOLS)/python || $(PYTHON) -m venv .tools
	@$(TOOLS)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9 cyclonedx-bom==7.5.0

clean:  ## forget the environment and everything that was trained
	rm -rf .venv .tools .devopsgpt
