"""One HDF5 file of GalaxiesML: that it is as documented and holds its own data, and slices of it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from lensml.schema import ContractError

SUFFIXES: Final = (".hdf5", ".h5")
BANDS: Final = ("g", "r", "i", "z", "y")  # the order of the image's second axis
COLUMNS: Final = (
    *("ra", "dec", "specz_redshift", "specz_redshift_err", "specz_flag_homogeneous"),
    *("i_sersic_index", "i_half_light_radius", "i_ellipticity"),
)
_SIDES: Final = (64, 127)  # pixels
_OBJECTS_MAX: Final = 10**7
_CHUNK_MAX: Final = 2**28  # bytes: a chunk is unpacked whole, whatever part of it is asked for
_COMPRESSION_MAX: Final = 1000  # bytes that one stored byte may stand for; deflate cannot do more than 1032
_FILTERS: Final = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # what h5py itself reads (HDF5 filter ids)


def check(path: Path) -> int:
    """Hold a file against the documented layout, without reading pixels.

    Returns
    -------
    side of its stamps in pixels

    Raises
    ------
    ContractError
        A key is missing, of another shape, type or length, stands in another file, is made up of other data, or
        unpacks to far more than is stored; or a position is none.
    """
    with _opened(path) as file:
        _refuse_links(path, file)
        image = _dataset(path, file, "image")
        _require(path, "image", image.dtype == np.float32, "be float32", image.dtype)
        good = image.ndim == 4 and image.shape[1] == len(BANDS) and image.shape[2] == image.shape[3]
        words = " or ".join(f"(N, {len(BANDS)}, {side}, {side})" for side in _SIDES)
        _require(path, "image", good and image.shape[2] in _SIDES, f"have the shape {words}", image.shape)
        count = image.shape[0]
        _require(path, "image", 0 < count <= _OBJECTS_MAX, f"hold 1 to {_OBJECTS_MAX} galaxies", count)
        for name, kinds in {"object_id": "iu", **dict.fromkeys(COLUMNS, "fiub")}.items():
            column = _dataset(path, file, name)
            _require(path, name, column.dtype.kind in kinds, "hold numbers", column.dtype)
            _require(path, name, column.shape == (count,), f"have the shape ({count},) of the images", column.shape)
        ra, dec = (np.asarray(file[name][:], dtype=np.float64) for name in ("ra", "dec"))
        placed = (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)
        _require(path, "ra, dec", bool(placed.all()), "be degrees in [0, 360] and [-90, 90]", _first(ra, dec, placed))
        return int(image.shape[2])


def places(path: Path) -> dict[str, NDArray[Any]]:
    """number (HSC object_id), ra and dec (deg) of every galaxy of a checked file."""
    with _opened(path) as file:
        return {
            "number": np.asarray(file["object_id"][:], dtype=np.int64),
            **{name: np.asarray(file[name][:], dtype=np.float64) for name in ("ra", "dec")},
        }


def read(path: Path, start: int, stop: int) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float64]]]:
    """Pixels (object, band, y, x), in counts, and COLUMNS of the galaxies from start to stop of a checked file.

    Raises
    ------
    ContractError
        The file is damaged there.
    """
    with _opened(path) as file:
        pixels = np.asarray(file["image"][start:stop], dtype=np.float32)
        return pixels, {name: np.asarray(file[name][start:stop], dtype=np.float64) for name in COLUMNS}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # what h5py makes of faults in the file
        words = " ".join(str(error).split())[:200]
        raise ContractError(f"{path} must be a whole HDF5 file, got: {words}. Get it anew.") from None


def _refuse_links(path: Path, file: h5py.File) -> None:
    """Every name must be data of this file: soft and external links may lead anywhere."""
    for name in file:
        link = file.get(name, getlink=True)
        _require(path, name, isinstance(link, h5py.HardLink), "be data of this file", type(link).__name__)


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    _require(path, name, name in file, "be there", f"only {', '.join(sorted(file)[:8])}, ...")
    found = file[name]
    _require(path, name, isinstance(found, h5py.Dataset), "be an array", type(found).__name__)
    own = not found.is_virtual and not found.external
    _require(path, name, own, "be data of this file", "one that is made up of other files")
    plan = found.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    _require(path, name, set(filters) <= set(_FILTERS), f"be packed by {', '.join(_FILTERS.values())}", filters)
    chunk = found.dtype.itemsize * int(np.prod(found.chunks, dtype=object)) if found.chunks else 0
    _require(path, name, chunk <= _CHUNK_MAX, f"have chunks of at most {_CHUNK_MAX} bytes", chunk)
    stored = found.id.get_storage_size()
    packed = found.nbytes <= _COMPRESSION_MAX * stored
    _require(path, name, packed, f"unpack to at most {_COMPRESSION_MAX} times what is stored", f"{found.nbytes} bytes")
    return found


def _first(ra: NDArray[np.float64], dec: NDArray[np.float64], placed: NDArray[np.bool_]) -> str:
    where = int(np.argmin(placed))
    return f"{ra[where]:g}, {dec[where]:g} in row {where}"


def _require(path: Path, name: str, good: bool, rule: str, got: object) -> None:
    if not good:
        raise ContractError(f"{name} must {rule}, got {str(got)[:120]} ({path}). Get the file anew.")
