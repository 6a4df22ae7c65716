# Two commands do everything on a bare machine: `make run` and `make test`. PIP_ARGS goes to pip (an index, a proxy).
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: run test test-all check bench campaign oracle format help
.DEFAULT_GOAL := help

help:
	@echo "make run [REPOS='path-or-url ...'] [RECIPE=tiny] [ARGS='field=value ...']   install, run the chain, print the report's place"
	@echo "make test          fast tests          make test-all   slow ones too"
	@echo "make check         ruff, pyright, import contract, documentation"
	@echo "make bench NAME=   one benchmark       make campaign NAME=   one long seeded campaign"
	@echo "make oracle        parity of exported models with mlx-lm and transformers"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip $(PIP_ARGS)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]" $(PIP_ARGS)
	touch $@

# The sandbox. Without it everything but the programming tasks runs, and the report says so.
.PHONY: sandbox
sandbox:
	@command -v bwrap >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq bubblewrap >/dev/null; } \
		|| echo "bubblewrap is missing: programming tasks will be skipped; install it with: sudo apt-get install bubblewrap"

RECIPE ?= tiny
run: $(INSTALLED) sandbox
	$(BIN)/codeflow run $(RECIPE) $(foreach repo,$(REPOS),--repos "$(repo)") $(ARGS)

test: $(INSTALLED) sandbox
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu" -q

# The slow tests compare with transformers; the first line makes its environments and checks the logits.
test-all: $(INSTALLED) sandbox
	$(BIN)/python scripts/check_transformers.py
	$(BIN)/pytest -n auto --dist worksteal -q

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(NAME)

campaign: $(INSTALLED) sandbox
	$(BIN)/python -m campaigns $(NAME)

# Our exported directories against mlx-lm and transformers, each in a pinned environment of its own.
oracle: $(INSTALLED)
	$(BIN)/python scripts/make_oracle_goldens.py
	$(BIN)/python scripts/check_transformers.py

format: $(INSTALLED)
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .
