"""Reads, overrides and checks a configuration; every wrong key or value is named here.

Torch is never imported here, so that `--help` and refusals answer at once.
"""

import dataclasses
import difflib
import itertools
import math
import os
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CONFIG_DIR = Path(__file__).resolve().parent / "config"

TRAINING_SET_SIZES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "svhn": 73_257,
    "caltech101": 7_766,
    "digits": 1_437,
}
DATASETS = (*TRAINING_SET_SIZES, "image_folder")
FILE_DATASETS = ("caltech101", "image_folder")
LARGEST_FLOAT32 = 3.4e38


class InputError(Exception):
    """Bad input: the message is one line for the user that says what to do; exit status 2."""


class Rule(NamedTuple):
    """What a value must be, in words, and a function that converts it or raises ValueError."""

    expected: str
    convert: Callable[[Any], Any]


def _rule(expected: str, accepts: Callable[[Any], bool], convert: Callable = lambda v: v) -> Rule:
    def checked(value: Any) -> Any:
        if not accepts(value):
            raise ValueError(expected)
        return convert(value)

    return Rule(expected, checked)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if not _is_integer(value) and not isinstance(value, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def integer(minimum: int, maximum: int = 10**9) -> Rule:
    """A whole number from `minimum` to `maximum`."""
    return _rule(
        f"a whole number from {minimum} to {maximum:,}",
        lambda v: _is_integer(v) and minimum <= v <= maximum,
    )


def number(words: str, accepts: Callable[[float], bool]) -> Rule:
    """A number for which `accepts` holds and which is finite in the networks' float32."""
    return _rule(words, lambda v: _is_number(v) and abs(v) <= LARGEST_FLOAT32 and accepts(v), float)


def boolean() -> Rule:
    """True or false."""
    return _rule("true or false", lambda v: isinstance(v, bool))


def choice(*names: str) -> Rule:
    """One of `names`."""
    return _rule("one of " + ", ".join(names), lambda v: isinstance(v, str) and v in names)


def text() -> Rule:
    """A non-empty string."""
    return _rule("a text", lambda v: isinstance(v, str) and bool(v.strip()) and _is_path(v))


def _is_path(value: str) -> bool:
    try:
        return b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def optional(rule: Rule) -> Rule:
    """Null, or what `rule` asks for."""
    return Rule(f"{rule.expected}, or null", lambda v: None if v is None else rule.convert(v))


def three(rule: Rule) -> Rule:
    """A list of three values, one for each colour channel."""
    return _rule(
        f"a list of three values (red, green, blue), each {rule.expected}",
        lambda v: isinstance(v, (list, tuple)) and len(v) == 3 and _all_accepted(rule, v),
        lambda v: tuple(map(rule.convert, v)),
    )


def increasing(rule: Rule) -> Rule:
    """A list, each value larger than the one before it."""
    return _rule(
        f"an increasing list, each value {rule.expected}",
        lambda v: (
            isinstance(v, (list, tuple))
            and _all_accepted(rule, v)
            and all(a < b for a, b in itertools.pairwise(v))
        ),
        tuple,
    )


def _all_accepted(rule: Rule, values: Sequence[Any]) -> bool:
    try:
        for value in values:
            rule.convert(value)
    except ValueError:
        return False
    return True


_positive = number("a finite number above 0", lambda v: v > 0)
_non_negative = number("a finite number of at least 0", lambda v: v >= 0)
_below_one = number("a number from 0 to below 1", lambda v: 0 <= v < 1)
_fraction = number("a number from 0 to 1", lambda v: 0 <= v <= 1)


def _setting(rule: Rule, **default: Any) -> Any:
    return dataclasses.field(metadata={"rule": rule}, **default)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The backbone."""

    name: str = _setting(choice("resnet", "imagenet_resnet"))
    width: int = _setting(integer(1, 1024), default=64)
    pretrained: bool = _setting(boolean(), default=False)


@dataclass(frozen=True, kw_only=True)
class Images:
    """How image files become tensors; what is null is taken from the data."""

    resize: int | None = _setting(optional(integer(1, 4096)), default=None)
    size: int | None = _setting(optional(integer(1, 4096)), default=None)
    mean: tuple[float, ...] | None = _setting(optional(three(_fraction)), default=None)
    std: tuple[float, ...] | None = _setting(optional(three(_positive)), default=None)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The random views of training images."""

    flip: bool = _setting(boolean())
    crop_padding: int = _setting(integer(0, 224))


@dataclass(frozen=True, kw_only=True)
class ActiveLearning:
    """Trials, cycles and how many images are labelled in each."""

    trials: int = _setting(integer(1, 1000))
    cycles: int = _setting(integer(1))
    initial_labels: int = _setting(integer(2))
    query_size: int = _setting(integer(1))
    subset_size: int = _setting(integer(1))


@dataclass(frozen=True, kw_only=True)
class Training:
    """One cycle's SGD."""

    batch_size: int = _setting(integer(2))
    epochs: int = _setting(integer(1))
    lr: float = _setting(_positive)
    momentum: float = _setting(_below_one)
    weight_decay: float = _setting(_non_negative)
    milestones: tuple[int, ...] = _setting(increasing(integer(1)))


@dataclass(frozen=True, kw_only=True)
class COD:
    """The COD loss (`--auxiliary TOD`)."""

    weight: float = _setting(_non_negative)
    ema_decay: float = _setting(_fraction)
    fixed_batch_in_first_cycle: bool = _setting(boolean())


@dataclass(frozen=True, kw_only=True)
class LL4AL:
    """The loss-prediction module."""

    margin: float = _setting(_non_negative)
    weight: float = _setting(_non_negative)
    detach_epoch: int = _setting(integer(0))


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How the pool is scored."""

    augment: bool = _setting(boolean())
    lowest_in_first_cycle: bool = _setting(boolean(), default=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A checked configuration; `name` is the file's, without its ending."""

    name: str
    dataset: str = _setting(choice(*DATASETS))
    data_dir: str = _setting(text(), default="data")
    model: Model
    images: Images = Images()
    augmentation: Augmentation
    active_learning: ActiveLearning
    training: Training
    cod: COD
    ll4al: LL4AL
    scoring: Scoring

    def as_dict(self) -> dict[str, Any]:
        """The configuration as plain lists, dicts and values, without its name."""
        plain = {k: v for k, v in dataclasses.asdict(self).items() if k != "name"}
        return {k: _without_tuples(v) for k, v in plain.items()}


def _without_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_tuples(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def config_names() -> list[str]:
    """The names that `--config` takes besides a path."""
    return sorted(p.stem for p in CONFIG_DIR.glob("*.yaml"))


def load(config: str, overrides: Sequence[str] = (), data_dir: str | None = None) -> Config:
    """Reads `config`, a name from `config/` or a path to a YAML file, and checks it whole.

    Args:
        config: the name or path.
        overrides: `KEY=VALUE` strings, the keys dotted (`training.lr=0.1`), the values YAML.
        data_dir: replaces the configuration's.

    Raises:
        InputError: the file cannot be read, or anything in it is wrong; all problems are listed,
            a line each.
    """
    named = config in config_names()
    path = CONFIG_DIR / f"{config}.yaml" if named else Path(config)
    values = _read_yaml(path)
    # A run folder's config.yaml is a configuration too, but for what its own run added.
    values.pop("run", None)
    sources = {}
    for override in overrides:
        key, value = _parse_override(override)
        _put(values, key, value)
        sources[".".join(map(_shown_key, key.split(".")))] = f"--set {shortened(override)}"
    if data_dir is not None:
        values["data_dir"] = data_dir
        sources["data_dir"] = "--data-dir"
    problems: dict[str, str] = {}
    valid: dict[str, Any] = {}
    checked = _checked(Config, values, "", problems, valid)
    problems |= _contradictions(valid)
    if problems:
        shown_path = f"config/{path.name}" if named else str(path)
        raise InputError(
            "\n".join(
                f"{_source(key, sources) or shown_path}: {key}: {message}"
                for key, message in problems.items()
            )
        )
    return Config(name=path.stem, **checked)


def _source(key: str, sources: dict[str, str]) -> str | None:
    """The override that set `key`, or a key within it."""
    for overridden, source in sources.items():
        if key == overridden or overridden.startswith(f"{key}."):
            return source
    return None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"--config {path}: no such file, and no configuration of this name "
            f"(there are {', '.join(config_names())})"
        ) from None
    except OSError as error:
        raise InputError(f"--config {path}: cannot be read ({error.strerror})") from None
    # PyYAML lets many kinds of errors through, for `!!int ''` an IndexError.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: is not YAML ({shortened(reason)})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no settings; copy a file from {CONFIG_DIR.name}/")
    return values


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise InputError(
            f"--set {shortened(override)}: write KEY=VALUE, as in --set training.lr=0.05"
        )
    try:
        return key.strip(), yaml.safe_load(value)
    except Exception:
        raise InputError(f"--set {shortened(override)}: the value is not YAML") from None


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[last] = value


def _checked(
    section: type, values: Any, prefix: str, problems: dict[str, str], valid: dict[str, Any]
) -> dict[str, Any]:
    """The values of one section, converted, and in `valid` under their dotted keys.

    What is wrong goes to `problems` under its key.
    """
    if not isinstance(values, dict):
        problems[prefix.rstrip(".")] = f"{_shown(values)} is no section of KEY: VALUE lines"
        return {}
    fields = {f.name: f for f in dataclasses.fields(section) if f.name != "name" or prefix}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(_shown_key(key), fields, n=1, cutoff=0.0)
            problems[f"{prefix}{_shown_key(key)}"] = (
                f"unknown key; the nearest known one is {prefix}{near[0]}"
            )
    converted = {}
    for name, field in fields.items():
        key = prefix + name
        if name not in values:
            if field.default is not dataclasses.MISSING:
                if "rule" in field.metadata:
                    valid[key] = field.default
            else:
                problems[key] = f"is missing; add it, {_expectation(field)}"
        elif "rule" in field.metadata:
            try:
                rule = field.metadata["rule"]
                converted[name] = valid[key] = rule.convert(values[name])
            except ValueError as error:
                advice = _advice_on_number(rule, values[name])
                problems[key] = f"{_shown(values[name])} is not {error}{advice}"
        else:
            problems_before = len(problems)
            nested = _checked(field.type, values[name], f"{key}.", problems, valid)
            if len(problems) == problems_before:
                converted[name] = field.type(**nested)
    return converted


def _expectation(field: dataclasses.Field) -> str:
    if "rule" in field.metadata:
        return field.metadata["rule"].expected
    return "a section of " + ", ".join(f.name for f in dataclasses.fields(field.type))


_short = reprlib.Repr()
_short.maxlevel = 3
_short.maxstring = _short.maxlong = _short.maxother = 60


def _shown(value: Any) -> str:
    """A value as one short line, however long, deep or recursive it is."""
    try:
        return shortened(_short.repr(value))
    except ValueError:  # Python writes out no integer of more than 4,300 digits.
        return "this huge number"


def _shown_key(key: Any) -> str:
    """A key as it is where it could be one, else as a value: `training.lr` as one key is none."""
    return shortened(key) if isinstance(key, str) and key.isidentifier() else _shown(key)


def shortened(line: str, length: int = 100) -> str:
    """Text as part of a message: printable, and not long."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return shown if len(shown) <= length else shown[: length - 3] + "..."


def _advice_on_number(rule: Rule, value: Any) -> str:
    """YAML reads `1e-4`, which has no dot, as text."""
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return f"; to YAML this is text, write {_yaml_number(rule.convert(kind(value)))}"
    return ""


def _yaml_number(value: float) -> str:
    return yaml.safe_dump(value).split()[0]


Contradiction = Iterator[tuple[str, str]]


def _contradictions(valid: dict[str, Any]) -> dict[str, str]:
    """What is wrong between values that are each right, under the key to change."""
    problems = {}
    for check in (
        _labels_beyond_images,
        _queries_beyond_subset,
        _milestones_beyond_epochs,
        _weights_of_another_network,
        _unknown_image_size,
        _images_never_resized,
    ):
        # Where a value is missing or wrong, what it contradicts cannot be told.
        with suppress(KeyError):
            problems.update(check(valid))
    return problems


def _labels_beyond_images(valid: dict[str, Any]) -> Contradiction:
    problem = too_many_labels(
        valid["active_learning.initial_labels"],
        valid["active_learning.cycles"],
        valid["active_learning.query_size"],
        TRAINING_SET_SIZES.get(valid["dataset"]),
    )
    if problem is not None:
        yield "active_learning.query_size", problem


def _queries_beyond_subset(valid: dict[str, Any]) -> Contradiction:
    subset_size = valid["active_learning.subset_size"]
    query_size = valid["active_learning.query_size"]
    if query_size > subset_size:
        yield (
            "active_learning.subset_size",
            f"{subset_size} is smaller than query_size {query_size}; "
            "as many images must be scored as are queried",
        )


def _milestones_beyond_epochs(valid: dict[str, Any]) -> Contradiction:
    last, epochs = max(valid["training.milestones"], default=0), valid["training.epochs"]
    if last > epochs:
        yield (
            "training.milestones",
            f"{last} lies beyond the {epochs} epochs; "
            "lower it, or write --set training.milestones=[] for a constant learning rate",
        )


def _weights_of_another_network(valid: dict[str, Any]) -> Contradiction:
    if not valid["model.pretrained"]:
        return
    if valid["model.name"] == "resnet":
        yield (
            "model.pretrained",
            "true needs model.name imagenet_resnet; there are no weights for resnet",
        )
    if valid["model.width"] != 64:
        yield (
            "model.width",
            f"{valid['model.width']} has no ImageNet weights; write 64, or pretrained: false",
        )


def _unknown_image_size(valid: dict[str, Any]) -> Contradiction:
    size, resize = valid["images.size"], valid["images.resize"]
    if valid["dataset"] in FILE_DATASETS and not size and not resize:
        yield "images.size", "null has no meaning for image files of mixed sizes; write 32, say"
    if size and resize and size > resize:
        yield "images.size", f"{size} is larger than resize {resize}, from which it is cropped"


def _images_never_resized(valid: dict[str, Any]) -> Contradiction:
    dataset = valid["dataset"]
    if dataset not in FILE_DATASETS:
        for key in ("images.size", "images.resize"):
            if valid[key]:
                yield (
                    key,
                    f"{valid[key]} is for image files; {dataset} has a size of its own, write null",
                )


def too_many_labels(
    initial_labels: int, cycles: int, query_size: int, available: int | None
) -> str | None:
    """The message for more labels than the `available` training images; None where they suffice."""
    wanted = initial_labels + (cycles - 1) * query_size
    if available is None or wanted <= available:
        return None
    return (
        f"initial_labels + (cycles - 1) * query_size = {wanted} labels, but there are "
        f"{available} training images; lower initial_labels, cycles or query_size"
    )
