"""Arrays of PSFs in Fourier space: where one is centred, which kernel makes the target of it, what that does to noise.

Every array here is (plane, y, x), a plane being one band of one object. Transforms are of `side` x `side` pixels with
the centre of a PSF at pixel (0, 0). A PSF is the effective one, pixel included, as surveys deliver it: a target is a
Gaussian sampled at the pixels' centres, so that its FWHM is that of the pixels.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Planes = NDArray[np.float64]  # (plane, y, x)
Spectra = NDArray[np.complex128]  # (plane, side, side // 2 + 1)
PerPlane = NDArray[np.float64]  # (plane,)

SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))
CENTROID_ROUNDS, CENTROID_STEP = (
    10,
    1.4,
)  # an overrelaxed round leaves at most 0.4 of the error where the window is wider


def padded_side(stamp_side: int, half: int) -> int:
    """Side of the transform: no pixel of one border reaches the other through a kernel of `half` pixels either way."""
    return int(fft.next_fast_len(max(stamp_side + half, 2 * half + 1), real=True))


def distances(side: int) -> NDArray[np.int64]:
    """Signed distance of each pixel of a transform from pixel 0, around the corner."""
    return (np.arange(side) + side // 2) % side - side // 2


def gaussians(fwhm: PerPlane, centre: NDArray[np.float64], side: int) -> Planes:
    """Gaussians of unit sum, `fwhm` in pixels, centred `centre` = (plane, (y, x)) pixels from pixel (0, 0)."""
    offset = distances(side) - centre[:, :, None]  # (plane, 2, side)
    profile = np.exp(-0.5 * (offset / (fwhm * SIGMA_PER_FWHM)[:, None, None]) ** 2)
    profile /= profile.sum(axis=-1, keepdims=True)
    return profile[:, 0, :, None] * profile[:, 1, None, :]


def at_origin(psf: NDArray[np.floating], side: int) -> Planes:
    """PSF stamps (odd square) laid into planes of `side` pixels with their centre at pixel (0, 0), unit sum."""
    where = (np.arange(psf.shape[-1]) - psf.shape[-1] // 2) % side
    planes = np.zeros((len(psf), side, side))
    planes[:, where[:, None], where] = psf
    return planes / planes.sum(axis=(1, 2), keepdims=True)


def stamp(planes: Planes, pixels: int) -> Planes:
    """The `pixels` (odd) around pixel (0, 0) of each plane, as a stamp with its centre in the middle."""
    where = (np.arange(pixels) - pixels // 2) % planes.shape[-1]
    cut: Planes = planes[:, where[:, None], where]
    return cut


def centroids(planes: Planes, fwhm: PerPlane) -> NDArray[np.float64]:
    """(plane, (y, x)) pixels between a PSF and pixel (0, 0), under a Gaussian window of `fwhm` pixels that follows it.

    The window (SExtractor's XWIN) keeps the noise of faint wings out.
    """
    axis = distances(planes.shape[-1])
    centre = np.zeros((len(planes), 2))
    for _ in range(CENTROID_ROUNDS):
        offset = axis - centre[:, :, None]
        window = np.exp(-0.5 * (offset / (fwhm * SIGMA_PER_FWHM)[:, None, None]) ** 2)
        rows = np.matmul(planes, window[:, 1, :, None])[..., 0]  # (plane, y): along x
        slopes = np.matmul(planes, (window * offset)[:, 1, :, None])[..., 0]
        total = (rows * window[:, 0]).sum(axis=1)
        shift = np.stack([(rows * (window * offset)[:, 0]).sum(axis=1), (slopes * window[:, 0]).sum(axis=1)], axis=1)
        centre += CENTROID_STEP * shift / np.where(total > 0, total, np.inf)[:, None]
        centre = np.clip(centre, -planes.shape[-1] / 4, planes.shape[-1] / 4)
    return centre


def mirrored(side: int) -> NDArray[np.float64]:
    """How often each column of a real transform stands in the whole one: twice, but for the mean and Nyquist."""
    columns = np.full(side // 2 + 1, 2.0)
    columns[0] = 1
    if side % 2 == 0:
        columns[-1] = 1
    return columns


def kernels(source: Spectra, target: Spectra, regularisation: float, half: int) -> Planes:
    """Matching kernels at pixel (0, 0), zero beyond `half` pixels, of unit sum: the flux is kept.

    Wiener's ratio T conj(S) / (|S|^2 + regularisation^2), as photutils' make_wiener_kernel without a penalty: where the
    source has no power the kernel has none.
    """
    side = source.shape[1]
    ratio = target * source.conj() / (np.abs(source) ** 2 + regularisation**2)
    kernel: Planes = fft.irfft2(ratio, (side, side), workers=1)
    kernel[:, half + 1 : side - half] = 0
    kernel[:, :, half + 1 : side - half] = 0
    return kernel / kernel.sum(axis=(1, 2), keepdims=True)


def convolve(planes: Planes, spectra: Spectra) -> Planes:
    """Planes on the transform's grid, convolved around the corner with kernels given by their spectra."""
    side = planes.shape[-1]
    out: Planes = fft.irfft2(fft.rfft2(planes, workers=1) * spectra, (side, side), workers=1)
    return out


def noise_gain(spectra: Spectra, correlation: PerPlane) -> tuple[PerPlane, PerPlane, PerPlane]:
    """What kernels do to sky noise whose neighbours are correlated by `correlation` in [0, 1).

    The correlation at a distance of d pixels is taken as correlation^(d^2), a Gaussian, the same along both axes.

    Returns
    -------
    white, correlated : variance after over variance before, had the noise been white, and as it is
    neighbour : correlation of neighbours along x afterwards
    """
    side = spectra.shape[1]
    power = np.abs(spectra) ** 2 * mirrored(side) / side**2
    noise = fft.fft(correlation[:, None] ** (distances(side) ** 2.0), axis=1).real  # (plane, frequency): along one axis
    columns = np.matmul(noise[:, None, :], power)[:, 0] * noise[:, : side // 2 + 1]
    correlated = columns.sum(axis=1)
    neighbour = (columns * np.cos(2 * np.pi * fft.rfftfreq(side))).sum(axis=1) / correlated
    return power.sum(axis=(1, 2)), correlated, neighbour
