"""A batch of stamps in memory, as numbers and as the 16-bit codes that go to disk."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml.store import quantisation
from lensml.store.quantisation import Codes

PLANES: Final = ("flux", "variance", "psf")

_PIECE: Final = 16  # objects

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Stamps:
    """A batch of one survey's objects with the same bands and the same shape.

    Attributes
    ----------
    catalogue : schema.CATALOGUE; stack and row may be absent
    flux : (object, band, y, x), nJy; 0 where bad
    variance : (object, band, y, x), nJy^2; infinite where bad
    psf : (object, band, py, px), unit sum, odd square, centre at py // 2; zeros where there is none
    """

    catalogue: pl.DataFrame
    flux: Float
    variance: Float
    psf: Float

    def __post_init__(self) -> None:
        shape = (self.catalogue.height, len(self.bands))
        for name in PLANES:
            array = getattr(self, name)
            if array.ndim != 4 or array.shape[:2] != shape:
                raise ValueError(f"{name} must be (object, band, y, x) with {shape} first, got {array.shape}.")
        if self.flux.shape != self.variance.shape:
            raise ValueError(f"variance must have the flux's shape {self.flux.shape}, got {self.variance.shape}.")
        if self.catalogue.select(pl.struct("survey", "bands").n_unique()).item() > 1:
            raise ValueError("a batch of stamps must be of one survey and one set of bands, got several. Split it.")

    @property
    def survey(self) -> str:
        return str(self.catalogue["survey"][0])

    @property
    def bands(self) -> tuple[str, ...]:
        return tuple(self.catalogue["bands"][0]) if self.catalogue.height else ()

    @property
    def pixel_scale(self) -> NDArray[np.float64]:
        """(object,), arcsec per pixel."""
        return self.catalogue["pixel_scale"].to_numpy()

    @property
    def sky_sigma(self) -> NDArray[np.float64]:
        """(object, band), nJy per pixel."""
        return lists(self.catalogue["sky_sigma"], len(self.bands))


@dataclass(frozen=True)
class Encoded:
    """Stamps as 16-bit codes, a quarter of the bytes: what a worker hands to the one process that writes."""

    catalogue: pl.DataFrame
    codes: dict[str, Codes]  # per plane, (object, band, y, x)

    @property
    def form(self) -> tuple[object, ...]:
        """What objects of one stack share."""
        first = self.catalogue.row(0, named=True)
        return first["survey"], tuple(first["bands"]), *(self.codes[plane].shape[1:] for plane in PLANES)


def encode(stamps: Stamps) -> Encoded:
    """The 16-bit codes of a batch.

    Raises
    ------
    ValueError
        A flux, variance or PSF has no 16-bit code.
    """
    return Encoded(
        stamps.catalogue,
        {
            "flux": _in_pieces(quantisation.encode_flux, stamps.flux, stamps.sky_sigma),
            "variance": _in_pieces(quantisation.encode_variance, stamps.variance, stamps.sky_sigma),
            "psf": _in_pieces(quantisation.encode_psf, stamps.psf),
        },
    )


def _in_pieces(code: Callable[..., Codes], *arrays: NDArray[np.floating]) -> Codes:
    """Codes of a batch, made piece by piece: what a cache holds takes half the time."""
    begins = range(0, len(arrays[0]), _PIECE)
    try:
        return np.concatenate([code(*(array[begin : begin + _PIECE] for array in arrays)) for begin in begins])
    except ValueError:
        return code(*arrays)  # nothing to code, or a fault: this one tells its place in the batch


def coded(stamps: Stamps) -> Stamps:
    """The batch as it would be read back from disk: through the 16-bit codes, without the disk."""
    codes = encode(stamps).codes
    return Stamps(
        stamps.catalogue,
        quantisation.decode_flux(codes["flux"], stamps.sky_sigma),
        quantisation.decode_variance(codes["variance"], stamps.sky_sigma),
        quantisation.decode_psf(codes["psf"]),
    )


def lists(column: pl.Series, width: int) -> NDArray[np.float64]:
    """A column of lists of equal length as (object, width)."""
    values = column.explode().to_numpy() if len(column) else np.zeros(0)
    return np.asarray(values, dtype=np.float64).reshape(len(column), width)
