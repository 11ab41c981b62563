"""PSF stamps: the centre's convention on odd and even axes, unit sum, what cleaning takes, widths of known profiles."""

import h5py
import numpy as np
import pytest
from astropy.io import fits
from cutouts_folder import gaussian
from real_sample import REAL, needs_real
from scipy.integrate import quad
from scipy.interpolate import RectBivariateSpline
from scipy.optimize import brentq

from lensml.imaging.psf_stamp import clean, fwhm_halfmax, fwhm_moment, normalise, odd_square, pad
from lensml.imaging.psf_width import core_bend

SIGMA = 2 * np.sqrt(2 * np.log(2))  # FWHM of a Gaussian of unit deviation
PROFILES = {  # of the radius in units of the FWHM, for fwhm and lobe of the first argument's unit
    "gaussian": lambda r: np.exp(-4 * np.log(2) * r**2),
    "moffat 3.5": lambda r: (1 + 4 * (2 ** (1 / 3.5) - 1) * r**2) ** -3.5,
    "moffat 2.5": lambda r: (1 + 4 * (2 ** (1 / 2.5) - 1) * r**2) ** -2.5,
    "lobes": lambda r: np.exp(-4 * np.log(2) * r**2) - 0.03 * np.exp(-(((r - 1) / 0.25) ** 2)),  # as Lanczos leaves
}
FAULTS = ("none", "noise", "padding", "pedestal", "negative pedestal", "off centre", "fill", "nan", "all")


def stamp(profile, fwhm, side, centre=(0.0, 0.0)):
    y, x = np.indices((side, side)) - side // 2
    return PROFILES[profile](np.hypot(y - centre[0], x - centre[1]) / fwhm)


