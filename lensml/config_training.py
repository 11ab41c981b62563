"""Types and bounds of what networks are trained with, params.yaml: pretrain and train."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lensml.config_types import (
    Count,
    Fraction,
    Jobs,
    Name,
    OpenFraction,
    Positive,
    PositiveFloat,
    Section,
    Seed,
)

NonNegative = Annotated[float, Field(ge=0)]
Precision = Literal["32-true", "bf16-mixed"]
PretrainTarget = Literal["z_spec", "half_light_radius", "sersic_index", "axis_ratio"]


class Pretrain(Section):
    epochs: Count
    learning_rate: PositiveFloat
    weight_decay: NonNegative
    batch_size: Positive
    warmup_fraction: Fraction
    gradient_clip_norm: PositiveFloat
    targets: Annotated[list[PretrainTarget], Field(min_length=1)]
    seed: Seed


class Plateau(Section):
    factor: OpenFraction  # of the learning rate, each time
    patience_epochs: Count  # without a higher validation AUPRC


class Constraints(Section):
    """Weights of the physics terms by the names that networks give them; a network takes those that it knows."""

    lens_equation: NonNegative
    mass_conservation: NonNegative
    shear_consistency: NonNegative
    mass_follows_light: NonNegative
    theta_e: NonNegative
    colour_consistency: NonNegative


class Physics(Section):
    constraints: Constraints
    warmup_epochs: Count  # before the weights are whole
    required: list[Name]  # architectures that must know a term whose weight is not 0


class Augment(Section):
    """The most of each change of a training stamp; 0 leaves it out."""

    turns: bool
    shift_pixels: Fraction
    psf_jitter: Annotated[float, Field(ge=0, le=0.2)]  # of the PSF's FWHM
    depth_mag: Annotated[float, Field(ge=0, le=3)]


class Hardware(Section):
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Positive
    nodes: Positive
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    gradient_compression: Literal["none", "fp16", "bf16", "powersgd"]
    memory_share: Fraction  # of a GPU's memory, which a batch may take


class Fit(Section):
    size: Literal["tiny", "base"]
    epochs: Positive
    learning_rate: PositiveFloat
    schedule: Literal["cosine", "plateau"]
    plateau: Plateau
    weight_decay: NonNegative
    ema_decay: Annotated[float, Field(ge=0, lt=1)]  # of the averaged weights, per step; 0: none
    batch_size: Positive
    effective_batch_size: Positive
    warmup_fraction: Fraction
    gradient_clip_norm: PositiveFloat
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)]
    patience_epochs: Positive
    precision: dict[Name, Precision]  # by architecture, and `default`
    physics: Physics
    augment: Augment
    hardware: Hardware
    threads: Jobs
    seed: Seed

    @model_validator(mode="after")
    def _precise(self) -> "Fit":
        if "default" not in self.precision:
            raise ValueError("precision must have a default")
        return self

    def precision_of(self, arch: str | None) -> Precision:
        return self.precision.get(arch or "", self.precision["default"])


class Train(Section):
    arch: Name
    partners: Annotated[list[Name], Field(min_length=2, max_length=2)]
    fit: Fit

    @property
    def members(self) -> list[str]:
        """The architectures of the ensemble, each once, in the order named."""
        return list(dict.fromkeys([self.arch, *self.partners]))
