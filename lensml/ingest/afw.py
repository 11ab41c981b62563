"""Exposures as the Rubin science pipelines write them (HSC, LSST): IMAGE, MASK and VARIANCE, mask planes by name."""

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lensml.imaging import units
from lensml.ingest import planes
from lensml.ingest.fits_images import Extension
from lensml.ingest.layout import Context
from lensml.ingest.planes import Band, Bool, Image

_KINDS: Final = ("IMAGE", "MASK", "VARIANCE")
BAD: Final = ("BAD", "CR", "NO_DATA", "UNMASKEDNAN", "SUSPECT")  # mask planes whose pixels are not used
SATURATED: Final = "SAT"
_PLANE: Final = "MP_"  # a card MP_<name> holds the number of the plane's bit


class _Both(Mapping[str, object]):
    """An image's header, and behind it the primary one's."""

    def __init__(self, own: Mapping[str, object], primary: Mapping[str, object]) -> None:
        self._own, self._primary = own, primary

    def __getitem__(self, card: str) -> object:
        return self._own[card] if card in self._own else self._primary[card]

    def __iter__(self) -> Iterator[str]:
        return iter({*self._own, *self._primary})

    def __len__(self) -> int:
        return len({*self._own, *self._primary})


def band(extensions: list[Extension], psf: Image | None, context: Context) -> Band:
    """One band from its exposure.

    A plane is known by EXTTYPE, or where there is none EXTNAME, never by its place in the file: a cutout service
    leaves out what was not asked for, or leaves it empty.

    Raises
    ------
    ValueError
        There is no image, or a mask without the names of its planes.
    """
    found = {kind: extension for extension in extensions for kind in [_kind(extension)] if kind and extension.shape}
    if "IMAGE" not in found:
        raise ValueError("file must have an image (EXTTYPE IMAGE) that is not empty, got none. Ask for it again.")
    limit, header = context.convert.max_pixels, _Both(found["IMAGE"].header, extensions[0].header)
    factor = units.nanojansky_per_unit(header, context.survey)
    flux = planes.scaled(found["IMAGE"].image(limit), factor)
    bad, saturated = _masks(found.get("MASK"), limit) or (np.zeros(flux.shape, dtype=bool), None)
    variance = found["VARIANCE"].image(limit) if "VARIANCE" in found else None
    sentinels = context.convert.noise_sentinels
    return Band(
        flux=flux,
        bad=bad,
        variance=None if variance is None else planes.variance(variance, "VAR", factor, sentinels),
        saturated=saturated,
        psf=psf,
        offset=planes.grid_offset(found["IMAGE"].header),
        **planes.frame(found["IMAGE"].header, context.survey),
    )


def _kind(extension: Extension) -> str | None:
    kind = str(extension.header.get("EXTTYPE") or extension.name).strip().upper()
    return kind if kind in _KINDS else None


def _masks(mask: Extension | None, limit: int) -> tuple[Bool, Bool] | None:
    if mask is None:
        return None
    numbers = {card.removeprefix(_PLANE): mask.header[card] for card in mask.header if card.startswith(_PLANE)}
    if not numbers:
        raise ValueError("a mask must name its planes (cards MP_<name>), got none. Get the file anew.")
    bits = planes.bits(mask.image(limit))
    return _any(bits, numbers, (*BAD, SATURATED)) | (bits == planes.OUTSIDE), _any(bits, numbers, (SATURATED,))


def _any(bits: NDArray[np.int64], numbers: Mapping[str, object], names: tuple[str, ...]) -> Bool:
    chosen = sum(1 << number for name in names if isinstance(number := numbers.get(name), int) and 0 <= number < 63)
    return np.asarray((bits & chosen) != 0)
