# Every target makes what it needs; `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
CORE := .venv/.core
DEV := .venv/.dev
DOCS := .venv/.docs

COMPARED := bench-prior bench-decoder bench-upsampler bench-image bench-training
SIZE ?= small
SCENES ?= 100
N ?= 5000
SEED ?= 0
TESTS ?= tests
PYTEST := $(BIN)/pytest -n 2 -m "not gpu"

.PHONY: demo pictures page-pictures knobs test test-avx2 test-default test-without-font fuzz kill-test lint types docs \
  bench bench-engines bench-serve fuzz-api bench-data bench-embeddings bench-processes bench-approximations plots paper $(COMPARED) gpu clean

$(CORE): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e .
	touch $(CORE)

$(DEV): $(CORE)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	touch $(DEV)

$(DOCS): $(CORE)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $(DOCS)

# A labelled sheet of 4 captions × 4 seeds by the bundled model.
demo: $(CORE)
	$(BIN)/unclip generate -n 4 --output out/demo.png \
	  "a blue triangle on a white background" \
	  "a yellow crescent at night" \
	  "a purple square by the sea" \
	  "a red star and a white ring on a green background"

# The pictures of README.md and docs/manipulations.md, by the bundled model.
pictures: $(CORE)
	$(BIN)/python recipes/pictures.py

# The pictures of docs/web.md: the page of the bundled model in Debian's chromium.
page-pictures: $(DEV)
	$(BIN)/python recipes/page_pictures.py

# The table of docs/sampling.md, of the knobs as they are.
knobs: $(CORE)
	$(BIN)/python -m unclip.pipeline.settings docs/sampling.md

test: $(DEV)
	$(PYTEST) $(TESTS)

# The same as other machines run it: a CPU with AVX2 and nothing newer; torch's own kernels without
# any vector instructions; no emoji font. TESTS names some of them.
test-avx2: $(DEV)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(TESTS)

test-default: $(DEV)
	ATEN_CPU_CAPABILITY=default $(PYTEST) $(TESTS)

test-without-font: $(DEV)
	XDG_DATA_DIRS=/nowhere XDG_DATA_HOME=/nowhere $(PYTEST) $(TESTS)

# N hostile inputs of every class, each in a process with limits; `make test` tries some hundred.
fuzz: $(DEV)
	$(BIN)/python -m tests.fuzz.run -n $(N) --seed $(SEED)

# Trainings and writes, killed N times over at moments drawn by seeds: tried and failed.
kill-test: N = 50
kill-test: $(DEV)
	$(BIN)/python -m tests.kill.killing -n $(N)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(DEV)
	$(BIN)/mypy

# The documents and the reference of the Python API as a site, strictly: out/docs/site/index.html.
docs: $(DOCS)
	$(BIN)/python docs/build.py

bench: $(DEV) bench-engines
	$(BIN)/python benchmarks/run.py

# A step in unclip, diffusers and OpenVINO, with all that this CPU has and with AVX2 alone; int8 of
# OpenVINO's with ENGINES="--int8" (pip install nncf).
bench-engines: $(DEV)
	$(BIN)/python benchmarks/engines.py $(ENGINES)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python benchmarks/engines.py $(ENGINES)

# What `unclip serve` costs and withstands, asked from this machine alone; about half an hour.
bench-serve: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serving.py

# Requests that schemathesis makes of the server's schema, some thousand.
fuzz-api: $(DEV)
	API_CASES=$(shell expr $(N) / 15) $(BIN)/pytest -q tests/interfaces/server/schema_cases.py

# How fast captioned images are read, against webdataset's reader (pip install webdataset).
bench-data: $(DEV)
	$(BIN)/python benchmarks/data.py

# A prior's step from images and from precomputed embeddings: IMAGES is a folder of captioned images.
bench-embeddings: $(DEV)
	$(BIN)/python benchmarks/embeddings.py $(IMAGES)

# Samplers and approximations of the bundled model: quality and cost (docs/sampling.md).
bench-approximations: $(DEV)
	$(BIN)/python benchmarks/approximations.py -n $(SCENES)

# The paper's tables on the built-in world, docs/paper_tables.md: N images a row, models in MODELS.
paper: N = 1000
paper: $(DEV)
	$(BIN)/python benchmarks/paper.py -n $(N) $(if $(MODELS),--models $(MODELS))
	$(BIN)/python benchmarks/paper_tables.py

# Plots for docs/ of what was measured here last.
plots: $(DEV)
	$(BIN)/python benchmarks/plot.py

# One part against diffusers' with the same weights, e.g. `make bench-prior SIZE=full`.
$(COMPARED): $(DEV)
	$(BIN)/python benchmarks/compare.py $(@:bench-%=%) --size $(SIZE)

# Training in two processes, and what each of them holds, against the averaging of before.
bench-training: bench-processes
bench-processes: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/processes.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/processes.py --memory prior --size medium --batch 8

# Tests and benchmarks that need a CUDA device.
gpu: $(DEV)
	$(BIN)/pytest -m gpu
	$(BIN)/python benchmarks/run.py --device cuda
	for part in $(COMPARED:bench-%=%); do \
	  $(BIN)/python benchmarks/compare.py $$part --size $(SIZE) --device cuda || exit 1; done

clean:
	rm -rf .venv out dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
