"""What a configuration holds: every key, its type and range, and its default if it has one."""

import json
import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo
from pydantic.functional_validators import AfterValidator, field_validator

from tod.config.settings import expanded

TRAINING_SET_SIZES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "svhn": 73_257,
    "caltech101": 7_766,
    "digits": 1_437,
}
SIDES = {"digits": 8}
"""Of the images, in pixels, where they are no files; of the other datasets', 32."""
OWN_IMAGES = "own_images"
DATASETS = (*TRAINING_SET_SIZES, "image_folder", OWN_IMAGES)
FILE_DATASETS = ("caltech101", "image_folder", OWN_IMAGES)

Count = Annotated[int, Field(ge=1, le=10**9)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Up to the largest float32, in which the networks compute.
Positive = Annotated[float, Field(gt=0, le=3.4e38)]
NonNegative = Annotated[float, Field(ge=0, le=3.4e38)]


def _path(value: Any) -> str:
    # A text of pydantic's would be UTF-8, as a folder's name need not be.
    if not isinstance(value, str) or not value.strip() or b"\0" in os.fsencode(value):
        raise ValueError("no path")
    return expanded(value)


class Section(BaseModel):
    """Settings that belong together: all of them, no others, and none that changes.

    Attributes:
        used_by: the arguments that choose who reads them, such as `--auxiliary TOD`; none: all do.
            Runs of others are compared whatever stands here.
    """

    used_by: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True
    )

    @field_validator("*")
    @classmethod
    def _note(cls, value: Any, info: ValidationInfo) -> Any:
        """Notes each valid value, whatever else is wrong, for `tod.config` to compare."""
        if info.context is not None:
            info.context[info.field_name] = value
        return value


class Model(Section):
    """The backbone."""

    name: Literal["resnet", "imagenet_resnet"]
    width: int = Field(64, ge=1, le=1024)
    pretrained: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)


class Images(Section):
    """How image files become tensors; what is null is taken from the data."""

    resize: int | None = Field(None, ge=1, le=4096)
    size: int | None = Field(None, ge=1, le=4096)
    mean: tuple[Fraction, ...] | None = Field(None, min_length=3, max_length=3, strict=False)
    std: tuple[Positive, ...] | None = Field(None, min_length=3, max_length=3, strict=False)
    unreadable: Literal["refuse", "skip"] = "refuse"
    test_share: float | None = Field(None, gt=0, lt=1)


class Augmentation(Section):
    """The random views of training images."""

    flip: bool
    crop_padding: int = Field(ge=0, le=224)


class ActiveLearning(Section):
    """Trials, cycles and how many images are labelled in each.

    `initial_labels` may be null: all images, in a single cycle. Where people give the labels,
    `cycles` is null, since it goes on until they stop, and `initial_labels: null` is `query_size`.
    """

    trials: int = Field(ge=1, le=1000)
    cycles: Count | None
    initial_labels: int | None = Field(ge=2, le=10**9)
    query_size: Count
    subset_size: Count
    initial: Literal["random", "balanced", "typical"] = "random"
    imbalance: float | None = Field(None, ge=1, le=1e6)
    audit_share: float = Field(0.0, ge=0, lt=1)

    def labels_of_cycles(self, num_images: int) -> list[int]:
        """How many labelled images each cycle trains on, of so many training images."""
        first = self.initial_labels or num_images
        return [first + i * self.query_size for i in range(self.cycles)]

    def among_cycles(self, cycle: int) -> str:
        """A cycle as in `2/7`; alone where nobody knows how many there will be."""
        return f"{cycle}/{self.cycles}" if self.cycles else str(cycle)


class Training(Section):
    """One cycle's SGD."""

    batch_size: int = Field(ge=2, le=10**9)
    epochs: Count
    lr: Positive
    momentum: float = Field(ge=0, lt=1)
    weight_decay: NonNegative
    milestones: tuple[Count, ...] = Field(strict=False)
    fresh_weights: bool = False


class COD(Section):
    """The COD loss."""

    used_by = ("--auxiliary TOD",)

    weight: NonNegative
    ema_decay: Fraction
    fixed_batch_in_first_cycle: bool


class LL4AL(Section):
    """The loss-prediction module."""

    used_by = ("--auxiliary LL4AL", "--sampling LL4AL")

    margin: NonNegative
    weight: NonNegative
    detach_epoch: int = Field(ge=0, le=10**9)


class Scoring(Section):
    """How the pool is scored."""

    augment: bool
    lowest_in_first_cycle: bool = True


class Config(Section):
    """A checked configuration; `name` is the file's, without its ending."""

    dataset: Literal[DATASETS]
    data_dir: Annotated[Any, AfterValidator(_path)] = "data"
    model: Model
    images: Images = Field({})  # checked like one from a file
    augmentation: Augmentation
    active_learning: ActiveLearning
    training: Training
    cod: COD
    ll4al: LL4AL
    scoring: Scoring
    _name: str = ""

    @property
    def name(self) -> str:
        return self._name

    @property
    def side(self) -> int:
        """Of the images that the network sees, in pixels."""
        return self.images.size or self.images.resize or SIDES.get(self.dataset, 32)

    def as_dict(self) -> dict[str, Any]:
        """The configuration as plain lists, dicts and values, without its name."""
        return json.loads(json.dumps(self.model_dump()))


KEYS = [
    key
    for name, field in Config.model_fields.items()
    for key in (name, *(f"{name}.{k}" for k in getattr(field.annotation, "model_fields", ())))
]
