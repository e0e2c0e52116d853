# Everything a fresh machine needs is made by the targets themselves: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS ?= torch,tensorflow,jax,all,data,examples
KERAS_BACKEND ?= torch
PIP_ARGS ?=
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -c $(CONSTRAINTS)
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -X faulthandler -m pytest
export TF_CPP_MIN_LOG_LEVEL ?= 3
export JAX_PLATFORMS ?= cpu

# Five to remember: test, test-backend, test-resume, test-all, lint. Those that run pytest take ARGS:
# make test ARGS="-k monitor". The options of the tests:
#   KERAS_BACKEND=jax  the backend of test-backend and test-resume (and of demo and hunt)
#   BACKGROUND=1       test-resume: every save is written in the background, however small it is,
#                      and snapshots share every array that did not change;
#                      only the tests in which that makes a difference
#   LONG=1             test-resume, test-ranks: hundreds of SIGKILLs instead of tens
#   NEXT=1             any of them: with keras-nightly
.PHONY: demo demo-ranks test test-backend test-resume test-ranks test-integrations doctor-examples test-all lint docs compatibility notebooks test-examples test-notebooks test-browser test-wheel check-package test-floors hunt \
  bench bench-costs bench-stopping bench-stores clean

# Needs one backend only, and installs no more, unless all is there already.
DEMO_STAMP := $(if $(wildcard $(STAMP)),$(STAMP),$(VENV)/.demo-$(KERAS_BACKEND))

demo: export TF_ENABLE_ONEDNN_OPTS ?= 0# TensorFlow announces oneDNN whatever the log level is
demo: $(DEMO_STAMP)
	@KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python examples/digits.py
	@KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python examples/resume.py

$(VENV)/.demo-%: pyproject.toml $(CONSTRAINTS)
	@echo "Installing Keras and $* in $(VENV) (a minute or so) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e ".[$*,examples]"
	@touch $@

# Two processes, one training: one is killed, both are started again.
demo-ranks: $(STAMP)
	$(BIN)/python examples/kill_a_rank.py

# Everything on PyTorch but kills and exact resume.
TESTS := $(filter-out tests/test_run.py,$(wildcard tests/test_*.py)) tests/policy tests/drop_in \
  tests/callbacks tests/engine tests/formats tests/keras/test_names.py tests/plots tests/cli \
  tests/backends tests/conformance tests/storage tests/supervisor tests/doctor tests/report src

test: $(STAMP)
	KERAS_BACKEND=torch $(PYTEST) $(TESTS) $(ARGS)

# What of that touches a backend.
BACKEND_TESTS := tests/drop_in tests/callbacks tests/engine tests/backends tests/conformance tests/formats \
  tests/keras/test_names.py tests/test_loading.py tests/test_averaging.py tests/test_refitting.py \
  tests/test_examples.py::test_digits_stops_and_the_file_equals_the_model

test-backend: $(STAMP)
	KERAS_BACKEND=$(KERAS_BACKEND) $(PYTEST) $(BACKEND_TESTS) $(ARGS)

# Kills and exact resume.
RESUME_TESTS := tests/crash tests/hunt/test_hunt.py tests/resume tests/data tests/test_run.py \
  tests/keras
BACKGROUND_TESTS := tests/crash/test_resume_chains.py tests/storage/test_checkpoint_runs.py \
  tests/storage/test_faults_end_to_end.py tests/storage/test_leftover_locks.py \
  tests/storage/test_lock.py tests/resume/test_averages.py tests/resume/test_backup_directory.py \
  tests/resume/test_callbacks.py tests/resume/test_endings.py tests/resume/test_preemption.py \
  tests/resume/test_recovering.py tests/test_run.py

test-resume: $(STAMP)
	KERAS_BACKEND=$(KERAS_BACKEND) RATCHET_BACKGROUND=$(BACKGROUND) RATCHET_LONG=$(LONG) \
	  $(if $(BACKGROUND),RATCHET_UNCHANGED=all) $(PYTEST) $(if $(BACKGROUND),$(BACKGROUND_TESTS),$(RESUME_TESTS)) $(ARGS)

# Several processes of one training. `fit` on torch knows of them since Keras 3.16, which is not
# released: these tests have it beside the Keras of constraints.txt.
RANKS_KERAS := build/ranks-keras
RANKS_TESTS := tests/distributed

RANKS_RAY := build/ray

test-ranks: $(STAMP) $(RANKS_KERAS)/.installed $(RANKS_RAY)/.installed
	KERAS_BACKEND=torch RATCHET_KERAS_NEXT=$(abspath $(RANKS_KERAS)) \
	  RATCHET_RAY=$(abspath $(RANKS_RAY)) RATCHET_LONG=$(LONG) $(PYTEST) $(RANKS_TESTS) $(ARGS)

$(RANKS_KERAS)/.installed: constraints-ranks.txt $(STAMP)
	rm -rf $(RANKS_KERAS)
	$(BIN)/python -m pip install -q --disable-pip-version-check --pre --no-deps \
	  --target $(RANKS_KERAS) -r constraints-ranks.txt
	touch $@

