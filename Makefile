# Everything a fresh machine needs is made by the targets themselves: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS ?= torch,tensorflow,jax,plot,data,examples,dev
KERAS_BACKEND ?= torch
PIP_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -X faulthandler -m pytest
export TF_CPP_MIN_LOG_LEVEL ?= 3
export JAX_PLATFORMS ?= cpu

# $(ARGS) goes to pytest: make test ARGS="-k monitor"
.PHONY: demo test test-tensorflow test-jax test-resume test-background test-exact test-all test-wheel \
  test-crash next-keras next-keras-resume floors hunt lint bench bench-stopping clean

demo: $(STAMP)
	KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python examples/digits.py
	KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python examples/resume.py

# The suite, on PyTorch. The long parts (kills, exact resume) have targets of their own below.
SUITE := $(filter-out tests/test_run.py,$(wildcard tests/test_*.py)) tests/policy tests/drop_in \
  tests/callbacks tests/engine tests/formats tests/keras/test_names.py tests/plots tests/cli \
  tests/conformance tests/storage src

test: $(STAMP)
	KERAS_BACKEND=torch $(PYTEST) $(SUITE) $(ARGS)

# The tests that touch a backend: the others gave their answer under `make test`.
BACKEND_TESTS := tests/drop_in tests/callbacks tests/engine tests/conformance tests/formats \
  tests/keras/test_names.py tests/test_loading.py tests/test_averaging.py tests/test_refitting.py \
  tests/test_examples.py::test_digits_stops_and_the_file_equals_the_model

test-tensorflow: $(STAMP)
	KERAS_BACKEND=tensorflow $(PYTEST) $(BACKEND_TESTS) $(ARGS)

test-jax: $(STAMP)
	KERAS_BACKEND=jax $(PYTEST) $(BACKEND_TESTS) $(ARGS)

# Kills and exact resume on one backend: make test-resume KERAS_BACKEND=jax
RESUME_TESTS := tests/resume tests/data tests/test_run.py tests/keras/test_meanings.py tests/crash \
  tests/hunt/test_hunt.py

test-resume: $(STAMP)
	KERAS_BACKEND=$(KERAS_BACKEND) $(PYTEST) $(RESUME_TESTS) $(ARGS)

# The same with every save written beside training, however small it is.
BACKGROUND_TESTS := tests/storage tests/test_loading.py tests/crash/test_resume_chains.py \
  tests/resume/test_backup_directory.py tests/resume/test_callbacks.py tests/resume/test_endings.py tests/resume/test_recovering.py \
  tests/resume/test_averages.py tests/resume/test_preemption.py tests/test_run.py

test-background: $(STAMP)
	RATCHET_BACKGROUND=1 KERAS_BACKEND=$(KERAS_BACKEND) $(PYTEST) $(BACKGROUND_TESTS) $(ARGS)

# All of that for one machine and one hour: whole on PyTorch, in part on the others.
EXACT_TESTS := tests/crash tests/resume/test_endings.py tests/resume/test_negative_controls.py \
  tests/resume/test_callbacks.py tests/hunt/test_hunt.py

test-exact: $(STAMP)
	KERAS_BACKEND=torch $(PYTEST) $(RESUME_TESTS) $(ARGS)
	KERAS_BACKEND=tensorflow $(PYTEST) $(EXACT_TESTS) $(ARGS)
	KERAS_BACKEND=jax $(PYTEST) $(EXACT_TESTS) $(ARGS)

test-all: test test-tensorflow test-jax test-wheel test-exact test-background