def planted(profile, fwhm, side, fault, rng):
    """A PSF of unit peak with a fault of real files."""
    psf = stamp(profile, fwhm, side, rng.uniform(-0.9, 0.9, 2) if fault in ("off centre", "all") else (0, 0))
    psf += 0.003 * rng.normal(size=psf.shape) if fault in ("noise", "all") else 0
    psf += {"pedestal": 0.01, "negative pedestal": -0.01, "all": 0.005}.get(fault, 0)
    if fault in ("padding", "all"):
        psf = np.pad(psf, 6)
    if fault == "fill":
        psf[0], psf[:, -1] = -0.1, -0.1
    if fault == "nan":
        psf[:, 0], psf[side // 2 + 3, side // 2 - 2] = np.nan, np.nan
    return psf.astype(np.float32)


def true_widths(profile):
    """Half-maximum and adaptive-moment FWHM by quadrature, in units of the profile's parameter."""
    light = PROFILES[profile]
    half = 2 * brentq(lambda r: light(r) - light(0) / 2, 0.2, 1)

    def excess(sigma):
        def moment(power):
            return quad(lambda r: r**power * light(r) * np.exp(-(r**2) / 2 / sigma**2), 0, 12 * sigma, limit=200)[0]

        return moment(3) / moment(1) - sigma**2  # <r^2> of a Gaussian under its own weight is sigma^2

    return half, SIGMA * brentq(excess, 0.25, 1.5)


def test_non_square_odd_keeps_its_centre():
    found = odd_square(gaussian((43, 41), 5.0))
    assert found.shape == (43, 43)
    assert np.allclose(found, gaussian((43, 43), 5.0), atol=1e-6)


@pytest.mark.parametrize("centre", [(9.0, 9.0), (10.0, 10.0), (9.0, 10.0)])
def test_even_axis_centred_on_a_pixel_is_only_padded(centre):
    given = gaussian((20, 20), 3.0, centre)
    found = odd_square(given)
    assert found.shape == (21, 21)
    assert np.unravel_index(found.argmax(), found.shape) == (10, 10)
    assert np.array_equal(np.sort(found[found > 0]), np.sort(given[given > 0]))


@pytest.mark.parametrize("fwhm", [3.0, 5.0])
def test_even_axis_centred_on_the_corner_is_shifted_by_half_a_pixel(fwhm):
    found = odd_square(gaussian((32, 30), fwhm, (15.5, 14.5)))
    assert found.shape == (33, 33)
    assert np.allclose(found, gaussian((33, 33), fwhm), atol=0.01 * found.max())


def test_a_batch_of_even_stamps_decides_each_by_itself():
    stamps = np.stack([gaussian((20, 20), 3.0, (c, c)) for c in (9.0, 9.5, 10.0)])
    found = odd_square(stamps)
    assert [np.unravel_index(p.argmax(), p.shape) for p in found] == [(10, 10)] * 3


def test_normalise_cuts_and_tells_what_it_lost():
    big = gaussian((41, 41), 10.0) * 0.94
    found, lost = normalise(big[None], 21)
    assert found.shape == (1, 21, 21)
    assert found.sum() == pytest.approx(1, abs=1e-6)
    assert lost[0] == pytest.approx(1 - big[10:31, 10:31].sum() / big.sum(), rel=1e-5)


@pytest.mark.parametrize("fault", ["zero", "nan", "inf", "negative"])
def test_unusable_psf_is_told(fault):
    psf = gaussian((11, 11), 3.0)[None].copy()
    if fault == "zero":
        psf[:] = 0
    elif fault == "negative":
        psf *= -1
    else:
        psf[0, 2, 3] = float(fault)
    found, lost = normalise(psf, 11)
    assert np.isnan(lost).all()
    assert (found == 0).all()
    assert np.isnan(fwhm_halfmax(found)).all()


@pytest.mark.parametrize("fwhm", [2.0, 3.3, 8.0])
def test_width_of_a_gaussian(fwhm):
    psf = gaussian((41, 41), fwhm)
    assert fwhm_halfmax(psf) == pytest.approx(fwhm, rel=1e-3)
    assert fwhm_moment(psf) == pytest.approx(fwhm, rel=0.005)


def test_width_of_a_moffat():
    """Half-maximum width is a parameter of the profile; its wings show in the moments."""
    y, x = np.indices((61, 61)) - 30
    beta, fwhm = 2.5, 6.0
    alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    psf = ((1 + (x**2 + y**2) / alpha**2) ** -beta).astype(np.float32)
    assert fwhm_halfmax(psf) == pytest.approx(fwhm, rel=0.01)
    assert 1.02 * fwhm < fwhm_moment(psf) < 1.25 * fwhm


def test_pad_keeps_the_centre():
    assert np.array_equal(pad(gaussian((5, 5), 2.0), 9)[2:7, 2:7], gaussian((5, 5), 2.0))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("fwhm", "side"), [(3.0, 31), (4.5, 41), (6.0, 63)])
def test_widths_within_a_hundredth_whatever_is_wrong(profile, fault, fwhm, side):
    rng = np.random.default_rng(3)
    found = clean(np.stack([planted(profile, fwhm, side, fault, rng) for _ in range(8)]))
    half, moment = (fwhm * width for width in true_widths(profile))
    assert np.median(np.abs(fwhm_halfmax(found) / half - 1)) < 0.01
    assert np.median(np.abs(fwhm_moment(found) / moment - 1)) < 0.01
    assert np.max(np.abs(fwhm_halfmax(found) / half - 1)) < 0.015
    assert np.max(np.abs(fwhm_moment(found) / moment - 1)) < 0.015


@pytest.mark.parametrize("fault", ["pedestal", "negative pedestal", "fill", "nan"])
def test_the_faults_are_worth_cleaning(fault):
    psf = planted("moffat 3.5", 3.0, 41, fault, np.random.default_rng(3))
    assert not abs(psf.sum() / stamp("moffat 3.5", 3.0, 41).sum() - 1) < 0.1
    assert clean(psf).sum() == pytest.approx(stamp("moffat 3.5", 3.0, 41).sum(), rel=0.02)


