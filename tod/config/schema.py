"""What a configuration holds: every key, its type and range, and its default if it has one."""

import json
import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo
from pydantic.functional_validators import AfterValidator, field_validator

from tod.config.settings import expanded

OWN_IMAGES = "own_images"


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What is known of a dataset before it is read; its loader is in `tod.data`."""

    training_images: int | None = None
    paper_images: int | None = None  # of which the paper's label shares are; else the training set
    side: int = 32  # of the images in pixels, unless they are scaled or cropped
    are_files: bool = False  # of any size
    read_as_published: bool = False  # as TOD's published code reads files
    split_by_seed: bool = False  # into training and test images, always
    test_share: bool = False  # may be drawn by the seed
    from_people: bool = False  # their labels


DATASETS = {
    "cifar10": DatasetFacts(training_images=50_000),
    "cifar100": DatasetFacts(training_images=50_000),
    "svhn": DatasetFacts(training_images=73_257),
    "caltech101": DatasetFacts(
        training_images=7_766,
        paper_images=8_677,
        are_files=True,
        read_as_published=True,
        split_by_seed=True,
    ),
    "digits": DatasetFacts(training_images=1_437, side=8),
    "image_folder": DatasetFacts(are_files=True, test_share=True),
    OWN_IMAGES: DatasetFacts(are_files=True, from_people=True),
}

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

    Where they are `used_by` some methods alone, runs of others are compared whatever stands here.
    """

    used_by: ClassVar[tuple[str, ...]] = ()  # such as `--auxiliary TOD`; (): all

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

    name: Literal["resnet", "imagenet_resnet", "linear"]
    width: int = Field(64, ge=1, le=1024)
    pretrained: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    extractor: str | None = "efficientnet_lite0"
    extractor_size: int | None = Field(None, ge=32, le=2048)

    @property
    def is_linear(self) -> bool:
        """Whether it sees features instead of images."""
        return self.name == "linear"

    @property
    def sees_a_file(self) -> bool:
        """Whether it sees the features in the file of `--features`, and not an extractor's."""
        return self.is_linear and self.extractor is None

    @property
    def takes_imagenet_weights(self) -> bool:
        return self.pretrained and not self.is_linear


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
    initial: Literal["random", "balanced", "typical", "herding"] = "random"
    imbalance: float | None = Field(None, ge=1, le=1e6)
    audit_share: float = Field(0.0, ge=0, lt=1)
    check_share: float = Field(0.0, ge=0, lt=1)
    target_accuracy: float | None = Field(None, ge=1, le=100)

    @property
    def initial_compares_images(self) -> bool:
        """Whether the first labels are chosen by features."""
        return self.initial in ("typical", "herding")

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

    dataset: Literal[tuple(DATASETS)]
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
    def facts(self) -> DatasetFacts:
        """What is known of the dataset."""
        return DATASETS[self.dataset]

    @property
    def side(self) -> int:
        """Of the images that the network sees, in pixels."""
        return self.images.size or self.images.resize or self.facts.side

    @property
    def needs_features(self) -> str | None:
        """The setting that needs the file of `--features`, as KEY=VALUE; None if none does."""
        if self.model.sees_a_file:
            return "model.extractor=null"
        if self.active_learning.initial_compares_images and not self.model.is_linear:
            return f"active_learning.initial={self.active_learning.initial}"
        return None

    def as_dict(self) -> dict[str, Any]:
        """The configuration as plain lists, dicts and values, without its name."""
        return json.loads(json.dumps(self.model_dump()))


KEYS = [
    key
    for name, field in Config.model_fields.items()
    for key in (name, *(f"{name}.{k}" for k in getattr(field.annotation, "model_fields", ())))
]
