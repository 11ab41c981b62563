"""The types that sections of params.yaml are made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Jobs = Annotated[int, Field(ge=1, le=256)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Arcsec = Annotated[float, Field(gt=0, le=60)]
PositiveFloat = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Url = Annotated[str, Field(pattern=r"^https?://")]
Scheduler = Annotated[str, Field(pattern=r"^[a-z]+://")]


def ascending(values: list[float]) -> list[float]:
    """Refuse a range that descends."""
    if values[0] > values[1]:
        raise ValueError("must be a range, least first")
    return values


Range = Annotated[list[PositiveFloat], Field(min_length=2, max_length=2), AfterValidator(ascending)]


class Section(BaseModel):
    """A section of params.yaml: no conversion, no unknown key, no default, no change afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
