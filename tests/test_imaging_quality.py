"""The quality score against what was planted: each fault lowers it by as much as its rule says, and is named."""

import numpy as np
import pytest

from lensml import config
from lensml.imaging import quality

RULES = config.Quality(saturated_max=0.05, edge_max=0.5, shallow=[4.0, 40.0], aperture_arcsec=3.0)
SIDE, SCALE = 50, 0.2


def score(**planted: np.ndarray) -> tuple[float, str]:
    bad = planted.get("bad", np.zeros((1, 2, SIDE, SIDE), dtype=bool))
    found = quality.score(
        bad, planted.get("saturated"), planted.get("shallowness", np.ones((1, 2))), np.array([SCALE]), RULES
    )
    return float(found.quality[0]), found.limit[0]


def nothing() -> np.ndarray:
    return np.zeros((1, 2, SIDE, SIDE), dtype=bool)


def test_a_flawless_stamp_has_one_and_nothing_to_say() -> None:
    assert score() == (1.0, "")


def test_scattered_bad_pixels_count_by_their_share_in_the_worst_band() -> None:
    bad = nothing()
    bad[0, 1, ::5, ::5] = True
    bad[0, 0, 3, 3] = True
    assert score(bad=bad) == (pytest.approx(1 - 100 / 2500), "bad pixels")


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_an_image_that_ends_within_the_stamp_counts_by_its_area_and_not_twice(side: str) -> None:
    where = {"top": np.s_[-10:, :], "bottom": np.s_[:10, :], "left": np.s_[:, :10], "right": np.s_[:, -10:]}[side]
    bad = nothing()
    bad[0, 0][where] = True
    assert score(bad=bad) == (pytest.approx(1 - 0.2 / 0.5), "edge")


def test_a_bad_row_amid_the_stamp_is_no_edge() -> None:
    bad = nothing()
    bad[0, 0, 20:25] = True
    assert score(bad=bad) == (pytest.approx(0.9), "bad pixels")


def test_half_of_the_stamp_beyond_the_edge_is_worth_nothing() -> None:
    bad = nothing()
    bad[0, :, :, :25] = True
    assert score(bad=bad) == (0.0, "edge")


def test_saturation_counts_within_the_aperture_only() -> None:
    outside, inside = nothing(), nothing()
    outside[0, 0, :3, :3] = True
    assert score(saturated=outside) == (1.0, "")
    inside[0, 0, 24:26, 24:26] = True  # 4 pixels of a disc of radius 15
    assert score(saturated=inside) == (pytest.approx(1 - 4 / (np.pi * 15**2) / 0.05, abs=2e-3), "saturation")


@pytest.mark.parametrize(("ratio", "expected"), [(0.2, 1.0), (4.0, 1.0), (np.sqrt(160), 0.5), (40.0, 0.0), (99.0, 0.0)])
def test_a_shallow_band_counts_by_the_logarithm_of_its_noise(ratio: float, expected: float) -> None:
    found, word = score(shallowness=np.array([[1.0, ratio]]))
    assert found == pytest.approx(expected, abs=1e-9)
    assert word == ("shallow" if expected < 1 else "")


def test_unknown_noise_is_not_shallow() -> None:
    assert score(shallowness=np.array([[np.nan, 0.0]])) == (1.0, "")


def test_faults_multiply_and_the_worst_is_named() -> None:
    bad = nothing()
    bad[0, 0, :10] = True
    found, word = score(bad=bad, shallowness=np.array([[np.sqrt(160), 1.0]]))
    assert found == pytest.approx(0.6 * 0.5)
    assert word == "shallow"
