"""Reads, overrides and checks the configuration; names every wrong key and value."""

import difflib
import reprlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tod.config.schema import DATASETS, KEYS, OWN_IMAGES, Config, DatasetFacts
from tod.config.settings import expanded, parse, put, shortened

PROJECT_DIR = Path(__file__).resolve().parents[2]
CONFIG_DIR = PROJECT_DIR / "config"


class InputError(Exception):
    """Bad input: a message of one line that tells the user what to do; exit status 2."""


def config_names() -> list[str]:
    """The names that `--config` accepts besides a path."""
    return sorted(p.stem for p in CONFIG_DIR.glob("*.yaml"))


def load(config: str, overrides: Sequence[str] = (), data_dir: str | None = None) -> Config:
    """Reads `config`, a name from `config/` or a path to a YAML file, and checks it whole.

    The overrides are `KEY=VALUE`, with dotted keys (`training.lr=0.1`) and values in YAML. One
    InputError names all errors, a line each.
    """
    names = config_names()
    path = CONFIG_DIR / f"{config}.yaml" if config in names else Path(expanded(config))
    settings = _read(path, f"--config takes a file, or one of {', '.join(names)}")
    # A run folder's config.yaml is a configuration too, apart from the section of its run.
    settings.pop("run", None)
    sources = {}
    for override in overrides:
        source = f"--set {shortened(override)}"
        try:
            sources[put(settings, override)] = source
        except ValueError as error:
            raise InputError(f"{source}: {error}; write KEY=VALUE") from None
    if data_dir is not None:
        settings["data_dir"] = data_dir
        sources["data_dir"] = "--data-dir"
    valid, problems = {}, []
    try:
        checked = Config.model_validate(settings, context=valid)
        checked._name = path.stem
    except ValidationError as error:
        # One error for each key, and of a list the first wrong value.
        by_key = groupby(error.errors(), lambda problem: problem["loc"][:2])
        problems = [_in_words(next(group)) for _, group in by_key]
    lines = []
    for key, message in (*problems, *_contradictions(valid)):
        source = f"config/{path.name}" if config in names else path
        for overridden, by in sources.items():
            # An override is the source of its key, of keys within it, and of its section.
            if f"{key}.".startswith(f"{overridden}.") or overridden.startswith(f"{key}."):
                source = by
        lines.append(f"{source}: {key or 'a key'}: {message}")
    if lines:
        raise InputError("\n".join(lines))
    return checked


def _in_words(problem: dict[str, Any]) -> tuple[str, str]:
    """The key that pydantic refuses, and why; pydantic's message where it is clear."""
    key = shortened(".".join(map(str, problem["loc"][:2])))
    shown = "this huge number"  # Python converts no integer of more than 4,300 digits to text
    with suppress(ValueError):
        shown = shortened(reprlib.repr(problem["input"]))
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        (near,) = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)
        return key, f"unknown key; the nearest known one is {near}"
    words = {
        "missing": "is missing; add it as in config/digits.yaml",
        "model_type": f"{shown} is no section of KEY: VALUE lines",
        "bool_type": f"{shown} should be true or false",
        "value_error": f"{shown} is no path; it should be a valid string, and not empty",
        "tuple_type": f"{shown} should be a list",
        "too_short": f"{shown} should be a list of three values, for red, green and blue",
        "too_long": f"{shown} should be a list of three values, for red, green and blue",
    }
    return key, words.get(problem["type"], problem["msg"].replace("Input", shown, 1))


WITH_PEOPLE = {
    "imbalance": (None, "needs all labels; write null"),
    "cycles": (None, "should be null: the rounds go on until you stop"),
    "trials": (1, "should be 1: people label once"),
}
"""The values of `active_learning` with labels from people, and why others make no sense."""


