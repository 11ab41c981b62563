"""Where a PSF is centred, which kernel makes the target of it, what that kernel does to noise.

Every array here is (plane, y, x), a plane being one band of one object; transforms are those of `fourier`: a PSF of p
pixels has its centre at pixel p // 2, and what is convolved with a kernel of 2 h + 1 pixels has moved by h. A PSF is
the effective one, pixel included, as surveys deliver it: a Gaussian target is sampled at the pixels' centres, so that
its FWHM is that of the pixels.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from lensml.imaging import fourier
from lensml.imaging.fourier import Planes, Spectra

PerPlane = NDArray[np.float64]  # (plane,)
Places = NDArray[np.float64]  # (plane, (y, x)) pixels

SIGMA_PER_FWHM = 1 / (2 * math.sqrt(2 * math.log(2)))
CENTROID_ROUNDS = 10
CENTROID_STEP = 1.4  # an overrelaxed round leaves at most 0.4 of the error where the window is wider


class Target(Protocol):
    """What PSFs are brought to: one shape of unit sum for each plane."""

    def planes(self) -> Planes:
        """In pixels, (plane, side, side)."""

    def times(self, spectra: Spectra) -> Spectra | None:
        """Multiply spectra by the target's, or by its part along y, and give that along x (plane, frequency)."""


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of unit sum as their profiles along y and x, each (plane, side)."""

    y: NDArray[np.float32]
    x: NDArray[np.float32]

    @classmethod
    def at(cls, fwhm: PerPlane, pixel: int, beside: Places, side: int) -> "Gaussians":
        """`fwhm` in pixels, centred `beside` pixel (`pixel`, `pixel`)."""
        offset = np.roll(fourier.distances(side), pixel) - beside[:, :, None]  # (plane, 2, side)
        profile = np.exp(-0.5 * (offset / (fwhm * SIGMA_PER_FWHM)[:, None, None]) ** 2)
        profile /= profile.sum(axis=-1, keepdims=True)
        return cls(profile[:, 0].astype(np.float32), profile[:, 1].astype(np.float32))

    def planes(self) -> Planes:
        return self.y[:, :, None] * self.x[:, None, :]

    def times(self, spectra: Spectra) -> Spectra | None:
        spectra *= fft.fft(self.y, axis=1)[:, :, None]
        along_x: Spectra = fft.rfft(self.x, axis=1)
        return along_x


@dataclass(frozen=True)
class Shapes:
    """One measured PSF, moved for each plane."""

    spectra: Spectra

    @classmethod
    def at(cls, psf: Planes, pixel: int, beside: Places, side: int) -> "Shapes":
        """`psf` (1, n, n) of unit sum and centred, moved to lie `beside` pixel (`pixel`, `pixel`)."""
        shift = beside + (pixel - psf.shape[-1] // 2)
        turns = np.exp(-2j * np.pi * shift[:, 0, None] * fft.fftfreq(side))[:, :, None]
        spectra = fourier.transform(psf, side) * turns
        spectra *= np.exp(-2j * np.pi * shift[:, 1, None] * fft.rfftfreq(side))[:, None, :]
        return cls(spectra.astype(np.complex64))

    def planes(self) -> Planes:
        return fourier.back(self.spectra.copy())

    def times(self, spectra: Spectra) -> Spectra | None:
        spectra *= self.spectra
        return None


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


def kernels(source: Spectra, target: Target, regularisation: float, half: int) -> Planes:
    """Matching kernels as stamps of `half` pixels either way and of unit sum: the flux is kept.

    Wiener's ratio T conj(S) / (|S|^2 + regularisation^2), as photutils' make_wiener_kernel without a penalty: where the
    source has no power the kernel has none. The target is centred `half` pixels behind the source.
    """
    ratio = source.conj()
    ratio *= 1 / (fourier.squared_modulus(source) + np.float32(regularisation**2))
    along_x = target.times(ratio)
    kernel = fourier.back(ratio, 0, 2 * half + 1, 2 * half + 1, along_x)
    return kernel / kernel.sum(axis=(1, 2), keepdims=True)


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
    power = fourier.squared_modulus(spectra)
    # (plane, frequency) along one axis
    before = fft.fft(correlation[:, None] ** (fourier.distances(side) ** 2.0), axis=1).real
    rows = np.stack([np.ones_like(before), before], axis=1).astype(np.float32)  # (plane, 2, frequency)
    columns = np.matmul(rows, power) * (fourier.twice(side) / side**2)
    coloured = columns[:, 1] * before[:, : side // 2 + 1]
    variance = coloured.sum(axis=1)
    neighbour = (coloured * np.cos(2 * np.pi * fft.rfftfreq(side))).sum(axis=1) / variance
    gain = np.sqrt(power.max(axis=(1, 2))).astype(np.float64)
    return Noise(gain, columns[:, 0].sum(axis=1), variance, neighbour)
