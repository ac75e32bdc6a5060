# The two commands of a newcomer: `make zoom` and `make test`. Both create what they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := *.py command zoom results viewer sd3 plain_sr prompts int8 checkpoints machine ram lora training benchmarks

.PHONY: zoom test test-gpu browser fuzz soak format clean

zoom: $(VENV)/installed  ## zoom 256x into every picture of samples/
	$(BIN)/python inference_coz.py -i samples -o inference_results

test: $(VENV)/installed-dev  ## lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/oxlint --config viewer/page/.oxlintrc.json viewer/page
	$(BIN)/mypy $(CODE)
	$(BIN)/pytest -n 2

test-gpu: $(VENV)/installed-dev  ## what only a GPU shows; skipped, with the reason, where there is none
	$(BIN)/pytest -m gpu -n 0 -rs

browser: $(VENV)/installed-browser  ## what the tests of the page need; without it they are skipped
	command -v chromium >/dev/null || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

fuzz: $(VENV)/installed-dev  ## damaged files for a night: make fuzz N=20000
	cd tests && OMP_NUM_THREADS=1 PYTHONPATH=..:. ../$(BIN)/python -m fuzz $(or $(N),2000) $(START)

soak: $(VENV)/installed-dev  ## kills at random moments: make soak N=200, or N=30 WAY=torchrun
	cd tests && OMP_NUM_THREADS=1 PYTHONPATH=..:. ../$(BIN)/python -m fuzz.soak $(or $(N),50) $(or $(START),0) $(WAY)

format: $(VENV)/installed-dev  ## let ruff lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and caches, keep the results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/installed: requirements.txt requirements-common.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-browser: requirements-browser.txt $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet -r requirements-browser.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
