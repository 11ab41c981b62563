"""PSFs. Oracles: Airy and annular patterns, Marechal's Strehl ratio, Moffat's closed forms, scipy, real PSFs."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import j0, j1

from lensml.config_camera import Observing, Telescope
from lensml.imaging import psf_width
from lensml.lensing import optics, psf_bank
from lensml.schema import ContractError
from tests.observing import observing
from tests.real_sample import REAL, needs_real

WAVE_UM, APERTURE_M = 0.8, 2.0
RESOLUTION = WAVE_UM * 1e-6 / APERTURE_M * 206264.806247  # lambda / D, arcsec
Float = NDArray[np.float64]


@pytest.fixture(autouse=True)
def one_wavelength(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(optics.PASSBAND_UM, "mono", (WAVE_UM, WAVE_UM))


def telescope(**changes: object) -> Telescope:
    plain = {
        "kind": "telescope", "aperture_m": APERTURE_M, "obscuration": 0.0, "vanes": 0, "vane_width": 0.0,
        "wavefront_nm": [0.0, 0.0], "blur_arcsec": [0.0, 0.0], "detector_pixel_arcsec": 0.0, "drop_arcsec": 0.0,
    }  # fmt: skip
    return Telescope.model_validate(plain | changes)


def wavefront(roll: float = 0.0, zernike_um: tuple[float, ...] = (0.0,) * 5, blur: float = 0.0) -> optics.Wavefront:
    return optics.Wavefront(np.array([roll]), np.array([zernike_um]), np.array([blur]))


def pattern(shape: Telescope, front: optics.Wavefront, pixel: float, side: int) -> Float:
    return optics.diffraction(shape, "mono", front, pixel, side)[0].astype(np.float64)


def radii(side: int, pixel: float) -> Float:
    axis = (np.arange(side) - side // 2) * pixel
    return np.hypot(axis[:, None], axis)


@pytest.mark.parametrize("obscuration", [0.0, 0.33])
def test_diffraction_is_the_closed_form(obscuration: float) -> None:
    found = pattern(telescope(obscuration=obscuration), wavefront(), RESOLUTION / 16, 161)
    x = np.pi * np.maximum(radii(161, 1 / 16), 1e-9)
    field = 2 * j1(x) / x - (obscuration**2 * 2 * j1(obscuration * x) / (obscuration * x) if obscuration else 0)
    expected = field**2 / field.max() ** 2
    np.testing.assert_allclose(found / found.max(), expected, atol=6e-3)  # the pixel, and the edge of the pupil


def test_airy_width_and_encircled_energy() -> None:
    pixel = RESOLUTION / 16
    found = pattern(telescope(), wavefront(), pixel, 161)
    assert optics.fwhm(found.astype(np.float32), pixel) == pytest.approx(1.029 * RESOLUTION, rel=0.01)
    inside = found[radii(161, pixel) < 1.22 * RESOLUTION].sum() / found[radii(161, pixel) < 5 * RESOLUTION].sum()
    whole = 1 - j0(5 * np.pi) ** 2 - j1(5 * np.pi) ** 2
    assert inside * whole == pytest.approx(0.838, abs=0.004)


def test_a_small_wavefront_error_lowers_the_peak_as_marechal_says() -> None:
    flat = pattern(telescope(), wavefront(), RESOLUTION / 8, 161).max()
    for k in range(5):
        zernike = tuple(0.04 * (i == k) for i in range(5))
        bent = pattern(telescope(), wavefront(zernike_um=zernike), RESOLUTION / 8, 161).max()
        assert bent / flat == pytest.approx(np.exp(-((2 * np.pi * 0.04 / WAVE_UM) ** 2)), abs=0.02)


def test_blur_and_pixels_are_convolutions() -> None:
    pixel = RESOLUTION / 10
    sharp = pattern(telescope(), wavefront(), pixel, 161)
    diffused = pattern(telescope(), wavefront(blur=3 * pixel), pixel, 161)[40:-40, 40:-40]
    drizzled = pattern(telescope(drop_arcsec=5 * pixel), wavefront(), pixel, 161)[40:-40, 40:-40]
    for ours, theirs in (
        (diffused, ndimage.gaussian_filter(sharp, 3.0)),
        (drizzled, ndimage.uniform_filter(sharp, 5)),
    ):
        np.testing.assert_allclose(ours, theirs[40:-40, 40:-40], atol=0.01 * theirs.max())


@pytest.mark.parametrize(("vanes", "spikes"), [(4, 4), (3, 6)])
def test_vanes_make_spikes_that_turn_with_the_roll(vanes: int, spikes: int) -> None:
    roll = 0.2
    shape = telescope(vanes=vanes, vane_width=0.02)
    excess = pattern(shape, wavefront(roll), RESOLUTION / 3, 121) - pattern(
        telescope(), wavefront(), RESOLUTION / 3, 121
    )
    axis = np.arange(121) - 60
    angle = np.arctan2(axis[:, None], axis)[(radii(121, 1.0) > 30) & (radii(121, 1.0) < 58)]
    weight = excess[(radii(121, 1.0) > 30) & (radii(121, 1.0) < 58)]
    phase = np.angle((weight * np.exp(1j * spikes * angle)).sum())
    expected = spikes * (roll + np.pi / 2)  # light is thrown across a vane
    assert np.cos(phase - expected) > 0.95


def test_a_band_without_known_wavelengths_is_refused() -> None:
    with pytest.raises(ContractError, match="band must have known wavelengths, got Q"):
        optics.diffraction(telescope(), "Q", wavefront(), 0.05, 21)


def seeing(fwhm: float, beta: float, e1: float = 0.0, e2: float = 0.0) -> optics.Seeing:
    return optics.Seeing(*(np.array(v) for v in (fwhm, beta, e1, e2)))


@pytest.mark.parametrize(("fwhm", "e1"), [(0.15, 0.0), (0.3, 0.1), (0.8, -0.05)])
def test_moffat_pixels_are_integrals(fwhm: float, e1: float) -> None:
    """Against midpoints of 45 x 45 parts of each pixel, and the ellipse written out in its own axes."""
    found = optics.moffat(seeing(fwhm, 2.7, e1, 0.08), 0.1, 21)
    fine = ((np.arange(21 * 45) + 0.5) / 45 - 10.5) * 0.1
    phi, e = np.arctan2(0.08, e1) / 2, np.hypot(e1, 0.08)
    q = (1 - e) / (1 + e)
    major = fine * np.cos(phi) + fine[:, None] * np.sin(phi)
    minor = fine[:, None] * np.cos(phi) - fine * np.sin(phi)
    core2 = fwhm**2 / 4 / (2 ** (1 / 2.7) - 1)
    light = (1 + (q * major**2 + minor**2 / q) / core2) ** -2.7
    expected = light.reshape(21, 45, 21, 45).sum(axis=(1, 3))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-4 * found.max())


def test_moffat_width_and_encircled_energy() -> None:
    found = optics.moffat(seeing(0.8, 3.0), 0.02, 401).astype(np.float64)
    assert optics.fwhm(found.astype(np.float32), 0.02) == pytest.approx(0.8, rel=2e-3)
    core2 = 0.8**2 / 4 / (2 ** (1 / 3) - 1)
    inside = [found[radii(401, 0.02) < r].sum() for r in (0.5, 1.0, 2.0)]
    share = [1 - (1 + r**2 / core2) ** -2 for r in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(
        np.array(inside) / inside[-1], np.array(share) / share[-1], atol=5e-3
    )  # pixels at the rim


def _binned(fine: Float, by: int, side: int) -> Float:
    middle, half = fine.shape[-1] // 2, (side * by) // 2
    cut = fine[..., middle - half : middle + half + 1, middle - half : middle + half + 1]
    return cut.reshape(*cut.shape[:-2], side, by, side, by).sum(axis=(-3, -1))


def test_the_fine_grid_sums_to_the_stamp() -> None:
    shape, front = telescope(obscuration=0.3, vanes=4, vane_width=0.01), wavefront(0.3, (0.03, 0.01, 0, 0.02, 0), 0.01)
    pairs = [
        (pattern(shape, front, 0.05 / 3, 63), pattern(shape, front, 0.05, 21)),
        (optics.moffat(seeing(0.2, 3), 0.05 / 3, 63), optics.moffat(seeing(0.2, 3), 0.05, 21)),
    ]
    for fine, stamp in pairs:
        np.testing.assert_allclose(_binned(fine, 3, 21), stamp, atol=1e-3 * stamp.max())


def test_a_measured_psf_is_rendered_as_measured() -> None:
    """A star in the middle of a pixel, of fine pixels that are summed."""
    stamp = optics.moffat(seeing(0.5, 3.0, 0.05), 0.2, 25).astype(np.float64)
    fine = optics.resampled(stamp[None], 0.2, 0.2, 3, 75)
    np.testing.assert_allclose(_binned(fine[0], 3, 25), stamp, atol=2e-3 * stamp.max())


def test_a_measured_psf_of_finer_sampling_lands_on_the_surveys_pixels() -> None:
    shape = seeing(0.5, 3.0)
    effective = ndimage.uniform_filter(optics.moffat(shape, 0.04, 175).astype(np.float64), 5)  # of pixels of 0.2
    found = optics.resampled(effective[None], 0.04, 0.2, 1, 25)[0]
    expected = optics.moffat(shape, 0.2, 25)
    np.testing.assert_allclose(found, expected, atol=0.01 * expected.max())


GRID = psf_bank.PsfGrid(0.2, 2, 48)
BANDS, TYPICAL = ("g", "r"), np.array([0.9, 0.7])


def bank(seed: int, what: Observing | None = None, grid: psf_bank.PsfGrid = GRID) -> psf_bank.PsfBank:
    return psf_bank.draw(np.random.default_rng(seed), what or observing(), BANDS, TYPICAL, grid)


def test_a_bank_has_the_seeing_that_was_asked_for() -> None:
    found, again = bank(1, observing(psfs=150)), bank(1, observing(psfs=150))
    assert found.fine.tobytes() == again.fine.tobytes()
    assert found.stamp.tobytes() == again.stamp.tobytes()
    assert found.fine.tobytes() != bank(2, observing(psfs=150)).fine.tobytes()
    assert found.fine.shape[-1] % 2 == found.stamp.shape[-1] % 2 == 1
    for stamps in (found.fine, found.stamp):
        np.testing.assert_allclose(stamps.sum(axis=(-2, -1)), 1, atol=1e-5)
    width = np.log(found.fwhm / TYPICAL)
    assert np.abs(np.median(width)) < 0.06
    assert width.std() == pytest.approx(np.hypot(0.12, 0.06), rel=0.15)
    assert np.corrcoef(width.T)[0, 1] > 0.5  # one night's bands
    measured = psf_width.fwhm_halfmax(found.stamp) * 0.2
    np.testing.assert_allclose(measured, np.hypot(found.fwhm, 0.14), rtol=0.08)  # the pixel adds about 0.7 of itself


def test_psfs_that_exceed_the_stamp_are_refused() -> None:
    with pytest.raises(ContractError, match="psf_radius_fwhm must keep PSFs within the stamp's 16 pixels"):
        bank(1, grid=psf_bank.PsfGrid(0.2, 2, 16))


def test_a_band_of_no_instrument_is_refused() -> None:
    with pytest.raises(ValueError, match="instruments must name every band, got none for u"):
        psf_bank.draw(np.random.default_rng(0), observing(), ("u",), np.array([0.9]), GRID)


def test_a_folder_of_measured_psfs_is_a_bank(tmp_path: Path) -> None:
    stamps = optics.moffat(optics.Seeing(*(np.array([v, v]) for v in (0.8, 3.0, 0.0, 0.0))), 0.2, 25)
    np.save(tmp_path / "g.npy", 7 * stamps)
    fits.writeto(tmp_path / "r.fits", 3 * stamps[0])
    psf = {"kind": "measured", "path": str(tmp_path), "sampling_arcsec": 0.2}
    found = bank(1, observing(psf=psf))
    np.testing.assert_allclose(found.fwhm, 0.8, rtol=0.03)
    np.testing.assert_allclose(found.stamp[0, 0, 16, 16], stamps[0, 12, 12], rtol=0.02)


def _plant(fault: str, path: Path) -> None:
    good = np.ones((9, 9))
    bad = {
        "even": np.ones((8, 8)), "flat": np.ones(9), "nan": np.where(good * np.eye(9) > 0, np.nan, good),
        "negative": -good, "empty": np.zeros((9, 9)), "large": np.ones((101, 101)), "words": np.array([["a"]]),
        "pickled": np.array([{"a": 1}], dtype=object),
    }  # fmt: skip
    if fault == "text":
        path.write_text("no array")
    elif fault != "missing":
        np.save(path, bad[fault], allow_pickle=True)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("even", "with k odd, got"),
        ("flat", "with k odd, got"),
        ("nan", "psf must be finite, got 9 NaN"),
        ("negative", "psf must have a positive sum"),
        ("empty", "psf must have a positive sum"),
        ("large", "psf must be no larger than the stamp"),
        ("words", "psf must be an array of numbers"),
        ("pickled", "psf must be an array of numbers"),
        ("text", "psf must be an array of numbers"),
    ],
)
def test_measured_psfs_that_cannot_be_used_are_refused(tmp_path: Path, fault: str, words: str) -> None:
    _plant(fault, tmp_path / "r.npy")
    with pytest.raises(ContractError, match=words):
        psf_bank.read_psfs(tmp_path, "r", 0.2, GRID)


def test_a_missing_measured_psf_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path must hold r\.fits or r\.npy"):
        psf_bank.read_psfs(tmp_path, "r", 0.2, GRID)


HUBBLE = telescope(aperture_m=2.4, obscuration=0.33, vanes=4, vane_width=0.011, detector_pixel_arcsec=0.0)
EUCLID = telescope(aperture_m=1.2, obscuration=0.33, vanes=3, vane_width=0.02, detector_pixel_arcsec=0.1)


def _front(rms_um: tuple[float, float], blur: float, count: int = 12) -> optics.Wavefront:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(count, 5))
    length = rng.uniform(*rms_um, (count, 1)) / np.linalg.norm(direction, axis=1, keepdims=True)
    return optics.Wavefront(rng.uniform(0, 6, count), length * direction, np.full(count, blur))


def _energy(psf: Float, pixel: float, within: float) -> Float:
    """Inside 0.1, 0.2 and 0.5 arcsec of the middle, over that within; pixels in ten parts each way."""
    side = psf.shape[-1]
    parts = np.repeat(np.repeat(psf, 10, 0), 10, 1)
    axis = ((np.arange(10 * side) + 0.5) / 10 - side / 2) * pixel
    r = np.hypot(axis[:, None], axis)
    return np.array([parts[r < limit].sum() for limit in (0.1, 0.2, 0.5)]) / parts[r < within].sum()


def _compare(ours: NDArray[np.float32], real: Float, pixel: float) -> tuple[float, Float]:
    width = psf_width.fwhm_halfmax(ours).mean() / psf_width.fwhm_halfmax(real.astype(np.float32)[None])[0]
    energy = np.mean([_energy(p.astype(np.float64), pixel, 1.0) for p in ours], axis=0)
    return float(width), energy - _energy(real, pixel, 1.0)


@needs_real
def test_hubbles_psf_is_near_the_real_one() -> None:
    path = REAL / "hst-dinos" / "SDSSJ0029-0055" / "psf_SDSSJ0029-0055_F814W.h5"
    with h5py.File(path) as file:
        real = file["kernel_point_source"][()].astype(np.float64)
    ours = optics.diffraction(HUBBLE, "F814W", _front((0.01, 0.04), 0.0), 0.05, 61)
    width, energy = _compare(ours, real, 0.05)
    assert width == pytest.approx(1, abs=0.04)
    assert np.abs(energy).max() < 0.03


@needs_real
def test_euclids_psf_is_near_the_real_one() -> None:
    real = fits.getdata(next(REAL.glob("euclid-q1/*/vis/psf.fits"))).astype(np.float64)
    ours = optics.diffraction(EUCLID, "VIS", _front((0.03, 0.06), 0.037), 0.1, 21)
    width, energy = _compare(ours, real, 0.1)
    assert width == pytest.approx(1, abs=0.04)
    assert np.abs(energy).max() < 0.03
