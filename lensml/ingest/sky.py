"""Where in the sky an image is, by its WCS; the WCS itself is astropy's."""

import math
import warnings
from functools import lru_cache
from typing import Final

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning

from lensml.ingest import fits_images
from lensml.ingest.fits_images import Header

_KEPT: Final = 64  # a field has few images, which every object of it is found in
_CARDS_NEEDED: Final = ("CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")


def wcs(header: Header) -> WCS | None:
    """The celestial WCS of an image's header; None where it has none.

    Raises
    ------
    ValueError
        There is one that cannot be understood.
    """
    if any(card not in header for card in _CARDS_NEEDED) or not str(header["CTYPE1"]).startswith("RA"):
        return None
    numbers = [header[card] for card in _CARDS_NEEDED[2:]]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in numbers):
        raise ValueError("CRVAL and CRPIX must be finite numbers, got others. Correct the WCS.")
    return _wcs(header.text)


@lru_cache(maxsize=_KEPT)
def _wcs(text: str) -> WCS | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)  # of dates and units that it mends
        try:
            found = WCS(fits.Header.fromstring(text), naxis=2)
        except fits_images.DAMAGE as error:
            words = " ".join(str(error).split())[:120] or type(error).__name__
            raise ValueError(f"the WCS must be readable, got: {words}. Correct it.") from None
    return found if found.has_celestial else None


def centre(content: bytes, max_bytes: int) -> tuple[float, float] | None:
    """Right ascension and declination, in degrees, of the centre of a FITS file's first image that has a WCS.

    Parameters
    ----------
    content : as it is, or compressed; an image may be a layer of a cube
    max_bytes : that it may unpack to
    """
    try:
        extensions = fits_images.extensions(fits_images.uncompressed(content, max_bytes))
        for extension in extensions:
            shape = extension.shape[-2:]
            found = wcs(extension.header) if len(extension.shape) in (2, 3) else None
            if found is not None:
                ra, dec = (float(x) for x in found.wcs_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0))
                return (ra % 360, dec) if np.isfinite(ra) and np.isfinite(dec) and abs(dec) <= 90 else None
    except ValueError:
        return None  # the reader refuses the file in words
    return None
