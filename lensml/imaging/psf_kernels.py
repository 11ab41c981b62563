"""Arrays of PSFs in Fourier space: where one is centred, which kernel makes the target of it, what that does to noise.

Every array here is (plane, y, x), a plane being one band of one object. Transforms are of `side` x `side` pixels with
stamps in their first corner: a PSF of p pixels has its centre at pixel p // 2, and what is convolved with a kernel of
2 h + 1 pixels has moved by h. A PSF is the effective one, pixel included, as surveys deliver it: a target is a Gaussian
sampled at the pixels' centres, so that its FWHM is that of the pixels. Single precision: a transform errs by about 1e-7
of the brightest pixel.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Planes = NDArray[np.float32]  # (plane, y, x)
Spectra = NDArray[np.complex64]  # (plane, side, side // 2 + 1)
PerPlane = NDArray[np.float64]  # (plane,)
Places = NDArray[np.float64]  # (plane, (y, x)) pixels

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


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of unit sum as their profiles along y and x, each (plane, side)."""

    y: NDArray[np.float32]
    x: NDArray[np.float32]

    @classmethod
    def at(cls, fwhm: PerPlane, pixel: int, beside: Places, side: int) -> "Gaussians":
        """`fwhm` in pixels, centred `beside` pixel (`pixel`, `pixel`)."""
        offset = np.roll(distances(side), pixel) - beside[:, :, None]  # (plane, 2, side)
        profile = np.exp(-0.5 * (offset / (fwhm * SIGMA_PER_FWHM)[:, None, None]) ** 2)
        profile /= profile.sum(axis=-1, keepdims=True)
        return cls(profile[:, 0].astype(np.float32), profile[:, 1].astype(np.float32))

    def planes(self) -> Planes:
        """In pixels."""
        return self.y[:, :, None] * self.x[:, None, :]


def transform(planes: Planes, side: int) -> Spectra:
    """Real planes to spectra, zeros added behind up to `side` pixels either way."""
    columns = fft.rfft(planes, side, axis=2, workers=1)
    spectra: Spectra = fft.fft(columns, side, axis=1, workers=1, overwrite_x=True)
    return spectra


def back(spectra: Spectra, begin: int = 0, height: int | None = None, width: int | None = None) -> Planes:
    """Spectra to real planes, or `height` rows and `width` columns of them from `begin` on; the spectra are used up."""
    side = spectra.shape[1]
    rows = slice(begin, begin + (height or side))
    columns = fft.ifft(spectra, axis=1, workers=1, overwrite_x=True)[:, rows]
    planes: Planes = fft.irfft(columns, side, axis=2, workers=1)
    return planes[:, :, begin : begin + (width or side)]


def around(planes: Planes, pixel: int, half: int) -> Planes:
    """Stamps of `half` pixels either way around pixel (`pixel`, `pixel`), around the corner."""
    where = np.arange(pixel - half, pixel + half + 1) % planes.shape[-1]
    return planes.take(where, axis=1).take(where, axis=2)


def centroids(psf: Planes, fwhm: PerPlane) -> Places:
    """Pixels between a PSF and the centre of its stamp, under a Gaussian window of `fwhm` pixels that follows it.

    The window (SExtractor's XWIN) keeps the noise of faint wings out. Zero where there is no PSF.
    """
    axis = np.arange(psf.shape[-1]) - psf.shape[-1] // 2
    centre = np.zeros((len(psf), 2))
    for _ in range(CENTROID_ROUNDS):
        offset = axis - centre[:, :, None]
        window = np.exp(-0.5 * (offset / (fwhm * SIGMA_PER_FWHM)[:, None, None]) ** 2)
        slope = window * offset
        # (plane, y, 2): under the window along x, and the same times the offset
        columns = np.matmul(psf, np.stack([window[:, 1], slope[:, 1]], axis=-1).astype(np.float32))
        total = (columns[..., 0] * window[:, 0]).sum(axis=1)
        moment = [(columns[..., 0] * slope[:, 0]).sum(axis=1), (columns[..., 1] * window[:, 0]).sum(axis=1)]
        centre += CENTROID_STEP * np.stack(moment, axis=1) / np.where(total > 0, total, np.inf)[:, None]
        centre = np.clip(centre, axis[0], axis[-1])
    return centre


def kernels(source: Spectra, target: Gaussians, regularisation: float, half: int) -> Planes:
    """Matching kernels as stamps of `half` pixels either way and of unit sum: the flux is kept.

    Wiener's ratio T conj(S) / (|S|^2 + regularisation^2), as photutils' make_wiener_kernel without a penalty: where the
    source has no power the kernel has none. The target is centred `half` pixels behind the source.
    """
    ratio = source.conj()
    ratio /= squared_modulus(source) + np.float32(regularisation**2)
    ratio *= fft.fft(target.y, axis=1)[:, :, None]
    ratio *= fft.rfft(target.x, axis=1)[:, None, :]
    kernel = back(ratio, 0, 2 * half + 1, 2 * half + 1)
    return kernel / kernel.sum(axis=(1, 2), keepdims=True)


def squared_modulus(spectra: Spectra) -> NDArray[np.float32]:
    """Power of each frequency."""
    power: NDArray[np.float32] = spectra.real**2
    power += spectra.imag**2
    return power


@dataclass(frozen=True)
class Noise:
    """What a kernel does to sky noise; each (plane,)."""

    gain: PerPlane  # the most that any frequency is amplified
    white: PerPlane  # variance after over variance before, had the noise been white
    variance: PerPlane  # the same for the noise as it is
    neighbour: PerPlane  # correlation of neighbours along x afterwards


def noise(spectra: Spectra, correlation: PerPlane) -> Noise:
    """Noise through kernels, where neighbours were correlated by `correlation` in [0, 1) before.

    The correlation at a distance of d pixels is taken as correlation^(d^2), a Gaussian, the same along both axes.
    """
    side = spectra.shape[1]
    power = squared_modulus(spectra)
    before = fft.fft(correlation[:, None] ** (distances(side) ** 2.0), axis=1).real  # (plane, frequency) along one axis
    # how often each column of a real transform stands in the whole one: twice, but for the mean and Nyquist
    twice = np.where((np.arange(side // 2 + 1) * 2) % side == 0, 1.0, 2.0) / side**2
    rows = np.stack([np.ones_like(before), before], axis=1).astype(np.float32)  # (plane, 2, frequency)
    columns = np.matmul(rows, power) * twice
    coloured = columns[:, 1] * before[:, : side // 2 + 1]
    variance = coloured.sum(axis=1)
    neighbour = (coloured * np.cos(2 * np.pi * fft.rfftfreq(side))).sum(axis=1) / variance
    gain = np.sqrt(power.max(axis=(1, 2))).astype(np.float64)
    return Noise(gain, columns[:, 0].sum(axis=1), variance, neighbour)
