"""params.yaml: every wrong value ends in one line that names its key."""

from pathlib import Path

import pytest

from lensml import config

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "params.yaml").read_text()


def message(tmp_path: Path, text: str) -> str:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"params\.yaml") as caught:
        config.load(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_committed_file_is_valid() -> None:
    params = config.load(ROOT / "params.yaml")
    assert params.train.members == ["enhanced_vit", "robust_resnet", "film_conditioned"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "    patience_epochs: 6",
            "    patience_epoch: 6",
            ["train.fit.patience_epoch", "Did you mean patience_epochs"],
        ),
        ("    patience_epochs: 6", "", ["train.fit.patience_epochs is missing"]),
        ("  prevalence: 1.0e-3", "  prevalence: 2.0", ["evaluate.prevalence", "less than 1", "2.0"]),
        ("  prevalence: 1.0e-3", "  prevalence: '1e-3'", ["evaluate.prevalence", "valid number", "1e-3"]),
        ("  ridge: 1.0", "  ridge: null", ["fuse.ridge", "None"]),
        ("train: 0.70", "train: 0.90", ["split.fractions", "sum to 1"]),
        ("kind: simulated", "kind: simulation", ["sources.simulated", "simulation"]),
        ("psf_pixels_max: 63", "psf_pixels_max: 64", ["convert", "must be odd"]),
        ("mode: per_survey", "mode: sometimes", ["psf_match.mode", "sometimes"]),
        ("split:\n", "split: [\n", ["must be YAML"]),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in TEXT
    said = message(tmp_path, TEXT.replace(old, new, 1))
    assert all(word in said for word in words), said


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(TEXT.replace("learning_rate: 1.0e-3", "learning_rate: 1e-3"))
    assert config.load(tmp_path / "params.yaml").train.fit.learning_rate == 1e-3


def test_no_value_has_a_default() -> None:
    sections = config._sections()
    assert len(sections) > 10
    assert [f"{s.__name__}.{n}" for s in sections for n, f in s.model_fields.items() if not f.is_required()] == []
