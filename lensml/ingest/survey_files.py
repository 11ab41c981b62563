"""A source kind from a layout: a survey's own files, packed, listed, and read object by object."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import polars as pl
from tqdm import tqdm

from lensml import config, schema
from lensml.ingest import archive, bring, fields, object_table, sky
from lensml.ingest.batches import batched
from lensml.ingest.kind import Read, SourceKind
from lensml.ingest.layout import Context, Files, Layout, Place
from lensml.ingest.planes import Cutout, assemble
from lensml.store import tables

FILES: Final[dict[str, Any]] = {  # one row per file of an object
    "object_id": pl.String,
    "survey": pl.String,
    "band": pl.String,
    "plane": pl.String,
    "archive": pl.String,
    "name": pl.String,
    "offset": pl.Int64,
    "size": pl.Int64,
}
OBJECTS: Final = "objects.parquet"  # object_table.COLUMNS, one row per object
LIST: Final = "files.parquet"
PLACED: Final = "placed.parquet"  # fields.PLACED, where stamps are cut from fields
_UNPACKED_MAX: Final = 4 * 2**30  # bytes that a field may unpack to while objects are placed in it
_CUTOUT_MAX: Final = 2**28  # the same of a cutout
_SHARED: Final = ""  # the object of files that belong to all


def kind(layout: Layout) -> SourceKind:
    """The source kind of a layout."""
    return SourceKind(partial(fetch, layout), evidence, batches, partial(read, layout))


def fetch(layout: Layout, params: config.SurveySource, surveys: dict[str, config.Survey], out: Path) -> None:
    """Bring the files; list whose they are; and table the objects, with places from the images where none is given.

    Raises
    ------
    ValueError, ConnectionError, OSError
        See `lensml.ingest.bring.packed`; the survey or an object of the user's table is unknown.
    """
    if params.survey not in surveys:
        raise ValueError(f"survey must be one of {', '.join(surveys)} (params.yaml: surveys), got {params.survey}.")
    told = params.model_dump(exclude={"path", "downloads", "catalogue"})
    members = bring.packed(params, lambda name: layout.place(name) is not None, layout.licence, out, params=told)
    files = _listed(layout, members, params.survey)
    unknown = sorted(set(files["survey"]) - set(surveys))
    if unknown:
        raise ValueError(f"surveys must hold {', '.join(unknown)} (params.yaml), got {', '.join(surveys)}. Add it.")
    tables.write_parquet(files, FILES, out / LIST)
    given = _given(layout, params, surveys, files, out)
    if params.stamp_arcsec is None:
        objects = _with_places(_complete(layout, given, files, surveys, out), files, out)
    else:
        objects = _required(given)
        tables.write_parquet(_placed(objects, files, out), fields.PLACED, out / PLACED)
    tables.write_parquet(objects, object_table.COLUMNS, out / OBJECTS)


def evidence(source: str, raw: Path) -> pl.DataFrame:
    """The table's labels as claims, schema.EVIDENCE; an object without a label claims `unknown`."""
    objects = tables.read_parquet(raw / OBJECTS, object_table.COLUMNS)
    return object_table.claims(source, objects)


def batches(source: str, raw: Path, convert: config.Convert) -> list[pl.DataFrame]:
    """Work units of at most `objects_per_batch` rows of the objects' table, of one survey each."""
    objects = tables.read_parquet(raw / OBJECTS, object_table.COLUMNS).with_columns(pl.lit("").alias("field"))
    if (raw / PLACED).exists():
        where = tables.read_parquet(raw / PLACED, fields.PLACED)
        objects = objects.drop("field").join(where, on="object_id", how="left", maintain_order="left")
    parts = objects.partition_by("survey", "field", maintain_order=True)
    size = convert.objects_per_batch
    return [part[begin : begin + size] for part in parts for begin in range(0, part.height, size)]


def read(
    layout: Layout,
    source: str,
    raw: Path,
    unit: pl.DataFrame,
    surveys: dict[str, config.Survey],
    convert: config.Convert,
) -> Read:
    """A work unit's objects; one that cannot be read is refused in words."""
    told, survey = bring.facts(raw)["params"], unit["survey"][0]
    context = Context(surveys[survey], convert, told["bands"])
    files = tables.read_parquet(raw / LIST, FILES).filter(pl.col("survey") == survey)
    if told["stamp_arcsec"] is None:
        opened, refused = _cutouts(layout, raw, files, unit["object_id"].to_list(), context)
    elif not unit["field"][0]:
        opened, refused = {}, [(name, fields.NO_FIELD) for name in unit["object_id"]]
    else:
        rows = files.filter(pl.col("object_id") == unit["field"][0])
        field = _field(raw, rows, convert.max_field_mib * 2**20, convert.max_field_pixels)
        opened, refused = fields.cut(layout, field, unit, context, told["stamp_arcsec"])
    names = pl.Series("object_id", [f"{source}.{name}" for name in unit["object_id"]], pl.String)
    metadata = unit.select(names, *object_table.METADATA)
    good = {f"{source}.{name}": cutout for name, cutout in opened.items()}
    return Read(batched(source, survey, good, metadata), [(f"{source}.{name}", words) for name, words in refused])


def _cutouts(
    layout: Layout, raw: Path, files: pl.DataFrame, names: list[str], context: Context
) -> tuple[dict[str, Cutout], list[tuple[str, str]]]:
    opened: dict[str, Cutout] = {}
    refused: list[tuple[str, str]] = []
    own = files.filter(pl.col("object_id").is_in(names)).partition_by("object_id", as_dict=True)
    shared = files.filter(pl.col("object_id") == _SHARED)
    for name in names:
        try:
            if (name,) not in own:
                raise ValueError("an object must have files, got a row of the catalogue without.")
            found = _files(raw, pl.concat([shared, own[name,]]), context.convert)
            opened[name] = assemble(layout.bands(found, replace(context, object=name)))
        except (ValueError, OSError) as error:
            refused.append((name, " ".join(str(error).split())))
    return opened, refused


