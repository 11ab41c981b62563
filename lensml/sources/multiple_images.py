"""Multiple images of lensing clusters, as Lenstool lists them (Jullo et al. 2007, New J. Phys. 9, 447): `arcs.dat`.

A stamp that shows one is no galaxy-scale lens, and no galaxy without an arc: every claim is `unknown`, with a grade.
"""

import math
from pathlib import PurePosixPath
from typing import Any, Final

import polars as pl

from lensml.ingest import sky_catalogue
from lensml.schema import SKY_CLAIMS, ContractError

_LICENCE: Final = "that of the lens model it belongs to"
_SUFFIXES: Final = (".dat", ".cat", ".txt")
_OTHERS: Final = ("galcat", "member", "potfile", "readme", "input", "best")  # cluster members, models: not images
_COLUMNS: Final = 7  # id ra dec a b theta z; a magnitude may follow
_POSITIONS: Final = {"id": pl.String, "ra": pl.Float64, "dec": pl.Float64, "z": pl.Float64}
_Z_MAX: Final = 30.0


def positions(content: bytes) -> pl.DataFrame:
    """The images of one list.

    Returns
    -------
    id (text), ra, dec (deg, ICRS), z (null where the model leaves it free), in the list's order

    Raises
    ------
    ContractError
        A line has too few columns or an impossible value, an image stands twice, or positions are not in degrees.
    """
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ContractError("a list of multiple images must be text, got other bytes. Correct the file.") from None
    rows = [_row(number, line) for number, line in enumerate(lines, 1) if _is_image(number, line)]
    table = pl.DataFrame(rows, schema=_POSITIONS, orient="row")
    twice = table.filter(pl.col("id").is_duplicated())["id"].unique(maintain_order=True)
    if not rows or len(twice):
        got = f"{twice[0]} twice" if len(twice) else "none"
        raise ContractError(f"multiple images must be listed, each once, got {got}. Correct the file.")
    return table


def claims(files: dict[str, bytes], params: dict[str, Any]) -> pl.DataFrame:
    """A claim per image: something lensed by a cluster is here.

    Raises
    ------
    ContractError
        There is no list, two lists have one name, or one is not as documented.
    """
    parts: dict[str, pl.DataFrame] = {}
    for name in sorted(filter(_is_list, files)):
        label = PurePosixPath(name).with_suffix("").as_posix().replace("/", ".")
        if label in parts:
            raise ContractError(f"lists of multiple images must differ in name, got {label} twice. Rename one.")
        parts[label] = _claims(label, name, files[name])
    if not parts:
        raise ContractError(f"multiple_images must hold a list (arcs.dat), got {', '.join(sorted(files))[:200]}.")
    return pl.concat(parts.values())


def _claims(label: str, name: str, content: bytes) -> pl.DataFrame:
    try:
        images = positions(content)
    except ContractError as error:
        raise ContractError(f"{name}: {error}") from None
    nothing, none = pl.lit(None, pl.Float64), pl.lit("")
    return images.select(
        entry=pl.concat_str(pl.lit(f"{label}."), "id"), name="id", ra="ra", dec="dec", label=pl.lit("unknown"),
        label_source=pl.lit("obs:multiple_images"), label_confidence=pl.lit(1.0), grade=pl.lit("multiple image"),
        kind=pl.lit("cluster"), z_lens=nothing, z_source="z", z_text=none, theta_e_arcsec=nothing,
        reference=pl.lit(name),
    ).select(*SKY_CLAIMS)  # fmt: skip


def _is_list(name: str) -> bool:
    file = PurePosixPath(name.lower())
    return file.suffix in _SUFFIXES and not any(word in file.stem for word in _OTHERS)


def _is_image(number: int, line: str) -> bool:
    """Whether a line is an image's; what says that positions are offsets is refused."""
    words = line.split()
    if words and words[0].upper() == "#REFERENCE" and words[1:2] != ["0"]:
        raise ContractError(f"positions must be in degrees (#REFERENCE 0), got {line.strip()[:40]} (line {number}).")
    return bool(words) and not words[0].startswith("#")


def _row(number: int, line: str) -> tuple[str, float, float, float | None]:
    words = line.split()
    try:
        ra, dec, z = (float(words[i]) for i in (1, 2, _COLUMNS - 1))
    except (ValueError, IndexError):
        rule = "be: id ra dec a b theta z [mag]"
        raise ContractError(f"an image must {rule}, got {line.strip()[:80]!r} (line {number}). Correct it.") from None
    if not (0 <= ra <= 360 and -90 <= dec <= 90 and 0 <= z <= _Z_MAX and math.isfinite(ra + dec + z)):
        rule = f"have ra in [0, 360], dec in [-90, 90], z in [0, {_Z_MAX:g}]"
        raise ContractError(f"an image must {rule}, got {line.strip()[:80]!r} (line {number}). Correct it.")
    return words[0], ra, dec, z or None


KIND: Final = sky_catalogue.kind(claims, _LICENCE)
