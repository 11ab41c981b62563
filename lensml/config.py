"""Types and bounds of params.yaml. It states every value; here stand none."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Jobs = Annotated[int, Field(ge=1, le=256)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Arcsec = Annotated[float, Field(gt=0, le=60)]
PositiveFloat = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A section of params.yaml: no conversion, no unknown key, no default, no change afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Band(Section):
    psf_fwhm: Arcsec
    sky_sigma_nJy: PositiveFloat  # noqa: N815


class Survey(Section):
    instrument: str
    pixel_scale: Arcsec
    zero_point: Annotated[float, Field(ge=-10, le=40)]
    target_psf_fwhm: Arcsec
    bands: Annotated[dict[Name, Band], Field(min_length=1)]


def _ascending(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise ValueError("must be a range, least first")
    return values


OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class SimulatedSurvey(Section):
    bands: Annotated[list[Name], Field(min_length=1)]
    stamp_pixels: Annotated[int, Field(ge=16, le=512)]
    electrons_per_nJy: PositiveFloat  # noqa: N815
    read_noise_electrons: Annotated[float, Field(ge=0)]
    host_magnitude: Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
    theta_e_arcsec: Annotated[list[Arcsec], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class SimulatedSource(Section):
    kind: Literal["simulated"]
    seed: Seed
    lenses: Count
    non_lenses: Count
    unlabelled: Count
    supersampling: Annotated[int, Field(ge=1, le=8)]
    arc_snr_min: Annotated[float, Field(ge=0)]
    flux_ratio: Annotated[list[OpenFraction], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
    surveys: Annotated[dict[Name, SimulatedSurvey], Field(min_length=1)]
    batch_objects: Positive
    jobs: Jobs


class BolognaSource(Section):
    kind: Literal["bologna"]
    challenge: Literal["ground", "space"]
    path: str | None  # a local folder or archive; null: download
    mirrors: list[Annotated[str, Field(pattern=r"^https?://")]]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class CutoutsSource(Section):
    kind: Literal["cutouts"]
    path: str  # a folder in the `cutouts` contract
    files_per_archive: Annotated[int, Field(ge=512)]


Source = Annotated[SimulatedSource | BolognaSource | CutoutsSource, Field(discriminator="kind")]


class LabelProvenance(Section):
    claim_ranks: dict[str, Count]
    confidence_min: Fraction
    one_sided_limit: Annotated[float, Field(ge=0.5, le=1)]
    one_sided_allowed: list[Name]


class Convert(Section):
    objects_per_stack: Annotated[int, Field(ge=1, le=65536)]
    objects_per_batch: Positive
    jobs: Jobs
    max_file_mib: Positive
    max_pixels: Positive
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
PretrainTarget = Literal["z_spec", "half_light_radius", "sersic_index", "axis_ratio"]


class Shard(Section):
    objects_per_shard: Annotated[int, Field(ge=512)]
    stamp_pixels: Annotated[int, Field(ge=16, le=512)]
    pixel_scale_min: Arcsec
    features: list[Feature]
    bands: Annotated[list[Name], Field(min_length=1)]


class Pretrain(Section):
    epochs: Count
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    batch_size: Positive
    warmup_fraction: Fraction
    gradient_clip_norm: PositiveFloat
    targets: Annotated[list[PretrainTarget], Field(min_length=1)]
    seed: Seed


class Fit(Section):
    size: Literal["tiny", "base"]
    epochs: Positive
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0)]
    batch_size: Positive
    effective_batch_size: Positive
    warmup_fraction: Fraction
    gradient_clip_norm: PositiveFloat
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    patience_epochs: Positive
    threads: Jobs
    seed: Seed


class Train(Section):
    arch: Name
    partners: Annotated[list[Name], Field(min_length=2, max_length=2)]
    fit: Fit

    @property
    def members(self) -> list[str]:
        """The architectures of the ensemble, each once, in the order named."""
        return list(dict.fromkeys([self.arch, *self.partners]))


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
