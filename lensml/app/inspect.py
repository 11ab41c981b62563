"""`lensml look`: stamps of a source on one sheet, with what is known of them."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import polars as pl
import typer
from tqdm import tqdm

from lensml import config, paths, schema
from lensml.errors import one_line_errors
from lensml.evaluation import composite, gallery
from lensml.sources import SOURCES
from lensml.store import stamps, tables
from lensml.store.stamp_batch import Float

Contract = dict[str, pl.DataType | type[pl.DataType]]

_REASONS_MAX: Final = 12  # told beneath a sheet; the report has them all
_NAMED_MAX: Final = 3  # objects named with each


def look(
    source: Annotated[str, typer.Argument(help="A source of params.yaml.")],
    out: Annotated[Path | None, typer.Option(help="The PNG to write; look-SOURCE.png if not given.")] = None,
    count: Annotated[int | None, typer.Option(help="How many stamps; evaluate.gallery_stamps if not given.")] = None,
    label: Annotated[str | None, typer.Option(help="Only lens, nonlens or unknown.")] = None,
    matched: Annotated[bool, typer.Option("--matched", help="The stamps after PSF matching.")] = False,
) -> None:
    """Show stamps of a source on one sheet: label and who says so, PSF, noise, quality, and the score if there is one.

    North, east and a scale bar are drawn in, pixels not to be used are mauve, and objects refused are listed beneath.
    """
    with one_line_errors():
        params = config.load(Path(paths.PARAMS))
        number = params.evaluate.gallery_stamps if count is None else count
        path = Path(f"look-{source}.png") if out is None else out
        _check(source, number, label, params)
        folder = Path((paths.MATCHED if matched else paths.STAMPS).format(source=source))
        table = known(folder, f"{'psf_match' if matched else 'convert'}@{source}")
        tiles = draw(folder, choose(table, number, label))
        form = "PSF-matched stamps" if matched else "stamps"
        gallery.sheet(tiles, f"{source}: {len(tiles)} of {table.height} {form}", path, refused(source, matched))
        typer.echo(f"{len(tiles)} stamps in {path}")


def _check(source: str, count: int, label: str | None, params: config.Params) -> None:
    if source not in params.sources:
        raise ValueError(
            f"SOURCE must be one of {', '.join(params.sources)}, got {source}. See sources in params.yaml."
        )
    kind = params.sources[source].kind
    if SOURCES[kind].sky_claims is not None:
        raise ValueError(
            f"SOURCE must have stamps, got {source}, a catalogue of the sky (kind {kind}). Name a source of images."
        )
    if not 1 <= count <= gallery.STAMPS_MAX:
        raise ValueError(f"--count must be 1 to {gallery.STAMPS_MAX}, got {count}.")
    if label is not None and label not in schema.LABELS:
        raise ValueError(f"--label must be one of {', '.join(schema.LABELS)}, got {label}.")


def known(folder: Path, stage: str) -> pl.DataFrame:
    """The catalogue of a folder of stamps with label, label_source and, where it was in the test set, its probability.

    Raises
    ------
    FileNotFoundError
        The stage that writes the folder has not been run.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must exist, got none. Run `dvc repro {stage}`")
    table = stamps.read_catalogue(folder)
    table = _joined(table, Path(paths.LABELS), schema.LABEL_TABLE, ["label", "label_source"])
    return _joined(table, Path(paths.TEST_SCORES), schema.TEST_SCORES, ["probability"])


def _joined(table: pl.DataFrame, path: Path, contract: Contract, columns: list[str]) -> pl.DataFrame:
    """With columns of another table by object_id; null where the file or the object is not there."""
    if not path.exists():
        return table.with_columns(pl.lit(None, contract[name]).alias(name) for name in columns)
    other = tables.read_parquet(path, contract).select("object_id", *columns)
    return table.join(other, on="object_id", how="left", maintain_order="left")


def choose(table: pl.DataFrame, count: int, label: str | None) -> pl.DataFrame:
    """That many rows, spread evenly over the catalogue so that every survey is seen.

    Raises
    ------
    ValueError
        No object has the label.
    """
    wanted = table if label is None else table.filter(pl.col("label").fill_null("unknown") == label)
    if not wanted.height:
        raise ValueError(f"no object is labelled {label}. Leave out --label, or run `dvc repro label_provenance`.")
    rows = np.linspace(0, wanted.height - 1, min(count, wanted.height)).round().astype(np.int64)
    return wanted[rows]