def _contradictions(valid: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Contradictions between values that are valid by themselves: the key to change, and why.

    `valid` has values by name; those that are missing or wrong are not compared.
    """
    dataset, facts = valid.get("dataset"), DATASETS.get(valid.get("dataset"), DatasetFacts())
    if facts.from_people:
        for key, (right, words) in WITH_PEOPLE.items():
            if valid.get(key, right) != right:
                yield f"active_learning.{key}", f"{valid[key]} {words}"
        initial, network = valid.get("initial", "random"), valid.get("name", "linear")
        if initial == "balanced":
            words = "balanced chooses among labels that nobody has given; write random"
            yield "active_learning.initial", words
        elif initial != "random" and network != "linear":
            words = "compares features, which model.name linear alone has before; write random"
            yield "active_learning.initial", f"{initial} {words}"
        if network == "linear" and valid.get("extractor", "") is None:
            words = "null is for the rows of --features, which people's images have not; name one"
            yield "model.extractor", words
        for kind in ("audit", "check"):
            if valid.get(f"{kind}_share") and valid.get("query_size") == 1:
                words = f"1 leaves no room for {kind}s; write 2 or more, or {kind}_share 0"
                yield "active_learning.query_size", words
    elif dataset:
        if valid.get("cycles", 0) is None:
            yield "active_learning.cycles", f"null is for {OWN_IMAGES}; write a number"
        for key in ("audit_share", "check_share"):
            if share := valid.get(key):
                yield f"active_learning.{key}", f"{share} is for {OWN_IMAGES}; write 0"
        if target := valid.get("target_accuracy"):
            yield "active_learning.target_accuracy", f"{target} is for {OWN_IMAGES}; write null"
    with suppress(KeyError, TypeError):  # a wrong null has been named already
        labels, cycles, query_size = (valid[k] for k in ("initial_labels", "cycles", "query_size"))
        if labels is None and cycles != 1 and not facts.from_people:
            words = "null is all images, which leaves none to query; write a number, or cycles: 1"
            yield "active_learning.initial_labels", words
        if problem := too_many_labels(labels, cycles, query_size, facts.training_images):
            yield "active_learning.query_size", problem
    with suppress(KeyError):
        query, subset, cycles = (valid[k] for k in ("query_size", "subset_size", "cycles"))
        if query > subset and cycles != 1:  # a single cycle queries nothing
            yield "active_learning.subset_size", f"{subset} is smaller than query_size {query}"
    with suppress(KeyError):
        milestones, epochs = list(valid["milestones"]), valid["epochs"]
        if milestones != sorted({*milestones}):
            yield "training.milestones", "each should be larger than the one before it"
        elif milestones and milestones[-1] > epochs:
            words = f"{milestones[-1]} lies beyond the {epochs} epochs; lower it, or write"
            yield "training.milestones", f"{words} milestones: [] for a constant learning rate"
    if valid.get("pretrained") and valid.get("name") != "linear":
        if valid.get("name", "imagenet_resnet") != "imagenet_resnet":
            yield "model.pretrained", "true needs model.name imagenet_resnet; change one of them"
        if valid.get("width", 64) != 64:
            yield "model.width", f"{valid['width']} has no ImageNet weights; write 64"
    if not dataset:
        return
    share = valid.get("test_share")
    if share is not None and not facts.test_share:
        words = f"{share} is for image_folder, and not for {dataset}; write null"
        yield "images.test_share", words
    with suppress(KeyError):
        size, resize = valid["size"], valid["resize"]
        if not facts.are_files:
            for key in (k for k in ("size", "resize") if valid[k]):
                yield f"images.{key}", f"{valid[key]} is for image files; for {dataset} write null"
        elif not size and not resize:
            yield "images.size", "null does not do for image files of mixed sizes; write 32, say"
        elif size and resize and size > resize:
            yield "images.size", f"{size} is larger than resize {resize}, from which it is cropped"


def too_many_labels(
    labels: int | None, cycles: int, query_size: int, available: int | None
) -> str | None:
    """The message for more labels than `available` training images; None if these suffice."""
    if labels is None:  # all images, whatever their number
        return None
    wanted = labels + (cycles - 1) * query_size
    if available is None or wanted <= available:
        return None
    words = f"{wanted} labels, but there are {available} training images; lower one of the three"
    return f"initial_labels + (cycles - 1) * query_size = {words}"


def read_run(folder: Path, advice: str) -> dict[str, Any]:
    """The `config.yaml` in a run's folder, with the section `run` that the run has added.

    Keys that an earlier version did not know have their defaults. If the file is missing or
    damaged, the message ends with `advice`.
    """
    settings = _read(folder / "config.yaml", advice, "run")
    for name, field in Config.model_fields.items():
        section = settings.get(name, field.default)
        if isinstance(section, dict):
            known = getattr(field.annotation, "model_fields", {})
            defaults = {k: f.default for k, f in known.items() if not f.is_required()}
            settings[name] = {**defaults, **section}
    return settings


def _read(path: Path, advice: str, section: str | None = None) -> dict[str, Any]:
    try:
        settings = parse(path.read_bytes())
        if not isinstance(settings, dict):
            raise ValueError("it holds no settings")
        if section and not isinstance(settings.get(section), dict):
            raise ValueError(f"it has no section {section}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{shortened(str(path), 150)}: cannot be read ({reason}); {advice}"
        ) from None
    return settings
