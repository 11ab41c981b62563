"""Metadata schema v2 and the contract of every table: column names, types, units, meaning of a missing value."""

from typing import Final

import polars as pl

SCHEMA_VERSION: Final = "2.0"

LABELS: Final = ("lens", "nonlens", "unknown")
USES: Final = ("classify", "pretrain", "report")
SPLITS: Final = ("pretrain", "train", "val", "test")
PSF_ORIGINS: Final = ("file", "stars", "map", "table")  # stamp in the file, from stars in the image, survey's map, mean
MISSING_REDSHIFT: Final = -1.0

_F, _S, _B, _I = pl.Float64, pl.String, pl.Boolean, pl.Int64

# One row per claim about an object: who says what. Which claim wins: lensml/catalog/provenance.py.
EVIDENCE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "object_id": _S,  # unique in the project: "<source>.<native identifier>"
    "source": _S,  # key of params.yaml: sources
    "survey": _S,
    "label": _S,  # one of LABELS
    "label_source": _S,  # sim:lensml, sim:bologna, obs:<catalogue>, weak:<catalogue>, pretrain:<set>
    "label_confidence": _F,  # [0, 1]
    "grade": _S,  # the claim's own grade, "" when it has none
    "parent": _S,  # name of the host, or of the object this was made from: never straddles a split; "" when none
    "frame": _S,  # what ra and dec refer to: "icrs", "bologna" (position in the light cone), "" when there are none
    "ra": _F,  # deg; null when unknown
    "dec": _F,  # deg; null when unknown
    "kind": _S,  # free class word: elliptical, spiral, ring, merger, ...; "" when unknown
    "flux_ratio": _F,  # lensed flux / total flux; null when unknown or no lens
    "theta_e_arcsec": _F,  # Einstein radius; null when unknown or no lens
    "z_lens": _F,  # redshift of the deflector; null when unknown or no lens
}

# One row per entry of a catalogue of the sky (known lenses, votes): a claim about whatever stands there.
SKY_CLAIMS: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "entry": _S,  # unique in the catalogue; its sorting is the catalogue's order
    "name": _S,  # as published
    "ra": _F,  # deg, ICRS; null when unknown
    "dec": _F,
    "label": _S,  # one of LABELS; a candidate (grade C, probable) is unknown
    "label_source": _S,
    "label_confidence": _F,
    "grade": _S,  # the catalogue's own grade, "" when it has none; a candidate has one
    "kind": _S,  # free class word: galaxy, group, cluster, quasar, ring, spiral, merger, ...
    "z_lens": _F,  # null when unknown
    "z_source": _F,
    "z_text": _S,  # the redshift of the deflector as published
    "theta_e_arcsec": _F,
    "reference": _S,
}

# One row per object: what was decided.
LABEL_TABLE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **EVIDENCE,
    "use": _S,  # one of USES: classify (train, validate, test), pretrain (never in a classification loss), report
}

# One row per object whose claims disagree, and per entry of a sky catalogue that disagrees with itself or another.
CONFLICT_TABLE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "object_id": _S,  # of an entry: "<source>.<entry>"
    "claims": pl.List(_S),  # "<label_source>=<label>@<confidence>", those that count first, then best first
    "label": _S,
    "rule": _S,  # the words of the rule that decided
}

