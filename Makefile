# Two commands do everything: `make repro`, `make test`. Whoever prefers: . .venv/bin/activate, then dvc repro, pytest.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

repro: .venv/installed
	dvc repro
	@echo "Figures: metrics/evaluate.json. Pictures: metrics/plots/. Compare runs: dvc metrics diff, dvc plots show."

test: .venv/installed
	pytest -n 2 --dist loadfile

lock:
	uv pip compile -q --universal --generate-hashes --no-header --all-extras pyproject.toml -o requirements.lock

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	pip install -q --disable-pip-version-check uv
	uv pip install -q --require-hashes -r requirements.lock
	uv pip install -q --no-build-isolation --no-deps --editable .
	@touch $@

.PHONY: repro test lock