$(RANKS_RAY)/.installed: constraints-ray.txt $(STAMP)
	rm -rf $(RANKS_RAY)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
	  --target $(RANKS_RAY) -r constraints-ray.txt
	touch $@

# Trackers, the Hub and tuners: their clients are beside the environment, as Ray is.
INTEGRATIONS := build/integrations

test-integrations: $(STAMP) $(INTEGRATIONS)/.installed
	KERAS_BACKEND=torch RATCHET_INTEGRATIONS=$(abspath $(INTEGRATIONS)) $(PYTEST) tests/integrations $(ARGS)

$(INTEGRATIONS)/.installed: constraints-integrations.txt $(STAMP)
	rm -rf $(INTEGRATIONS)
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-compile \
	  --target $(INTEGRATIONS) -r constraints-integrations.txt
	touch $@

# The examples with a backend: for the public CI, as it takes long.
test-examples: $(STAMP)
	KERAS_BACKEND=$(KERAS_BACKEND) $(PYTEST) tests/test_examples.py $(ARGS)

# The notebooks in real kernels, which are interrupted, too. They are made of the .py beside them.
test-notebooks: $(STAMP)
	KERAS_BACKEND=torch $(PYTEST) tests/notebooks $(ARGS)

# What docs/compatibility.md says, run again: make compatibility ARGS=--help
compatibility: $(STAMP)
	$(BIN)/python benchmarks/compatibility.py $(ARGS)

notebooks: $(STAMP)
	KERAS_BACKEND=torch $(BIN)/python docs/notebooks/build.py

# The report in a real browser: Chromium or Chrome has to be there (apt install chromium).
test-browser: $(STAMP)
	$(PIP) --group browser
	$(PYTEST) tests/browser $(ARGS)

# The site in build/docs; a warning is an error, and so is a link that leads nowhere.
docs: $(STAMP)
	rm -rf build/docs
	KERAS_BACKEND=torch $(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

# The examples under the doctor: for the public CI, as it takes long. The first two save no snapshots,
# of which the doctor says so, with exit code 1.
DOCTOR := KERAS_BACKEND=torch $(abspath $(BIN))/ratchet doctor --seed 1 --kills

doctor-examples: $(STAMP)
	cd examples && for example in digits custom_loop; do \
	  $(DOCTOR) 1 -- $(abspath $(BIN))/python $$example.py; test $$? -eq 1 || exit 1; done
	cd examples && $(DOCTOR) 3 --epochs 3 -- $(abspath $(BIN))/python text.py
	cd examples && $(DOCTOR) 3 -- $(abspath $(BIN))/python audio.py

# What has to pass before a change lands, in under an hour on two cores: two parts at a time, the
# longest first. It is all of test and test-resume on PyTorch; on the other backends test-backend
# and, of test-resume, what depends most on the backend. The public CI runs the rest.
PARTS := ranks resume test exact-tensorflow backend-tensorflow exact-jax backend-jax background \
  integrations notebooks docs wheel package
EXACT_TESTS := tests/crash/test_resume_chains.py tests/crash/test_full_disk.py \
  tests/hunt/test_hunt.py tests/resume/test_endings.py tests/resume/test_extra_state.py \
  tests/resume/test_negative_controls.py tests/resume/test_callbacks.py tests/resume/test_stores.py \
  tests/resume/test_iterators_of_tf_data.py tests/resume/test_reading_ahead.py

test-all: $(STAMP)
	OMP_NUM_THREADS=1 PYTEST_ADDOPTS="-p no:cacheprovider" \
	  $(MAKE) --jobs=2 --keep-going --output-sync=recurse $(PARTS:%=part-%)

.PHONY: $(PARTS:%=part-%)
part-test: ; @$(MAKE) test
part-resume: ; @$(MAKE) test-resume KERAS_BACKEND=torch
part-background: ; @$(MAKE) test-resume KERAS_BACKEND=torch BACKGROUND=1
part-ranks: ; @$(MAKE) demo-ranks && $(MAKE) test-ranks
part-integrations: ; @$(MAKE) test-integrations
part-notebooks: ; @$(MAKE) test-notebooks
part-docs: ; @$(MAKE) docs
part-package: ; @$(MAKE) check-package
part-wheel: ; @$(MAKE) test-wheel KERAS_BACKEND=torch
part-backend-tensorflow part-backend-jax: part-backend-%: ; @$(MAKE) test-backend KERAS_BACKEND=$*
part-exact-tensorflow part-exact-jax: part-exact-%: ; @$(MAKE) test-resume KERAS_BACKEND=$* RESUME_TESTS="$(EXACT_TESTS)"

# For the public CI: what a wheel lacks, the oldest of everything that pyproject.toml claims, and
# the Keras to come. The wheel is installed apart and the tests run from a copy, out of reach of src.
WHEEL_TESTS := tests/test_public_api.py tests/test_loading.py tests/cli tests/keras/test_names.py \
  tests/formats/test_readers.py tests/storage/test_golden.py tests/report

test-wheel: $(STAMP)
	rm -rf build/wheel && mkdir -p build/wheel
	PIP_CONSTRAINT=$(abspath $(CONSTRAINTS)) $(BIN)/python -m build --wheel --outdir build/wheel . > build/wheel/build.log 2>&1 || { cat build/wheel/build.log; exit 1; }
	$(BIN)/python -m pip install -q --no-deps --target build/wheel/site build/wheel/*.whl
	tar -c --exclude=__pycache__ tests examples README.md docs pyproject.toml | tar -x -C build/wheel
	cd build/wheel && KERAS_BACKEND=$(KERAS_BACKEND) PYTHONPATH=site \
	  RATCHET_WHEEL=$(CURDIR)/build/wheel/site RATCHET_SOURCE=$(CURDIR)/src \
	  $(CURDIR)/$(PYTEST) $(WHEEL_TESTS) $(ARGS)

# What is uploaded: built once, checked, and installed by itself with nothing but what it requires.
CHECK := build/check-package

check-package:
	rm -rf dist $(CHECK) && $(PYTHON) -m venv $(CHECK)/tools && $(PYTHON) -m venv $(CHECK)/venv
	cd $(CHECK) && tools/bin/python -m pip install -q --disable-pip-version-check -c $(abspath $(CONSTRAINTS)) pip
	$(CHECK)/tools/bin/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) --group package
	PIP_CONSTRAINT=$(abspath $(CONSTRAINTS)) $(CHECK)/tools/bin/python -m build --outdir dist . > $(CHECK)/build.log 2>&1 || { cat $(CHECK)/build.log; exit 1; }
	$(CHECK)/tools/bin/twine check --strict dist/*
	$(CHECK)/tools/bin/check-wheel-contents dist/*.whl
	$(PYTHON) tests/support/package.py dist
	$(CHECK)/venv/bin/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) dist/*.whl
	$(CHECK)/venv/bin/python -m pip check --disable-pip-version-check
	cd $(CHECK) && venv/bin/ratchet --version && venv/bin/python -m keras_ratchet --help > /dev/null

FLOORS ?= .venv-floors
FLOORS_TESTS := tests/test_floors.py tests/test_public_api.py tests/test_loading.py tests/cli \
  tests/keras/test_names.py tests/drop_in tests/storage/test_golden.py

test-floors: $(FLOORS)/.installed
	KERAS_BACKEND=torch $(FLOORS)/bin/python -X faulthandler -m pytest $(FLOORS_TESTS) $(ARGS)

# What has no floor has the version of constraints.txt.
$(FLOORS)/.installed: pyproject.toml constraints-floors.txt $(CONSTRAINTS)
	test -x $(FLOORS)/bin/python || $(PYTHON) -m venv $(FLOORS)
	awk -F== 'NR == FNR {oldest[$$1]; print; next} !($$1 in oldest)' \
	  constraints-floors.txt $(CONSTRAINTS) > $(FLOORS)/constraints.txt
	$(FLOORS)/bin/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) \
	  -c $(FLOORS)/constraints.txt -e ".[torch,plot,fast,store]" pytest hypothesis safetensors
	touch $@

# keras-nightly is not `keras` for pip, so it is installed in a directory that comes first on the path.
NEXT_KERAS := build/next-keras
ifdef NEXT
export PYTHONPATH := $(abspath $(NEXT_KERAS))
test test-backend test-resume: $(NEXT_KERAS)/.installed
endif

$(NEXT_KERAS)/.installed: $(STAMP)
	rm -rf $(NEXT_KERAS)
	$(BIN)/python -m pip install -q --disable-pip-version-check --pre --no-deps --target $(NEXT_KERAS) keras-nightly
	touch $@

# Scripts made at random, killed and resumed: make hunt MINUTES=30 SEED=1 KERAS_BACKEND=jax
MINUTES ?= 30
SEED ?= 0

hunt: $(STAMP)
	PYTHONPATH=tests KERAS_BACKEND=$(KERAS_BACKEND) $(BIN)/python -m hunt --minutes $(MINUTES) --seed $(SEED) $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/zizmor --offline --quiet .github

bench: $(STAMP)
	$(PIP) --group bench
	$(BIN)/python benchmarks/run_saves.py

# The table of goals: make bench-costs ARGS="--before OLD/src", where OLD is an older checkout
bench-costs: $(STAMP)
	$(PIP) --group bench
	$(BIN)/python benchmarks/costs.py $(ARGS)

# What saving to an object store costs; with RATCHET_COMPOSER=DIR beside Composer's uploader
bench-stores: $(STAMP)
	$(BIN)/python benchmarks/stores.py $(ARGS)

# Which stopping rule: make bench-stopping ARGS=--long for all networks on all data sets
bench-stopping: $(STAMP)
	PYTHONPATH=benchmarks KERAS_BACKEND=jax $(BIN)/python -m stopping $(ARGS)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) pip # 25.1 and later know dependency groups
	$(PIP) -e ".[$(EXTRAS)]" --group dev
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(FLOORS) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
