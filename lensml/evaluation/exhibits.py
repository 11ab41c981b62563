"""All that is there to look at after an evaluation, in one folder, simulated and real labels apart."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lensml import config
from lensml.evaluation import composite, gallery, plots
from lensml.evaluation.strata import KINDS, label_kind
from lensml.store import quantisation
from lensml.store.shards import Float, ShardReader

BASELINE: Final = "catalogue regression"


def write(table: pl.DataFrame, test: Path, members: list[str], params: config.Evaluate, folder: Path) -> list[str]:
    """Write curves, a picture of them, the highest-scored stamps and the worst misses of each kind of label.

    `table` is that of `scoring.table`, `test` the folder of its shards. Returns the names of the pictures.
    """
    rows = table.with_row_index("at").with_columns(label_kind().alias("label_kind"))
    reader = ShardReader(test, tuple(dict.fromkeys(band for bands in table["bands"] for band in bands)))
    others = {name: name for name in members} | {BASELINE: "baseline"}
    pictures = []
    for kind in KINDS:
        part = rows.filter(pl.col("label_kind") == kind)
        if not part.height:  # a file without rows, so that what DVC plots is always there
            plots.write({name: curve.clear() for name, curve in plots.curves(rows, params).items()}, kind, folder)
            continue
        plots.write(plots.curves(part, params), kind, folder)
        where = f"Test set, {kind} labels: {_counted(part)}"
        plots.picture(part, others, params, where, folder / f"curves_{kind}.png")
        best = part.sort("logit", "object_id", descending=[True, False]).head(params.gallery_stamps)
        gallery.sheet(_tiles(best, reader), f"Highest scores. {where}", folder / f"highest_{kind}.png")
        heading = f"Lenses with the lowest scores, then non-lenses with the highest. {where}"
        gallery.sheet(_tiles(_misses(part, params), reader), heading, folder / f"misses_{kind}.png")
        pictures += [f"{name}_{kind}.png" for name in ("curves", "highest", "misses")]
    return pictures


def _misses(part: pl.DataFrame, params: config.Evaluate) -> pl.DataFrame:
    """Half a gallery of each, the worst first."""
    half = max(1, params.gallery_stamps // 2)
    lenses = part.filter(pl.col("label") == "lens").sort("logit", "object_id").head(half)
    others = part.filter(pl.col("label") == "nonlens").sort("logit", "object_id", descending=[True, False]).head(half)
    return pl.concat([lenses, others])


def _tiles(rows: pl.DataFrame, reader: ShardReader) -> list[gallery.Tile]:
    at = rows["at"].to_numpy().astype(np.int64)
    flux, bad = reader.stamps(at)[0], reader.codes("variance", at) == quantisation.BAD
    return [_tile(row, reader, *own) for row, *own in zip(rows.iter_rows(named=True), flux, bad, strict=True)]


def _tile(row: dict[str, Any], reader: ShardReader, channels: Float, bad: NDArray[np.bool_]) -> gallery.Tile:
    """The picture of a row of the table, of its planes (channel, y, x) as the networks see them."""
    names, index = row["bands"], reader.index.row(row["at"], named=True)
    sky_sigma = np.array(index["sky_sigma"])
    chosen = list(composite.shown_bands(names, sky_sigma, index["fwhm_halfmax"]))
    own = [reader.bands.index(names[i]) for i in chosen]
    flux = np.sinh(channels[own]) * sky_sigma[chosen][:, None, None]
    picture = composite.composite(flux, sky_sigma[chosen], bad[own])
    shown = [names[i] for i in reversed(chosen)]
    lines = gallery.lines(row["object_id"], row["label"], row["label_source"], row["survey"], row["probability"], shown)
    return gallery.Tile(picture, lines, row["label"], index["pixel_scale"])


def _counted(part: pl.DataFrame) -> str:
    lenses = part.filter(pl.col("label") == "lens").height
    return f"{lenses} lenses, {part.height - lenses} non-lenses"