def test_a_centre_between_pixels_is_worth_finding():
    """The half maximum of the central pixel, about the central pixel, is too wide."""
    psf = stamp("moffat 3.5", 3.0, 41, (0.5, 0.5))
    assert 2 * np.sqrt((psf > psf[20, 20] / 2).sum() / np.pi) > 1.05 * 3.0
    assert fwhm_halfmax(psf.astype(np.float32)) == pytest.approx(3.0, rel=0.01)


def test_clean_takes_nothing_from_a_clean_psf():
    for profile in ("moffat 2.5", "moffat 3.5", "gaussian"):
        psf = stamp(profile, 4.0, 41).astype(np.float32)
        assert np.abs(clean(psf) - psf).sum() < 2e-4 * psf.sum()


def test_clean_keeps_lobes_near_the_core_and_no_negative_skirt():
    psf = stamp("lobes", 4.0, 41)
    assert clean(psf).min() == pytest.approx(psf.min(), abs=1e-4)
    y, x = np.indices((41, 41)) - 20
    radius = np.hypot(y, x)
    skirt = np.where((radius > 7) & (radius < 16), -0.008, 0.0)
    found = clean(psf + skirt)
    assert (found[radius > 7.5] >= -1e-6).all()
    assert np.array_equal(found[radius < 5], psf[radius < 5].astype(np.float32))


def test_clean_makes_noise_around_the_psf_zero():
    psf = planted("gaussian", 4.0, 63, "noise", np.random.default_rng(1))
    found = clean(psf)
    y, x = np.indices((63, 63)) - 31
    assert (found[np.hypot(y, x) > 12] == 0).all()
    assert found.sum() == pytest.approx(stamp("gaussian", 4.0, 63).sum(), rel=0.02)


def test_a_hole_whose_mirror_point_is_a_hole_too_stays():
    psf = stamp("gaussian", 4.0, 31).astype(np.float32)
    psf[15, 15] = np.nan
    assert np.isnan(normalise(clean(psf), 31)[1])


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_clean_of_no_psf_is_none(value):
    assert (clean(np.full((2, 3, 21, 21), value, dtype=np.float32)) == 0).all()
    assert np.isnan(fwhm_halfmax(np.zeros((2, 3, 21, 21), dtype=np.float32))).all()
    assert clean(np.zeros((0, 3, 21, 21), dtype=np.float32)).shape == (0, 3, 21, 21)


@pytest.mark.parametrize(("profile", "bend"), [("gaussian", 0.0), ("moffat 3.5", 1 / 7)])
def test_bend_of_the_core(profile, bend):
    """ln of a Moffat profile is -beta (u - u^2 / 2 + ...): 1 / (2 beta), less what the next terms take back."""
    psf = stamp(profile, 6.0, 41).astype(np.float32)
    assert core_bend(psf) == pytest.approx(bend, abs=0.05)
    assert core_bend(np.minimum(psf, np.float32(0.6))) < -0.5


def spline_widths(psf):
    """FWHM of the azimuthal mean of a quintic spline about its own centroid within half a pixel."""
    half = psf.shape[-1] // 2
    axis = np.arange(-half, half + 1)
    surface = RectBivariateSpline(axis, axis, psf.astype(np.float64), kx=5, ky=5)
    fine = np.linspace(-6, 6, 241)
    light = np.maximum(surface(fine, fine) - psf.max() / 2, 0)
    centre = [(light.sum(axis=1 - k) * fine).sum() / light.sum() for k in (0, 1)]
    radii, angles = np.linspace(0, half * 0.8, 4000), np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y, x = centre[0] + np.outer(radii, np.sin(angles)), centre[1] + np.outer(radii, np.cos(angles))
    profile = surface.ev(y, x).mean(axis=1)
    return 2 * radii[np.argmax(profile < profile[0] / 2)]


