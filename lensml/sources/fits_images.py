"""Images of a FITS file that is already in memory: no decompression, no allocation beyond the bytes that are there.

FITS 4.0 in the part that images need. Every extent is held against the file before anything is read, which a reader
of unknown files must do and a general one does not; its results are tested against astropy's.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BLOCK: Final = 2880
_CARD: Final = 80
_END: Final = b"END" + b" " * 77
_KINDS: Final = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_MAGIC: Final = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x1f\x9d": "compress"}


class Header(Mapping[str, object]):
    """The cards of a header; a value is parsed when it is asked for. The first of equal cards counts."""

    def __init__(self, text: str) -> None:
        self._cards: dict[str, str] = {}
        self._values: dict[str, object] = {}
        for begin in range(0, len(text), _CARD):
            if text[begin + 8 : begin + 10] == "= ":
                self._cards.setdefault(text[begin : begin + 8].rstrip(), text[begin + 10 : begin + _CARD])

    def __getitem__(self, card: str) -> object:
        if card not in self._values:
            self._values[card] = _value(self._cards[card])
        return self._values[card]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cards)

    def __len__(self) -> int:
        return len(self._cards)


@dataclass(frozen=True)
class Extension:
    """One header with its data unit, still as bytes."""

    header: Header
    content: memoryview

    @property
    def name(self) -> str:
        return str(self.header.get("EXTNAME", "")).strip().upper()

    def image(self, max_pixels: int) -> NDArray[np.float32] | NDArray[np.float64]:
        """(y, x), scaled, blanks as NaN; float32 from 32-bit floats and small integers, else float64.

        Raises
        ------
        ValueError
            It is no two-dimensional image, is tile-compressed, or has a side above `max_pixels`.
        """
        if self.header.get("ZIMAGE") is True:
            raise ValueError(f"{self.name} must be uncompressed, got a tile-compressed image. Run funpack.")
        if self.header.get("XTENSION", "IMAGE") != "IMAGE":
            raise ValueError(f"{self.name} must be an image, got {self.header['XTENSION']}.")
        shape = _shape(self.header)
        if len(shape) != 2 or not all(1 <= n <= max_pixels for n in shape):
            raise ValueError(f"{self.name} must have two axes of 1 to {max_pixels} pixels, got {shape}.")
        return self._scaled(np.frombuffer(self.content, dtype=_KINDS[_integer(self.header, "BITPIX")]).reshape(shape))

    def _scaled(self, raw: NDArray[Any]) -> NDArray[np.float32] | NDArray[np.float64]:
        zero, scale = _float(self.header, "BZERO", 0.0), _float(self.header, "BSCALE", 1.0)
        plain = (zero, scale) == (0.0, 1.0)
        kind = np.float32 if plain and (raw.dtype.str == ">f4" or raw.dtype.itemsize <= 2) else np.float64
        image: NDArray[Any] = raw.astype(kind)
        blank = self.header.get("BLANK")
        if raw.dtype.kind in "iu" and isinstance(blank, int):
            image[raw == blank] = np.nan
        return image if plain else image * scale + zero


def extensions(content: bytes) -> list[Extension]:
    """Every header and data unit of a FITS file.

    Raises
    ------
    ValueError
        The content is no plain FITS file, or is shorter than its headers say.
    """
    for magic, name in _MAGIC.items():
        if content.startswith(magic):
            raise ValueError(f"file must be plain FITS, got {name} content. Uncompress it.")
    if not content.startswith(b"SIMPLE  ="):
        raise ValueError("file must be plain FITS, got content without the card SIMPLE. Write it again.")
    found, view, begin = [], memoryview(content), 0
    while content.startswith((b"SIMPLE  =", b"XTENSION="), begin):
        header, data = _header(content, begin)
        size = _size(header)
        if data + size > len(content):
            raise ValueError(
                f"file must hold {data + size} bytes as its headers say, got {len(content)}: it is truncated. "
                "Get it anew."
            )
        found.append(Extension(header, view[data : data + size]))
        begin = data + _whole_blocks(size)
    return found


def _header(content: bytes, begin: int) -> tuple[Header, int]:
    """The header at `begin`, and where its data begin."""
    end = content.find(_END, begin)
    while end >= 0 and (end - begin) % _CARD:
        end = content.find(_END, end + 1)
    if end < 0:
        raise ValueError("file must have an END card in every header, got none: it is truncated. Get it anew.")
    return Header(content[begin:end].decode("latin-1")), begin + _whole_blocks(end + _CARD - begin)


def _size(header: Header) -> int:
    """Bytes of the data unit (FITS 4.0, eq. 2)."""
    shape = _shape(header)
    if not shape:
        return 0
    groups, parameters = _integer(header, "GCOUNT", 1), _integer(header, "PCOUNT", 0)
    bits = _integer(header, "BITPIX")
    if bits not in _KINDS or min(shape) < 0 or groups < 0 or parameters < 0:
        raise ValueError(f"file must have valid BITPIX and NAXISn, got {bits} and {shape}. Write it again.")
    return abs(bits) // 8 * groups * (parameters + math.prod(shape))


def _shape(header: Header) -> tuple[int, ...]:
    """Slowest axis first."""
    axes = _integer(header, "NAXIS")
    if not 0 <= axes <= 999:
        raise ValueError(f"file must have 0 to 999 axes, got NAXIS {axes}. Write it again.")
    return tuple(_integer(header, f"NAXIS{axis}") for axis in range(axes, 0, -1))


def _integer(header: Header, card: str, missing: int | None = None) -> int:
    value = header.get(card, missing)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"file must have an integer card {card}, got {value!r:.40}. Write it again.")
    return value


def _float(header: Header, card: str, missing: float) -> float:
    value = header.get(card, missing)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"file must have a finite number in {card}, got {value!r:.40}. Write it again.")
    return float(value)


def _whole_blocks(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _value(text: str) -> object:
    """A card's value: text, logical, integer, float, or None; what is none of these comes back as text."""
    text = text.strip()
    if text.startswith("'"):
        return text[1:].replace("''", "\0").partition("'")[0].replace("\0", "'").rstrip()
    text = text.partition("/")[0].strip()
    if text.isdecimal() and text.isascii():
        return int(text)
    if text in ("T", "F", ""):
        return {"T": True, "F": False, "": None}[text]
    for kind in (int, float):
        try:
            return kind(text.replace("D", "E").replace("_", "?"))  # Python reads 1_0 as a number, FITS does not
        except ValueError:
            continue
    return text
