"""What each kind of source is told, params.yaml: sources."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lensml.config_camera import Observing
from lensml.config_population import Population, Selection
from lensml.config_types import (
    Arcsec,
    Count,
    Fraction,
    Jobs,
    Name,
    Positive,
    PositiveFloat,
    Section,
    Seed,
    Url,
    ascending,
)


class SimulatedSurvey(Section):
    bands: Annotated[list[Name], Field(min_length=1)]
    stamp_pixels: Annotated[int, Field(ge=16, le=512)]
    selection: Selection
    observing: Observing


class SimulatedSource(Section):
    kind: Literal["simulated"]
    seed: Seed
    lenses: Count  # each with a twin: its host, seen alike, without the arc
    hard_negatives: Count
    unlabelled: Count
    supersampling: Annotated[int, Field(ge=1, le=8)]
    arc_snr_min: Annotated[float, Field(ge=0)]
    catalogue_missing: Fraction  # of objects whose redshift and shape no catalogue has
    population: Population
    surveys: Annotated[dict[Name, SimulatedSurvey], Field(min_length=1)]
    batch_objects: Positive
    jobs: Jobs


class Download(Section):
    mirrors: Annotated[list[Url], Field(min_length=1)]  # addresses of one file, the preferred one first
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class FilesSource(Section):
    """Files of others: in a local folder or archive, or downloaded."""

    path: str | None
    downloads: list[Download]

    @model_validator(mode="after")
    def _one_place(self) -> "FilesSource":
        if (self.path is None) == (not self.downloads):
            raise ValueError("must name either a path or downloads")
        return self


class LensRule(Section):
    """Who is a lens of the second Bologna challenge, by its truth table."""

    n_source_im_min: Count  # more images than this
    mag_eff_min: Annotated[float, Field(ge=0)]  # a larger magnification
    n_pix_source_min: Count  # more pixels above the noise


class BolognaSource(FilesSource):
    kind: Literal["bologna"]
    challenge: Literal["ground", "space", "two"]
    lens_rule: LensRule | None  # of challenge two; null for the others

    @model_validator(mode="after")
    def _rule(self) -> "BolognaSource":
        if (self.challenge == "two") != (self.lens_rule is not None):
            raise ValueError("lens_rule must be stated for challenge two, and be null for the others")
        return self


class CutoutsSource(Section):
    kind: Literal["cutouts"]
    path: str  # a folder in the `cutouts` contract
    files_per_archive: Annotated[int, Field(ge=512)]


class SurveySource(FilesSource):
    """Images as a survey or a published sample names and lays them out."""

    kind: Literal[
        "hsc", "sdss", "des", "kids", "legacy", "euclid", "lsst", "hst", "cfht",
        "dinos", "cosmos", "autolens", "profit", "scarlet",
    ]  # fmt: skip
    survey: Name  # key of params.yaml: surveys
    catalogue: str | None  # a table of the objects (README); null: what the files say
    bands: list[Name] | None  # to take, in the order of the extensions where headers do not tell them apart; null: all
    stamp_arcsec: Arcsec | None  # side of stamps cut from fields about the catalogue's places; null: a file is a cutout


class RelicsSource(FilesSource):
    kind: Literal["relics"]
    survey: Name
    stamp_arcsec: Arcsec
    magnitude: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(ascending)]
    magnitude_band: Name
    arc_mask_arcsec: Arcsec  # around every known multiple image
    label_confidence: Fraction  # that a galaxy away from every known image is no lens


class GalaxiesmlSource(FilesSource):
    kind: Literal["galaxiesml"]
    survey: Name


class CatalogueSource(FilesSource):
    """A catalogue of places in the sky: its claims are about the objects of other sources that stand there."""

    kind: Literal["lenscat", "slacs", "sled", "castles", "multiple_images"]


class GalaxyZooSource(FilesSource):
    kind: Literal["galaxy_zoo"]
    votes_min: Positive  # of the question that decides
    fraction_min: Fraction  # of these votes
    weak_confidence: Annotated[float, Field(ge=0, lt=0.5)]  # of a smooth galaxy's claim to be no lens
    hard_negative_confidence: Fraction  # of a ring's, a spiral's, a merger's


MatchedColumn = Literal["magnitude", "half_light_radius", "redshift", "seeing"]


class MatchedNegativesSource(Section):
    kind: Literal["matched_negatives"]
    path: str  # a folder in the `cutouts` contract: galaxies to draw from
    files_per_archive: Annotated[int, Field(ge=512)]
    positives: str  # a table with object_id and the columns, of the lenses to be like
    known_lenses: str | None  # a table with ra and dec of what is never drawn
    columns: Annotated[list[MatchedColumn], Field(min_length=1)]
    ratio: Positive  # non-lenses per lens
    caliper: PositiveFloat  # in standard deviations of the logit of the propensity
    exclude_arcsec: Arcsec
    label_confidence: Fraction
    seed: Seed


Source = Annotated[
    SimulatedSource
    | BolognaSource
    | CutoutsSource
    | SurveySource
    | RelicsSource
    | GalaxiesmlSource
    | CatalogueSource
    | GalaxyZooSource
    | MatchedNegativesSource,
    Field(discriminator="kind"),
]
