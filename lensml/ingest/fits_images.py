"""Images of a FITS file that is already in memory: no allocation beyond the bytes that are there, or a stated limit.

FITS 4.0 in the part that images need. Every extent is held against the file before anything is read, which a reader
of unknown files must do and a general one does not; its results are tested against astropy's.
"""

import bz2
import gzip
import io
import math
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

import numpy as np
from astropy.io.fits.verify import VerifyError
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

DAMAGE: Final = (  # what astropy answers to a damaged table or image
    OSError, RuntimeError, TypeError, ValueError, KeyError, IndexError,
    OverflowError, AssertionError, AttributeError, MemoryError, VerifyError,
)  # fmt: skip
_BLOCK: Final = 2880
_CARD: Final = 80
_PIECE: Final = 2**24  # bytes unpacked at a time
_END: Final = b"END" + b" " * 77
_KINDS: Final = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_OPENERS: Final[dict[bytes, Callable[[io.BytesIO], IO[bytes]]]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}  # type: ignore[dict-item]
_MAGIC: Final = {b"\x1f\x8b": "gzip", b"PK": "zip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x1f\x9d": "compress"}


class Header(Mapping[str, object]):
    """The cards of a header; a value is parsed when it is asked for. The first of equal cards counts."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._cards: dict[str, str] = {}
        self._values: dict[str, object] = {}
        for begin in range(0, len(text), _CARD):
            name, value = text[begin : begin + 8].rstrip(), text[begin + 10 : begin + _CARD]
            if name == "HIERARCH":  # longer names (ESO): Rubin's mask planes have them
                name, sign, value = text[begin + 8 : begin + _CARD].partition("=")
            else:
                sign = "=" if text[begin + 8 : begin + 10] == "= " else ""
            if sign:
                self._cards.setdefault(name.strip(), value)

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
            It is no two-dimensional image, or has a side above `max_pixels`.
        """
        if self._is_tiled:
            return self._untiled(max_pixels)
        if self.header.get("XTENSION", "IMAGE") != "IMAGE":
            raise ValueError(f"{self.name} must be an image, got {self.header['XTENSION']}.")
        shape = self._two_axes(_shape(self.header), max_pixels)
        return self._scaled(np.frombuffer(self.content, dtype=_KINDS[_integer(self.header, "BITPIX")]).reshape(shape))

    def cube(self, max_pixels: int) -> NDArray[np.float32] | NDArray[np.float64]:
        """(plane, y, x) of an image with three axes, as `image` otherwise.

        Raises
        ------
        ValueError
            It has not three axes, or one above `max_pixels`.
        """
        shape = _shape(self.header)
        if len(shape) != 3 or not all(1 <= n <= max_pixels for n in shape):
            raise ValueError(f"{self.name} must have three axes of 1 to {max_pixels} pixels, got {shape}.")
        return self._scaled(np.frombuffer(self.content, dtype=_KINDS[_integer(self.header, "BITPIX")]).reshape(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """Slowest axis first; () where there are no data."""
        return _shape(self.header, "Z" if self._is_tiled else "")

    @property
    def _is_tiled(self) -> bool:
        """A tile-compressed image is in a table; cutout tools leave ZIMAGE in images that are none any more."""
        return self.header.get("ZIMAGE") is True and self.header.get("XTENSION") == "BINTABLE"

    def _two_axes(self, shape: tuple[int, ...], max_pixels: int) -> tuple[int, ...]:
        if len(shape) != 2 or not all(1 <= n <= max_pixels for n in shape):
            raise ValueError(f"{self.name} must have two axes of 1 to {max_pixels} pixels, got {shape}.")
        return shape

    def _untiled(self, max_pixels: int) -> NDArray[np.float32] | NDArray[np.float64]:
        """A tile-compressed image (FITS 4.0, section 10), by astropy."""
        from astropy.io import fits
        from astropy.io.fits.hdu.compressed._compression import CfitsioException  # what a wrong card ends in

        shape = self._two_axes(self.shape, max_pixels)
        primary = fits.PrimaryHDU().header.tostring().encode("latin-1")
        header = _filled(self.header.text.encode("latin-1") + _END, b" ")
        content = primary + header + _filled(bytes(self.content), b"\0")
        try:
            with warnings.catch_warnings(), fits.open(io.BytesIO(content), memmap=False) as units:
                warnings.simplefilter("error", AstropyWarning)  # an unknown compression is not to be taken for Rice's
                image = np.asarray(units[1].data)
        except (*DAMAGE, CfitsioException, AstropyWarning) as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.name} must be a whole compressed image, got: {words}. Get it anew.") from None
        if image.shape != shape:
            raise ValueError(f"{self.name} must have the shape {shape} that its header says, got {image.shape}.")
        if image.dtype.kind == "f" and image.dtype.itemsize <= 4:
            return image.astype(np.float32)
        return image.astype(np.float64)

    def _scaled(self, raw: NDArray[Any]) -> NDArray[np.float32] | NDArray[np.float64]:
        zero, scale = _float(self.header, "BZERO", 0.0), _float(self.header, "BSCALE", 1.0)
        plain = (zero, scale) == (0.0, 1.0)
        kind = np.float32 if plain and (raw.dtype.str == ">f4" or raw.dtype.itemsize <= 2) else np.float64
        image: NDArray[Any] = raw.astype(kind)
        blank = self.header.get("BLANK")
        if raw.dtype.kind in "iu" and isinstance(blank, int):
            image[raw == blank] = np.nan
        return image if plain else image * scale + zero


def uncompressed(content: bytes, max_bytes: int) -> bytes:
    """The content of a gzip or bzip2 file, or of a plain file as it is.

    Raises
    ------
    ValueError
        It is damaged, or has more than `max_bytes`.
    """
    opened = next((opener for magic, opener in _OPENERS.items() if content.startswith(magic)), None)
    if opened is None:
        return content
    try:
        with opened(io.BytesIO(content)) as file:
            plain = _at_most(file, max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"file must be whole, got damaged compression: {error}. Get it anew.") from None
    if len(plain) > max_bytes:
        raise ValueError(f"file must unpack to at most {max_bytes} bytes, got more. Raise convert.max_file_mib.")
    return plain


def _at_most(file: IO[bytes], size: int) -> bytes:
    """The first `size` bytes, piece by piece: asked for more than there are, bz2 allocates them at once."""
    pieces: list[bytes] = []
    while size > 0 and (piece := file.read(min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


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


def _shape(header: Header, prefix: str = "") -> tuple[int, ...]:
    """Slowest axis first; with the prefix Z of the image that a table holds compressed."""
    axes = _integer(header, f"{prefix}NAXIS")
    if not 0 <= axes <= 999:
        raise ValueError(f"file must have 0 to 999 axes, got NAXIS {axes}. Write it again.")
    return tuple(_integer(header, f"{prefix}NAXIS{axis}") for axis in range(axes, 0, -1))


def _filled(content: bytes, fill: bytes) -> bytes:
    """Up to a whole number of blocks."""
    return content + fill * (_whole_blocks(len(content)) - len(content))


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
