"""Project Dinos: HST lenses of SLACS, BELLS and SL2S as HDF5, image_, psf_ and mask_<system>_<band>.h5 in e-/s.

Layout of Tan et al. 2024 (MNRAS 530, 1474). Frames are rotated and have no WCS: `transform_pix2angle` holds arcsec
(east, north) per pixel (x, y), `ra_at_xy_0` and `dec_at_xy_0` the first pixel's place, and `ra_shift` and `dec_shift`
bring each band's lens galaxy to the origin. Bands of one system come from three cameras, which their pixels tell apart.
Labels, redshifts and Einstein radii are those of labels.csv, or without it of the tables of mass models.
"""

import io
import math
import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Final

import h5py
import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml.imaging import units
from lensml.ingest import planes, survey_files, text_table
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band
from lensml.schema import ContractError

_LICENCE: Final = "no licence stated; cite Tan et al. 2024 (MNRAS 530, 1474) and the HST programmes"
_NAME: Final = re.compile(r"(?P<plane>image|psf|mask)_(?P<object>.+)_(?P<band>F\d{3}[A-Z]+)\.h5")
_LABELS: Final = "labels"
_PHOTOMETRY: Final = "DINOSi_PHOTZPT_values"
_REDSHIFTS: Final = "dinos_spectra"
_MODELS: Final = "_mass_params"
_MODELLED: Final = "mass model"  # the words of label_basis that make a lens: this, or a survey's grade A
_GRADE: Final = re.compile(r"grade-([A-D])")
_CANDIDATE: Final = "candidate"  # the grade of what is neither modelled nor graded
_SOURCE: Final = "obs:dinos"
_CAMERAS: Final = {0.04: "WFC3", 0.04976: "WFPC2", 0.05: "ACS", 0.1: "WFPC2"}  # arcsec of the set's pixels
_SAME_SCALE: Final = 0.002  # relative: cameras differ by 0.005, images of one by 0.001
_WRONG: Final = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, AttributeError)  # of h5py

Values = NDArray[np.float64]


def _place(name: str) -> Place | None:
    path = PurePosixPath(name)
    match = _NAME.fullmatch(path.name)
    if match:
        return Place(match["object"], match["band"], match["plane"])
    wanted = path.stem in (_LABELS, _PHOTOMETRY, _REDSHIFTS) or path.stem.endswith(_MODELS)
    return Place("", "", path.stem) if path.suffix == ".csv" and wanted else None


def _bands(files: Files, context: Context) -> dict[str, Band]:
    return {name: _band(files, name, context) for name in context.known(files.having("image"))}


def _band(files: Files, name: str, context: Context) -> Band:
    limit, content = context.convert.max_pixels, files[name, "image"]
    image = _dataset(content, "image_data", limit, 2)
    seconds = _dataset(content, "exposure_time", limit, 2)
    if seconds.shape != image.shape:
        raise ValueError(f"exposure_time must have the image's shape {image.shape}, got {seconds.shape}.")
    sky = float(_dataset(content, "background_rms", limit, 0))
    frame = _frame(content, limit)
    factor = _nanojansky(files, name, frame["pixel_scale"], context)
    mask = _dataset(files[name, "mask"], "mask", limit, 2) if (name, "mask") in files else np.zeros(image.shape)
    psf = _dataset(files[name, "psf"], "kernel_point_source", limit, 2) if (name, "psf") in files else None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = np.where(seconds > 0, sky**2 + np.maximum(image, 0) / seconds, 0)  # sky, and the light's own photons
    return Band(
        flux=planes.scaled(image, factor),
        bad=planes.bits(mask) != 0,
        variance=planes.variance(variance, "VAR", factor, context.convert.noise_sentinels),
        psf=psf,
        **frame,
    )


def _frame(content: bytes, limit: int) -> dict[str, Any]:
    """A `Band`'s pixel_scale, north_deg, mirrored and centre."""
    matrix = _dataset(content, "transform_pix2angle", limit, 2)
    first, shift = (
        np.array([float(_dataset(content, key, limit, 0)) for key in keys])
        for keys in (("ra_at_xy_0", "dec_at_xy_0"), ("ra_shift", "dec_shift"))
    )
    if matrix.shape != (2, 2) or not np.isfinite([*matrix.flat, *first, *shift]).all():
        raise ValueError("transform_pix2angle and the shifts must be 2 x 2 and finite numbers, got others. Mend them.")
    cards = {f"CD{i + 1}_{j + 1}": float(matrix[i, j]) / 3600 for i in (0, 1) for j in (0, 1)}
    found = units.north_and_parity(cards)
    if found is None:
        raise ValueError("transform_pix2angle must be a matrix, got none. Mend it.")
    x, y = np.linalg.solve(matrix, -first - shift)
    scale = math.sqrt(abs(float(np.linalg.det(matrix))))
    return {"pixel_scale": scale, "north_deg": found[0], "mirrored": found[1], "centre": (float(y), float(x))}


