# make demo: shipped weights on a real video; then the main job, small. make test: the tests. make docs: the site.
# All set up .venv first.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# One more than two cores run: some tests wait for other programs. Who is done early helps.
WORKERS := -n 3 --dist worksteal
DEMO := --config=configs/seg.py:demo --workdir=runs/demo

.PHONY: demo test test-all lint docs clean

demo: $(VENV)/.installed
	$(RUN) -m experiments.at_a_glance --output=runs/demo
	$(RUN) train.py $(DEMO)
	$(RUN) eval.py $(DEMO) --report
	@echo
	@echo "Look at runs/demo/at_a_glance.mp4 and, in a browser, at runs/demo/eval/report.html. Then try:"
	@echo "  $(RUN) predict.py --checkpoint=runs/demo --video=examples/dance-twirl.mp4 --output=runs/demo/dance.mp4"
	@echo "  $(RUN) -m v2v_jax models          # networks that have learned more"

test: $(VENV)/.installed
	$(RUN) -m pytest $(WORKERS) --durations=15

# Also the tests marked slow, with Ray for those of many machines; and what computes once more,
# compiled as users have it.
test-all: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,ray]'
	$(RUN) -m pytest -m "" $(WORKERS) --durations=15
	V2V_TEST_OPTIMIZE=1 $(RUN) -m pytest tests/models tests/brox tests/tasks $(WORKERS)

# Style, and the types of the public names as a user's type checker sees them.
lint: $(VENV)/.installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The site, in build/site. Warnings are errors: a broken link, a page outside of the navigation, a name that does not
# exist. The variable silences an advertisement.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo "The site: build/site/index.html; with search: $(RUN) -m http.server -d build/site"

$(VENV)/.docs: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

# pip compiles one file after the other, 45 s for all of TensorFlow; compileall does with all cores,
# and does not mind files that are templates.
$(VENV)/.installed: setup.py setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("v2v_jax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another with make PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[test]'
	@$(RUN) -m compileall -q -j 0 $(VENV)/lib > /dev/null 2>&1 || true
	@touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
