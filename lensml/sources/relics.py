"""RELICS (Coe et al. 2019, ApJ 884, 85): cluster fields of Hubble, cut into stamps around the catalogue's galaxies.

These clusters are lenses. A galaxy of theirs is called a non-lens only where the cluster's multiple images are known
(a list `arcs.dat` or `*_arcs.dat`, see `lensml.sources.multiple_images`, that lies in the field) and it is none of
them; pixels near a known image are bad in every stamp. Without a list every galaxy of a cluster is `unknown`.
"""

import io
import re
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import astropy.units as u
import numpy as np
import polars as pl
import typer
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from lensml import config
from lensml.imaging.units import AB_NANOJANSKY
from lensml.ingest import archive, bring, sky, survey_files
from lensml.ingest.fits_images import Extension
from lensml.ingest.kind import Read, SourceKind
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Band, Bool
from lensml.schema import ContractError
from lensml.sources import hst, multiple_images
from lensml.store import tables

IMAGE_GRADE: Final = "multiple image"
NO_LIST_GRADE: Final = "no list of multiple images"
_LICENCE: Final = "NASA/ESA Hubble, public; cite Coe et al. 2019 (ApJ 884, 85)"
_CATALOGUE: Final = re.compile(r"hlsp_relics_hst_acs-wfc3ir_(?P<cluster>[^_]+)_multi_v\d+_cat\.txt")
_SIGMAS: Final = 2 * 1.96  # from zbmin to zbmax: BPZ's 95 % interval (Benitez 2000, ApJ 536, 571)
_NEEDED: Final = ("id", "ra", "dec", "zb", "zbmin", "zbmax")

Float = NDArray[np.float64]


