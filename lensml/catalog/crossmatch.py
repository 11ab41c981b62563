"""Entries of sky catalogues become claims about the objects that stand where the entries do."""

from collections.abc import Mapping
from typing import Final

import polars as pl
from astropy import units as u
from astropy.coordinates import SkyCoord, search_around_sky

from lensml import schema
from lensml.catalog.sky_catalogues import one_voice

_OF_OBJECT: Final = ("object_id", "source", "survey", "parent", "frame", "ra", "dec")
_OF_LENSES: Final = ("z_lens", "theta_e_arcsec")


def attach(
    evidence: pl.DataFrame, sky: Mapping[str, pl.DataFrame], match_arcsec: float
) -> tuple[pl.DataFrame, dict[str, dict[str, int]]]:
    """Claims of catalogues about objects within `match_arcsec` of an entry.

    Several entries with one label_source on one object are one claim: sky_catalogues.one_voice decides. Where the
    object's own source makes a claim in the same name, that stands and the catalogue's is left out.

    Parameters
    ----------
    evidence : schema.EVIDENCE about objects; those with frame icrs are looked at, but for what is for pretraining:
        it never has a label
    sky : schema.SKY_CLAIMS by the catalogue's key in params.yaml

    Returns
    -------
    schema.EVIDENCE, by object_id and label_source, and per catalogue how many entries are matched and unmatched, and
    how many objects they are about.
    """
    labelled = ~pl.col("label_source").str.starts_with("pretrain:").any().over("object_id")
    placed = evidence.filter((pl.col("frame") == "icrs") & labelled).sort("object_id", "label_source")
    objects = placed.unique("object_id", keep="first", maintain_order=True).select(_OF_OBJECT)
    parts = [table.with_columns(pl.lit(name).alias("catalogue")) for name, table in sorted(sky.items())]
    if not parts:
        return evidence.clear(), {}
    entries = pl.concat(parts)
    pairs = _pairs(objects, entries.drop_nulls(["ra", "dec"]), match_arcsec)
    claims = one_voice(pairs.drop("catalogue"), ["object_id", "label_source"])
    claims = claims.join(evidence, on=["object_id", "label_source"], how="anti").join(objects, on="object_id")
    lens = pl.col("label") != "nonlens"
    claims = claims.with_columns(
        pl.lit(None, pl.Float64).alias("flux_ratio"), *(pl.when(lens).then(name).alias(name) for name in _OF_LENSES)
    )
    claims = schema.check(claims, schema.EVIDENCE, "claims of sky catalogues").sort("object_id", "label_source")
    return claims, _counts(entries, pairs)


def _pairs(objects: pl.DataFrame, entries: pl.DataFrame, arcsec: float) -> pl.DataFrame:
    """The entries' columns but their place, once per object within `arcsec`, with its object_id."""
    found = search_around_sky(_sky(objects), _sky(entries), arcsec * u.arcsec)
    ids = objects["object_id"][found.indices_to_first_set]
    return entries.drop("ra", "dec")[found.indices_to_second_set].with_columns(ids)


def _counts(entries: pl.DataFrame, pairs: pl.DataFrame) -> dict[str, dict[str, int]]:
    found = pairs.group_by("catalogue").agg(matched=pl.col("entry").n_unique(), objects=pl.col("object_id").n_unique())
    every = entries.group_by("catalogue").len().join(found, on="catalogue", how="left").fill_null(0).sort("catalogue")
    return {
        row["catalogue"]: {
            "matched": row["matched"],
            "unmatched": row["len"] - row["matched"],
            "objects": row["objects"],
        }
        for row in every.to_dicts()
    }


def _sky(table: pl.DataFrame) -> SkyCoord:
    return SkyCoord(table["ra"].to_numpy() * u.deg, table["dec"].to_numpy() * u.deg)
