"""What painting lensed sources into real stamps is told, params.yaml: sources.<name> of kind `injected`; `Source`."""

from typing import Annotated, Literal

from pydantic import Field

from lensml import config_sources
from lensml.config_convert import Convert
from lensml.config_population import Population, Radii
from lensml.config_sources import (
    BolognaSource,
    CutoutsSource,
    GalaxiesmlSource,
    MatchedNegativesSource,
    RelicsSource,
    SimulatedSource,
    SurveySource,
)
from lensml.config_types import Arcsec, Jobs, Name, Positive, PositiveFloat, Section, Seed

HostSource = Annotated[  # whoever has pixels
    BolognaSource
    | CutoutsSource
    | GalaxiesmlSource
    | MatchedNegativesSource
    | RelicsSource
    | SimulatedSource
    | SurveySource,
    Field(discriminator="kind"),
]


class Painting(Section):
    """What is painted, and how; see lensml/lensing/inject.py."""

    seed: Seed
    per_host: Positive  # lenses made of a host, which itself is their one twin
    theta_e_from: Literal["light", "catalogue"]  # light: by the fundamental plane; catalogue: theta_e_arcsec, if any
    theta_e_arcsec: Radii  # where light or nobody says; theta_e_over_fwhm_min counts too; a catalogue's stands
    arc_snr_min: Annotated[float, Field(ge=0)]  # summed over bands and pixels; a fainter arc is drawn again
    draws: Positive  # at most; a host whose arcs all are fainter is refused
    host_aperture_arcsec: Arcsec  # radius within which light is the host's
    moffat_beta: Annotated[float, Field(gt=1)]  # of the PSF where neither the file nor a star has one
    supersampling: Annotated[int, Field(ge=1, le=8)]
    electrons_per_nJy: dict[Name, dict[Name, PositiveFloat]]  # noqa: N815 - by survey and band, of the whole coadd
    population: Population  # deflectors, their fundamental plane, sources; the simulation's, by a YAML alias
    convert: Convert  # how hosts are read and their PSF found; the project's, by a YAML alias


class InjectedSource(Painting):
    kind: Literal["injected"]
    hosts: HostSource
    batch_objects: Positive  # hosts at a time
    jobs: Jobs


Source = Annotated[config_sources.Source | InjectedSource, Field(discriminator="kind")]
