# Two stages: `make cache-teacher` labels views, `make train-student` trains from the labels.
# Without SHARDS or FOLDER both run on the embedded handwritten digits, end to end.
#
# Both call the commands each time: these compare what is asked with what is there, and go on, widen or refuse.
# Files of make's own would not know that a variable has changed.

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
WORKERS ?= 2

# words for the shell, whatever is in them
quoted = '$(subst ','\'',$(1))'
option = $(if $(2),$(1) $(call quoted,$(2)))
each   = $(foreach one,$(2),$(1) $(call quoted,$(one)))

# a misspelt variable would change nothing, and nobody would know
KNOWN := PYTHON VENV WORKERS FOLDER VAL_FOLDER DATA SHARDS VAL STORE TEACHER CHECKPOINT POLICY SET OPS TOPK TAU VIEWS RECIPE \
	NPROC CLAIM LEASE ENGINE ACTORS GPUS_PER_ACTOR ENDPOINT CACHE CACHE_BYTES RENDER LOG OUT PUBLISHED LICENCE PARTIAL \
	BENCH_SHARDS BENCH_FILLED BENCH_TIMM BENCH_ROWS BENCH_REPEATS BENCH_DALI BENCH_OUT \
	EVIDENCE EVIDENCE_OUT EVIDENCE_DOCS PLAN JOBS ONLY DEVICE TEST_PROCESSES TEST_TMPDIR
unknown := $(foreach name,$(filter-out $(KNOWN),$(.VARIABLES)),$(if $(findstring command,$(origin $(name))),$(name)=))
ifneq ($(strip $(unknown)),)
$(error $(strip $(unknown)) is no variable of this Makefile: see `make help`; one of the environment goes before make)
endif
# what 1 switches on, 0 would too
switches := $(foreach name,CLAIM PARTIAL PLAN BENCH_DALI,$(if $(findstring command,$(origin $(name))),$(if \
	$(filter-out 1,$($(name))),$(name))))
ifneq ($(strip $(switches)),)
$(error $(firstword $(switches))=$($(firstword $(switches))): give $(firstword $(switches))=1, or leave it out)
endif

ifneq ($(FOLDER)$(VAL_FOLDER),)
ifeq ($(FOLDER),)
$(error VAL_FOLDER= goes with FOLDER=, whose classes it has: give both, or VAL= for validation shards)
endif
ifneq ($(SHARDS),)
$(error FOLDER= and SHARDS= are both given: leave one out)
endif
ifneq ($(and $(VAL_FOLDER),$(VAL)),)
$(error VAL_FOLDER= and VAL= are both given: leave one out)
endif
absent := $(shell for folder in $(call option,,$(FOLDER)) $(call option,,$(VAL_FOLDER)); do \
	test -d "$$folder" || { echo "$$folder"; break; }; done)
ifneq ($(absent),)
$(error $(absent) is no folder: give FOLDER= and VAL_FOLDER= one that holds a folder for each class)
endif
endif

ifneq ($(FOLDER),)
# a folder of images: its shards are made here, once, named after its path, but for what a shell or a pattern would read
NAME    := $(shell printf %s $(call quoted,$(FOLDER)) | sed 's|^[./]*||; s|/*$$||; s|[^[:alnum:]._-]|-|g')
DATA    ?= data/$(or $(NAME),folder)
STORE   ?= stores/$(or $(NAME),folder)
TRAIN_PATTERNS = $(call quoted,$(DATA)/train-*.tar)
GIVEN_SHARDS   = --shards $(TRAIN_PATTERNS)
VAL_PATTERNS   = $(if $(VAL_FOLDER),--val $(call quoted,$(DATA)/val-*.tar),$(call each,--val,$(VAL)))
else
TRAIN_PATTERNS = $(call each,,$(INDEXED))
GIVEN_SHARDS   = $(call each,--shards,$(INDEXED))
VAL_PATTERNS   = $(call each,--val,$(VAL))
endif

