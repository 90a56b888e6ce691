# The commands of the README: `make demo`, `make cpp` and `make test`. All make a virtual environment
# first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Python compiles the modules that are imported when they are; there are ten times as many.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
DEMO ?= demo-output

# Paddle's wheel needs the system's libgomp, which a minimal Debian lacks. The OpenMP library that
# the wheel brings has the same interface: where libgomp is missing, it stands in under that name.
OPENMP := $(abspath $(VENV))/openmp
export LD_LIBRARY_PATH := $(OPENMP)$(if $(LD_LIBRARY_PATH),:$(LD_LIBRARY_PATH))
STAND_IN = mkdir -p $(OPENMP); \
	$(BIN)/python -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || \
	ln -sf $(abspath $(VENV))/lib/python3*/site-packages/paddle/libs/libiomp5.so \
		$(OPENMP)/libgomp.so.1

# Results of this machine; those that the project publishes lie in benchmarks/results itself.
RESULTS ?= benchmarks/results/local
BENCH := build/bench
# Solvers to be timed, whatever their pictures: few images do, and of random weights all fall short.
FIT = $(BIN)/ldm-engine fit $(@D) --guidance 6 --steps 17 --floor -1000 \
	--prompts examples/shapes/checkpoint/calibration_prompts.txt

# C++: the build tree, what is installed from it, and a project that uses what is installed.
CPP := build/cpp

PAGE := examples/browser
PAGE_TESTS := tests/examples/browser

# Pythons for which there are packages: of Paddle up to 3.13, of paddle2onnx up to 3.12, and of
# diffusers, a peer, from 3.11 on. $(call check_python,PYTHON,VERSIONS,WHAT,HOW) refuses others.
EXPORT_PYTHONS := 3.10 3.11 3.12 3.13
TEST_PYTHONS := 3.11 3.12
comma := ,
define check_python
	@given=$$($(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
	case " $(2) " in *" $$given "*) ;; *) \
		echo "Python $$given is given ($(1)); $(3), has packages for Python $(firstword $(2)) to" \
			"$(lastword $(2)). Install one of these, and run: $(4) PYTHON=python3.12" >&2; \
		exit 1 ;; \
	esac
endef

# Processes beside each other, of compilers and of tests.
JOBS ?= 2

.PHONY: demo test cpp cpp-packages browser-packages lint types packages docs bench bench-large bench-fewest ppdiffusers clean

demo: $(VENV)/.export
	$(BIN)/ldm-engine export examples/shapes/checkpoint $(DEMO)/bundle --force
	$(BIN)/ldm-engine fit $(DEMO)/bundle --guidance 2 --steps 14,16 --images 16 --held-out-images 24 \
		--reference-steps 80
	$(BIN)/ldm-engine generate $(DEMO)/bundle \
		"a small red circle on the left and a large blue star on the right, white background" \
		"a large green triangle in the center, black background" \
		"a small yellow star at the top and a large purple square at the bottom, gray background" \
		"a large orange circle on the right" \
		--guidance-scale 2 --num-inference-steps auto --seed 0 --num-images 4 --grid --output $(DEMO)/images
	$(BIN)/ldm-engine generate $(DEMO)/bundle "a large blue circle on the right" \
		--image $(DEMO)/images/a-large-orange-circle-on-the-right-12.png --strength 0.7 \
		--guidance-scale 2 --seed 0 --output $(DEMO)/images
	@echo "Look at the contact sheet, grid.png, and at the picture named last, made from one of it."

# The tests of C++ need a compiler and libraries of the distribution, those of the page Node and
# Chromium. They are installed where that can be done (as root, with apt) and named where not;
# LDM_ENGINE_SKIP_CPP=1 and LDM_ENGINE_SKIP_BROWSER=1 pass these tests over.
# Tests share the cores: a thread that waits for others of its library lets go of its core.
test: lint types $(if $(LDM_ENGINE_SKIP_CPP),,cpp-packages) $(if $(LDM_ENGINE_SKIP_BROWSER),,browser-packages)
	OMP_WAIT_POLICY=passive $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal --durations 15

cpp-packages:
	tools/install_packages.sh cpp/packages.txt cpp/packages-tests.txt

browser-packages:
	tools/install_packages.sh $(PAGE_TESTS)/packages.txt
	$(MAKE) $(PAGE)/node_modules/.package-lock.json

$(PAGE)/node_modules/.package-lock.json: $(PAGE)/package-lock.json
	cd $(@D)/.. && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

