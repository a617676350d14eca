# make | make demo | test | check | format | bench — each installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test check format bench clean

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/python jobs/proliferate.py --preset digits --n-keys 4 --attacks apgd-ce mi-fgsm --detect

# Two processes, whose waits fill each other: what starts a Ray, one after another, and beside it the rest.
test: $(STAMP)
	@$(BIN)/python -m pytest -m "not ray" > $(VENV)/rest.log 2>&1 & rest=$$!; \
	$(BIN)/python -m pytest -m ray; ray=$$?; \
	wait $$rest; rest=$$?; cat $(VENV)/rest.log; exit $$((ray || rest))

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/attacks.py
	$(BIN)/python benchmarks/fleet.py
	$(BIN)/python benchmarks/detection.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/training.py --ddp

clean:
	rm -rf $(VENV)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11. Run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	# Its formulas are a test's oracle; what it asks for besides (cleverhans and more) nothing of them needs.
	$(BIN)/python -m pip install --quiet --no-deps fingerprints-armor==1.0.1
	@touch $@
