# Each target sets up its own environment; a second call installs nothing.
#   make ablation                 the default ablation: configs/norm_by_depth.toml
#   make test [PYTHON=python3.12] lint, types, import directions and all tests, with the locked versions
#   make quick                    while you work: lint, types, oracles, one law of each kind, every command once
#   make test-latest [PYTHON=…]   the same with the newest releases of everything
#   make lock                     pin every package again, with hashes (needs uv)
#   make pages                    write the pages of docs/ that are made from the code
#   make site                     the pages as a site: build/site/index.html
#   make dist                     a wheel and a source archive in dist/
#   make plan-all                 ask the TPU's compiler for a plan of every structure (installs libtpu; no TPU is needed)
#   make parity                   remake the golden files from Hugging Face transformers (needs torch)
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
WORKERS ?= 2
EXTRAS = train hf tokenizers trackers docs notebooks dev
COMMA = ,
SPACE = $(subst x,,x x)
RUN = $(VENV)/bin/python

.PHONY: setup ablation test quick test-latest lint lock pages site dist plan-all parity clean check

setup: $(VENV)/.ready

# The environment is made anew when the lock or the interpreter changes.
$(VENV)/.ready: requirements.lock pyproject.toml $(VENV)/.python-$(notdir $(PYTHON))
	$(RUN) -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.python-$(notdir $(PYTHON)):
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	touch $@

ablation: setup
	$(RUN) -m train ablate configs/norm_by_depth.toml

test: setup check

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

quick: setup lint
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "oracle or quick" tests/ops tests/test_quick.py tests/test_architecture.py

check: lint
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal

test-latest:
	rm -rf .venv-latest
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -e ".[$(subst $(SPACE),$(COMMA),$(EXTRAS))]"
	.venv-latest/bin/python -m pip list --disable-pip-version-check | grep -iE "^(jax|flax|optax|numpy|orbax-checkpoint|grain) "
	.venv-latest/bin/python -m pytest -n $(WORKERS) --dist worksteal

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header $(addprefix --extra ,$(EXTRAS)) pyproject.toml -o requirements.lock

pages: setup
	$(RUN) -m tests.generated

site: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --quiet

dist: setup
	rm -rf dist build/lib build/bdist.*
	$(RUN) -c "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
	ls dist

plan-all: .venv-plan/.ready
	JAX_PLATFORMS=cpu .venv-plan/bin/python -m pytest -m tpu -n $(WORKERS) --dist worksteal tests/train/plan

.venv-plan/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-plan
	.venv-plan/bin/python -m pip install --quiet --disable-pip-version-check -e ".[plan,dev]"
	touch $@

parity: .venv-parity/.ready
	.venv-parity/bin/python -m tests.parity.make_golden
	.venv-parity/bin/python -m tests.parity.make_golden --check

.venv-parity/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) transformers -e ".[hf]"
	touch $@

clean:
	rm -rf .venv .venv-latest .venv-parity .venv-plan .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis *.egg-info
