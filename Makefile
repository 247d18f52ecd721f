# make demo   set up, then: demonstrations -> training -> evaluation -> report, on this computer
# make test   set up, then run the tests
.PHONY: setup demo demo-full demo-metaworld test check clean

export MUJOCO_GL ?= egl
BIN := .venv/bin
PYTEST_FLAGS ?= -n 2

setup:
	@bash scripts/setup.sh

demo: setup
	@$(BIN)/visuomotor demo

demo-full: setup
	@$(BIN)/visuomotor demo --full

demo-metaworld: setup
	@$(BIN)/visuomotor demo --world metaworld

test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache
