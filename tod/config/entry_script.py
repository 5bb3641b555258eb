"""What an entry script offers, and its command line."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tod.config import Config, InputError, load, read_run
from tod.config.cli import Parser, filled
from tod.config.identity import Command, Identity, Options
from tod.config.schema import OWN_IMAGES

if TYPE_CHECKING:
    from losses import AuxiliaryLoss
    from tod.strategies.pool import Pool, Query


@dataclass(frozen=True)
class Strategy:
    """A sampling strategy, and what it needs of a configuration.

    Attributes:
        query: chooses from a pool.
        why_unsuitable: why it cannot work with a configuration; None where it can.
        always_with: `KEY=VALUE` of the configuration that it means, whatever this says.
        takes_features: whether it looks at `Pool.representation`, which `--features` replaces.
    """

    query: "Callable[[Pool], Query]"
    why_unsuitable: Callable[[Config], str | None] = lambda config: None
    always_with: tuple[str, ...] = ()
    takes_features: bool = False

    def __call__(self, pool: "Pool") -> "Query":
        return self.query(pool)


@dataclass(frozen=True)
class EntryScript:
    """What an entry script offers; `default` names both a strategy and a loss."""

    name: str
    description: str
    sampling: Mapping[str, "Strategy | Callable[[Pool], Query]"]
    auxiliary: Mapping[str, "type[AuxiliaryLoss]"]
    default: str

    def strategy(self, name: str) -> Strategy:
        """A strategy; one that is listed as a plain function needs nothing."""
        listed = self.sampling[name]
        return listed if isinstance(listed, Strategy) else Strategy(listed)

    def method(self, identity: Identity) -> tuple[Strategy, "type[AuxiliaryLoss]"]:
        """The strategy and the loss of a run."""
        return self.strategy(identity.sampling), self.auxiliary[identity.auxiliary]


def parse(script: EntryScript, argv: Sequence[str] | None = None) -> Command:
    """What the command line of an entry script (None: the process's) asks for.

    Raises:
        InputError: the configuration is wrong.
        SystemExit: with status 2 after one line, where an argument is wrong.
    """
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
    config = load(typed.config, typed.settings, typed.data_dir)
    if config.facts.from_people:
        typed.settings = [*_recorded_settings(script, typed, config), *typed.settings]
        config = load(typed.config, typed.settings, typed.data_dir)
    elif always := script.strategy(typed.sampling).always_with:
        config = load(typed.config, [*typed.settings, *always], typed.data_dir)
    typed.trials = typed.trials or range(1, config.active_learning.trials + 1)
    for name, why in _contradictions(typed, config):
        parser.error(f"argument --{name}: {why}")
    identity = _identity(script, typed, config)
    return filled(Command, typed, identity=identity, options=filled(Options, typed), arguments=own)


def _identity(script: EntryScript, typed: argparse.Namespace, config: Config) -> Identity:
    settings = tuple(typed.settings)
    return filled(Identity, typed, config=config, entry=script.name, settings=settings)


def _recorded_settings(
    script: EntryScript, typed: argparse.Namespace, config: Config
) -> Sequence[str]:
    """The `--set` with which people's run has begun, so that later rounds may leave it out."""
    folder = typed.output_dir / _identity(script, typed, config).folder_name
    if not (folder / "config.yaml").exists():
        return []
    advice = "bring back the file as it was"
    settings = read_run(folder, advice)["run"].get("settings", [])
    if not isinstance(settings, list) or not all(isinstance(each, str) for each in settings):
        raise InputError(f"{folder / 'config.yaml'}: run.settings is no list of texts; {advice}")
    return settings


def _contradictions(typed: argparse.Namespace, config: Config) -> Iterator[tuple[str, str]]:
    """The arguments that make no sense with the configuration, and why."""
    trials = config.active_learning.trials
    if typed.trials[-1] > trials:
        yield "trials", f"there are {trials} trials (active_learning.trials)"
    if not config.facts.from_people:
        for name in ("labels", "relabel", "partial"):
            if getattr(typed, name):
                yield name, f"is for people's labels (--config {OWN_IMAGES})"
        if config.active_learning.initial == "typical" and not typed.features:
            yield "features", "active_learning.initial=typical needs a file"
        return
    if typed.processes > 1 and typed.parallel == "trials":
        yield "processes", "people label for one trial; --parallel data shares it"
    if typed.overwrite:
        words = "would lose the labels that people have given; name another --output-dir, and give"
        yield "overwrite", f"{words} them to it by --labels RUN_FOLDER/labels.csv"
    if typed.features:
        yield "features", f"is for datasets whose order is known, not for {OWN_IMAGES}"
