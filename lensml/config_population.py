"""What the simulated population is drawn from, params.yaml: sources.<name>.population."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lensml.config_types import Arcsec, Count, Fraction, OpenFraction, PositiveFloat, Section

NotNegative = Annotated[float, Field(ge=0)]


def _ascending(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError("must be a range, least first")
    return values


def _scatter(values: tuple[float, float]) -> tuple[float, float]:
    if values[1] < 0:
        raise ValueError("must be a mean and a scatter of at least 0")
    return values


def _weighed(weights: dict[str, float]) -> dict[str, float]:
    if not sum(weights.values()) > 0:
        raise ValueError("must hold a weight above 0")
    return weights


_PAIR = Field(strict=False)  # YAML has lists; a pair of numbers is a tuple here
_RANGE = AfterValidator(_ascending)
_Index = Annotated[float, Field(ge=0.3, le=8)]
_Magnitude = Annotated[float, Field(ge=5, le=35)]
_Redshift = Annotated[float, Field(gt=0, lt=10)]
_Slope = Annotated[float, Field(gt=1, lt=3)]
_AxisRatio = Annotated[float, Field(gt=0, le=1)]

Normal = Annotated[tuple[float, float], _PAIR, AfterValidator(_scatter)]  # mean, scatter
Range = Annotated[tuple[PositiveFloat, PositiveFloat], _PAIR, _RANGE]
Share = Annotated[tuple[Fraction, Fraction], _PAIR, _RANGE]
OpenShare = Annotated[tuple[OpenFraction, OpenFraction], _PAIR, _RANGE]
AxisRatios = Annotated[tuple[_AxisRatio, _AxisRatio], _PAIR, _RANGE]
Index = Annotated[tuple[_Index, _Index], _PAIR, _RANGE]
Magnitudes = Annotated[tuple[_Magnitude, _Magnitude], _PAIR, _RANGE]
Redshifts = Annotated[tuple[_Redshift, _Redshift], _PAIR, _RANGE]
Slopes = Annotated[tuple[_Slope, _Slope], _PAIR, _RANGE]
Radii = Annotated[tuple[Arcsec, Arcsec], _PAIR, _RANGE]
Pair = Annotated[tuple[float, float], _PAIR]
Triple = Annotated[tuple[float, float, float], _PAIR]

NegativeKind = Literal[
    "collisional_ring", "polar_ring", "spiral", "bulgeless_spiral", "merger", "tidal_tails", "shells", "satellites",
    "edge_on", "chance", "chance_tangential", "star_spikes", "ghost", "cosmic_ray", "early", "disc", "irregular",
    "compact", "pair",
]  # fmt: skip
GalaxyKind = Literal["early", "spiral", "edge_on", "disc", "irregular", "compact", "pair"]


class Selection(Section):
    """Whose lenses a survey finds."""

    host_magnitude: Magnitudes  # AB at 750 nm
    theta_e_arcsec: Radii


class Deflectors(Section):
    """Who deflects, and how; see lensml/lensing/deflectors.py."""

    sigma_v_km_s: Range  # velocity dispersions considered
    sigma_star_km_s: PositiveFloat  # of the modified Schechter function, with the two powers below
    alpha: PositiveFloat
    beta: PositiveFloat
    redshift: Redshifts
    theta_e_over_fwhm_min: NotNegative  # Einstein radius over the sharpest band's PSF
    brightness_tilt: NotNegative  # dex per magnitude: brighter lenses are followed up more
    sie_share: Fraction  # the others are power laws
    density_slope: Normal
    density_slope_range: Slopes
    axis_ratio_scatter: NotNegative  # of the mass's over the light's
    angle_scatter_deg: NotNegative  # at an axis ratio of 0.8; rounder ones scatter more
    shear: Annotated[tuple[PositiveFloat, NotNegative], _PAIR]  # lognormal: median, scatter in dex
    core_arcsec: NotNegative
    satellite_share: Fraction  # of lenses with a galaxy that deflects beside them
    satellite_theta_e: Range  # its Einstein radius over the lens's
    satellite_distance: Range  # in Einstein radii


class Hosts(Section):
    """Early-type galaxies; see lensml/lensing/deflectors.py and early_types.py."""

    size_of_sigma: Triple  # log kpc by powers of log km/s
    size_scatter_dex: NotNegative
    fundamental_plane: Triple  # log kpc = a log km/s + b mu + c
    fundamental_plane_scatter_dex: NotNegative  # of log kpc
    evolution_mag: NotNegative  # brighter per unit redshift
    flattening: Pair  # Rayleigh scale of 1 - q: at 0, per km/s
    axis_ratio_min: OpenFraction
    colour_scatter: NotNegative  # of the slope of f_nu with wavelength
    gradient: Normal  # of the same slope, envelope less bulge
    single_share: Fraction  # of hosts without an envelope
    bulge_index: Index
    core_share: Fraction  # of hosts whose bulge is flat inside
    core_index: Index
    envelope_light: Share
    envelope_radius: Range  # over the bulge's
    envelope_index: Index
    axis_ratio_change: NotNegative  # scatter, envelope less bulge
    twist_deg: NotNegative  # the same of the position angle
    centre_offset: NotNegative  # the same of the centre, in bulge radii
    nucleus_share: Fraction  # of hosts with a nuclear disc
    nucleus_light: Share
    nucleus_radius: Range  # over the half-light radius
    dust_share: Fraction  # of hosts with a dust lane
    dust_depth: Share  # light lost at 750 nm, at the lane's ends
    dust_radius: Range  # over the half-light radius


class Discs(Section):
    """Star-forming galaxies of any redshift: sources, neighbours, field; see lensml/lensing/galaxies.py."""

    radius_kpc: PositiveFloat  # half-light, at redshift 0 and the pivot
    radius_evolution: float  # power of 1 + z
    radius_slope: NotNegative  # power of luminosity
    radius_scatter_dex: NotNegative
    pivot_magnitude: Annotated[float, Field(ge=-30, le=-10)]  # absolute, at redshift 0
    pivot_evolution_mag: NotNegative  # brighter per unit redshift, up to redshift 2
    index: Normal
    index_range: Index
    axis_ratio: AxisRatios
    beta_uv: Normal  # f_lambda ~ wavelength ** beta
    red_share: Fraction  # of galaxies with the slope below instead
    red_beta_uv: Normal
    old_light: Share  # of old stars at 750 nm, at redshift 0
    old_light_fades: PositiveFloat  # it falls as exp(-z / this)
    clumps_max: Count
    clump_light: Share  # of all clumps together
    clump_slope: Annotated[float, Field(gt=1)]  # of their luminosity function
    clump_range: Annotated[float, Field(gt=1)]  # brightest over faintest
    clump_radius_kpc: Range
    arms_share: Fraction  # of galaxies with spiral arms
    arms_light: Range  # over the disc's
    irregular_share: Fraction  # of galaxies with pieces off centre
    irregular_light: Share  # of a piece, over the disc's
    pair_share: Fraction  # of galaxies with a companion
    pair_light: Share  # the same


class Sources(Section):
    """What is lensed."""

    redshift_scale: PositiveFloat  # n(z) ~ z^2 exp(-(z / scale)^1.5)
    redshift_max: Annotated[float, Field(gt=0, le=10)]
    flux_ratio: OpenShare
    magnitude: Magnitudes  # AB at 750 nm, not lensed
    counts_slope: Annotated[float, Field(ge=0, lt=0.8)]  # d log N / d magnitude of the sources: magnification bias
    impact_max: Annotated[float, Field(gt=0, le=1.2)]  # distance from the optical axis, in Einstein radii


class Surroundings(Section):
    """What else is on a stamp, whatever is in its middle."""

    galaxies_per_arcmin2: NotNegative
    magnitude: Magnitudes
    counts_slope: PositiveFloat
    stars_per_arcmin2: NotNegative
    companions: NotNegative  # mean number of the host's own within 10 arcsec
    companion_magnitude: Range  # fainter than the host
    centring_arcsec: NotNegative  # scatter of the host about the stamp's centre


class Negatives(Section):
    """Who is no lens, beside the twins."""

    kinds: Annotated[dict[NegativeKind, NotNegative], AfterValidator(_weighed)]
    flux_ratio: OpenShare
    radius: Range  # of what imitates an arc, over the Einstein radius that the host would have
    red_satellites: Fraction


class Galaxies(Section):
    """Any galaxy, for pretraining."""

    kinds: Annotated[dict[GalaxyKind, NotNegative], AfterValidator(_weighed)]
    fainter_mag: NotNegative  # than the survey's hosts
    clump_light: Share  # of discs, whose star formation is calmer than the sources'


class Population(Section):
    """Who lenses whom, and who does not."""

    deflectors: Deflectors
    hosts: Hosts
    discs: Discs
    sources: Sources
    surroundings: Surroundings
    negatives: Negatives
    galaxies: Galaxies

    @model_validator(mode="after")
    def _behind(self) -> "Population":
        if self.sources.redshift_max <= self.deflectors.redshift[0]:
            raise ValueError("sources.redshift_max must be beyond deflectors.redshift")
        return self
