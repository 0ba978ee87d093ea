# `make demo` trains a spiking ResNet on real digits, exports and profiles it; `make test` tests the three backends.
# Both set up a virtual environment first.

PYTHON ?= python3
VENV ?= .venv
# Of most packages few files are ever imported: these are compiled then, and kept, whatever the
# environment says.
export PYTHONDONTWRITEBYTECODE =
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile
# Pinned, and installed before what asks for torch: newer builds bring gigabytes of CUDA.
TORCH = torch==2.13.0
# JAX, which compiles most, has two processes, each of some of the modules.
WORKERS = $(foreach w,tensorflow torch jax//env:TESTS=optimized jax//env:TESTS=others,--tx popen//env:KERAS_BACKEND=$(w))

.PHONY: demo docs gallery support tutorials test test-graphs test-triton test-prerelease test-package lint clean

demo: export KERAS_BACKEND ?= tensorflow
demo: export TF_CPP_MIN_LOG_LEVEL ?= 3
demo: RUN = $(VENV)/bin/python applications
demo: $(VENV)/.demo
	@echo "1 of 3: training a spiking ResNet on 1,437 images of digits, 15 epochs: about a minute on"
	@echo "two cores. (The first epoch compiles.)"
	@$(RUN)/train.py --output_dir=results/demo
	@echo; echo "2 of 3: writing it as a TensorFlow Lite file, and comparing the two: 20 seconds."
	@$(RUN)/export.py --model_file=results/demo/SEWResNet8_digits.keras --test_examples=360
	@echo; echo "3 of 3: counting spikes, operations and energy, and drawing: 30 seconds."
	@$(RUN)/profile_model.py --model_file=results/demo/SEWResNet8_digits.keras \
	    --output_dir=results/demo
	@echo; echo "All of it is in results/demo. What to try next:"
	@echo "  open results/demo/report.html                   what the network does, on one page"
	@echo "  KERAS_BACKEND=jax make demo                     another backend, once installed: the same"
	@echo "  $(RUN)/train.py --help     other networks, neurons, data sets"
	@echo "  docs/tutorials.md                               twelve small programs, from one neuron on"

# The pictures of docs/gallery.md, light and dark, of the network that the demo trains.
gallery: demo
	mkdir -p docs/gallery
	for theme in light dark; do \
	    $(VENV)/bin/python applications/profile_model.py --theme=$$theme \
	        --model_file=results/demo/SEWResNet8_digits.keras --output_dir=results/$$theme \
	        || exit 1; \
	done
	cp results/light/*.png docs/gallery/
	cd results/dark && for name in *.png; do cp $$name $(CURDIR)/docs/gallery/dark_$$name; done

# The page docs/support.md: every layer on every backend and as every kind of file, by running it.
support: $(VENV)/.test
	$(VENV)/bin/python benchmarks/support.py

# The tutorials of docs/tutorials: each program as a notebook, and run, as a page with its pictures.
# TUTORIALS=docs/tutorials/01_first_network.py renders one.
TUTORIALS ?= $(wildcard docs/tutorials/*.py)
RENDERED = results/tutorials
tutorials: $(VENV)/.docs
	$(VENV)/bin/jupytext --quiet --to ipynb $(TUTORIALS)
	mkdir -p $(RENDERED)
	cp $(TUTORIALS:.py=.ipynb) $(RENDERED)
	cd $(RENDERED) && KERAS_BACKEND=jax JAX_PLATFORMS=cpu TF_CPP_MIN_LOG_LEVEL=3 \
	    $(abspath $(VENV))/bin/jupyter nbconvert --log-level=ERROR --execute --to markdown \
	    --ExecutePreprocessor.extra_arguments=--IPKernelApp.capture_fd_output=False \
	    --output-dir=$(CURDIR)/docs/tutorials $(notdir $(TUTORIALS:.py=.ipynb))
	@# Lines that were printed one after the other are one block.
	perl -0777 -pi -e 's|$(CURDIR)/$(RENDERED)/||g; s/^    [^\n]*\K\n\n\n(?=    \S)/\n/mg' \
	    $(TUTORIALS:.py=.md)

# The site, into `site/`; a broken link or reference fails.
docs: $(VENV)/.docs
	KERAS_BACKEND=torch NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --config-file .mkdocs.yml

# Every test runs under each backend, side by side; one summary. The process that collects the
# results imports Keras too: with torch, TensorFlow's start-up lines don't follow the summary.
test: $(VENV)/.test
	KERAS_BACKEND=torch TF_CPP_MIN_LOG_LEVEL=3 \
	    $(VENV)/bin/python -m pytest --dist=each $(WORKERS)

# The kernels for GPUs, in Triton's interpreter. Triton is large: not among what the tests install.
test-triton: $(VENV)/.test
	$(PIP) triton
	KERAS_BACKEND=torch $(VENV)/bin/python -m pytest tests/test_triton.py

# Profiles of 200 random models against a count by brute force.
test-graphs: $(VENV)/.test
	KERAS_BACKEND=torch PYTHONPATH=. $(VENV)/bin/python tests/random_graphs.py 200

# Every test with the newest Keras, be it a pre-release, in a virtual environment of its own.
PRERELEASE ?= .venv-prerelease
test-prerelease:
	$(MAKE) VENV=$(PRERELEASE) $(PRERELEASE)/.test
	$(PRERELEASE)/bin/python -m pip install --quiet --upgrade --pre --no-deps keras
	$(MAKE) VENV=$(PRERELEASE) test

# Wheel and sdist, and the wheel in a virtual environment of its own, with all that it asks for.
PACKAGE ?= .venv-package
test-package: $(VENV)/.test
	$(PIP) twine
	rm -rf dist $(PACKAGE)
	$(VENV)/bin/python -m build --outdir=dist .
	$(VENV)/bin/twine check --strict dist/*
	$(PYTHON) -m venv $(PACKAGE)
	$(PACKAGE)/bin/python -m pip install --quiet --disable-pip-version-check \
	    "$$(echo dist/*.whl)[data]"
	cd dist && TF_CPP_MIN_LOG_LEVEL=3 ../$(PACKAGE)/bin/python -c 'import keras_snn; \
	    print(keras_snn.__file__, keras_snn.__version__); \
	    keras_snn.applications.SEWResNet8(weights="digits").summary()'

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/bin/python:
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing Keras, TensorFlow and what the demo needs into $(VENV): a minute or more, once."
	@$(PIP) --editable ".[data,export,plot]"
	@touch $@

# Peers without their dependencies: torchvision would replace the pinned torch, and tonic asks for
# audio libraries that no test needs.
$(VENV)/.test: pyproject.toml Makefile | $(VENV)/bin/python
	$(PIP) "$(TORCH)"
	$(PIP) --editable ".[jax,torch,test,peers,export,hls4ml,nir,onnx,plot]" "$(TORCH)"
	$(PIP) --no-deps neurobench==2.3.0 norse==1.1.0 spikingjelly==2.0.0 tonic==1.7.0
	touch $@

$(VENV)/.docs: $(VENV)/.test
	$(PIP) --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) $(PRERELEASE) $(PACKAGE) dist results site
