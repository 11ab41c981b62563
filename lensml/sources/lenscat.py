"""lenscat, the community's catalogue of known lenses and candidates (arXiv:2406.04398): catalog.csv.

Its defects (positions that are not the name's, one lens twice with two grades, redshifts in words) are seen to by rule:
lensml/catalog/sky_catalogues.py.
"""

from typing import Any, Final

import polars as pl

from lensml.catalog import redshift_text, sky_catalogues
from lensml.ingest import sky_catalogue, text_table
from lensml.schema import SKY_CLAIMS

_COLUMNS: Final = ("name", "RA [deg]", "DEC [deg]", "zlens", "type", "grading", "ref")
_LENSES: Final = ("confident", "confirmed")  # its data and its text; anything else, such as probable, is a candidate
_LICENCE: Final = "none stated; cite lenscat (arXiv:2406.04398) and the references it lists"


def claims(files: dict[str, bytes], params: dict[str, Any]) -> pl.DataFrame:
    """A claim per row. A redshift is a number where the text gives one that is sure; `z_text` keeps the text.

    Raises
    ------
    ContractError
        The file is no such catalogue.
    """
    name, content = text_table.one(files, (".csv",), "lenscat")
    table = text_table.comma_separated(content, _COLUMNS, name)
    ra, dec = text_table.positions(table, "RA [deg]", "DEC [deg]", name)
    lens = pl.col("grading").is_in(_LENSES)
    nothing = pl.lit(None, pl.Float64)
    return table.select(
        sky_catalogues.entries(table["name"]),
        pl.col("name"),
        ra,
        dec,
        pl.when(lens).then(pl.lit("lens")).otherwise(pl.lit("unknown")).alias("label"),
        pl.lit("obs:lenscat").alias("label_source"),
        lens.cast(pl.Float64).alias("label_confidence"),
        pl.when(pl.col("grading") == "").then(pl.lit("ungraded")).otherwise("grading").alias("grade"),
        pl.col("type").alias("kind"),
        redshift_text.read(table["zlens"])["z"].alias("z_lens"),
        nothing.alias("z_source"),
        pl.col("zlens").alias("z_text"),
        nothing.alias("theta_e_arcsec"),
        pl.col("ref").alias("reference"),
    ).select(*SKY_CLAIMS)


KIND: Final = sky_catalogue.kind(claims, _LICENCE)