def draw(folder: Path, shown: pl.DataFrame) -> list[gallery.Tile]:
    """A tile per row, read from the source's stacks."""
    tiles = []
    with tqdm(total=shown.height, desc="look", unit="stamp", disable=None, leave=False) as bar:
        for batch in stamps.read(folder, shown):
            rows = batch.catalogue.iter_rows(named=True)
            tiles += [
                _tile(row, *planes) for row, *planes in zip(rows, batch.flux, batch.variance, batch.psf, strict=True)
            ]
            bar.update(batch.catalogue.height)
    return tiles


def _tile(row: dict[str, Any], flux: Float, variance: Float, psf: Float) -> gallery.Tile:
    """The picture of a catalogue's row and its planes (band, y, x)."""
    chosen = list(composite.shown_bands(row["bands"], row["sky_sigma"], row["fwhm_halfmax"]))
    label, told, band = row["label"] or "unknown", row["label_source"] or "no label", chosen[len(chosen) // 2]
    names = [row["bands"][i] for i in reversed(chosen)]
    lines = gallery.lines(row["object_id"], label, told, row["survey"], row["probability"], names)
    sigma = np.array(row["sky_sigma"])[chosen]
    return gallery.Tile(
        composite.composite(flux[chosen], sigma, np.isinf(variance[chosen])),
        (*lines, psf_line(row, band), *noise_lines(row), quality_line(row)),
        label,
        row["pixel_scale"],
        row["north_deg"],
        composite.psf_picture(psf[band], row["fwhm_halfmax"][band] / row["pixel_scale"]),
    )


def psf_line(row: dict[str, Any], band: int) -> str:
    """Half-maximum FWHM of a band's PSF, where it is known from, and how well it was matched."""
    width = f'PSF {row["fwhm_halfmax"][band]:.2f}" ({row["bands"][band]}, {row["psf_origin"][band]})'
    return f"{width}, matched to {row['psf_residual']:.1%}" if row["psf_matched"] else width


def noise_lines(row: dict[str, Any]) -> tuple[str, str]:
    """Over the bands: measured sky sigma over the variance plane's, what was rescaled; correlation of neighbours."""
    ratio, scale, lag = (
        [value for value in row[name] if value is not None]
        for name in ("sky_sigma_over_plane", "variance_scale", "noise_correlation")
    )
    plane = f"noise {_range(ratio)} of its plane" if ratio else "noise measured, no plane"
    wrong = sum(value != 1 for value in scale)
    share = f", {wrong} of {len(scale)} rescaled" if wrong else ""
    return plane + share, f"lag-1 correlation {_range(lag) if lag else 'unknown'}"


def quality_line(row: dict[str, Any]) -> str:
    """The quality and what limits it."""
    return f"quality {row['quality']:.2f}" + (f": {row['quality_limit']}" if row["quality_limit"] else "")


def _range(values: list[float]) -> str:
    low, high = (f"{round(value, 2) + 0.0:.2f}" for value in (min(values), max(values)))  # + 0: no -0.00
    return low if low == high else f"{low}..{high}"


def refused(source: str, matched: bool) -> list[str]:
    """Which objects are not on any sheet of the source: a line per reason, most frequent first; none without reports.

    Raises
    ------
    ContractError
        A report is no JSON.
    """
    found = _report(paths.CONVERT_REPORT, source).get("refused", [])
    lines = _counted("refused by convert", [(item["object_id"], item["reason"]) for item in found])
    if not matched:
        return lines
    return lines + _counted("refused by psf_match", list(_report(paths.PSF_REPORT, source).get("refusals", {}).items()))


def _report(path: str, source: str) -> dict[str, Any]:
    report = Path(path.format(source=source))
    return tables.read_json(report) if report.exists() else {}


def _counted(what: str, refusals: list[tuple[str, str]]) -> list[str]:
    reasons = Counter(reason for _, reason in refusals).most_common()
    lines = [f"{len(refusals)} {what}:"] if refusals else []
    for reason, times in reasons[:_REASONS_MAX]:
        named = [name for name, why in refusals if why == reason][:_NAMED_MAX]
        lines.append(f"  {times} x {reason} ({', '.join(named)}{', ...' if times > len(named) else ''})")
    if len(reasons) > _REASONS_MAX:
        lines.append(f"  and {len(reasons) - _REASONS_MAX} more reasons")
    return lines
