# One command per need; `make help` lists them. Every target creates the environment it needs.
PYTHON ?= python3
VENV   ?= .venv
# torch is pinned: an open range would pull several GB of CUDA packages on a machine that has no GPU.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
# Says what it downloads, and how far it is, without a line for every file that it finds.
PIP     = $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on
# Of the system, or of the wheels of extra cuda-build.
NVCC   ?= $(or $(shell command -v nvcc),$(firstword $(wildcard $(VENV)/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)))
CMAKE  ?= $(or $(shell command -v cmake),$(BIN)/cmake)
# A variable of CMake: given, or left to its default, never what an earlier call gave.
GIVEN   = $(if $(2),-D$(1)="$(2)",-U$(1))
C_FILES = $(shell git ls-files '*.c' '*.cpp' '*.cu' '*.cuh' '*.h' '*.inl')

# pytest with a worker a core; a file stays in one worker, for what its tests share (tests/conftest.py).
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup $(PYTEST_OPTIONS)
# What `make quick` leaves out.
LONG := tests/runtime/live tests/runtime/commands tests/runtime/test_bench.py tests/runtime/test_doctor.py \
        tests/runtime/test_fuzz_sources.py tests/runtime/sessions/test_tensorrt.py tests/export tests/calibration \
        tests/plugins tests/vivim/training tests/vivim/commands tests/vivim/test_efficiency.py \
        tests/vivim/test_rivals.py tests/vivim/test_weights.py tests/vivim/scan

.PHONY: help dev format lint types test quick test-all lowest docs evidence native wheels plugins gpu-check compat demo bench zoo clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

dev: $(VENV)/.installed  ## create .venv with everything that the tests and the demo need

$(VENV)/.installed: pyproject.toml
	@echo "Making $(VENV) (about 2 GB; a few minutes, which the downloads below take most of)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) -e ".[dev]" "$(TORCH)"
	@# Of the tests of vivim-eval alone. It asks for numpy 1.18 and runs with any; --no-deps lets it.
	$(PIP) --no-deps "pysodmetrics==1.4.4"
	@touch $@

format: dev  ## let ruff and clang-format format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(C_FILES)

lint: dev  ## ruff: rules and format; clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)

types: dev  ## mypy --strict over the four packages
	$(BIN)/mypy

test: dev  ## the fast tests, one worker a core (WORKERS=1: one after the other)
	$(PYTEST) -m "not slow and not gpu"

quick: dev  ## for the inner loop, within a minute: no live runs, exports, engines, kernels, training or measuring
	$(PYTEST) -q -m "not slow and not gpu" $(addprefix --ignore=,$(LONG))

test-all: dev  ## every test that this machine can run
	$(PYTEST)

docs: dev  ## the documentation as a site, in build/site; links are checked (REPOSITORY_URL: where the code will be)
	$(PIP) --quiet -e ".[docs]" "$(TORCH)"
	$(BIN)/mkdocs build --strict
	@echo "Look at build/site/index.html; for its search, which needs a server: $(BIN)/mkdocs serve"

evidence: dev  ## what a regulator asks for, in build/evidence, signed (KEY=file)
	$(BIN)/python docs/tools/evidence.py --out build/evidence $(if $(KEY),--key "$(KEY)")

lowest: dev  ## the oldest and newest of every dependency, and releases of ONNX Runtime from 1.18 on (downloads them)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS) tests/test_dependencies.py tests/export/test_runtime_versions.py

native:  ## the operators for ONNX Runtime and PyTorch on this CPU, in plugins/build/native (a C++ compiler is enough)
	@echo "Compiling the operators for this CPU (about half a minute on one core; at once where they are up to date)"
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) plugins/ort/build.py

plugins:  ## the CUDA kernels and the TensorRT plugin, in plugins/build/gpu (ARCH=87: for one GPU architecture)
	$(CMAKE) -S plugins --preset gpu $(if $(NVCC),-DVIVIM_NVCC=$(NVCC)) $(call GIVEN,VIVIM_ARCHITECTURES,$(ARCH)) \
		$(foreach name,VIVIM_TENSORRT_INCLUDE TENSORRT_ROOT VIVIM_TENSORRT_MAJOR,$(call GIVEN,$(name),$($(name))))
	$(CMAKE) --build plugins/build/gpu --parallel

gpu-check:  ## on a machine with an NVIDIA GPU: build, test, benchmark and sanitise the kernels in 8 minutes (OUT=folder)
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) plugins/tools/gpu_check.py $(if $(OUT),--out "$(OUT)")

compat: dev  ## the code against six versions of TensorRT's bindings, its lean registry, and old cuda-python
	$(BIN)/python -m pytest -m slow tests/export/test_bindings.py tests/plugins/test_lean_registry.py \
		tests/runtime/sessions/test_cuda_versions.py

wheels:  ## vivim-edge and vivim-edge-native for x86-64 and aarch64, in dist/ (needs: pip install ziglang)
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) plugins/ort/wheels.py

demo: dev  ## export, check and run the shipped weights; results in demo/
	@$(BIN)/python plugins/ort/build.py || echo "The demo runs without it, slower."
	$(BIN)/python examples/demo.py --out demo

bench: dev  ## the CPU benchmarks: the scan, and whole clips end to end
	$(BIN)/python benchmarks/scan_cpu.py
	$(BIN)/python benchmarks/e2e_cpu.py

zoo: dev  ## Mamba networks of others, from your checkouts of them, to ONNX: a table (FORKS=folder, ONLY=names, ENGINE=1)
	@[ -d "$(FORKS)" ] || { echo "FORKS is $(or $(FORKS),not given); expected the folder of your checkouts" >&2; exit 2; }
	$(BIN)/python benchmarks/zoo.py --path "$(FORKS)" $(if $(ONLY),--only "$(ONLY)") $(if $(ENGINE),--engine)

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) demo build plugins/build *.egg-info