# Library, command, tests and the consumer example: built, run and installed into $(CPP)/install.
cpp: $(DEMO)/bundle/bundle.json
	OPENVINO=$$($(BIN)/python -c "from openvino.utils import get_cmake_path as p; print(p())") && \
	cmake -S cpp -B $(CPP)/release -DOpenVINO_DIR=$$OPENVINO -DLDM_ENGINE_WERROR=ON
	cmake --build $(CPP)/release --parallel $(JOBS)
	LDM_ENGINE_TEST_BUNDLE=$(abspath $(DEMO))/bundle \
		ctest --test-dir $(CPP)/release --output-on-failure
	cmake --install $(CPP)/release --prefix $(abspath $(CPP)/install)
	cmake -S cpp/examples/consumer -B $(CPP)/consumer \
		-DCMAKE_PREFIX_PATH=$(abspath $(CPP)/install)
	cmake --build $(CPP)/consumer
	$(CPP)/consumer/consumer
	$(CPP)/install/bin/ldm-generate $(DEMO)/bundle \
		"a large blue star on the right, black background" --guidance-scale 2 --seed 0 --output $(DEMO)/images

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# For each system: mypy knows what of the standard library Windows and macOS lack.
types: $(VENV)/.dev
	for system in linux darwin win32; do \
		$(BIN)/mypy --platform $$system --cache-dir .mypy_cache/$$system || exit 1; \
	done

# The documents as a site, in build/site: no network is needed, neither here nor to read it.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Wheel and source distribution.
packages: $(VENV)/.dev
	$(BIN)/python -m build --outdir dist

# Half an hour; bench-large takes hours, 70 GB of disk and 16 GiB of memory, bench-fewest an hour of the same
# model. All go on where they stopped.
bench: $(BENCH)/shapes/bundle/solvers.json
	$(BIN)/python benchmarks/suite.py shapes $(<D) examples/shapes/checkpoint \
		--conversions $(BENCH)/shapes/conversions --output $(RESULTS)/shapes

bench-large: $(BENCH)/large/bundle/bundle.json
	$(BIN)/python benchmarks/suite.py large $(<D) $(BENCH)/large/checkpoint \
		--conversions $(BENCH)/large/conversions --output $(RESULTS)/large

bench-fewest: $(BENCH)/large/bundle/solvers.json
	$(BIN)/python benchmarks/suite.py large-fewest $(<D) $(BENCH)/large/checkpoint \
		--conversions $(BENCH)/large/conversions --output $(RESULTS)/large-fewest

$(BENCH)/shapes/bundle/bundle.json: $(wildcard examples/shapes/checkpoint/*/*) | $(VENV)/.dev
	$(BIN)/ldm-engine export examples/shapes/checkpoint $(@D) --force \
		--formats paddle,onnx,openvino --int8

$(BENCH)/shapes/bundle/solvers.json: $(BENCH)/shapes/bundle/bundle.json
	$(FIT) --images 16 --held-out-images 16

$(BENCH)/large/checkpoint/model_index.json: | $(VENV)/.dev
	$(BIN)/python examples/random_checkpoint.py $(@D) --size large --force

$(BENCH)/large/bundle/bundle.json: $(BENCH)/large/checkpoint/model_index.json
	$(BIN)/ldm-engine export $(BENCH)/large/checkpoint $(@D) --force \
		--formats paddle,onnx,openvino --int8 --calibration-prompts benchmarks/calibration_prompts.txt

$(BENCH)/large/bundle/solvers.json: $(BENCH)/large/bundle/bundle.json
	$(FIT) --precision int8 --images 4 --held-out-images 4 --reference-steps 40

# A peer of make bench and make bench-large whose packages do not go with the others: some minutes.
ppdiffusers: benchmarks/ppdiffusers.txt
	$(PYTHON) -m venv build/ppdiffusers
	build/ppdiffusers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<

$(DEMO)/bundle/bundle.json: | $(VENV)/.export
	$(BIN)/ldm-engine export examples/shapes/checkpoint $(DEMO)/bundle --force

$(VENV)/bin/python:
	$(call check_python,$(PYTHON),$(EXPORT_PYTHONS),paddlepaddle$(comma) which exports need,make demo)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.export: pyproject.toml $(VENV)/bin/python
	$(PIP) --editable '.[export]'
	$(STAND_IN)
	touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/bin/python
	$(PIP) --editable '.[docs]'
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/bin/python
	$(call check_python,$(BIN)/python,$(TEST_PYTHONS),what tests need$(comma) paddle2onnx and diffusers,rm -r $(VENV) && make test)
	$(PIP) --editable '.[export,int8,peers,ray,bench,docs,dev]'
	$(STAND_IN)
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info $(DEMO) picture.png
