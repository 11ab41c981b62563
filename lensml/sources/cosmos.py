"""HST COSMOS galaxies in the layout of GalSim's RealGalaxyCatalog: many stamps in a file, one per HDU.

A catalogue (IDENT, RA, DEC, PIXEL_SCALE, NOISE_VARIANCE, GAL_FILENAME, GAL_HDU, PSF_FILENAME, PSF_HDU) says where each
galaxy's image and PSF stand; <catalogue>_fits.fits beside it holds Sersic fits and photometric redshifts. Of a sample
cut from a larger one the files have other names: galaxies.fits and psfs.fits beside catalogue.fits then hold an image
per row, in the catalogue's order. Images are ACS F814W in e-/s (Leauthaud et al. 2007, ApJS 172, 219), none of a known
lens, and turned to the detector's axes, so that north is unknown.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import polars as pl
from astropy.io import fits
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import units
from lensml.ingest import archive, bring, fits_images, object_table, planes, survey_files
from lensml.ingest.batches import batched
from lensml.ingest.fits_images import Extension
from lensml.ingest.kind import Read, SourceKind
from lensml.ingest.planes import Band, Cutout
from lensml.schema import ContractError
from lensml.store import tables

_LICENCE: Final = "HST COSMOS, public; cite Leauthaud et al. 2007 (ApJS 172, 219) and Mandelbaum et al. 2012"
_BAND: Final = "F814W"
_ZERO_POINT: Final = 25.94  # AB, of the COSMOS coadds in e-/s
_EXPOSURE_S: Final = 2000.0  # of a COSMOS pointing: four exposures in one orbit
_NO_LENS: Final = {"label": "nonlens", "label_source": "obs:cosmos", "label_confidence": 0.8}  # none known, none sought
_SAMPLE: Final = ("galaxies.fits", "psfs.fits")  # beside a catalogue of a cut sample
_FITS: Final = "_fits"  # ends the name of the table of Sersic fits
_NEEDED: Final = ("IDENT", "RA", "DEC", "PIXEL_SCALE", "NOISE_VARIANCE", "GAL_FILENAME", "GAL_HDU")
_PSF: Final = ("PSF_FILENAME", "PSF_HDU")
_FITTED: Final = ("IDENT", "zphot", "sersicfit", "hlr", "viable_sersic")
_BLOCK: Final = 2880  # bytes, FITS 4.0
_STAMPS: Final = "stamps.parquet"
STAMPS: Final[dict[str, Any]] = {  # one row per object
    "object_id": pl.String,
    "image": pl.String,  # file, by its name in the source
    "image_number": pl.Int64,  # of its HDUs, or of its images where it is a cut sample's
    "psf": pl.String,  # "" where the file is not there
    "psf_number": pl.Int64,
    "pixel_scale": pl.Float64,  # arcsec
    "noise_variance": pl.Float64,  # of a sky pixel, (e-/s)^2
}

Table = NDArray[Any]


def fetch(params: config.SurveySource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Bring the files, and table the galaxies and their stamps.

    Raises
    ------
    ValueError, ConnectionError, OSError
        See `lensml.ingest.bring.packed`; the survey is unknown.
    ContractError
        A catalogue is damaged, or an image file that it needs is not there.
    """
    if params.survey not in surveys:
        raise ValueError(f"survey must be one of {', '.join(surveys)} (params.yaml: surveys), got {params.survey}.")
    bring.packed(params, lambda name: name.endswith(".fits"), _LICENCE, out)
    members = {member.name: member for member in bring.members(out)}
    found = [_catalogued(name, table, members, out) for name, table in _catalogues(members, out)]
    if not found:
        raise ContractError(f"a source of kind cosmos must have a catalogue with {', '.join(_NEEDED)}, got none.")
    objects = pl.concat([objects for objects, _ in found]).with_columns(pl.lit(params.survey).alias("survey"))
    if params.catalogue is not None:
        objects = object_table.read_file(Path(params.catalogue), surveys, params.survey)
    tables.write_parquet(object_table.checked(objects, surveys, out), object_table.COLUMNS, out / survey_files.OBJECTS)
    stamps = pl.concat([stamps for _, stamps in found]).unique("object_id", keep="first").sort("object_id")
    tables.write_parquet(stamps, STAMPS, out / _STAMPS)


