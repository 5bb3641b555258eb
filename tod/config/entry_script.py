"""The strategies and losses of an entry script, and its command line."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tod.config import Config, InputError, load, read_run
from tod.config.cli import Parser, filled
from tod.config.identity import Command, Identity, Options
from tod.config.schema import OWN_IMAGES


@dataclass(frozen=True)
class Strategy:
    """A sampling strategy and its requirements."""

    query: Callable[[Any], Any]  # from a `Pool` to a `Query`
    needs: Callable[[Config], str | None] = lambda config: (
        None
    )  # why it cannot work with the configuration, if so
    needs_auxiliary: str | None = None  # the loss whose module it asks (`Pool.predictions`)
    always_with: tuple[str, ...] = ()  # `KEY=VALUE` overrides that define it
    takes_features: bool = False  # looks at `Pool.representation`, which `--features` replaces

    def why_unsuitable(self, identity: Identity) -> str | None:
        """Why it cannot work in a run; None if it can."""
        if self.needs_auxiliary not in (None, identity.auxiliary):
            return f"asks what another loss trains: add --auxiliary {self.needs_auxiliary}"
        return self.needs(identity.config)

    def __call__(self, pool: Any) -> Any:
        return self.query(pool)


@dataclass(frozen=True)
class EntryScript:
    """The strategies and losses of an entry script; `default` names one of each."""

    name: str
    description: str
    sampling: Mapping[str, Strategy | Callable[[Any], Any]]
    auxiliary: Mapping[str, type]
    default: str

    def strategy(self, name: str) -> Strategy:
        """The strategy of this name; one listed as a plain function has no requirements."""
        listed = self.sampling[name]
        return listed if isinstance(listed, Strategy) else Strategy(listed)

    def method(self, identity: Identity) -> tuple[Strategy, type]:
        """The strategy and the loss of a run."""
        return self.strategy(identity.sampling), self.auxiliary[identity.auxiliary]


def parse(script: EntryScript, argv: Sequence[str] | None = None) -> Command:
    """Parses the command line of an entry script; by default, that of this process."""
    own = sys.argv[1:] if argv is None else list(argv)
    parser = Parser(prog=script.name, description=script.description)
    parser.add_fields(
        Identity,
        config={"default": "digits"},
        sampling={"choices": [*script.sampling], "default": script.default},
        auxiliary={"choices": [*script.auxiliary], "default": script.default},
    )
    data_dir = "where the datasets lie (default: as configured)"
    parser.add_argument("--data-dir", metavar="DIR", help=data_dir)
    parser.add_fields(Options)
    parser.add_fields(Command)
    typed = parser.parse_args(own)

    def identity_with(settings: Sequence[str], always: Sequence[str] = ()) -> Identity:
        config = load(typed.config, [*settings, *always], typed.data_dir)
        return filled(Identity, typed, config=config, entry=script.name, settings=(*settings,))

    identity = identity_with(typed.settings)
    if identity.config.facts.from_people:
        recorded = _recorded_settings(typed.output_dir / identity.folder_name)
        identity = identity_with([*recorded, *typed.settings])
    elif always := script.strategy(typed.sampling).always_with:
        identity = identity_with(typed.settings, always)
    typed.trials = typed.trials or range(1, identity.config.active_learning.trials + 1)
    for name, why in _contradictions(typed, identity.config):
        parser.error(f"argument --{name}: {why}")
    return filled(Command, typed, identity=identity, options=filled(Options, typed), arguments=own)


def _recorded_settings(folder: Path) -> Sequence[str]:
    """The `--set` with which a run of people's labels began, so that later rounds may omit it."""
    if not (folder / "config.yaml").exists():
        return []
    advice = "bring back the file as it was"
    settings = read_run(folder, advice)["run"].get("settings", [])
    if not isinstance(settings, list) or not all(isinstance(each, str) for each in settings):
        raise InputError(f"{folder / 'config.yaml'}: run.settings is no list of texts; {advice}")
    return settings


def _contradictions(typed: argparse.Namespace, config: Config) -> Iterator[tuple[str, str]]:
    """The arguments that contradict the configuration, and why."""
    trials = config.active_learning.trials
    if typed.trials[-1] > trials:
        yield "trials", f"there are {trials} trials (active_learning.trials)"
    if not config.facts.from_people:
        for name in ("labels", "relabel", "partial"):
            if getattr(typed, name):
                yield name, f"is for people's labels (--config {OWN_IMAGES})"
        if config.needs_features and not typed.features:
            yield "features", f"{config.needs_features} needs a file"
        return
    if typed.processes > 1 and typed.parallel == "trials":
        yield "processes", "people label for one trial; --parallel data shares it"
    if typed.overwrite:
        words = "would lose the labels that people have given; name another --output-dir, and give"
        yield "overwrite", f"{words} them to it by --labels RUN_FOLDER/labels.csv"
    if typed.features:
        yield "features", f"is for datasets whose order is known, not for {OWN_IMAGES}"