ifeq ($(SHARDS)$(FOLDER),)
# the embedded data set: its shards and, without TEACHER, its teacher are made here
DATA    := data/digits
INDEXED := $(DATA)/train-*.tar
VAL     ?= $(DATA)/val-*.tar
OUT     ?= runs/digits
STORE   ?= $(OUT)/store
POLICY  ?= digits
USUAL_VIEWS := 32
VIEWS   ?= $(USUAL_VIEWS)
RECIPE  ?= digits_distilled
MADE_SHARDS  := $(DATA)/val-0000.tar
MADE_TEACHER := $(if $(TEACHER),,$(OUT)/teacher)
ASKED   := $(or $(TEACHER),student.convnet:small_convnet)
WEIGHTS := $(or $(CHECKPOINT),$(if $(MADE_TEACHER),$(MADE_TEACHER)/checkpoint.pt))
else
INDEXED := $(SHARDS)
STORE   ?= stores/cache
OUT     ?= runs/$(notdir $(STORE))
USUAL_VIEWS := 304
RECIPE  ?= deit_tiny_distilled
ASKED   := $(TEACHER)
WEIGHTS := $(CHECKPOINT)
# a store that is there keeps its policy and views where these variables are not given; one at a URL is asked for
LOOK     := import sys; from teacher_cache.store.presence import check_is_store; check_is_store(sys.argv[1])
AT_URL    = $(if $(ENDPOINT),AWS_ENDPOINT_URL_S3=$(call quoted,$(ENDPOINT))) $(BIN)/python -c $(call quoted,$(LOOK))
IS_THERE  = $(shell $(if $(findstring ://,$(STORE)),$(AT_URL),test -e) $(call quoted,$(STORE)) 2>/dev/null && echo yes)
FOR_NEW   = $(if $(and $(POLICY),$(VIEWS)),,$(if $(IS_THERE),,$(if $(POLICY),,--policy deit) $(if $(VIEWS),,--views $(USUAL_VIEWS))))
endif

# a run of other views goes elsewhere than one of the usual number, a run of another recipe too
STUDENT = $(OUT)/$(basename $(notdir $(RECIPE)))$(if $(filter-out $(USUAL_VIEWS),$(VIEWS)),-$(VIEWS)views)

RUN       := $(BIN)/python -m
LAUNCH    := $(if $(NPROC),$(BIN)/torchrun --standalone --nproc-per-node $(NPROC) -m,$(RUN))
FAR       := $(call option,--endpoint,$(ENDPOINT)) $(call option,--cache,$(CACHE)) $(call option,--cache-bytes,$(CACHE_BYTES))
INSTALLED := $(VENV)/.installed

# a command, shown and run; after an error, which variables stand behind its options (75 and 130: it was stopped)
command = @(PS4=; set -x; $(1)) || { code=$$?; case $$code in 75|130) ;; *) echo $(VARIABLES) >&2;; esac; exit $$code; }
VARIABLES := "make's variables: the store is STORE=, or PUBLISHED=, its --shards are SHARDS=, a folder of images FOLDER= or VAL_FOLDER=, that of their shards DATA=," \
	"--policy POLICY=, --set SET=, --views and --views-used VIEWS=, --teacher TEACHER=, --checkpoint CHECKPOINT=, --topk TOPK=, --tau TAU=, --recipe RECIPE=, --val VAL=, --ops OPS=, --claim CLAIM=, --lease LEASE=, --engine ENGINE=, --actors ACTORS=, --gpus-per-actor GPUS_PER_ACTOR=, --endpoint ENDPOINT=, --cache CACHE=, --cache-bytes CACHE_BYTES=, --log-to LOG=, --out OUT=, --licence LICENCE=, --partial PARTIAL=1"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install shards cache-teacher train-student publish test check docs bench bench-gpu evidence lock clean

help: ## list targets and variables
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18
	@echo
	@echo 'Variables, for data of your own (without FOLDER and SHARDS: the embedded digits):'
	@echo '  FOLDER=      training images, a folder for each class; their shards are made once'
	@echo '  VAL_FOLDER=  validation images, folders of the same classes'
	@echo '  DATA=        where the shards of both go            [$(if $(FOLDER),$(DATA),data/PATH-OF-FOLDER)]'
	@echo '  SHARDS=      or training shards: paths, globs or brace patterns'
	@echo '  VAL=         validation shards'
	@echo '  STORE=       the store of labels                    [$(STORE)]'
	@echo '  TEACHER=     timm name or path/file.py:function'
	@echo '  CHECKPOINT=  the teacher'"'"'s weights, where not timm'"'"'s own'
	@echo '  POLICY=      augmentation: deit, transfer, cifar, digits, none or a TOML file   [$(or $(POLICY),deit)]'
	@echo '  SET=         policy settings to override: SET="size=192 flip=none"'
	@echo '  OPS=         RandAugment operations of your own: FILE.py:FUNCTION'
	@echo '  TOPK= TAU=   keep the K largest probabilities at this temperature, for soft distillation'
	@echo '  VIEWS=       augmented views per sample             [$(or $(VIEWS),$(USUAL_VIEWS))]'
	@echo '  RECIPE=      training recipe, shipped or a TOML file   [$(RECIPE)]'
	@echo '  NPROC=       processes (GPUs) on this machine, through torchrun'
	@echo '  WORKERS=     rendering processes for each of them   [$(WORKERS)]'
	@echo '  CLAIM=1      other jobs, on other machines too, fill the same store at the same time; LEASE=120s, the same in all'
	@echo '  ENGINE=ray   label by actors of a Ray cluster: ACTORS=1:64, GPUS_PER_ACTOR=1'
	@echo '  ENDPOINT=    the server that s3:// means: MinIO, R2'
	@echo '  CACHE=       keep what is read from far away in this folder, CACHE_BYTES=200G of it'
	@echo '  RENDER=      where views are rendered: auto (a GPU if there is one), cpu or gpu   [$(or $(RENDER),auto)]'
	@echo '  LOG=         send the curves to wandb or trackio, too'
	@echo '  OUT=         where the run goes                     [$(OUT)]'
	@echo '  PUBLISHED=   of publish: where to, a folder, a bucket, hf://datasets/OWNER/NAME; LICENCE=, PARTIAL=1'
	@echo '               of train-student: learn from what is published there, labelling nothing, with the shards given'
	@echo
	@echo 'Variables of bench and bench-gpu:'
	@echo '  BENCH_SHARDS=   take images of these shards, else pictures are made'
	@echo '  BENCH_FILLED=   a filled store, whose bytes a view are counted too'
	@echo '  BENCH_TIMM=     the train.py of timm, a peer of stage two on a GPU'
	@echo '  BENCH_ROWS=     only rows whose name matches: "stage two*"   [$(BENCH_ROWS)]'
	@echo '  BENCH_REPEATS=  turns of either side                [$(BENCH_REPEATS)]'
	@echo '  BENCH_DALI=1    install DALI too (400 MB), a peer of rendering'
	@echo '  BENCH_OUT=      where figures, plot and made stores go   [$(BENCH_OUT)]'
	@echo
	@echo 'Variables of evidence:'
	@echo '  DATA=           the shards, named as the settings say'
	@echo '  EVIDENCE=       the scale: small (two cores), full (a GPU) or a TOML file   [$(EVIDENCE)]'
	@echo '  PLAN=1          say the minutes of each row, run nothing'
	@echo '  JOBS=           steps that run side by side              [1]'
	@echo '  ONLY=           only these experiments: ONLY="teachers views"'
	@echo '  DEVICE=         cpu, cuda; without it a GPU if there is one'
	@echo '  EVIDENCE_OUT=   where stores and trained models go       [$(EVIDENCE_OUT)]'

install: $(INSTALLED) ## make the environment in .venv from the lock file

$(INSTALLED): requirements.lock pyproject.toml $(wildcard teacher_cache/replay/native/*.[ch])
	@echo 'installing requirements.lock: up to 7 GB in $(VENV), and minutes in which pip says nothing'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m teacher_cache.rendering
	touch $@

shards: $(INSTALLED) $(MADE_SHARDS) ## write FOLDER and VAL_FOLDER, or the digits, as shards, once
ifneq ($(FOLDER),)
	$(call command,$(BIN)/python tools/make_shards.py folder --again $(call quoted,$(FOLDER)) $(call quoted,$(DATA)))
ifneq ($(VAL_FOLDER),)
	$(call command,$(BIN)/python tools/make_shards.py folder --again $(call quoted,$(VAL_FOLDER)) $(call quoted,$(DATA)) \
		--prefix val --classes $(call quoted,$(DATA)/classes.json))
endif
endif

cache-teacher: shards ## stage one: index the shards and label every view
ifneq ($(MADE_TEACHER),)
	$(call command,$(RUN) teacher_cache index $(TRAIN_PATTERNS) --store $(call quoted,$(MADE_TEACHER)-store) \
		--policy digits --views $(USUAL_VIEWS))
	$(call command,$(RUN) student train $(call quoted,$(MADE_TEACHER)-store) --recipe digits_teacher \
		--val '$(DATA)/val-*.tar' --out $(call quoted,$(MADE_TEACHER)) --workers $(WORKERS) $(call option,--render,$(RENDER)))
endif
	$(call command,$(RUN) teacher_cache index $(TRAIN_PATTERNS) --store $(call quoted,$(STORE)) $(FOR_NEW) \
		$(call option,--policy,$(POLICY)) $(call option,--views,$(VIEWS)) $(call each,--set,$(SET)) $(call option,--ops,$(OPS)) \
		$(call option,--endpoint,$(ENDPOINT)))
	$(call command,$(if $(filter ray,$(ENGINE)),$(RUN),$(LAUNCH)) teacher_cache fill $(call quoted,$(STORE)) \
		--workers $(WORKERS) $(call option,--render,$(RENDER)) \
		$(call option,--teacher,$(ASKED)) $(call option,--checkpoint,$(WEIGHTS)) $(call option,--topk,$(TOPK)) \
		$(call option,--tau,$(TAU)) $(call option,--ops,$(OPS)) $(if $(CLAIM),--claim) $(call option,--lease,$(LEASE)) \
		$(call option,--engine,$(ENGINE)) $(call option,--actors,$(ACTORS)) $(call option,--gpus-per-actor,$(GPUS_PER_ACTOR)) $(FAR))

train-student: $(if $(PUBLISHED),shards,cache-teacher) ## stage two: train a student from the labels
	$(call command,$(LAUNCH) student train $(call quoted,$(or $(PUBLISHED),$(STORE))) --recipe $(call quoted,$(RECIPE)) \
		$(if $(PUBLISHED),$(GIVEN_SHARDS)) $(VAL_PATTERNS) $(call option,--views-used,$(VIEWS)) --out $(call quoted,$(STUDENT)) \
		--workers $(WORKERS) $(call option,--render,$(RENDER)) $(call option,--ops,$(OPS)) $(FAR) \
		$(call option,--log-to,$(LOG)))
ifeq ($(PUBLISHED),)
ifneq ($(MADE_TEACHER),)
	@$(RUN) student results $(call quoted,teacher=$(MADE_TEACHER))
endif
endif

publish: $(INSTALLED) ## pack STORE into a few files for others, at PUBLISHED
ifeq ($(PUBLISHED),)
	@echo 'error: PUBLISHED= is missing: a folder, a bucket, or hf://datasets/OWNER/NAME' >&2; exit 2
else
	$(call command,$(RUN) teacher_cache publish $(call quoted,$(STORE)) $(call quoted,$(PUBLISHED)) \
		$(call option,--licence,$(LICENCE)) $(if $(PARTIAL),--partial) $(call option,--endpoint,$(ENDPOINT)))
endif

ifneq ($(MADE_SHARDS),)
$(MADE_SHARDS): | $(INSTALLED)
	$(BIN)/python tools/make_shards.py digits $(DATA)
endif

# The benchmark's own libraries are in no lock: no other target needs them. pip is told to keep what the lock gave.
BENCH_ROWS    ?= *
BENCH_REPEATS ?= 5
BENCH_OUT     ?= runs/bench
BENCH_GROUP   := $(VENV)/.bench$(if $(BENCH_DALI),-dali)
BENCH = $(BIN)/python tools/benchmark.py --rows '$(BENCH_ROWS)' --repeats $(BENCH_REPEATS) --scratch $(BENCH_OUT) \
	$(foreach word,$(BENCH_SHARDS),--shards '$(word)') $(if $(BENCH_FILLED),--filled '$(BENCH_FILLED)') \
	$(if $(BENCH_TIMM),--timm-train '$(BENCH_TIMM)')

$(BENCH_GROUP): $(INSTALLED)
	$(BIN)/python -m pip freeze --exclude-editable >$(VENV)/.constraints
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(VENV)/.constraints 'matplotlib>=3.10' \
		$(if $(BENCH_DALI),nvidia-dali-cuda130)
	touch $@

bench: $(BENCH_GROUP) ## measure ratios to timm, DALI and bare networks: table, JSON, plot
	$(BENCH) --json $(BENCH_OUT)/bench.json --plot $(BENCH_OUT)/bench.png --markdown $(BENCH_OUT)/bench.md

bench-gpu: $(BENCH_GROUP) ## the same of both stages on a GPU
	$(BENCH) --gpu --json $(BENCH_OUT)/bench-gpu.json --plot $(BENCH_OUT)/bench-gpu.png --markdown $(BENCH_OUT)/bench-gpu.md

# What is run, stopped or killed at any moment, goes on by the same command; the page is made of what there is. Its plots
# are drawn by the benchmark's library.
EVIDENCE      ?= small
EVIDENCE_OUT  ?= runs/evidence/$(basename $(notdir $(EVIDENCE)))
EVIDENCE_DOCS ?= docs/evidence

evidence: $(BENCH_GROUP) ## train what shows the claims on shards of real pictures, a run a row: DATA=FOLDER; PLAN=1: minutes
ifneq ($(origin DATA),command line)
	@echo 'error: DATA= is missing: the folder of the shards that tools/evidence/$(EVIDENCE).toml names' >&2; exit 2
else
	@code=0; (PS4=; set -x; $(RUN) tools.evidence run $(call quoted,$(EVIDENCE)) --data $(call quoted,$(DATA)) \
		--out $(call quoted,$(EVIDENCE_OUT)) --results $(call quoted,$(EVIDENCE_DOCS)) $(if $(PLAN),--plan) \
		$(call option,--jobs,$(JOBS)) $(call each,--only,$(ONLY)) $(call option,--device,$(DEVICE))) || code=$$?; \
		$(if $(PLAN),,$(RUN) tools.evidence page --results $(call quoted,$(EVIDENCE_DOCS)) || code=$$?;) exit $$code
endif

# On two cores: a third of the time of a test is spent waiting for processes. A file's tests stay together, as they share
# what takes long to make. They make a hundred thousand small files, each brought to disk: in memory, where it has room.
# Hundreds of processes import the same modules, so their bytecode is kept, whatever the environment says.
TEST_PROCESSES ?= 4
TEST_TMPDIR ?= $(shell test "$$(df --output=avail /dev/shm 2>&1 | tail -n 1)" -gt 4000000 2>/dev/null && echo /dev/shm)

test: $(INSTALLED) ## run all tests
	@folder=$$(mktemp -d $(or $(TEST_TMPDIR),$${TMPDIR:-/tmp})/tests-XXXXXX) || exit; trap 'rm -rf "$$folder"' EXIT; \
		trap 'exit 130' INT; trap 'exit 143' TERM; PS4=; set -x; \
		TMPDIR=$$folder PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q --numprocesses $(TEST_PROCESSES) \
			--dist loadfile --no-loadscope-reorder

check: $(INSTALLED) ## lint, formatting, types, pages: what CI runs before the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) --no-print-directory docs

docs: $(INSTALLED) ## build the site of docs/ into runs/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --config-file docs/site/mkdocs.yml

lock: ## resolve pyproject.toml anew into requirements.lock (needs uv)
	uv pip compile pyproject.toml --group dev --extra audit --extra export --extra objects --extra docs \
		--universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

clean: ## remove the environment and what the embedded data set's run has made
	rm -rf $(VENV) data/digits runs/digits