def batches(source: str, raw: Path, convert: config.Convert) -> list[pl.DataFrame]:
    """Work units of at most `objects_per_batch` objects whose images stand in one file."""
    objects = tables.read_parquet(raw / survey_files.OBJECTS, object_table.COLUMNS)
    where = tables.read_parquet(raw / _STAMPS, STAMPS)
    joined = objects.join(where, on="object_id", how="left", maintain_order="left")
    size = convert.objects_per_batch
    parts = joined.sort("image", "image_number", nulls_last=True).partition_by("image", "psf", maintain_order=True)
    return [part[begin : begin + size] for part in parts for begin in range(0, part.height, size)]


def read(
    source: str, raw: Path, unit: pl.DataFrame, surveys: dict[str, config.Survey], convert: config.Convert
) -> Read:
    """A work unit's objects; one that cannot be read is refused in words."""
    survey = surveys[unit["survey"][0]]
    try:
        images, psfs = (_extensions(raw, unit[kind][0], convert) for kind in ("image", "psf"))
    except (ValueError, OSError) as error:
        words = " ".join(str(error).split())
        return Read([], [(f"{source}.{name}", words) for name in unit["object_id"]])
    opened: dict[str, Cutout] = {}
    refused: list[tuple[str, str]] = []
    for row in unit.iter_rows(named=True):
        try:
            opened[f"{source}.{row['object_id']}"] = planes.assemble({_BAND: _band(row, images, psfs, survey, convert)})
        except (ValueError, OSError) as error:
            refused.append((f"{source}.{row['object_id']}", " ".join(str(error).split())))
    names = pl.Series("object_id", [f"{source}.{name}" for name in unit["object_id"]], pl.String)
    return Read(batched(source, unit["survey"][0], opened, unit.select(names, *object_table.METADATA)), refused)


def _band(
    row: dict[str, Any],
    images: list[Extension],
    psfs: list[Extension],
    survey: config.Survey,
    convert: config.Convert,
) -> Band:
    if row["image"] is None:
        raise ValueError("an object must be in the source's catalogue, got a row of the user's that is not.")
    image = _at(images, row["image_number"], row["image"]).image(convert.max_pixels)
    factor = units.nanojansky_per_unit({"MAGZERO": _ZERO_POINT}, survey)
    variance = row["noise_variance"] + np.maximum(image, 0) / _EXPOSURE_S  # sky, and the light's own photons
    return Band(
        flux=planes.scaled(image, factor),
        bad=np.zeros(image.shape, dtype=bool),
        pixel_scale=row["pixel_scale"],
        variance=planes.variance(variance, "VAR", factor, convert.noise_sentinels),
        psf=_at(psfs, row["psf_number"], row["psf"]).image(convert.max_pixels) if row["psf"] else None,
    )


def _at(found: list[Extension], number: int, file: str) -> Extension:
    """An HDU by its number; in a cut sample's file an image by its number."""
    images = [part for part in found if part.shape] if PurePosixPath(file).name in _SAMPLE else found
    if not 0 <= number < len(images) or not images[number].shape:
        raise ValueError(f"{file} must hold the image {number}, got {len(images)} HDUs. Get it anew.")
    return images[number]


def _extensions(raw: Path, name: str | None, convert: config.Convert) -> list[Extension]:
    if not name:
        return []
    member = next(member for member in bring.members(raw) if member.name == name)
    limit = convert.max_field_mib * 2**20
    if member.size > limit:
        raise ValueError(f"{name} must have at most {limit} bytes (convert.max_field_mib), got {member.size}.")
    return fits_images.extensions(archive.read(raw, member))


def _catalogues(members: dict[str, archive.Member], raw: Path) -> Iterator[tuple[str, Table]]:
    """Every table of the source that is a catalogue of galaxies."""
    for name, member in members.items():
        table = _table(name, archive.read(raw, member))
        if table is not None and set(_NEEDED) <= set(table.dtype.names or ()):
            yield name, table


def _table(name: str, content: bytes) -> Table | None:
    """The table in the first extension of a FITS file; None where there is none."""
    try:
        found = fits_images.extensions(content)
        if len(found) != 2 or found[1].header.get("XTENSION") != "BINTABLE":
            return None
        whole = content + bytes(-len(content) % _BLOCK)  # some writers leave out the last block's filling
        with fits.open(io.BytesIO(whole), memmap=False) as file:
            return np.asarray(file[1].data)
    except (ValueError, OSError, TypeError, KeyError, IndexError, fits.VerifyError) as error:
        words = " ".join(str(error).split())[:160]
        raise ContractError(f"{name} must be whole FITS, got: {words}. Get it anew.") from None


