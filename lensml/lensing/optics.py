"""PSFs: Moffat profiles for the atmosphere, diffraction at a pupil for space, and stamps onto other pixels.

All functions give a PSF as an image has it: light gathered by square pixels of side `pixel_scale` (arcsec), in the
middle of a stamp of odd side, over a sum of one. On the fine grid these are the survey's over supersampling: a render
of fine pixels, convolved and summed, is then integrated over the survey's pixels exactly once.
Ellipticities are lenstronomy's; x grows with the last index.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lensml import config_camera
from lensml.schema import ContractError

Float = NDArray[np.float64]
Stamps = NDArray[np.float32]

ARCSEC_PER_RAD: Final = 206264.80624709636
# Where half of a band's transmission lies within, micrometres (filter handbooks of the instruments).
PASSBAND_UM: Final = {
    "F390W": (0.35, 0.44), "F435W": (0.39, 0.48), "F475X": (0.40, 0.60), "F555W": (0.47, 0.60), "F606W": (0.48, 0.70),
    "F600LP": (0.60, 0.90), "F814W": (0.71, 0.94), "F105W": (0.92, 1.19), "F125W": (1.11, 1.39), "F140W": (1.20, 1.58),
    "F160W": (1.41, 1.68), "VIS": (0.55, 0.90), "NIR_Y": (0.95, 1.21), "NIR_J": (1.17, 1.57), "NIR_H": (1.52, 2.02),
}  # fmt: skip
_WAVELENGTHS: Final = 3  # that stand for a band
_PUPIL_PIXELS: Final = 64  # across the aperture, at least: the PSF repeats after as many wavelengths / aperture
_FREQUENCIES: Final = 512  # quadrature of filter kernels
_GAIN_MAX: Final = 2.0  # of undoing a pixel: higher frequencies of a measured PSF are its noise


class Seeing(NamedTuple):
    """Moffat PSFs, any shape (...)."""

    fwhm: Float  # arcsec, of the circle of equal area, before the pixel
    beta: Float  # > 1
    e1: Float
    e2: Float


class Wavefront(NamedTuple):
    """How the light arrives at a pupil, and how it is blurred behind it: (entry,) and (entry, 5)."""

    roll: Float  # rad, by which the pupil is turned counter-clockwise
    zernike_um: Float  # rms over the aperture: focus, two of astigmatism, two of coma
    blur_arcsec: Float  # sigma of charge diffusion and jitter


def moffat(seeing: Seeing, pixel_scale: float, side: int) -> Stamps:
    """Moffat (1969) PSFs, each pixel integrated by Gauss-Legendre quadrature: (..., side, side)."""
    nodes, weights = np.polynomial.legendre.leggauss(_nodes(float(np.min(seeing.fwhm)) / pixel_scale))
    step = (np.arange(side) - side // 2)[:, None] + nodes / 2
    axis = step.ravel() * pixel_scale
    fwhm, beta, e1, e2 = (np.asarray(v, dtype=np.float64)[..., None, None] for v in seeing)
    e = np.hypot(e1, e2)
    x, y = axis[None, :], axis[:, None]
    # q x'^2 + y'^2 / q of axes along the ellipse is ((1 + e^2) r^2 - 2 (e1 (x^2 - y^2) + 2 e2 x y)) / (1 - e^2).
    radius2 = ((1 + e**2) * (x**2 + y**2) - 2 * (e1 * (x**2 - y**2) + 2 * e2 * x * y)) / (1 - e**2)
    core2 = fwhm**2 / (4 * (2 ** (1 / beta) - 1))
    light = np.exp(-beta * np.log1p(radius2 / core2))
    parts = light.reshape(*light.shape[:-2], side, len(nodes), side, len(nodes))
    return unit_sum(np.einsum("...ipjq,p,q->...ij", parts, weights, weights))


def _nodes(pixels_per_fwhm: float) -> int:
    """Per pixel and axis, for 1e-5 of the peak."""
    return 2 if pixels_per_fwhm > 5 else 3 if pixels_per_fwhm > 2.5 else 5 if pixels_per_fwhm > 1.2 else 9


def diffraction(
    telescope: config_camera.Telescope, band: str, wavefront: Wavefront, pixel_scale: float, side: int
) -> Stamps:
    """PSFs of a telescope: the mean over the band of |Fourier transform of the pupil|^2, blurred by what follows.

    Charge diffusion and jitter (a Gaussian), the detector's pixel and the drop (squares), and pixels of `pixel_scale`.

    Returns
    -------
    (entry, side, side), side odd

    Raises
    ------
    ContractError
        The band has no known wavelengths.
    """
    waves = _wavelengths(band)
    limit = waves.min() * 1e-6 / telescope.aperture_m * ARCSEC_PER_RAD / 2  # arcsec: samples of all that light can hold
    step = pixel_scale / np.ceil(pixel_scale / limit)
    half = int(np.ceil(side / 2 * pixel_scale / step))
    axis = np.arange(-half, half + 1) * step
    light = np.mean([_monochromatic(telescope, wave, wavefront, axis) for wave in waves], axis=0)

    sides = (telescope.detector_pixel_arcsec, telescope.drop_arcsec, pixel_scale)

    def transfer(frequency: Float) -> Float:
        diffused = np.exp(-2 * (np.pi * wavefront.blur_arcsec[:, None] * frequency) ** 2)
        return np.asarray(diffused * np.prod([np.sinc(frequency * side) for side in sides], axis=0))

    kernel = _filter(_axis(side, pixel_scale), axis, transfer)
    return unit_sum(kernel @ light @ np.swapaxes(kernel, -1, -2))


def _wavelengths(band: str) -> Float:
    if band not in PASSBAND_UM:
        raise ContractError(
            f"band must have known wavelengths, got {band} (telescope PSF). It may be {', '.join(PASSBAND_UM)}."
        )
    low, high = PASSBAND_UM[band]
    return low + (high - low) * (np.arange(_WAVELENGTHS) + 0.5) / _WAVELENGTHS


def _monochromatic(telescope: config_camera.Telescope, wave_um: float, wavefront: Wavefront, axis: Float) -> Float:
    """(entry, y, x) of unit sum at the places of `axis`, arcsec, by the matrix transform of Soummer et al. (2007)."""
    per_metre = 1 / (wave_um * 1e-6 * ARCSEC_PER_RAD)
    across = max(_PUPIL_PIXELS, int(np.ceil(3 * axis[-1] * telescope.aperture_m * per_metre)))
    pupil, x = _pupil(telescope, wavefront.roll, across)
    phase = np.tensordot(wavefront.zernike_um, _zernikes(x), axes=1) / wave_um
    field = (pupil * np.exp(2j * np.pi * phase)).astype(np.complex64)
    turn = np.exp(-2j * np.pi * per_metre * telescope.aperture_m / 2 * np.outer(axis, x)).astype(np.complex64)
    light = np.abs(turn @ field @ turn.T) ** 2
    return light.astype(np.float64) / light.sum(axis=(-2, -1), keepdims=True, dtype=np.float64)


def _pupil(telescope: config_camera.Telescope, roll: Float, across: int) -> tuple[Float, Float]:
    """Open share of each pixel (entry, y, x), and the pixels' places in units of the aperture's radius."""
    pixel = 2 / across
    x = np.asarray((np.arange(across) + 0.5) * pixel - 1, dtype=np.float64)
    radius = np.hypot(x[:, None], x)
    disc = np.clip((1 - radius) / pixel + 0.5, 0, 1)
    hole = np.clip((telescope.obscuration - radius) / pixel + 0.5, 0, 1) if telescope.obscuration else 0
    angle = roll[:, None] + 2 * np.pi * np.arange(telescope.vanes) / max(telescope.vanes, 1)
    c, s = np.cos(angle)[..., None, None], np.sin(angle)[..., None, None]
    along, beside = x * c + x[:, None] * s, np.abs(x[:, None] * c - x * s)
    width = telescope.vane_width  # in radii this is half of it
    shut = np.clip(np.minimum(beside + pixel / 2, width) - np.maximum(beside - pixel / 2, -width), 0, pixel) / pixel
    return np.asarray((disc - hole) * np.prod(1 - shut * (along > 0), axis=1)), x


def _zernikes(x: Float) -> Float:
    """Focus, astigmatism and coma of unit rms over the disc, (5, y, x): Noll (1976), Z4 to Z8."""
    a, b = x[None, :], x[:, None]
    r2 = a**2 + b**2
    coma = np.sqrt(8) * (3 * r2 - 2)
    return np.stack([np.sqrt(3) * (2 * r2 - 1), np.sqrt(6) * 2 * a * b, np.sqrt(6) * (a**2 - b**2), coma * b, coma * a])


def resampled(psf: Float, sampling: float, pixel_scale: float, supersampling: int, side: int) -> Stamps:
    """Measured PSFs on other pixels, by their Fourier transform.

    A measured PSF has the survey's pixel in it. That is undone for the fine grid, whose pixels are summed later: a star
    in the middle of a survey's pixel is then rendered as measured.

    Parameters
    ----------
    psf
        (..., k, k), k odd, `sampling` arcsec between samples
    pixel_scale
        the survey's, arcsec
    side
        odd, of the result, whose pixels are pixel_scale / supersampling wide

    Returns
    -------
    (..., side, side)
    """
    fine = pixel_scale / supersampling
    offsets = (np.arange(supersampling) - (supersampling - 1) / 2) * fine

    def transfer(frequency: Float) -> Float:
        summed = np.cos(2 * np.pi * np.outer(frequency, offsets)).mean(axis=1)
        return 1 / np.maximum(summed, 1 / _GAIN_MAX)

    kernel = _filter(_axis(side, fine), _axis(psf.shape[-1], sampling), transfer)
    return unit_sum(kernel @ psf @ kernel.T)


def _axis(side: int, step: float) -> Float:
    return np.asarray((np.arange(side) - side // 2) * step, dtype=np.float64)


def _filter(to: Float, places: Float, transfer: Callable[[Float], Float]) -> Float:
    """What each sample gives to the places after a band-limited filter along one axis: (..., to, places)."""
    step = places[1] - places[0]
    frequency = (np.arange(_FREQUENCIES) + 0.5) / (2 * step * _FREQUENCIES)
    unique, where = np.unique(np.round(np.abs(to[:, None] - places) / step, 9), return_inverse=True)
    wave = np.cos(2 * np.pi * step * np.outer(frequency, unique))
    kernel = transfer(frequency) @ wave / _FREQUENCIES  # (..., distance)
    return np.asarray(kernel[..., where.reshape(len(to), len(places))])


def unit_sum(stamps: Float) -> Stamps:
    """(..., y, x) over its sum."""
    return np.asarray(stamps / stamps.sum(axis=(-2, -1), keepdims=True), dtype=np.float32)


def fwhm(psf: Stamps, pixel_scale: float) -> Float:
    """Full width at half of the central pixel, arcsec, averaged over azimuth: (..., k, k) to (...).

    By ln(PSF) against r^2, linear between the rings of equal distance.
    """
    side = psf.shape[-1]
    axis = np.arange(side) - side // 2
    r2, ring = np.unique(axis[:, None] ** 2 + axis**2, return_inverse=True)
    flat = psf.reshape(-1, side * side).astype(np.float64)
    count = np.bincount(ring.ravel())
    found = [_half_radius2(np.bincount(ring.ravel(), row) / count, r2) for row in flat]
    return np.asarray(2 * pixel_scale * np.sqrt(found)).reshape(psf.shape[:-2])


def _half_radius2(profile: Float, r2: NDArray[np.int64]) -> float:
    beyond = max(int(np.argmax(profile < profile[0] / 2)), 1)
    low, high = np.log(np.maximum(profile[[beyond - 1, beyond]], profile[0] * 1e-6))
    share = (low - np.log(profile[0] / 2)) / (low - high) if low > high else 0.0
    return float(r2[beyond - 1] + share * (r2[beyond] - r2[beyond - 1]))
