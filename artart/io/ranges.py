"""Ranges of settings, as annotations of parameters: `batch_size: Count = 32`. `artart.config.schema` checks them."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Predicate
from pydantic import Field

MIN_IMAGE_SIZE = 8
MAX_IMAGE_SIZE = 8192  # limits the memory that a checkpoint can make artart reserve


@dataclass(frozen=True)
class Rule(Predicate):
    """A condition, and its description for errors and docs/configuration.md."""

    words: str


Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
ImageSize = Annotated[int, Field(ge=MIN_IMAGE_SIZE, le=MAX_IMAGE_SIZE)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