def _catalogued(
    name: str, table: Table, members: dict[str, archive.Member], raw: Path
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """object_table.COLUMNS but for the survey, and STAMPS, of one catalogue."""
    identity = [f"cosmos-{number}" for number in table["IDENT"].tolist()]
    columns = {"ra": table["RA"], "dec": table["DEC"]}
    objects = pl.DataFrame({"object_id": identity} | {key: value.astype(float) for key, value in columns.items()})
    objects = objects.with_columns(pl.lit(value).alias(column) for column, value in _NO_LENS.items())
    fitted = PurePosixPath(name).with_name(f"{PurePosixPath(name).stem}{_FITS}.fits").as_posix()
    shapes = _table(fitted, archive.read(raw, members[fitted])) if fitted in members else None
    with_psf = set(_PSF) <= set(table.dtype.names or ())
    image, number = _stamps(name, table, "GAL", _SAMPLE[0], members)
    psf, psf_number = _stamps(name, table, "PSF", _SAMPLE[1], members) if with_psf else ([""] * len(image), number)
    if "" in image:
        wanted = _file_names(table["GAL_FILENAME"], name)[image.index("")]
        raise ContractError(f"{name} must have its images beside it, got no {wanted} and no {_SAMPLE[0]}. Add them.")
    stamps: dict[str, Any] = {"object_id": identity, "image": image, "image_number": number}
    stamps |= {"psf": psf, "psf_number": psf_number, "pixel_scale": table["PIXEL_SCALE"].astype(float)}
    stamps |= {"noise_variance": table["NOISE_VARIANCE"].astype(float)}
    return _shaped(objects, shapes), pl.DataFrame(stamps, schema=STAMPS)


def _stamps(
    catalogue: str, table: Table, kind: str, sample: str, members: dict[str, archive.Member]
) -> tuple[list[str], list[int]]:
    """File and number of each galaxy's stamp: as the catalogue says, or row by row of a cut sample's; "" for none."""
    folder = PurePosixPath(catalogue)
    given = [folder.with_name(file).as_posix() for file in _file_names(table[f"{kind}_FILENAME"], catalogue)]
    cut = folder.with_name(sample).as_posix()
    if cut in members and not any(file in members for file in given):
        return [cut] * len(given), list(range(len(given)))
    return [file if file in members else "" for file in given], table[f"{kind}_HDU"].astype(int).tolist()


def _file_names(column: Table, catalogue: str) -> list[str]:
    names = [os.fsdecode(name).strip() for name in column.tolist()]
    wrong = [name for name in names if not name or "/" in name or name.startswith(".")]
    if wrong:
        raise ContractError(f"{catalogue} must name plain files, got {wrong[0]!r:.80}. Correct it.")
    return names


def _shaped(objects: pl.DataFrame, shapes: Table | None) -> pl.DataFrame:
    """With redshift and Sersic fit, where there is one: sersicfit is (intensity, radius in pixels, n, q, ...)."""
    empty = {name: pl.Float64 for name in ("z_phot", "sersic_index", "axis_ratio", "half_light_radius")}
    if shapes is None or not set(_FITTED) <= set(shapes.dtype.names or ()):
        return objects.with_columns(pl.lit(None, dtype=kind).alias(name) for name, kind in empty.items())
    good = shapes["viable_sersic"] == 1
    values = (shapes["zphot"], shapes["sersicfit"][:, 2], shapes["sersicfit"][:, 3], shapes["hlr"][:, 0])
    fitted = {"object_id": [f"cosmos-{number}" for number in shapes["IDENT"].tolist()]}
    columns = {name: value.astype(float) for name, value in zip(empty, values, strict=True)}
    columns |= {name: np.where(good, columns[name], np.nan) for name in list(empty)[1:]}
    found = pl.DataFrame(fitted | columns, nan_to_null=True)
    return objects.join(found, on="object_id", how="left", maintain_order="left")


KIND: Final = SourceKind(fetch, survey_files.evidence, batches, read)