# The wheel is built and installed apart; the tests run from a copy, out of reach of src.
test-wheel: $(STAMP)
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel . > build/wheel/build.log 2>&1 || { cat build/wheel/build.log; exit 1; }
	$(BIN)/python -m pip install -q --no-deps --target build/wheel/site build/wheel/*.whl
	cp -r tests examples README.md docs pyproject.toml build/wheel/
	cd build/wheel && KERAS_BACKEND=$(KERAS_BACKEND) PYTHONPATH=site RATCHET_WHEEL=$(CURDIR)/build/wheel/site \
	  $(CURDIR)/$(PYTEST) tests/drop_in tests/policy \
	  tests/cli tests/storage/test_golden.py tests/test_loading.py tests/test_public_api.py \
	  tests/keras/test_names.py tests/formats/test_readers.py $(ARGS)

# The long kill suite: hundreds of SIGKILLs on each backend.
test-crash: $(STAMP)
	for backend in torch tensorflow jax; do \
	  KERAS_BACKEND=$$backend RATCHET_LONG=1 $(PYTEST) tests/crash $(ARGS) || exit 1; done

# Scripts made at random, killed and resumed: make hunt MINUTES=30 SEED=1 KERAS_BACKEND=jax
MINUTES ?= 30
SEED ?= 0

hunt: $(STAMP)
	PYTHONPATH=tests KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python -m hunt --minutes $(MINUTES) --seed $(SEED) $(ARGS)

# Exactness on the Keras to come. keras-nightly is no `keras` for pip, so it is put over the other,
# in a folder of its own that comes first.
NEXT_TESTS := tests/keras tests/resume/test_steps_at_once.py \
  tests/resume/test_negative_controls.py tests/resume/test_callbacks.py tests/resume/test_options.py \
  tests/resume/test_data_matrix.py tests/crash/test_resume_chains.py
NEXT_KERAS ?= build/next-keras

next-keras: $(STAMP) $(NEXT_KERAS)/.installed
	PYTHONPATH=$(abspath $(NEXT_KERAS)) KERAS_BACKEND=$(KERAS_BACKEND) $(PYTEST) $(NEXT_TESTS) $(ARGS)

next-keras-resume: $(STAMP) $(NEXT_KERAS)/.installed
	PYTHONPATH=$(abspath $(NEXT_KERAS)) KERAS_BACKEND=$(KERAS_BACKEND) $(PYTEST) $(RESUME_TESTS) $(ARGS)

$(NEXT_KERAS)/.installed: $(STAMP)
	rm -rf $(NEXT_KERAS)
	$(BIN)/python -m pip install -q --disable-pip-version-check --pre --no-deps --target $(NEXT_KERAS) keras-nightly
	touch $@

# The oldest of everything that pyproject.toml claims: the command line and the drop-in tests.
FLOORS ?= .venv-floors
FLOORS_TESTS := tests/test_floors.py tests/test_public_api.py tests/keras/test_names.py tests/cli tests/drop_in \
  tests/storage/test_golden.py tests/test_loading.py

floors: $(FLOORS)/.installed
	KERAS_BACKEND=torch $(FLOORS)/bin/python -X faulthandler -m pytest $(FLOORS_TESTS) $(ARGS)

# What has no floor has the version of constraints.txt.
$(FLOORS)/.installed: pyproject.toml constraints-floors.txt $(CONSTRAINTS)
	test -x $(FLOORS)/bin/python || $(PYTHON) -m venv $(FLOORS)
	awk -F== 'NR == FNR {oldest[$$1]; print; next} !($$1 in oldest)' \
	  constraints-floors.txt $(CONSTRAINTS) > $(FLOORS)/constraints.txt
	$(FLOORS)/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) \
	  -c $(FLOORS)/constraints.txt -e ".[torch,plot]" pytest hypothesis safetensors
	touch $@

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e ".[bench]"
	$(BIN)/python benchmarks/run_saves.py

# Which stopping rule: make bench-stopping ARGS=--long for all networks on all data sets
bench-stopping: $(STAMP)
	PYTHONPATH=benchmarks KERAS_BACKEND=jax $(BIN)/python -m stopping $(ARGS)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c $(CONSTRAINTS) -e ".[$(EXTRAS)]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(FLOORS) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
