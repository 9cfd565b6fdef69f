# Everything runs in a virtual environment of its own, made on first use.
TASK ?= super_resolution
PYTHON ?= python3
BIN := .venv/bin
# Used by tests and benchmarks alone. lpips asks for torchvision, which its own code does without.
TORCH := torch==2.13.0

# Long trainings live outside the tree, keep to one core, and give way to all other work.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/cdd
PRIOR ?= $(CACHE)/prior
PHOTOS ?= $(CACHE)/photos
CORE ?= $(shell expr $$(nproc --all) - 1)
PROCESSES ?= 1
# A log has lines, not a bar.
BACKGROUND := TQDM_MININTERVAL=1e9 OMP_NUM_THREADS=1 setsid nohup nice -n 19 taskset -c $(CORE)

.PHONY: demo test test-slow lint bench photos prior prior-stop prior-export clean

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

photos: .venv/demo.done
	$(BIN)/python -m benchmarks.photos --folder=$(PHOTOS)

# In the background, where it left off: the log says how far it is. By PyTorch (benchmarks/long_prior.py).
# `make prior CORE=0,1 PROCESSES=2` takes two cores.
prior: photos .venv/test.done
	mkdir -p $(PRIOR)
	CDD_PHOTOS=$(PHOTOS) $(BACKGROUND) $(BIN)/python -m torch.distributed.run --standalone \
	  --nproc-per-node=$(PROCESSES) -m benchmarks.long_prior --home=$(PRIOR) \
	  >> $(PRIOR)/log.txt 2>&1 < /dev/null &
	@echo 'See $(PRIOR)/log.txt; `make prior-stop` has it save and leave.'

prior-stop:
	kill -TERM $$(cat $(PRIOR)/pid)

prior-export: .venv/test.done
	$(BIN)/python -m benchmarks.long_prior --home=$(PRIOR) --export

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