# Schema v2: one row per converted object, in the order of its stacks. Per-band lists follow `bands`.
CATALOGUE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "object_id": _S,
    "source": _S,
    "survey": _S,
    "instrument": _S,
    "bands": pl.List(_S),
    "z_phot": _F,  # -1 when missing, as z_spec and z_err
    "z_spec": _F,
    "z_err": _F,
    "seeing": _F,  # arcsec: PSF FWHM (half maximum) of the broadest band as observed
    "psf_fwhm": _F,  # arcsec: median over bands of the PSF FWHM (half maximum) of these pixels
    "pixel_scale": _F,  # arcsec / pixel
    "ra": _F,  # deg, ICRS; null when unknown; never an input of a classifier
    "dec": _F,
    "magnitude": pl.List(_F),  # AB in the central aperture; null where the flux is not positive
    "flux": pl.List(_F),  # nJy in the central aperture
    "snr": pl.List(_F),  # flux over its error in the central aperture
    "sersic_index": _F,  # null when missing, as the next three
    "half_light_radius": _F,  # arcsec
    "axis_ratio": _F,  # b / a
    "position_angle": _F,  # deg, east of north
    "variance_map_available": _B,  # the file carried one
    "psf_origin": pl.List(_S),  # one of PSF_ORIGINS
    "fwhm_halfmax": pl.List(_F),  # arcsec: twice the radius at half maximum, of these pixels' PSF
    "fwhm_moment": pl.List(_F),  # arcsec: of the Gaussian with the PSF's adaptive second moment; null without a stamp
    "psf_matched": _B,
    "target_psf_fwhm": _F,  # arcsec; null when not matched
    "psf_residual": _F,  # worst band's sum |matched - target| / sum target; null when not matched
    "sky_sigma": pl.List(_F),  # nJy per pixel, measured (MAD of sky pixels)
    "sky_sigma_over_plane": pl.List(_F),  # measured over what the variance plane says; null without a plane
    "variance_scale": pl.List(_F),  # what the file's variance was multiplied by (1: it was right); null without a plane
    "noise_correlation": pl.List(_F),  # lag-1 correlation of neighbouring sky pixels along x
    "north_deg": _F,  # where north is, from +y towards -x; east is 90 deg further; null when unknown
    "quality": _F,  # [0, 1]: see lensml/imaging/quality.py
    "quality_limit": _S,  # what keeps the quality below 1, "" when nothing does
    "stack": _S,  # which stack of the folder
    "row": _I,  # which entry of the stack
}

SPLIT_TABLE: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "object_id": _S,
    "source": _S,
    "group_id": _S,  # what may never straddle two splits
    "stratum": _S,
    "split": _S,  # one of SPLITS, or "" for an object left out
    "reason": _S,  # why an object is left out; "" otherwise
}

# One row per object of a split, in the order of its shards. Lists follow `bands`: those that the network knows.
SHARD_INDEX: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "key": _S,  # of its members in the shard
    "object_id": _S,
    "group_id": _S,
    "source": _S,
    "survey": _S,
    "label": _S,
    "label_source": _S,
    "label_confidence": _F,
    "kind": _S,
    "flux_ratio": _F,
    "theta_e_arcsec": _F,
    "bands": pl.List(_S),
    "sky_sigma": pl.List(_F),  # nJy per pixel of the network's grid
    "magnitude": pl.List(_F),
    "snr": pl.List(_F),
    **{
        name: CATALOGUE[name]
        for name in (
            *("instrument", "z_phot", "z_spec", "z_err", "seeing", "psf_fwhm", "pixel_scale", "sersic_index"),
            *("half_light_radius", "axis_ratio", "position_angle", "variance_map_available", "psf_origin"),
            *("fwhm_halfmax", "fwhm_moment", "noise_correlation"),
            *("psf_matched", "target_psf_fwhm", "psf_residual", "quality"),
        )
    },
    "shard": _S,  # file name
    "flux_offset": _I,  # byte in the shard where the first code stands; as many as bands x stamp_pixels^2 follow
    "variance_offset": _I,
    "psf_offset": _I,  # where the codes of the PSF stamps stand: bands x psf_pixels^2
    "stamp_pixels": _I,
    "psf_pixels": _I,
}

# Per object and member: the logit of a trained network.
SCORES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "object_id": _S,
    "group_id": _S,
    "survey": _S,
    "label": _S,
    "logit": _F,
}

# Per object of the test set: the fusion's logit and probability; beside it `logit_<member>` for each member.
TEST_SCORES: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    **SCORES,
    "probability": _F,
    "label_source": _S,
    "flux_ratio": _F,  # null when unknown or no lens
    "baseline": _F,  # log odds of a regression on the catalogue alone
}


class ContractError(ValueError):
    """A file or a table on disk breaks its contract; the message says which file, what, and the remedy."""


def check(table: pl.DataFrame, contract: dict[str, pl.DataType | type[pl.DataType]], where: str) -> pl.DataFrame:
    """The table with exactly the contract's columns, in the contract's order and types.

    Raises
    ------
    ContractError
        A column is missing or has another type.
    """
    missing = [name for name in contract if name not in table.columns]
    if missing:
        raise ContractError(f"{where} must have the column(s) {', '.join(missing)}, got {', '.join(table.columns)}.")
    try:
        return table.select(pl.col(name).cast(kind, strict=True) for name, kind in contract.items())
    except pl.exceptions.InvalidOperationError as error:
        raise ContractError(f"{where} has a column of another type: {str(error).splitlines()[0]}") from None
