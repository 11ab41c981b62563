"""HSC blends that scarlet is tested on: npz archives with images, psfs and filters, and perhaps variance and mask.

Left out by name: simulations (*_sim.npz); and the comparison of HSC with HST (Multiresolution*.npz, which are pickles,
and Cut_*.fits), whose planes are scaled to one sum each, so that neither fluxes nor colours are left in them.
No lens is known in these fields.
"""

import io
import math
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lensml.imaging import units
from lensml.ingest import afw, planes, survey_files
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band

_LICENCE: Final = "HSC-SSP, public; MIT (scarlet); cite Melchior et al. 2018 (Astronomy and Computing 24, 129)"
_LEFT_OUT: Final = ("_sim", "Multiresolution")
_BITS: Final = {"BAD": 0, "SAT": 1, "CR": 3, "SUSPECT": 7, "NO_DATA": 8}  # of lsst.afw's Mask, where none is named
_HEADER_MAX: Final = 4096  # bytes of an array's header, which is Python text
_WRONG: Final = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    KeyError,
)

Array = NDArray[Any]


def _place(name: str) -> Place | None:
    path = PurePosixPath(name)
    wanted = path.suffix == ".npz" and not any(part in path.stem for part in _LEFT_OUT)
    return Place(path.stem) if wanted else None


def _told(name: str) -> dict[str, str | float]:
    return {"label": "nonlens", "label_source": "obs:scarlet", "label_confidence": 0.8}  # none known, none sought


def _bands(files: Files, context: Context) -> dict[str, Band]:
    limit = context.convert.max_pixels
    arrays = _opened(files["", ""], context.convert.max_file_mib * 2**20)
    names = _filters(arrays)
    cubes = {key: arrays[key] for key in ("images", "variance", "mask", "psfs") if key in arrays}
    for key, cube in cubes.items():
        if cube.ndim != 3 or len(cube) != len(names) or cube.dtype.kind not in "fiub" or max(cube.shape[1:]) > limit:
            raise ValueError(
                f"{key} must be numbers (filter, y, x) for {len(names)} filters and at most {limit} pixels a side, got "
                f"{cube.dtype} of shape {cube.shape}. Get the file anew."
            )
    return {
        name: _band({k: cube[names.index(name)] for k, cube in cubes.items()}, context) for name in context.known(names)
    }


def _filters(arrays: dict[str, Array]) -> list[str]:
    lacking = [key for key in ("images", "filters") if key not in arrays]
    if lacking:
        raise ValueError(f"file must hold {' and '.join(lacking)}, got {', '.join(arrays) or 'nothing'}. Get it anew.")
    filters = arrays["filters"]
    if filters.dtype.kind != "U" or filters.ndim != 1 or not 1 <= len(set(filters.tolist())) == len(filters):
        raise ValueError(f"filters must be names, each once, got {filters.dtype} of shape {filters.shape}.")
    return [str(name) for name in filters.tolist()]


def _band(planes_of: dict[str, Array], context: Context) -> Band:
    factor = units.nanojansky_per_unit({}, context.survey)
    flux = planes.scaled(np.asarray(planes_of["images"], dtype=np.float64), factor)
    mask, variance, psf = (planes_of.get(key) for key in ("mask", "variance", "psfs"))
    bits = None if mask is None else planes.bits(mask.astype(np.float64))
    sentinels = context.convert.noise_sentinels
    return Band(
        flux=flux,
        bad=np.zeros(flux.shape, dtype=bool) if bits is None else _any(bits, (*afw.BAD, afw.SATURATED)),
        pixel_scale=context.survey.pixel_scale,
        variance=None if variance is None else planes.variance(variance, "VAR", factor, sentinels),
        saturated=None if bits is None else _any(bits, (afw.SATURATED,)),
        psf=None if psf is None else psf.astype(np.float64),
    )


def _any(bits: NDArray[np.int64], names: tuple[str, ...]) -> planes.Bool:
    chosen = sum(1 << _BITS[name] for name in names if name in _BITS) | planes.OUTSIDE
    return np.asarray((bits & chosen) != 0)


def _opened(content: bytes, max_bytes: int) -> dict[str, Array]:
    """Arrays by name: nothing is unpickled, and no more than `max_bytes` unpacked."""
    wanted = ("images", "variance", "mask", "psfs", "filters")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found = [key for key in wanted if f"{key}.npy" in archive.namelist()]
            total = sum(archive.getinfo(f"{key}.npy").file_size for key in found)
            if total > max_bytes:
                raise ValueError(f"{total} bytes of them, more than {max_bytes} (convert.max_file_mib)")
            return {key: _array(archive, f"{key}.npy") for key in found}
    except _WRONG as error:
        words = " ".join(str(error).split())[:160]
        raise ValueError(f"file must be a whole npz of plain arrays, got: {words}. Get it anew.") from None


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    packed = archive.read(name)  # at most what the directory says of it
    stream = io.BytesIO(packed)
    version = np.lib.format.read_magic(stream)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if header is None:
        raise ValueError(f"{name} in another format than 1.0 or 2.0")
    shape, _, kind = header(stream, max_header_size=_HEADER_MAX)
    if kind.hasobject:
        raise ValueError(f"{name} holds Python objects (a pickle), which are not opened")
    if math.prod(shape) * kind.itemsize > len(packed):
        raise ValueError(f"{name} says it has the shape {shape}, which is more than is there")
    return np.lib.format.read_array(io.BytesIO(packed), allow_pickle=False, max_header_size=_HEADER_MAX)


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE, by_name=_told))
