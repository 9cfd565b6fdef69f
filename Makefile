# Everything runs in a virtual environment of its own, made on first use.
TASK ?= super_resolution
PYTHON ?= python3
BIN := .venv/bin
# Used by tests and benchmarks alone. lpips asks for torchvision, which its own code does without.
TORCH := torch==2.13.0

.PHONY: demo test test-slow lint bench clean

demo: .venv/demo.done
	$(BIN)/python -m cdd.main --config=configs/$(TASK).py:tiny --workdir=runs/$(TASK)

test: .venv/test.done lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations=15

test-slow: .venv/test.done
	$(BIN)/python -m pytest -q -m slow

lint: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/test.done
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.sampling

clean:
	rm -rf .venv runs

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -U pip

.venv/demo.done: .venv/bin/python setup.cfg
	$(BIN)/pip install -q -e .
	touch $@

.venv/test.done: .venv/demo.done
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -e '.[test,reference]'
	$(BIN)/pip install -q --no-deps lpips==0.1.4
	touch $@
