# Two stages: `make cache-teacher` labels views, `make train-student` trains from the labels.
# Without SHARDS both run on the embedded handwritten digits, end to end.

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
WORKERS ?= 2

ifeq ($(SHARDS),)
# the embedded data set: its shards and its teacher are made here
DATA       := data/digits
VAL        := $(DATA)/val-*.tar
OUT        ?= runs/digits
STORE      ?= $(OUT)/store
POLICY     ?= digits
VIEWS      ?= 32
RECIPE     ?= digits_distilled
TEACHER    := student.convnet:small_convnet
CHECKPOINT := $(OUT)/teacher/checkpoint.pt
INDEXED    := $(DATA)/train-*.tar
INPUTS     := $(DATA)/classes.json
MADE_TEACHER := $(OUT)/teacher/results.json
else
OUT        ?= runs/$(notdir $(STORE))-$(RECIPE)
STORE      ?= stores/cache
POLICY     ?= deit
VIEWS      ?= 304
RECIPE     ?= deit_tiny_distilled
INDEXED    := $(SHARDS)
INPUTS     :=
MADE_TEACHER :=
endif

STUDENT := $(OUT)/student
RUN     := $(BIN)/python -m
LAUNCH  := $(if $(NPROC),$(BIN)/torchrun --standalone --nproc-per-node $(NPROC) -m,$(RUN))
INSTALLED := $(VENV)/.installed
WITH_OPS  = $(if $(OPS),--ops '$(OPS)')
quoted = $(foreach word,$(1),'$(word)')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install cache-teacher train-student test check bench bench-gpu lock clean

help: ## list targets and variables
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18
	@echo
	@echo 'Variables, for data of your own (without SHARDS: the embedded digits):'
	@echo '  SHARDS=      training shards: paths, globs or brace patterns'
	@echo '  VAL=         validation shards'
	@echo '  STORE=       the store of labels                    [$(STORE)]'
	@echo '  TEACHER=     timm name or path/file.py:function'
	@echo '  CHECKPOINT=  the teacher'"'"'s weights, where not timm'"'"'s own'
	@echo '  POLICY=      augmentation: deit, transfer, cifar, digits, none or a TOML file   [$(POLICY)]'
	@echo '  SET=         policy settings to override: SET="size=192 flip=none"'
	@echo '  OPS=         RandAugment operations of your own: FILE.py:FUNCTION'
	@echo '  TOPK= TAU=   keep the K largest probabilities at this temperature, for soft distillation'
	@echo '  VIEWS=       augmented views per sample             [$(VIEWS)]'
	@echo '  RECIPE=      training recipe, shipped or a TOML file   [$(RECIPE)]'
	@echo '  NPROC=       processes (GPUs) on this machine, through torchrun'
	@echo '  WORKERS=     rendering processes for each of them   [$(WORKERS)]'
	@echo '  OUT=         where the run goes                     [$(OUT)]'
	@echo
	@echo 'Variables of bench and bench-gpu:'
	@echo '  BENCH_SHARDS=   take images of these shards, else pictures are made'
	@echo '  BENCH_FILLED=   a filled store, whose bytes a view are counted too'
	@echo '  BENCH_ROWS=     only rows whose name matches: "stage two*"   [$(BENCH_ROWS)]'
	@echo '  BENCH_REPEATS=  turns of either side                [$(BENCH_REPEATS)]'
	@echo '  BENCH_DALI=1    install DALI too (400 MB), a peer of rendering'
	@echo '  BENCH_OUT=      where figures, plot and made stores go   [$(BENCH_OUT)]'

install: $(INSTALLED) ## make the environment in .venv from the lock file

$(INSTALLED): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

cache-teacher: $(STORE).filled ## stage one: index the shards and label every view

train-student: $(STUDENT)/results.json ## stage two: train a student from the labels
	@$(RUN) student results $(if $(MADE_TEACHER),teacher=$(OUT)/teacher) student=$(STUDENT)

$(STORE)/zarr.json: | $(INPUTS) $(INSTALLED)
	$(RUN) teacher_cache index $(call quoted,$(INDEXED)) --store $(STORE) --policy $(POLICY) --views $(VIEWS) \
		$(foreach setting,$(SET),--set '$(setting)') $(WITH_OPS)

ifneq ($(MADE_TEACHER),)
$(INPUTS): | $(INSTALLED)
	$(BIN)/python tools/make_shards.py digits $(DATA)

$(MADE_TEACHER): | $(STORE)/zarr.json
	$(RUN) student train --store $(STORE) --recipe digits_teacher $(foreach word,$(VAL),--val '$(word)') --out $(OUT)/teacher --workers $(WORKERS) $(WITH_OPS)
endif

$(STORE).filled: $(STORE)/zarr.json $(MADE_TEACHER)
	$(LAUNCH) teacher_cache fill --store $(STORE) --workers $(WORKERS) $(if $(TEACHER),--teacher '$(TEACHER)') \
		$(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) $(if $(TOPK),--topk $(TOPK)) $(if $(TAU),--tau $(TAU)) $(WITH_OPS)
	touch $@

$(STUDENT)/results.json: $(STORE).filled
	$(LAUNCH) student train --store $(STORE) --recipe $(RECIPE) $(if $(VAL),$(foreach word,$(VAL),--val '$(word)')) \
		--out $(STUDENT) --workers $(WORKERS) $(WITH_OPS)

# The benchmark's own libraries are in no lock: no other target needs them. pip is told to keep what the lock gave.
BENCH_ROWS    ?= *
BENCH_REPEATS ?= 5
BENCH_OUT     ?= runs/bench
BENCH_GROUP   := $(VENV)/.bench$(if $(BENCH_DALI),-dali)
BENCH = $(BIN)/python tools/benchmark.py --rows '$(BENCH_ROWS)' --repeats $(BENCH_REPEATS) --scratch $(BENCH_OUT) \
	$(foreach word,$(BENCH_SHARDS),--shards '$(word)') $(if $(BENCH_FILLED),--filled '$(BENCH_FILLED)')

$(BENCH_GROUP): $(INSTALLED)
	$(BIN)/python -m pip freeze --exclude-editable >$(VENV)/.constraints
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/.constraints 'matplotlib>=3.10' \
		$(if $(BENCH_DALI),nvidia-dali-cuda130)
	touch $@

bench: $(BENCH_GROUP) ## measure ratios to timm, DALI and bare networks: table, JSON, plot
	$(BENCH) --json $(BENCH_OUT)/bench.json --plot $(BENCH_OUT)/bench.png --markdown $(BENCH_OUT)/bench.md

bench-gpu: $(BENCH_GROUP) ## the same of both stages on a GPU
	$(BENCH) --gpu --json $(BENCH_OUT)/bench-gpu.json --plot $(BENCH_OUT)/bench-gpu.png --markdown $(BENCH_OUT)/bench-gpu.md

test: $(INSTALLED) ## run all tests
	$(BIN)/python -m pytest -q --numprocesses 2 --dist worksteal

check: $(INSTALLED) ## lint, formatting, types: what CI runs before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: ## resolve pyproject.toml anew into requirements.lock (needs uv)
	uv pip compile pyproject.toml --group dev --extra audit --extra export --extra regions --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

clean: ## remove the environment and what the embedded data set's run has made
	rm -rf $(VENV) data/digits runs/digits