def real_psfs(kind):
    """PSFs as published, with their pixel scale."""
    if kind == "des":
        for path in sorted((REAL / "des-lrg" / "lensPSF").glob("*.fits")):
            with fits.open(path, memmap=False) as units:
                yield from (unit.data for unit in units if unit.data is not None)
    elif kind == "hst":
        for path in sorted((REAL / "hst-dinos").glob("*/psf_*.h5"))[:8]:
            with h5py.File(path) as file:
                yield file["kernel_point_source"][()]
    elif kind == "hsc":
        with np.load(REAL / "hsc-hst-blends" / "hsc_cosmos_35.npz") as file:
            yield from file["psfs"]
    else:
        paths = {
            "kids": "kids-sdss/KiDS/*psfim.fits",
            "sdss": "kids-sdss/SDSS/*psfim.fits",
            "cfht": "cfht-sl2s/*_psf.fits",
        }
        for path in sorted(REAL.glob(paths[kind])):
            with fits.open(path, memmap=False) as units:
                yield units[0].data


@needs_real
@pytest.mark.parametrize(
    ("kind", "scale", "half", "moment"),
    [  # arcsec: ranges published or measured by others' codes for these surveys' files
        ("des", 0.263, (0.82, 1.16), (0.9, 1.31)),
        ("kids", 0.2, (0.55, 0.80), (0.56, 0.82)),
        ("sdss", 0.339, (1.12, 1.25), (1.18, 1.34)),
        ("hsc", 0.168, (0.47, 0.74), (0.50, 0.83)),
        ("cfht", 0.186, (0.62, 0.82), (0.63, 0.93)),
    ],
)
def test_widths_of_real_psfs(kind, scale, half, moment):
    """Against a spline through the same pixels; within 0.5 %, whatever wings and noise."""
    count = 0
    for psf in real_psfs(kind):
        found = clean(odd_square(psf.astype(np.float32)))
        assert fwhm_halfmax(found) == pytest.approx(spline_widths(found), rel=0.01)
        assert half[0] < fwhm_halfmax(found) * scale < half[1]
        assert moment[0] < fwhm_moment(found) * scale < moment[1]
        assert fwhm_halfmax(found) < fwhm_moment(found)
        count += 1
    assert count >= 5


@needs_real
def test_cleaning_real_psfs():
    """The KiDS PSFs' negative skirt goes, and nothing worth a hundredth of any other PSF's flux does."""
    for kind in ("des", "sdss", "hsc", "cfht", "hst"):
        for psf in map(odd_square, real_psfs(kind)):
            assert abs(clean(psf).sum() / psf.sum() - 1) < 0.012
    for psf in map(odd_square, real_psfs("kids")):
        found = clean(psf)
        assert found.sum() > 1.05 * psf.sum()
        assert found.min() > -0.05 * found.max()
        assert (found[12, 10:15] == psf[12, 10:15]).all()


@needs_real
def test_fill_values_of_the_empirical_hst_grid_are_no_psf():
    with fits.open(REAL / "psf-hst-empirical" / "emp_psf_f814w.fits", memmap=False) as units:
        grid = units[0].data.astype(np.float32)
    filled = (grid == np.float32(-0.1)).any(axis=(-2, -1))
    assert 0 < filled.sum() < len(grid)
    found, lost = normalise(clean(grid), 101)
    assert np.isfinite(lost).all()
    assert found.min() > -0.005 * found.max()
    assert np.ptp(fwhm_halfmax(found)) < 0.25 * np.mean(fwhm_halfmax(found))


def test_a_psf_is_measured_the_same_in_any_company():
    one = stamp("moffat 2.5", 3.0, 41, (0.3, -0.4)).astype(np.float32)
    others = [stamp("gaussian", fwhm, 41).astype(np.float32) for fwhm in (2.0, 7.0)]
    many = np.stack([others[0], one, others[1], np.zeros_like(one)])
    for measure in (fwhm_halfmax, fwhm_moment, clean):
        assert np.allclose(measure(many)[1], measure(one), rtol=1e-9)
