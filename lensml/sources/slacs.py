"""SLACS, the Sloan Lens ACS Survey: the table of grade-A lenses with models (Auger et al. 2009, ApJ 705, 1099)."""

from typing import Any, Final

import polars as pl

from lensml.catalog import redshift_text, sky_catalogues
from lensml.ingest import sky_catalogue, text_table
from lensml.schema import SKY_CLAIMS

_COLUMNS: Final = ("name", "RA", "dec", "zd", "zs", "theta_Ein")
_LICENCE: Final = "none stated; cite Auger et al. 2009 (ApJ 705, 1099)"


def claims(files: dict[str, bytes], params: dict[str, Any]) -> pl.DataFrame:
    """A lens per row, with its redshifts and Einstein radius (theta_Ein, of a singular isothermal ellipsoid).

    Raises
    ------
    ContractError
        The file is no such table.
    """
    name, content = text_table.one(files, (".cat", ".txt", ".dat"), "slacs")
    table = text_table.space_separated(content, _COLUMNS, name)
    ra, dec = text_table.positions(table, "RA", "dec", name)
    return table.select(
        sky_catalogues.entries(table["name"]),
        pl.col("name"),
        ra,
        dec,
        pl.lit("lens").alias("label"),
        pl.lit("obs:slacs").alias("label_source"),
        pl.lit(1.0).alias("label_confidence"),
        pl.lit("A").alias("grade"),
        pl.lit("galaxy").alias("kind"),
        redshift_text.read(table["zd"])["z"].alias("z_lens"),
        redshift_text.read(table["zs"])["z"].alias("z_source"),
        pl.col("zd").alias("z_text"),
        text_table.numbers(table, "theta_Ein", name).alias("theta_e_arcsec"),
        pl.lit("Auger et al. 2009 (ApJ 705, 1099)").alias("reference"),
    ).select(*SKY_CLAIMS)


KIND: Final = sky_catalogue.kind(claims, _LICENCE)
