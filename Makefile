# One environment for everything: .venv, made on first use. TORCH selects the build of torch; the extension is built against it.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: test demo lint accuracy bench docs evidence clean

test: .venv/installed lint
	$(BIN)/python -m pytest -n 2

demo: .venv/installed
	$(BIN)/icl demo

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

accuracy: .venv/installed
	$(BIN)/pip install -q -e '.[bench]' --no-build-isolation
	$(BIN)/python bench/accuracy.py

bench: .venv/installed
	$(BIN)/pip install -q -e '.[bench]' --no-build-isolation
	$(BIN)/python bench/performance.py

docs: .venv/installed
	$(BIN)/mkdocs build

evidence: .venv/installed
	$(BIN)/python bench/wordnet.py
	$(BIN)/python bench/ranking.py

.venv/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q '$(TORCH)' numpy 'setuptools>=77' wheel
	$(BIN)/pip install -q --no-build-isolation -e '.[test]'
	touch $@

clean:
	rm -rf .venv build dist out *.egg-info
