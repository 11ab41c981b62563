"""What telescope, detector and processing make of a simulated scene, params.yaml: sources.<name>.surveys.<survey>."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lensml.config_types import Arcsec, Count, Fraction, Name, Positive, PositiveFloat, Range, Section, ascending

NotNegative = Annotated[float, Field(ge=0)]
Spread = Annotated[list[NotNegative], Field(min_length=2, max_length=2), AfterValidator(ascending)]
Correlation = Annotated[float, Field(ge=0, le=0.95)]


class Seeing(Section):
    """Moffat PSFs about the survey's typical widths: the atmosphere's."""

    kind: Literal["seeing"]
    fwhm_scatter: NotNegative  # of ln FWHM between exposures, all bands alike
    band_scatter: NotNegative  # of ln FWHM beside it, each band for itself
    beta: Annotated[list[Annotated[float, Field(gt=1)]], Field(min_length=2, max_length=2), AfterValidator(ascending)]
    ellipticity_scatter: Annotated[float, Field(ge=0, le=0.3)]  # of e1 and of e2


class Telescope(Section):
    """PSFs of a pupil, its wavefront, the detector and the drizzling: a space telescope's."""

    kind: Literal["telescope"]
    aperture_m: PositiveFloat
    obscuration: Annotated[float, Field(ge=0, lt=1)]  # its diameter over the aperture's
    vanes: Count  # that hold the secondary mirror, from the axis outwards
    vane_width: Annotated[float, Field(ge=0, lt=0.5)]  # over the aperture's diameter
    wavefront_nm: Spread  # rms of focus, astigmatism and coma together
    blur_arcsec: Spread  # sigma of charge diffusion and jitter
    detector_pixel_arcsec: NotNegative  # that the light fell on before it was resampled; 0: it was not
    drop_arcsec: NotNegative  # side of the drop of drizzling, or of the pixels that resampling interpolates between


class Measured(Section):
    """PSF stamps from files, a stamp drawn for an object: see lensml/lensing/psf_bank.py."""

    kind: Literal["measured"]
    path: str  # a folder of <band>.fits or <band>.npy, each (k, k) or (stamp, k, k)
    sampling_arcsec: Arcsec  # between the samples of the stamps


PsfModel = Annotated[Seeing | Telescope | Measured, Field(discriminator="kind")]


class Instrument(Section):
    """Bands that one detector took."""

    bands: Annotated[list[Name], Field(min_length=1)]
    psf: PsfModel
    electrons_per_nJy: PositiveFloat  # noqa: N815 - of the whole coadd at the survey's typical depth
    read_noise_electrons: NotNegative  # the same
    noise_correlation: Annotated[list[Correlation], Field(min_length=2, max_length=2), AfterValidator(ascending)]


class Artefact(Section):
    """Something in the image that is no light of the scene."""

    share: Fraction  # of objects that have it
    flagged: Fraction  # of these, in how many its pixels are marked bad
    peak_sigma: Range  # its brightest pixel over the sky sigma; drawn log-uniformly


class Artefacts(Section):
    flag_sigma: PositiveFloat  # pixels brighter than this over the sky sigma are marked; of a star the saturated ones
    cosmic_ray: Artefact
    bad_column: Artefact
    star: Artefact
    star_arms: Count  # spikes of a star
    saturation_sigma: PositiveFloat  # where stars saturate and bleed, over the sky sigma
    ghost: Artefact
    satellite: Artefact


class Observing(Section):
    """A survey as it observes the simulated scenes."""

    instruments: Annotated[list[Instrument], Field(min_length=1)]
    psfs: Positive  # drawn per survey; an object has one of them
    psf_radius_fwhm: Annotated[float, Field(ge=1.5, le=30)]  # half side of a PSF stamp over the broadest FWHM
    depth: Range  # sky sigma over the survey's typical one, as exposure times differ; drawn log-uniformly
    band_depth_scatter: NotNegative  # of ln sky sigma beside it, each band for itself
    residue_sigma: NotNegative  # rms over the stamp of what is left of the sky, over the sky sigma
    over_subtraction: Annotated[list[Fraction], Field(min_length=2, max_length=2), AfterValidator(ascending)]
    sky_mesh_arcsec: Arcsec  # over which the sky was estimated, haloes included; over_subtraction is the share taken
    artefacts: Artefacts

    @model_validator(mode="after")
    def _once(self) -> "Observing":
        named = [band for instrument in self.instruments for band in instrument.bands]
        if len(set(named)) < len(named):
            raise ValueError("instruments must name each band once")
        return self

    def instrument(self, band: str) -> Instrument:
        """The one that took a band.

        Raises
        ------
        ValueError
            None did.
        """
        for instrument in self.instruments:
            if band in instrument.bands:
                return instrument
        raise ValueError(f"instruments must name every band, got none for {band} (observing). Add it to one of them.")