def _nanojansky(files: Files, band: str, scale: float, context: Context) -> float:
    """Per e-/s: by PHOTFLAM and PHOTPLAM of the system and band, else the median of the band's rows of this camera."""
    camera = next((camera for known, camera in _CAMERAS.items() if abs(scale / known - 1) < _SAME_SCALE), "")
    rows = _photometry(files["", _PHOTOMETRY]) if ("", _PHOTOMETRY) in files else ()
    listed = [row[3:] for row in rows if row[:2] == (context.object, band)]
    alike = sorted(row[3:] for row in rows if row[1:3] == (band, camera))
    chosen = (listed or alike[len(alike) // 2 :])[:1]
    header = dict(zip(("PHOTFLAM", "PHOTPLAM"), chosen[0], strict=True)) if chosen else {}
    return units.nanojansky_per_unit(header, context.survey)


@lru_cache(maxsize=2)
def _photometry(content: bytes) -> tuple[tuple[str, str, str, float, float], ...]:
    """System, band, camera, PHOTFLAM, PHOTPLAM."""
    columns = ("System", "Band", "Instrument", "PHOTFLAM", "PHOTPLAM")
    table = text_table.comma_separated(content, columns, _PHOTOMETRY)
    numbers = [text_table.numbers(table, column, _PHOTOMETRY) for column in columns[3:]]
    return tuple(table.select(*columns[:3], *numbers).drop_nulls().iter_rows())


def _dataset(content: bytes, key: str, limit: int, axes: int) -> Values:
    """Numbers of a data set that is in the file itself: no link is followed, nothing larger than the limit read."""
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            found = file[key] if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
            if not isinstance(found, h5py.Dataset):
                raise ValueError(f"{key} is missing or leads elsewhere")
            if found.external or found.is_virtual or found.dtype.kind not in "fiub":
                raise ValueError(f"{key} must hold numbers, all in the file")
            if len(found.shape) != axes or not all(1 <= n <= limit for n in found.shape):
                raise ValueError(f"{key} must have {axes} axes of at most {limit}, got {found.shape}")
            with np.errstate(invalid="ignore", over="ignore"):
                return np.asarray(found[()], dtype=np.float64)
    except _WRONG as error:
        words = " ".join(str(error).split())[:160]
        raise ValueError(f"HDF5 file must be whole and hold {key}, got: {words}. Get it anew.") from None


def _table(files: Files) -> pl.DataFrame:
    names = {plane for _, plane in files}
    table = _labelled(files["", _LABELS]) if _LABELS in names else _modelled_all(files, names)
    return table.with_columns(pl.when(pl.col("label") == "lens").then("z_spec").alias("z_lens"))


def _modelled_all(files: Files, names: set[str]) -> pl.DataFrame:
    """Every system with a mass model, a lens."""
    modelled = pl.concat(
        [_modelled(files["", name], name) for name in sorted(names) if name.endswith(_MODELS)] or [_empty()]
    )
    if _REDSHIFTS not in names:
        return modelled.with_columns(pl.lit(None, dtype=pl.Float64).alias("z_spec"))
    table = text_table.comma_separated(files["", _REDSHIFTS], ("name", "z_lens"), _REDSHIFTS)
    redshifts = pl.DataFrame([table["name"].alias("object_id"), _redshift(table, _REDSHIFTS).alias("z_spec")])
    return modelled.join(redshifts.unique("object_id", keep="first"), on="object_id", how="left")


def _labelled(content: bytes) -> pl.DataFrame:
    """Lens where a mass model or a survey's grade A says so; all others are candidates."""
    table = text_table.comma_separated(content, ("object", "label", "label_basis", "z_lens", "theta_E_arcsec"), _LABELS)
    grades = [match[1] if (match := _GRADE.search(basis)) else "" for basis in table["label_basis"]]
    sure = [
        label == "lens" and (basis.startswith(_MODELLED) or grade == "A")
        for label, basis, grade in zip(table["label"], table["label_basis"], grades, strict=True)
    ]
    told = [grade or ("" if lens else _CANDIDATE) for grade, lens in zip(grades, sure, strict=True)]
    radius, redshift = text_table.numbers(table, "theta_E_arcsec", _LABELS), _redshift(table, _LABELS)
    return _objects(table["object"], sure, told, radius).with_columns(redshift.alias("z_spec"))


def _modelled(content: bytes, where: str) -> pl.DataFrame:
    table = text_table.comma_separated(content, ("Lens_name", "R_Ein"), where)
    count = table.height
    return _objects(table["Lens_name"], [True] * count, [""] * count, text_table.numbers(table, "R_Ein", where))


def _empty() -> pl.DataFrame:
    return _objects(pl.Series([], dtype=pl.String), [], [], pl.Series([], dtype=pl.Float64))


def _objects(names: pl.Series, sure: list[bool], grades: list[str], theta_e_arcsec: pl.Series) -> pl.DataFrame:
    if names.is_duplicated().any():
        raise ContractError(f"a table must have a system once, got {names.filter(names.is_duplicated())[0]} twice.")
    lens = pl.Series(sure, dtype=pl.Boolean)
    columns = {"object_id": names, "parent": names, "grade": pl.Series(grades, dtype=pl.String)}
    return pl.DataFrame(columns).with_columns(
        pl.when(lens).then(pl.lit("lens")).otherwise(pl.lit("unknown")).alias("label"),
        pl.lit(_SOURCE).alias("label_source"),
        lens.cast(pl.Float64).alias("label_confidence"),
        pl.when(lens).then(theta_e_arcsec).alias("theta_e_arcsec"),
    )


def _redshift(table: pl.DataFrame, where: str) -> pl.Series:
    """-1 and 0 stand for none."""
    found = text_table.numbers(table, "z_lens", where)
    return pl.select(pl.when(found > 0).then(found)).to_series()


KIND: Final = survey_files.kind(Layout(_place, _bands, _LICENCE, _table))
