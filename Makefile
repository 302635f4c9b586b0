# One target a verb of development; CI calls the same. Needs Python 3.11 or newer, make and a package index.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
READY := .venv/installed

.PHONY: demo test lint bench torture clean

demo: $(READY)  ## train, evaluate, seal, serve, and see verify refuse an altered resize filter
	$(BIN)/python scripts/demo.py

test: $(READY)  ## all tests; one thread a process, one process a core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## the figures in benchmarks/, measured again; those on data and backbones need DATA=, MINILM=, E5=, EFFICIENTNET=; MODEL= and TEXTS= a served text model
	$(BIN)/python benchmarks/seal.py
	$(BIN)/python benchmarks/start.py --json benchmarks/start.json
	$(BIN)/python benchmarks/generation.py --json benchmarks/generation.json
	$(BIN)/python benchmarks/pictures.py $(if $(and $(DATA),$(EFFICIENTNET)),--data "$(DATA)" --efficientnet "$(EFFICIENTNET)") --json benchmarks/pictures.json
	$(BIN)/python benchmarks/serving/heads.py --json benchmarks/serving/heads.json
	$(if $(and $(DATA),$(MINILM)),$(BIN)/python benchmarks/serving/lora.py --data "$(DATA)/debsections/test.csv" --minilm "$(MINILM)" --json benchmarks/serving/lora.json)
	$(if $(and $(MODEL),$(TEXTS)),$(BIN)/python benchmarks/serving/requests.py "$(MODEL)" "$(TEXTS)" --json benchmarks/serving/requests.json)
	$(if $(DATA),$(BIN)/python benchmarks/tables.py --data "$(DATA)/tables" --json benchmarks/tables.json)
	$(if $(DATA),$(BIN)/python benchmarks/in_context.py --data "$(DATA)/tables" --rows 500 --json benchmarks/in_context.json)
	$(if $(DATA),$(BIN)/python benchmarks/in_context.py --data "$(DATA)/tables" --rows 2000 --json benchmarks/in_context.json)
	$(if $(DATA),$(BIN)/python benchmarks/pretrain.py --data "$(DATA)" --run runs/bench-pretrain --json benchmarks/pretrain.json)
	$(if $(DATA),$(BIN)/python benchmarks/inspect_runs.py --data "$(DATA)" --json benchmarks/inspect_runs.json)
	$(if $(and $(DATA),$(MINILM)),$(BIN)/python benchmarks/finetune_speed.py --data "$(DATA)" --minilm "$(MINILM)" --json benchmarks/finetune_speed.json)
	$(if $(and $(DATA),$(MINILM)),$(BIN)/python benchmarks/pretrain_views.py --data "$(DATA)" --runs runs/bench-views --minilm "$(MINILM)" --json benchmarks/pretrain_views.json)
	$(if $(and $(DATA),$(MINILM),$(E5)),$(BIN)/python benchmarks/text.py --data "$(DATA)" --minilm "$(MINILM)" --e5 "$(E5)" --json benchmarks/text.json)
	$(if $(DATA),$(BIN)/python benchmarks/forecasting.py --data "$(DATA)/series/forecasting" --json benchmarks/forecasting.json)
	$(if $(DATA),$(BIN)/python benchmarks/forecasting.py --data "$(DATA)/series/forecasting" --models zero-shot,rules --json benchmarks/forecasting_zero_shot.json)
	$(if $(DATA),$(BIN)/python benchmarks/ett.py --data "$(DATA)/series/forecasting_multivariate/ETTh1.csv" --json benchmarks/ett.json)
	$(if $(DATA),$(BIN)/python benchmarks/etth1.py --data "$(DATA)/series/forecasting_multivariate/ETTh1.csv" --json benchmarks/etth1.json)
	$(if $(DATA),$(BIN)/python benchmarks/series_classification.py --data "$(DATA)/series/classification" --json benchmarks/series_classification.json)
	$(if $(DATA),$(BIN)/python benchmarks/series_anomaly.py --data "$(DATA)/series/anomaly" --json benchmarks/series_anomaly.json)

torture: $(READY)  ## the full counts of tests/reliability, with result files
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m torture tests/reliability

clean:  ## what the other targets made
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mainstem needs Python 3.11 or newer, and finds none: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
