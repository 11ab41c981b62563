"""Files of the Bologna challenge I: which image is whose, what its header says, what the tables and folders claim."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.imaging import units
from lensml.ingest import archive, fits_images, planes
from lensml.schema import ContractError

_BANDS: Final = {  # in canonical order
    "SDSS_U": "u", "SDSS_G": "g", "SDSS_R": "r", "SDSS_I": "i",
    "EUC_VIS": "VIS", "EUC_Y": "NIR_Y", "EUC_J": "NIR_J", "EUC_H": "NIR_H",
}  # fmt: skip
_ORDER: Final = list(_BANDS.values())
_IMAGE: Final = {
    "ground": re.compile(r"image(SDSS_[UGRI])-(\d+)\.fits"),
    "space": re.compile(r"image(EUC_VIS)-(\d+)\.fits"),
    "two": re.compile(r"image(EUC_(?:VIS|Y|J|H))-(\d+)\.fits"),
}
_OTHER: Final = {"ground": ("space",), "space": ("ground",), "two": ("ground", "space")}
_COLUMNS_TWO: Final = (  # of a table of II without a line of names
    "index", "ID", "x_crit", "y_crit", "source_ID", "z_source", "z_lens", "mag_source", "ein_area", "n_crit",
    "r_source", "crit_area", "n_pix_source", "source_flux", "n_pix_lens", "lens_flux", "n_source_im", "mag_eff",
    "sb_contrast", "color_diff", "n_gal_3", "n_gal_5", "n_gal_10", "halo_mass", "star_mass", "mag_lens", "n_sources",
)  # fmt: skip
_TRUTH: Final = re.compile(r"(classifications|[\w.]*catalog[\w.]*)\.csv")
_PRIVATE: Final = {"Private", "NoSourceImage", "NoLensImage"}  # the same names with the source or the lens left out
_FOLDER_LABELS: Final = {"lens": True, "nolens": False}


@dataclass(frozen=True)
class Images:
    """Where the images of one object stand: band and member of the tar, in canonical order."""

    number: int
    members: tuple[tuple[str, archive.Member], ...]


def is_image(name: str, challenge: str) -> bool:
    """Whether a file is one of the challenge's images, and not one with the source or the lens left out."""
    return bool(_IMAGE[challenge].fullmatch(_last(name))) and not _PRIVATE & set(name.split("/"))


def is_truth(name: str, challenge: str) -> bool:
    """Whether a file is a table of labels, and not the other challenge's, whose numbers are the same."""
    return bool(_TRUTH.fullmatch(_last(name))) and not any(other in name.lower() for other in _OTHER[challenge])


def objects(members: list[archive.Member], challenge: str) -> dict[int, Images]:
    """The images by the object's number.

    Raises
    ------
    ContractError
        An object has two images of one band.
    """
    found: dict[int, dict[str, archive.Member]] = {}
    for member in members:
        if match := _IMAGE[challenge].fullmatch(_last(member.name)):
            bands = found.setdefault(int(match[2]), {})
            first = bands.setdefault(_BANDS[match[1]], member)
            if first is not member:
                raise ContractError(f"an object must have one image per band, got {first.name} and {member.name}.")
    return {n: Images(n, tuple(sorted(b.items(), key=lambda i: _ORDER.index(i[0])))) for n, b in found.items()}


def labels(
    raw: Path, members: list[archive.Member], challenge: str, rule: Mapping[str, float] | None
) -> dict[int, bool]:
    """Who is a lens: by the tables, or by the folder `lens` or `nolens` that an image is in.

    Parameters
    ----------
    rule : of challenge II, see `config.LensRule`: what its table means by a lens is a choice

    Raises
    ------
    ContractError
        A table has other columns or values; two claims about one object differ.
    """
    truth = [(archive.read(raw, m), m.name) for m in members if is_truth(m.name, challenge)]
    claims = [_truth(*table) if rule is None else _ruled(*table, rule) for table in truth]
    found: dict[int, bool] = {}
    for number, label, where in itertools.chain(*claims, _folder_claims(objects(members, challenge))):
        if found.setdefault(number, label) != label:
            raise ContractError(f"object {number} must be one thing, got lens and non-lens ({where}).")
    return found


