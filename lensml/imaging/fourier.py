"""Transforms of small stamps: padded, mirrored, multiplied, and cut out again.

Every array is (plane, y, x). Transforms are of `side` x `side` pixels with stamps in their first corner. Along x a
transform is a product with a matrix of waves, which for stamps this small is faster than a fast transform, takes any
side, and pads, mirrors and cuts on its way; along y it is a fast one. Single precision: a transform errs by about 1e-7
of the brightest pixel.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Planes = NDArray[np.float32]  # (plane, y, x)
Spectra = NDArray[np.complex64]  # (plane, side, side // 2 + 1)


def padded_side(stamp_side: int, half: int) -> int:
    """Side of the transform: no pixel of one border reaches the other through a kernel of `half` pixels either way."""
    return int(fft.next_fast_len(max(stamp_side + half, 2 * half + 1)))


def distances(side: int) -> NDArray[np.int64]:
    """Signed distance of each pixel of a transform from pixel 0, around the corner."""
    return (np.arange(side) + side // 2) % side - side // 2


def twice(side: int) -> NDArray[np.float64]:
    """How often each column of a real transform stands in the whole one: twice, but for the mean and Nyquist."""
    return np.where((np.arange(side // 2 + 1) * 2) % side == 0, 1.0, 2.0)


def transform(planes: Planes, side: int) -> Spectra:
    """Real planes to spectra, zeros added behind up to `side` pixels either way."""
    spectra = np.zeros((len(planes), side, side // 2 + 1), dtype=np.complex64)
    np.matmul(planes, _waves(tuple(range(planes.shape[2])), side), out=_parts(spectra)[:, : planes.shape[1]])
    return _along_y(spectra)


def transform_mirrored(planes: Planes, side: int) -> Spectra:
    """Spectra of stamps in the first corner, both borders mirrored into the rest."""
    height, width = planes.shape[1:]
    spectra = np.empty((len(planes), side, side // 2 + 1), dtype=np.complex64)
    np.matmul(planes, _waves(_mirrored(width, side), side), out=_parts(spectra)[:, :height])
    spectra[:, height:] = spectra[:, _mirrored(height, side)[height:]]
    return _along_y(spectra)


def back(
    spectra: Spectra,
    begin: int = 0,
    height: int | None = None,
    width: int | None = None,
    columns: Spectra | None = None,
) -> Planes:
    """Spectra to real planes, or `height` rows and `width` columns of them from `begin` on; the spectra are used up.

    `columns` (plane, side // 2 + 1), where given, multiplies them first.
    """
    side = spectra.shape[1]
    rows = fft.ifft(spectra, axis=1, workers=1, overwrite_x=True)[:, begin : begin + (height or side)]
    if columns is not None:
        rows *= columns[:, None, :]
    planes: Planes = np.matmul(_parts(rows), _waves_back(begin, width or side, side))
    return planes


def squared_modulus(spectra: Spectra) -> NDArray[np.float32]:
    """Power of each frequency."""
    power: NDArray[np.float32] = np.abs(spectra)
    power *= power
    return power


def around(planes: Planes, pixel: int, half: int) -> Planes:
    """Stamps of `half` pixels either way around pixel (`pixel`, `pixel`), around the corner."""
    where = np.arange(pixel - half, pixel + half + 1) % planes.shape[-1]
    return planes.take(where, axis=1).take(where, axis=2)


def _along_y(rows: Spectra) -> Spectra:
    """What is transformed along x already; it is used up."""
    whole: Spectra = fft.fft(rows, axis=1, workers=1, overwrite_x=True)
    return whole


@lru_cache(maxsize=64)
def _waves(pixels: tuple[int, ...], side: int) -> Planes:
    """(pixel, 2 (side // 2 + 1)): the transform of a row in which `pixels` says whose value stands where.

    Cosine and negative sine of each frequency stand side by side, as the parts of complex numbers do.
    """
    angles = 2 * np.pi / side * np.outer(np.arange(len(pixels)), np.arange(side // 2 + 1))
    each = np.stack([np.cos(angles), -np.sin(angles)], axis=-1).reshape(len(pixels), -1)
    summed = np.zeros((max(pixels) + 1, each.shape[1]))
    np.add.at(summed, list(pixels), each)
    return _constant(summed)


@lru_cache(maxsize=64)
def _waves_back(begin: int, width: int, side: int) -> Planes:
    """(2 (side // 2 + 1), pixel): from the transform of a row back to `width` of its pixels."""
    angles = 2 * np.pi / side * np.outer(np.arange(side // 2 + 1), np.arange(begin, begin + width))
    often = twice(side)[:, None] / side
    return _constant(np.stack([often * np.cos(angles), -often * np.sin(angles)], axis=1).reshape(-1, width))


@lru_cache(maxsize=64)
def _mirrored(pixels: int, side: int) -> tuple[int, ...]:
    """Whose value stands where: a stamp's, then its mirror's up to the end, where the stamp begins again."""
    before = (side - pixels) // 2
    index = np.pad(np.arange(pixels), (before, side - pixels - before), mode="symmetric")
    return tuple(np.roll(index, -before).tolist())


def _constant(values: NDArray[np.float64]) -> Planes:
    """In single precision; many share it, so nobody may write to it."""
    single = values.astype(np.float32)
    single.setflags(write=False)
    return single


def _parts(spectra: Spectra) -> Planes:
    """Real and imaginary parts side by side, without a copy."""
    return spectra.view(np.float32)
