# One environment for everything, .venv, made on first use: `make demo` puts there what the demo needs, `make test` the rest.
# All versions are those of constraints.txt but torch's: TORCH says which, and pip's settings which build of it. Triton has
# to fit torch; its builds for GPUs bring theirs along.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TRITON ?= triton==3.7.1
BIN := .venv/bin
# Python compiles what it imports, which is little of all that is installed.
PIP := $(BIN)/pip install -q --no-compile --prefer-binary -c constraints.txt
SOURCES := pyproject.toml setup.py $(shell find csrc -type f)

.PHONY: test demo lint coverage accuracy bench docs evidence lock compat fuzz clean

test: .venv/test
	$(BIN)/python -m pytest -n 2

demo: .venv/demo
	$(BIN)/icl demo

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

accuracy: .venv/bench
	$(BIN)/python bench/accuracy.py

coverage: .venv/test
	$(BIN)/python -m pytest -n 2 --cov=hyperbolic --cov=icl --cov-report=term-missing:skip-covered --cov-report=html:out/coverage

bench: .venv/bench
	$(BIN)/python bench/performance.py

docs: .venv/test
	$(BIN)/mkdocs build

evidence: .venv/test
	$(BIN)/python bench/wordnet.py
	$(BIN)/python bench/ranking.py

lock:
	$(PYTHON) bench/lock.py '$(TORCH)'
	$(PYTHON) bench/lock.py '$(TORCH)' --check

compat: .venv/test
	$(BIN)/python bench/compat.py

# Into a folder of its own: a library with sanitizers loads into no process that does not bring them.
SANITIZED := build/sanitized
fuzz: .venv/test
	HYPERBOLIC_BUILD_CPU=native HYPERBOLIC_BUILD_CUDA=none HYPERBOLIC_BUILD_FLAGS='-fsanitize=address,undefined -O1 -g1' \
	$(BIN)/python setup.py -q build --build-lib $(SANITIZED) --build-temp $(SANITIZED)-objects
	PYTHONPATH=bench:. $(BIN)/python -m fuzz --sanitized $(SANITIZED) $(FUZZ)

.venv/torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) '$(TORCH)' numpy setuptools
	touch $@

# pip waits for the network most of the time, so the kernels are compiled meanwhile, and not by pip.
.venv/demo .venv/test: .venv/%: .venv/torch $(SOURCES)
	$(MAKE) --no-print-directory -j2 packages-$* kernels-$*
	touch .venv/demo $@

.venv/lint .venv/bench: .venv/%: .venv/test
	$(MAKE) --no-print-directory packages-$*
	touch $@

packages-%:
	HYPERBOLIC_BUILD_CPU=none HYPERBOLIC_BUILD_CUDA=none $(PIP) --no-build-isolation -e '.[$*]' $(if $(filter test,$*),'$(TRITON)')

# For this machine: its instruction set, and its GPU if it has one.
kernels-demo:
	HYPERBOLIC_BUILD_CPU=native HYPERBOLIC_BUILD_CUDA=gpu $(BIN)/python setup.py -q build_ext --inplace

# For any: tests run all that this machine can, and compile for GPUs where there is nvcc.
kernels-test:
	$(BIN)/python setup.py -q build_ext --inplace

clean:
	rm -rf .venv build dist out *.egg-info
