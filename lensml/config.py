"""Types and bounds of params.yaml. It states every value; here stand none."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lensml.config_convert import Convert, Quality, StarRules
from lensml.config_injected import InjectedSource, Source
from lensml.config_sources import (
    BolognaSource,
    CatalogueSource,
    CutoutsSource,
    Download,
    FilesSource,
    GalaxiesmlSource,
    GalaxyZooSource,
    LensRule,
    MatchedNegativesSource,
    RelicsSource,
    SimulatedSource,
    SimulatedSurvey,
    SurveySource,
)
from lensml.config_training import (
    Augment,
    Constraints,
    Fit,
    Hardware,
    Physics,
    Plateau,
    Precision,
    Pretrain,
    Train,
)
from lensml.config_types import (
    Arcsec,
    Count,
    Fraction,
    Jobs,
    Name,
    Positive,
    PositiveFloat,
    Scheduler,
    Section,
    Seed,
)

__all__ = [
    "Augment",
    "Band",
    "BolognaSource",
    "CatalogueSource",
    "Constraints",
    "Convert",
    "CutoutsSource",
    "Download",
    "Evaluate",
    "FilesSource",
    "Fit",
    "Fractions",
    "Fuse",
    "GalaxiesmlSource",
    "GalaxyZooSource",
    "Hardware",
    "InjectedSource",
    "LabelProvenance",
    "LensRule",
    "MatchedNegativesSource",
    "Params",
    "Physics",
    "Plateau",
    "Precision",
    "Pretrain",
    "PsfMatch",
    "Quality",
    "RelicsSource",
    "Section",
    "Shard",
    "SimulatedSource",
    "SimulatedSurvey",
    "Source",
    "Split",
    "StarRules",
    "Survey",
    "SurveySource",
    "Train",
    "at",
    "load",
]


class Band(Section):
    psf_fwhm: Arcsec
    sky_sigma_nJy: PositiveFloat  # noqa: N815


class Survey(Section):
    instrument: str
    pixel_scale: Arcsec
    zero_point: Annotated[float, Field(ge=-10, le=40)]
    target_psf_fwhm: Arcsec
    bands: Annotated[dict[Name, Band], Field(min_length=1)]


class LabelProvenance(Section):
    match_arcsec: Arcsec  # an entry of a sky catalogue is about an object this near
    duplicate_arcsec: Arcsec  # entries this near each other are one lens
    name_tolerance_arcsec: Annotated[float, Field(gt=0, le=36000)]  # between an entry's place and the one in its name
    claim_ranks: dict[str, Count]
    confidence_min: Fraction
    one_sided_limit: Annotated[float, Field(ge=0.5, le=1)]
    one_sided_allowed: list[Name]


class PsfMatch(Section):
    mode: Literal["per_survey", "common", "off"]
    common_target_fwhm: Arcsec
    residual_max: PositiveFloat
    off_centre_max: PositiveFloat
    fwhm_tolerance: Fraction
    gain_max: Annotated[float, Field(ge=1)]
    regularisation: Annotated[float, Field(gt=0, lt=1)]
    lost_weight_max: Fraction
    batch_objects: Positive
    refused_max: Fraction
    jobs: Jobs
    dask_scheduler: Scheduler | None


class Fractions(Section):
    train: Annotated[float, Field(gt=0, lt=1)]
    val: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _whole(self) -> "Fractions":
        if abs(self.train + self.val + self.test - 1) > 1e-9:
            raise ValueError(f"train, val and test must sum to 1, got {self.train + self.val + self.test:g}")
        return self


class Split(Section):
    seed: Seed
    fractions: Fractions
    redshift_bins: Positive
    magnitude_bins: Positive
    seeing_edges: list[Arcsec]
    psf_fwhm_edges: list[Arcsec]
    pixel_scale_edges: list[Arcsec]
    stratum_min_groups: Positive
    stratum_slack: Annotated[float, Field(ge=0)]
    same_sky_arcsec: Arcsec
    quality_threshold: Fraction


Feature = Literal[
    "pixel_scale", "psf_fwhm", "seeing", "z_phot", "half_light_radius", "axis_ratio", "sersic_index", "quality"
]


class Shard(Section):
    objects_per_shard: Annotated[int, Field(ge=512)]
    stamp_pixels: Annotated[int, Field(ge=16, le=512)]
    pixel_scale_min: Arcsec
    common_pixel_scale: Arcsec | None
    psf_pixels: Annotated[int, Field(ge=7, le=255)]
    features: list[Feature]
    bands: Annotated[list[Name], Field(min_length=1)]

    @model_validator(mode="after")
    def _odd(self) -> "Shard":
        if self.psf_pixels % 2 == 0:
            raise ValueError("psf_pixels must be odd")
        return self


class Fuse(Section):
    ridge: PositiveFloat


class Evaluate(Section):
    prevalence: Annotated[float, Field(gt=0, lt=1)]
    bootstrap_draws: Annotated[int, Field(ge=10)]
    confidence_level: Annotated[float, Field(gt=0, lt=1)]
    calibration_bins: Annotated[int, Field(ge=2)]
    flux_ratio_edges: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    low_flux_fnr_warning: Fraction
    seed: Seed
    gallery_stamps: Positive


class Params(Section):
    """The whole of params.yaml."""

    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    surveys: Annotated[dict[Name, Survey], Field(min_length=1)]
    label_provenance: LabelProvenance
    convert: Convert
    psf_match: PsfMatch
    split: Split
    shard: Shard
    pretrain: Pretrain
    train: Train
    fuse: Fuse
    evaluate: Evaluate


def load(path: Path) -> Params:
    """Read and check params.yaml, as DVC reads it.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        A value is missing, misspelt, of another type or out of range; the message names its key.
    """
    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ValueError(f"{path} must be YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: " + "; ".join(_words(e) for e in error.errors()[:3])) from None


def at(params: Params, key: str) -> Any:
    """The value at a dotted key, as `dvc.yaml` names it (`sources.simulated`, `train.arch`)."""
    value: Any = params
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


def _words(error: ErrorDetails) -> str:
    """One finding of pydantic as `<key> must <rule>, got <value>. <Remedy>`."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key} is no parameter.{_nearest(error)}"
    if error["type"] == "missing":
        return f"{key} is missing. Add it"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {message[0].lower()}{message[1:]}, got {str(error['input'])[:80]}"


def _nearest(error: ErrorDetails) -> str:
    word = str(error["loc"][-1])
    known = {name for section in _sections() for name in section.model_fields}
    close = difflib.get_close_matches(word, sorted(known), n=1)
    return f" Did you mean {close[0]}?" if close else " Remove it"


def _sections() -> list[type[Section]]:
    found, todo = [], [Section]
    while todo:
        for sub in todo.pop().__subclasses__():
            found.append(sub)
            todo.append(sub)
    return found