def fetch(params: config.RelicsSource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Bring images, catalogues and lists; choose the galaxies; say which clusters' galaxies stay `unknown`, and why.

    Raises
    ------
    ValueError, ConnectionError, OSError
        See `lensml.ingest.survey_files.fetch`.
    ContractError
        There is no catalogue, or one is not as documented.
    """
    layout = Layout(_place, hst.bands, _LICENCE, partial(_objects, params))
    survey_files.fetch(layout, _as_fields(params), surveys, out)
    manifest = bring.facts(out)
    manifest["params"] |= params.model_dump(exclude={"path", "downloads"})
    manifest["clusters"] = _told(survey_files.evidence("", out))
    tables.write_json(manifest, out / bring.MANIFEST)
    for cluster, words in manifest["clusters"].items():
        if NO_LIST_GRADE in words:
            typer.echo(f"warning: {cluster}: {words}", err=True)


def read(
    source: str, raw: Path, unit: pl.DataFrame, surveys: dict[str, config.Survey], convert: config.Convert
) -> Read:
    """As `lensml.ingest.survey_files.read`, the pixels near known multiple images bad."""
    lists = [m for m in bring.members(raw) if (place := _place(m.name)) is not None and place.plane == "arcs"]
    arcs = _positions([archive.read(raw, member) for member in lists])
    bands = partial(_masked, arcs, bring.facts(raw)["params"]["arc_mask_arcsec"])
    return survey_files.read(Layout(_place, bands, _LICENCE), source, raw, unit, surveys, convert)


def columns(content: bytes) -> dict[str, Float]:
    """A catalogue's columns by name, in lower case; the last comment line names them.

    RELICS repeats the names of F160W. A name that stands again is kept as name#2, name#3, by position: the first one
    counts. Where a catalogue repeats what there can be only one of (id, place, redshift), the values must be the same.

    Raises
    ------
    ContractError
        The file is no such table, or needed columns are missing or differ.
    """
    lines = content.decode("utf-8", errors="replace").splitlines()
    rows = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    comments = [line for line in lines if line.lstrip().startswith("#") and line.strip(" #")]
    names = comments[-1].lstrip(" #").lower().split() if comments else []
    wrong = next((len(row.split()) for row in rows if len(row.split()) != len(names)), 0)
    if not rows or wrong:
        got = f"{len(names)} names for {wrong} columns" if rows else "no rows"
        raise ContractError(f"a catalogue's last comment must name its columns, got {got}. Get it anew.")
    try:
        values = np.loadtxt(io.StringIO("\n".join(rows)), comments=None, ndmin=2)
    except ValueError as error:
        raise ContractError(f"a catalogue must hold numbers, got: {error}. Get it anew.") from None
    return _unique(names, values)


def _unique(names: list[str], values: Float) -> dict[str, Float]:
    found: dict[str, Float] = {}
    for number, name in enumerate(names):
        before = names[:number].count(name)
        found[f"{name}#{before + 1}" if before else name] = values[:, number]
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise ContractError(f"a catalogue must have the column(s) {', '.join(missing)}, got {', '.join(names)[:120]}.")
    for name in _NEEDED:
        again = [found[key] for key in found if key.startswith(f"{name}#")]
        if any(not np.array_equal(found[name], other, equal_nan=True) for other in again):
            raise ContractError(f"a catalogue must have one {name}, got columns of it that differ. Remove one.")
    return found


def _place(name: str) -> Place | None:
    path = PurePosixPath(name)
    catalogue = _CATALOGUE.fullmatch(path.name)
    if catalogue:
        return Place("", catalogue["cluster"], "catalogue")
    if path.name == "arcs.dat" or path.name.endswith("_arcs.dat"):
        return Place("", path.as_posix(), "arcs")
    return hst.place(name) if path.name.startswith("hlsp_relics_") else None


def _as_fields(params: config.RelicsSource) -> config.SurveySource:
    """The same as any survey whose fields are cut about a catalogue's places."""
    return config.SurveySource(
        kind="hst", path=params.path, downloads=params.downloads, survey=params.survey, catalogue=None, bands=None,
        stamp_arcsec=params.stamp_arcsec,
    )  # fmt: skip


def _objects(params: config.RelicsSource, files: Files) -> pl.DataFrame:
    """Columns of lensml.ingest.object_table of the galaxies within the magnitudes, of all clusters."""
    clusters = [cluster for cluster, plane in files if plane == "catalogue"]
    arcs = _positions([files[key] for key in files if key[1] == "arcs"])
    if not clusters:
        raise ContractError("relics must hold a catalogue (hlsp_relics_..._multi_v1_cat.txt), got none. Add it.")
    parts = []
    for cluster in clusters:
        try:
            parts.append(_galaxies(cluster, columns(files[cluster, "catalogue"]), arcs, params))
        except ContractError as error:
            raise ContractError(f"{cluster}: {error}") from None
    table = pl.concat(parts)
    if not table.height:
        raise ContractError(f"magnitude must leave galaxies, got none in {params.magnitude} {params.magnitude_band}.")
    return table


def _galaxies(cluster: str, given: dict[str, Float], arcs: pl.DataFrame, params: config.RelicsSource) -> pl.DataFrame:
    flux = f"{params.magnitude_band.lower()}_fluxnjy"
    if flux not in given:
        raise ContractError(f"magnitude_band must be of the catalogue, got {params.magnitude_band} (no {flux}).")
    with np.errstate(divide="ignore", invalid="ignore"):
        magnitude = AB_NANOJANSKY - 2.5 * np.log10(given[flux])
        chosen = (magnitude >= params.magnitude[0]) & (magnitude <= params.magnitude[1])
    own = {name: given[name][chosen] for name in _NEEDED}
    is_image = _near(own["ra"], own["dec"], arcs, params.arc_mask_arcsec)
    negative = ~is_image & _in_field(given, arcs)
    grade = np.where(is_image, IMAGE_GRADE, np.where(negative, "", NO_LIST_GRADE))
    z, z_err = own["zb"], (own["zbmax"] - own["zbmin"]) / _SIGMAS
    return pl.DataFrame(
        {
            "object_id": [f"{cluster}-{number:.0f}" for number in own["id"]],
            "label": np.where(negative, "nonlens", "unknown").tolist(),
            "label_source": ["obs:hard_negative"] * len(z),
            "label_confidence": np.where(negative, params.label_confidence, 0.0),
            "grade": grade.tolist(),
            "ra": own["ra"],
            "dec": own["dec"],
            "z_phot": np.where(z >= 0, z, np.nan),
            "z_err": np.where((z >= 0) & (z_err >= 0), z_err, np.nan),
        }
    )


def _positions(lists: list[bytes]) -> pl.DataFrame:
    """ra, dec of the known images of all lists."""
    tables_of = [multiple_images.positions(content).select("ra", "dec") for content in lists]
    return pl.concat(tables_of) if tables_of else pl.DataFrame(schema={"ra": pl.Float64, "dec": pl.Float64})


def _near(ra: Float, dec: Float, arcs: pl.DataFrame, radius_arcsec: float) -> Bool:
    """Which places lie within a radius of a known image."""
    if not arcs.height or not len(ra):
        return np.zeros(len(ra), dtype=bool)
    images = SkyCoord(arcs["ra"].to_numpy() * u.deg, arcs["dec"].to_numpy() * u.deg)
    _, separation, _ = SkyCoord(ra * u.deg, dec * u.deg).match_to_catalog_sky(images)
    return np.asarray(separation.arcsec <= radius_arcsec)


def _in_field(given: dict[str, Float], arcs: pl.DataFrame) -> bool:
    """Whether any known image lies among a catalogue's galaxies: then the list is of this cluster."""
    galaxies = SkyCoord(given["ra"] * u.deg, given["dec"] * u.deg)
    middle = SkyCoord(galaxies.cartesian.mean(), representation_type="unitspherical", frame="icrs")
    radius = float(galaxies.separation(middle).arcsec.max())
    images = SkyCoord(arcs["ra"].to_numpy() * u.deg, arcs["dec"].to_numpy() * u.deg)
    return bool((images.separation(middle).arcsec <= radius).any())


def _told(evidence: pl.DataFrame) -> dict[str, str]:
    """Per cluster, in words, how many galaxies are called what."""
    claims = evidence.with_columns(cluster=pl.col("object_id").str.strip_prefix(".").str.replace(r"-[^-]*$", ""))
    counts: dict[str, str] = {}
    for (cluster,), part in claims.partition_by("cluster", as_dict=True, maintain_order=True).items():
        grades = dict(part["grade"].value_counts(sort=True).rows())
        unknown = [f"{n} unknown ({grade})" for grade, n in sorted(grades.items()) if grade]
        counts[str(cluster)] = ", ".join([f"{grades.get('', 0)} non-lenses", *unknown])
    return counts


def _masked(arcs: pl.DataFrame, radius_arcsec: float, files: Files, context: Context) -> dict[str, Band]:
    bands = hst.bands(files, context)
    return {
        name: replace(band, bad=band.bad | _arc_mask(hst.image(files, name), band, arcs, radius_arcsec))
        for name, band in bands.items()
    }


def _arc_mask(image: Extension, band: Band, arcs: pl.DataFrame, radius_arcsec: float) -> Bool:
    """(y, x), True within a radius of a known image."""
    wcs = sky.wcs(image.header)
    if wcs is None or not arcs.height:
        return np.zeros(band.flux.shape, dtype=bool)
    x, y = wcs.all_world2pix(arcs["ra"].to_numpy(), arcs["dec"].to_numpy(), 0, quiet=True)
    origin: Any = getattr(image, "origin", (0, 0))
    rows, columns_ = np.ogrid[: band.flux.shape[0], : band.flux.shape[1]]
    reach = radius_arcsec / band.pixel_scale
    mask = np.zeros(band.flux.shape, dtype=bool)
    for x0, y0 in zip(x - origin[1], y - origin[0], strict=True):
        mask |= np.hypot(rows - y0, columns_ - x0) <= reach
    return mask


KIND: Final = SourceKind(fetch, survey_files.evidence, survey_files.batches, read)
