"""Reads, overrides and checks a configuration; every wrong key or value is named here.

Torch is never imported here, so that `--help` and refusals answer at once.
"""

import argparse
import dataclasses
import difflib
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

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


def integer(minimum: int) -> Rule:
    """A whole number of at least `minimum`; the upper bound is what a 64-bit index holds."""
    return _rule(
        f"a whole number of at least {minimum}",
        lambda v: _is_integer(v) and minimum <= v < 2**63,
    )


def number(words: str, accepts: Callable[[float], bool]) -> Rule:
    """A finite number for which `accepts` holds."""
    return _rule(words, lambda v: _is_number(v) and accepts(v), float)


def boolean() -> Rule:
    """True or false."""
    return _rule("true or false", lambda v: isinstance(v, bool))


def choice(*names: str) -> Rule:
    """One of `names`."""
    return _rule("one of " + ", ".join(names), lambda v: isinstance(v, str) and v in names)


def text() -> Rule:
    """A non-empty string."""
    return _rule("a text", lambda v: isinstance(v, str) and bool(v.strip()) and "\0" not in v)


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
    width: int = _setting(integer(1), default=64)
    pretrained: bool = _setting(boolean(), default=False)


@dataclass(frozen=True, kw_only=True)
class Images:
    """How image files become tensors; what is null is taken from the data."""

    resize: int | None = _setting(optional(integer(1)), default=None)
    size: int | None = _setting(optional(integer(1)), default=None)
    mean: tuple[float, ...] | None = _setting(optional(three(_fraction)), default=None)
    std: tuple[float, ...] | None = _setting(optional(three(_positive)), default=None)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The random views of training images."""

    flip: bool = _setting(boolean())
    crop_padding: int = _setting(integer(0))


@dataclass(frozen=True, kw_only=True)
class ActiveLearning:
    """Trials, cycles and how many images are labelled in each."""

    trials: int = _setting(integer(1))
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
        overrides: `KEY=VALUE` strings, the keys dotted (`training.epochs=20`), the values YAML.
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
        sources[key] = f"--set {override}"
    if data_dir is not None:
        values["data_dir"] = data_dir
        sources["data_dir"] = "--data-dir"
    problems: dict[str, str] = {}
    checked = _checked(Config, values, "", problems)
    if not problems:
        resolved = Config(name=path.stem, **checked)
        problems = _contradictions(resolved)
    if problems:
        shown_path = f"config/{path.name}" if named else path
        raise InputError(
            "\n".join(f"{sources.get(key, shown_path)}: {key}: {m}" for key, m in problems.items())
        )
    return resolved


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
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: is not YAML ({reason})") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no settings; copy a file from {CONFIG_DIR.name}/")
    return values


def _parse_override(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override}: write KEY=VALUE, as in --set training.epochs=20")
    try:
        return key.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"--set {override}: the value is not YAML") from None


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[last] = value


def _checked(section: type, values: Any, prefix: str, problems: dict[str, str]) -> dict[str, Any]:
    """The values of one section, converted; what is wrong goes to `problems` under its key."""
    if not isinstance(values, dict):
        problems[prefix.rstrip(".")] = f"{_shown(values)} is no section of KEY: VALUE lines"
        return {}
    fields = {f.name: f for f in dataclasses.fields(section) if f.name != "name" or prefix}
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            problems[f"{prefix}{key}"] = f"unknown key; the nearest known one is {prefix}{near[0]}"
    converted = {}
    for name, field in fields.items():
        key = prefix + name
        if name not in values:
            if field.default is dataclasses.MISSING:
                problems[key] = f"is missing; add it, {_expectation(field)}"
        elif "rule" in field.metadata:
            try:
                converted[name] = field.metadata["rule"].convert(values[name])
            except ValueError as error:
                problems[key] = f"{_shown(values[name])} is not {error}"
                problems[key] += _advice_on_number(values[name])
        else:
            problems_before = len(problems)
            nested = _checked(field.type, values[name], f"{key}.", problems)
            if len(problems) == problems_before:
                converted[name] = field.type(**nested)
    return converted


def _expectation(field: dataclasses.Field) -> str:
    if "rule" in field.metadata:
        return field.metadata["rule"].expected
    return "a section of " + ", ".join(f.name for f in dataclasses.fields(field.type))


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _advice_on_number(value: Any) -> str:
    """YAML reads `1e-4`, which has no dot, as text."""
    try:
        return (
            f"; to YAML this is text, write {_yaml_float(float(value))}"
            if isinstance(value, str)
            else ""
        )
    except ValueError:
        return ""


def _yaml_float(value: float) -> str:
    return yaml.safe_dump(value).split()[0]


def _contradictions(config: Config) -> dict[str, str]:
    """What is wrong between values that are each right, under the key to change."""
    problems = {}
    active, training = config.active_learning, config.training
    size = TRAINING_SET_SIZES.get(config.dataset)
    labels = active.initial_labels + (active.cycles - 1) * active.query_size
    if size and labels > size:
        problems["active_learning.query_size"] = too_many_labels(config, size)
    if active.query_size > active.subset_size and active.cycles > 1:
        problems["active_learning.subset_size"] = (
            f"{active.subset_size} is smaller than query_size {active.query_size}; "
            "as many images must be scored as are queried"
        )
    if training.milestones and training.milestones[-1] > training.epochs:
        problems["training.milestones"] = (
            f"{training.milestones[-1]} lies beyond the {training.epochs} epochs; "
            "lower it, or write [] for a constant learning rate"
        )
    if config.model.name == "resnet" and config.model.pretrained:
        problems["model.pretrained"] = (
            "true needs model.name imagenet_resnet; resnet has no weights"
        )
    if config.model.pretrained and config.model.width != 64:
        problems["model.width"] = (
            f"{config.model.width} has no ImageNet weights; write 64, or pretrained: false"
        )
    if config.dataset == "image_folder" and not config.images.size:
        problems["images.size"] = (
            "null has no meaning for image files of mixed sizes; write 32, say"
        )
    if config.images.resize and (config.images.size or 0) > config.images.resize:
        problems["images.size"] = (
            f"{config.images.size} is larger than resize {config.images.resize}, "
            "from which it is cropped"
        )
    return problems


def too_many_labels(config: Config, available: int) -> str:
    """The message for more labels than the `available` training images."""
    active = config.active_learning
    wanted = active.initial_labels + (active.cycles - 1) * active.query_size
    return (
        f"initial_labels + (cycles - 1) * query_size = {wanted} labels, but there are "
        f"{available} training images; lower initial_labels, cycles or query_size"
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an entry script: the configuration and what the command line adds to it."""

    config: Config
    entry: str
    sampling: str
    auxiliary: str
    seed: int
    output_dir: Path
    device: str
    trials: tuple[int, ...]
    overwrite: bool = False
    keep_weights: str = "all"

    @property
    def title(self) -> str:
        """What the printed lines begin with."""
        return f"{self.config.name} auxiliary:{self.auxiliary} sampling:{self.sampling}"

    @property
    def folder(self) -> Path:
        """Where the run's results go."""
        name = f"{self.config.name}_auxiliary_{self.auxiliary}_sampling_{self.sampling}"
        return self.output_dir / f"{name}_seed{self.seed}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of argparse's usage block."""
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def parse_arguments(
    description: str,
    sampling: Iterable[str],
    auxiliary: Iterable[str],
    argv: list[str] | None = None,
) -> Run:
    """Reads the command line of an entry script that offers these sampling strategies and losses.

    The last name of each is the default: the method that the script is named after.

    Raises:
        InputError: the configuration is wrong.
        SystemExit: with status 2 after one line, where an argument is wrong.
    """
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config",
        default="digits",
        metavar="NAME|FILE",
        help=f"{', '.join(config_names())}, or a YAML file (default: %(default)s)",
    )
    parser.add_argument(
        "--sampling",
        choices=sampling,
        default=list(sampling)[-1],
        help="which images are queried (default: %(default)s)",
    )
    parser.add_argument(
        "--auxiliary",
        choices=auxiliary,
        default=list(auxiliary)[-1],
        help="the loss beside the task loss (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="decides everything random (default: 0)"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="where the datasets lie (default: data)")
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="where the run's folder is made (default: results)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one value, as in --set training.epochs=20; as often as wanted",
    )
    parser.add_argument(
        "--trials",
        type=_trials,
        metavar="N|N-M",
        help="run only these trials, from 1 (default: all that the configuration asks for)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start afresh where the run's folder has results"
    )
    parser.add_argument(
        "--keep-weights",
        choices=("all", "last"),
        default="all",
        help="keep the weights of each cycle, or of each trial's last one (default: all)",
    )
    arguments = parser.parse_args(argv)
    config = load(arguments.config, arguments.set, arguments.data_dir)
    trials = arguments.trials or (1, config.active_learning.trials)
    if trials[1] > config.active_learning.trials:
        parser.error(
            f"argument --trials: there are {config.active_learning.trials} trials "
            "(active_learning.trials)"
        )
    return Run(
        config=config,
        entry=Path(sys.argv[0]).name,
        sampling=arguments.sampling,
        auxiliary=arguments.auxiliary,
        seed=arguments.seed,
        output_dir=arguments.output_dir,
        device=arguments.device,
        trials=tuple(range(trials[0], trials[1] + 1)),
        overwrite=arguments.overwrite,
        keep_weights=arguments.keep_weights,
    )


def _seed(value: str) -> int:
    if not value.isdecimal() or not int(value) < 2**63:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number from 0 to 2**63 - 1")
    return int(value)


def _trials(value: str) -> tuple[int, int]:
    first, dash, last = value.partition("-")
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"{value} is not a trial, like 2, or a range, like 1-3")
    return int(first), int(last)


@contextmanager
def exit_status() -> Iterator[None]:
    """Turns bad input into its message and status 2, and an early SIGINT into status 130."""
    try:
        yield
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
