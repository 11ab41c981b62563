"""Sky level and sigma: a planted sky, and SExtractor's own maps of a real image."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from lensml.imaging import background, noise

REFERENCE = Path(__file__).parents[2] / "shared" / "real" / "sextractor-reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="no sample of real survey files beside the checkout"
)
BOX, FILTER = 64, 3  # BACK_SIZE and BACK_FILTERSIZE of the reference


def read(name: str) -> NDArray[np.float32]:
    quiet = warnings.catch_warnings(action="ignore", category=AstropyWarning)  # cards of 1992
    with quiet, fits.open(REFERENCE / name, memmap=False) as units:
        return units[0].data.astype(np.float32)


@pytest.fixture
def image() -> NDArray[np.float32]:
    return read("image.fits")


def tiles(plane: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(tile, 1, side, side)."""
    rows = plane.reshape(plane.shape[0] // side, side, plane.shape[1] // side, side)
    return rows.transpose(0, 2, 1, 3).reshape(-1, 1, side, side)


def planted() -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Noise with a gradient in level and sigma, and galaxies over 2 % of the pixels."""
    y, x = np.indices((320, 384))
    level, sigma = 100 + 0.004 * x + 0.002 * y, 3 + 0.001 * x
    rng = np.random.default_rng(7)
    image = level + sigma * rng.normal(size=level.shape)
    for cy, cx in rng.uniform(10, 310, (60, 2)):
        image += 300 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 8)
    return image.astype(np.float32), level, sigma


def test_a_planted_sky_is_found() -> None:
    image, level, sigma = planted()
    found, spread = background.mesh(image, np.zeros(image.shape, dtype=bool), BOX, FILTER)
    assert np.median(np.abs(found - level) / sigma) < 0.05
    assert np.median(np.abs(spread / sigma - 1)) < 0.05


def test_bad_pixels_are_not_read() -> None:
    image, level, sigma = planted()
    bad = np.zeros(image.shape, dtype=bool)
    bad[:100, :70], bad[200, :] = True, True
    image[bad] = 1e9
    image[250:260, 300] = np.nan
    found, spread = background.mesh(image, bad, BOX, FILTER)
    assert np.isfinite(found).all()
    assert np.median(np.abs(found - level) / sigma) < 0.05
    assert np.median(np.abs(spread / sigma - 1)) < 0.05


@pytest.mark.parametrize(
    ("shape", "box", "window", "words"),
    [((80, 80), 32, 2, "filter_pixels must be odd"), ((80, 40), 64, 3, "box_pixels must fit into the image")],
)
def test_wrong_mesh_is_told(shape: tuple[int, int], box: int, window: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        background.mesh(np.ones(shape, dtype=np.float32), np.zeros(shape, dtype=bool), box, window)


def test_an_image_without_good_pixels_is_told() -> None:
    image = np.full((80, 80), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="image must have good pixels"):
        background.mesh(image, np.zeros(image.shape, dtype=bool), 32, 3)


@needs_reference
def test_level_and_sigma_are_sextractors(image: NDArray[np.float32]) -> None:
    """Within 5 % in the median; measured 0.02 % of the level, 2 % of the sigma for the level's difference, 0.3 %."""
    level, sigma = background.mesh(image, np.zeros(image.shape, dtype=bool), BOX, FILTER)
    theirs, rms = read("back.fits"), read("rms.fits")
    assert np.median(np.abs(level / theirs - 1)) < 0.001
    assert np.median(np.abs(level - theirs) / rms) < 0.05
    assert np.median(np.abs(sigma / rms - 1)) < 0.01
    assert np.abs(sigma / rms - 1).max() < 0.1


@needs_reference
@pytest.mark.parametrize("side", [64, 128])
def test_a_stamps_noise_is_sextractors(image: NDArray[np.float32], side: int) -> None:
    """Stamps of the same image: sigma 3 % below, because faint sources are no sky."""
    stamps = tiles(image, side)
    found = noise.measure(stamps, np.zeros(stamps.shape, dtype=bool))
    theirs, rms = (np.median(tiles(read(name), side), axis=(-2, -1)) for name in ("back.fits", "rms.fits"))
    assert np.median(np.abs(found.sky_sigma / rms - 1)) < 0.05
    assert np.median(np.abs(found.level / theirs - 1)) < 0.001
    assert np.median(np.abs(found.level - theirs) / rms) < 0.05


@needs_reference
def test_a_sky_that_is_off_would_be_seen(image: NDArray[np.float32]) -> None:
    """The comparison's own fault: a tenth of a sigma, and 6 % more noise."""
    rms = read("rms.fits")
    level, sigma = background.mesh(
        (image + 0.1 * rms).astype(np.float32), np.zeros(image.shape, dtype=bool), BOX, FILTER
    )
    assert np.median(np.abs(level - read("back.fits")) / rms) > 0.05
    assert np.median(np.abs(1.06 * sigma / rms - 1)) > 0.05