def image(
    content: bytes, survey: config.Survey, convert: config.Convert
) -> tuple[NDArray[np.float32] | NDArray[np.float64], float, dict[str, Any]]:
    """Pixels (y, x) in the file's unit, nJy of that unit, and what `planes.frame` says of the header.

    Headers name no unit: the survey's zero-point holds, 0 (maggies), as the noise of the images agrees with.

    Raises
    ------
    ValueError
        The file has no such image, or is truncated.
    """
    primary = fits_images.extensions(content)[0]
    pixels = primary.image(convert.max_pixels)
    return pixels, units.nanojansky_per_unit(primary.header, survey), planes.frame(primary.header, survey)


def position(content: bytes) -> tuple[float, float] | None:
    """Position in the light cone, degrees (the cards are in radians); None where the file has none."""
    try:
        header = fits_images.extensions(content)[0].header
    except ValueError:
        return None  # `image` refuses the file
    ra, dec = header.get("RA"), header.get("DEC")
    if not isinstance(ra, int | float) or not isinstance(dec, int | float):
        return None
    return math.degrees(ra) % 360, math.degrees(dec)


def _truth(content: bytes, name: str) -> Iterator[tuple[int, bool, str]]:
    """`is_lens` of a training table; for a test table, an object is a lens if `no_source` is 0."""
    try:
        table = pl.read_csv(content, comment_prefix="#", infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise ContractError(f"{name} must be a CSV table, got {str(error).splitlines()[0]}.") from None
    table = table.rename({column: column.strip() for column in table.columns})
    if "ID" not in table.columns or not {"is_lens", "no_source"} & set(table.columns):
        raise ContractError(f"{name} must have the columns ID and is_lens or no_source, got {table.columns}.")
    column, true = ("is_lens", 1) if "is_lens" in table.columns else ("no_source", 0)
    for number, value in table.select("ID", column).iter_rows():
        yield _whole(number, name), _whole(value, name) == true, name


def _ruled(content: bytes, name: str, rule: Mapping[str, float]) -> Iterator[tuple[int, bool, str]]:
    """Of challenge II: a lens is what the rule says, of three columns of the table."""
    columns = ("ID", "n_source_im", "mag_eff", "n_pix_source")
    table = _table_of_two(content, name)
    if not set(columns) <= set(table.columns):
        raise ContractError(f"{name} must have the columns {', '.join(columns)}, got {table.columns}.")
    least = (rule["n_source_im_min"], rule["mag_eff_min"], rule["n_pix_source_min"])
    for number, *values in table.select(columns).iter_rows():
        lens = all(_number(value, name) > limit for value, limit in zip(values, least, strict=True))
        yield _whole(number, name), lens, name


def _table_of_two(content: bytes, name: str) -> pl.DataFrame:
    """All text; some copies have a line of names behind the comments, some have not."""
    try:
        table = pl.read_csv(content, comment_prefix="#", infer_schema=False, has_header=False)
    except pl.exceptions.PolarsError as error:
        raise ContractError(f"{name} must be a CSV table, got {str(error).splitlines()[0]}.") from None
    first = [str(value or "").strip() for value in table.row(0)]
    names = first if "ID" in first else list(_COLUMNS_TWO)
    if len(names) != table.width:
        raise ContractError(f"{name} must name its columns or have {len(names)} of them, got {table.width}.")
    return (table[1:] if names is first else table).rename(dict(zip(table.columns, names, strict=True)))


def _number(text: str | None, name: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise ContractError(f"{name} must hold numbers, got {text!r}.") from None


def _whole(text: str | None, name: str) -> int:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise ContractError(f"{name} must hold whole numbers in ID and is_lens or no_source, got {text!r}.")
    return int(value)


def _folder_claims(images_by_number: dict[int, Images]) -> Iterator[tuple[int, bool, str]]:
    for number, images in images_by_number.items():
        for _, member in images.members:
            for part in set(Path(member.name).parts) & _FOLDER_LABELS.keys():
                yield number, _FOLDER_LABELS[part], member.name


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]