def _files(raw: Path, rows: pl.DataFrame, convert: config.Convert) -> Files:
    limit = convert.max_file_mib * 2**20
    return Files(_contents(raw, rows, limit), limit)


def _contents(raw: Path, rows: pl.DataFrame, limit: int) -> dict[tuple[str, str], Callable[[], bytes]]:
    large = rows.filter(pl.col("size") > limit)
    if large.height:
        name, size = large["name"][0], large["size"][0]
        raise ValueError(f"{name} must have at most {limit} bytes (convert.max_file_mib, max_field_mib), got {size}.")
    return {(row["band"], row["plane"]): partial(_bytes, raw, row) for row in rows.iter_rows(named=True)}


def _listed(layout: Layout, members: Iterable[archive.Member], survey: str) -> pl.DataFrame:
    """FILES, one row per file and object; two files of one object, band and plane are refused."""
    rows = [(_own(layout, m.name), m) for m in members]
    table = pl.DataFrame(
        [(p.object, p.survey or survey, p.band, p.plane, m.archive, m.name, m.offset, m.size) for p, m in rows],
        schema=FILES,
        orient="row",
    ).sort("survey", "object_id", "band", "plane")
    twice = table.filter(pl.struct("survey", "object_id", "band", "plane").is_duplicated())
    if twice.height:
        names = " and ".join(twice["name"].head(2))
        raise schema.ContractError(f"an object must have one file of each band and plane, got {names}. Remove one.")
    return table


def _own(layout: Layout, name: str) -> Place:
    place = layout.place(name)
    if place is None:
        raise ValueError(f"{name} must be a file of this layout, got another.")
    return place


def _given(
    layout: Layout, params: config.SurveySource, surveys: dict[str, config.Survey], files: pl.DataFrame, out: Path
) -> pl.DataFrame | None:
    """The user's table, or the data set's own; None where there is neither."""
    if params.catalogue is not None:
        return object_table.read_file(Path(params.catalogue), surveys, params.survey)
    if layout.table is None:
        return None
    shared = files.filter(pl.col("object_id") == _SHARED)
    contents = {(row["band"], row["plane"]): partial(_bytes, out, row) for row in shared.iter_rows(named=True)}
    table = layout.table(Files(contents, _UNPACKED_MAX))
    if not table.height:
        return None
    if "survey" not in table.columns:
        table = table.with_columns(pl.lit(params.survey).alias("survey"))
    return object_table.checked(table, surveys, out)


def _complete(
    layout: Layout, given: pl.DataFrame | None, files: pl.DataFrame, surveys: dict[str, config.Survey], out: Path
) -> pl.DataFrame:
    """The table's rows, and one for each object that only has files: bare, or with what its name tells."""
    named = files.filter(pl.col("object_id") != _SHARED).select("object_id", "survey").unique()
    if layout.by_name is not None:
        told = [{"object_id": name, **layout.by_name(name)} for name in named["object_id"]]
        named = named.join(pl.DataFrame(told), on="object_id", how="left")
    if given is not None:
        bare = named.join(given, on=["object_id", "survey"], how="anti")
        named = pl.concat([given, bare], how="diagonal")
    return object_table.checked(named, surveys, out)


def _required(given: pl.DataFrame | None) -> pl.DataFrame:
    if given is None:
        raise ValueError("catalogue must name the objects to be cut from fields (stamp_arcsec), got null. Add a table.")
    return given


def _placed(objects: pl.DataFrame, files: pl.DataFrame, out: Path) -> pl.DataFrame:
    named = files.filter(pl.col("object_id") != _SHARED).partition_by("object_id", as_dict=True, maintain_order=True)
    return fields.placed(objects, ((str(name), _field(out, rows, _UNPACKED_MAX, 0)) for (name,), rows in named.items()))


def _field(raw: Path, rows: pl.DataFrame, max_bytes: int, max_pixels: int) -> fields.Field:
    return fields.Field(_contents(raw, rows, max_bytes), max_bytes, max_pixels)


def _with_places(table: pl.DataFrame, files: pl.DataFrame, out: Path) -> pl.DataFrame:
    """Positions of the stamps' centres by their WCS, for objects that have none."""
    lacking = set(table.filter(pl.col("ra").is_null())["object_id"])
    places: dict[str, tuple[float, float]] = {}
    for row in tqdm(files.iter_rows(named=True), "positions", files.height, unit=" files", disable=None):
        wanted = row["object_id"] in lacking and row["object_id"] not in places and "psf" not in row["plane"]
        if wanted and row["size"] <= _CUTOUT_MAX:  # a PSF's header is often a copy of its image's
            place = sky.centre(_bytes(out, row), _CUTOUT_MAX)
            places |= {row["object_id"]: place} if place is not None else {}
    found = pl.DataFrame(
        [(name, *place) for name, place in places.items()],
        schema={"object_id": pl.String, "ra_found": pl.Float64, "dec_found": pl.Float64},
        orient="row",
    )
    joined = table.join(found, on="object_id", how="left", maintain_order="left")
    return joined.with_columns(
        pl.col("ra").fill_null(pl.col("ra_found")), pl.col("dec").fill_null(pl.col("dec_found"))
    ).drop("ra_found", "dec_found")


def _bytes(raw: Path, row: dict[str, Any]) -> bytes:
    return archive.read(raw, archive.Member(row["archive"], row["name"], row["offset"], row["size"]))
