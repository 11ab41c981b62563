"""How raw files become stamps, params.yaml: convert."""

from typing import Annotated

from pydantic import Field, model_validator

from lensml.config_types import (
    Arcsec,
    Fraction,
    Jobs,
    OpenFraction,
    Positive,
    PositiveFloat,
    Range,
    Scheduler,
    Section,
)


class StarRules(Section):
    """Which sources of an image are stars that its PSF can be made of; see lensml/imaging/stars.py."""

    snr_min: PositiveFloat  # of the brightest pixel over the sky sigma
    exclude_radius_arcsec: Arcsec  # around the stamp's centre, where the galaxy and its arcs are
    fwhm_factor: Range  # FWHM over the survey's typical one, least and most, where `repeated_min` sources have the same
    lone_fwhm_factor: Range  # the same for fewer
    repeated_min: Positive  # sources of one size
    locus_width: Fraction  # relative; sources broader than the narrowest by more are no stars
    ellipticity_max: Fraction  # 1 - b / a
    moment_ratio_max: Annotated[float, Field(gt=1)]  # moment over half-maximum FWHM; galaxies have broader wings
    bend_min: float  # `psf_width.core_bend`; saturated stars have a flat top
    blend_max: Fraction  # largest difference from the mirror image, over the peak
    stars_min: Positive  # fewer give no PSF
    psf_pixels: Annotated[int, Field(ge=7, le=255)]  # side of the PSF, odd

    @model_validator(mode="after")
    def _odd(self) -> "StarRules":
        if self.psf_pixels % 2 == 0:
            raise ValueError("psf_pixels must be odd")
        return self


class Quality(Section):
    """What a stamp's quality is made of; see lensml/imaging/quality.py."""

    saturated_max: OpenFraction  # share of saturated pixels of the aperture at which the score is 0
    edge_max: OpenFraction  # share of the stamp beyond the image's edge at which the score is 0
    shallow: Range  # sky sigma over the survey's typical one: the score is 1 up to the first, 0 from the second on
    aperture_arcsec: Arcsec


class Convert(Section):
    objects_per_stack: Annotated[int, Field(ge=1, le=65536)]
    objects_per_batch: Positive
    jobs: Jobs
    dask_scheduler: Scheduler | None  # address of a Dask cluster that does the work; null: `jobs` processes here
    noise_sentinels: list[PositiveFloat]  # values of a noise plane that mean: do not use
    variance_tolerance: PositiveFloat  # by how much sky sigma may differ from the plane's before it is rescaled
    stars: StarRules
    quality: Quality
    max_file_mib: Positive
    max_pixels: Positive
    max_field_mib: Positive
    max_field_pixels: Positive
    refused_max: Fraction
    psf_pixels_max: Annotated[int, Field(ge=7, le=255)]
    psf_lost_max: Fraction
    aperture_arcsec: Arcsec
    good_fraction_min: Fraction

    @model_validator(mode="after")
    def _odd(self) -> "Convert":
        if self.psf_pixels_max % 2 == 0:
            raise ValueError("psf_pixels_max must be odd")
        return self
