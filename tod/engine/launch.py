"""Starts what a command asks for: a run in this process, or several processes."""

import sys
from dataclasses import replace
from pathlib import Path

from tod.config import PROJECT_DIR, InputError
from tod.config.entry_script import EntryScript
from tod.config.identity import Command
from tod.system.files import reason, sha256


def launch(script: EntryScript, command: Command) -> None:
    """Runs the command of an entry script, in this process or in several that it starts.

    The libraries of a run take seconds to import, so they are imported only once there is work.
    """
    command = checked(script, command)
    identity, options, processes = command.identity, command.options, command.processes
    sampling, auxiliary = script.method(identity)

    from tod.runs.ranks import PROCESSES, Ranks, ranks_from_environment, run_as_ranks, started_by

    if command.parallel == "trials":
        processes = min(processes, len(command.trials))
    if processes > 1 and started_by() is None:
        start = [sys.executable, str(PROJECT_DIR / script.name), *command.arguments]
        sys.exit(run_as_ranks(start, processes))
    if processes > 1 and started_by() != PROCESSES:
        raise InputError("--processes: torchrun has started the processes; leave it out")
    if command.parallel == "data" and started_by() is None:
        raise InputError(
            "--parallel data: shares a trial among several processes; add --processes 2, say, or "
            f"start them by torchrun --nproc_per_node=2 {script.name} --parallel data"
        )

    from tod.engine.dataset_oracle import DatasetOracle
    from tod.engine.experiment import run_experiment
    from tod.engine.people_oracle import PeopleOracle
    from tod.engine.ranks import DataParallel

    ranks, group = ranks_from_environment(), DataParallel()
    if command.parallel == "data" and ranks.world_size > 1:
        group = DataParallel(ranks.rank, ranks.world_size, options.device)
        ranks = Ranks()  # all of them run every trial
    if identity.config.facts.from_people:
        oracle = PeopleOracle(identity, command.labels, command.relabel, command.partial)
        if not ranks.is_main_process:
            return  # there is one trial
    else:
        chosen = command.trials, command.overwrite, command.features
        oracle = DatasetOracle(identity, *chosen, ranks)
    with group:
        run_experiment(identity, sampling, auxiliary, options, oracle, group)


def checked(script: EntryScript, command: Command) -> Command:
    """The command with the digest of its features; InputError if the run would be refused."""
    identity = command.identity
    strategy, _ = script.method(identity)
    if why := strategy.why_unsuitable(identity):
        raise InputError(f"--sampling {identity.sampling}: {why}")
    model = identity.config.model
    if model.is_linear and not model.sees_a_file:
        from models.extractor import Extractor

        Extractor(model.extractor, model.extractor_size)  # refuses a name that is none
    is_used = strategy.takes_features or identity.config.active_learning.initial_compares_images
    is_used |= model.sees_a_file
    if command.features and is_used:
        try:
            identity = replace(identity, features=sha256(command.features))
        except OSError as error:
            raise InputError(
                f"--features: {command.features} cannot be read ({reason(error)}); name a .npy file"
            ) from None
    _refuse_what_is_no_folder(command.options.output_dir / identity.folder_name)
    return replace(command, identity=identity)


def _refuse_what_is_no_folder(path: Path) -> None:
    try:
        nearest = next(p for p in (path, *path.parents) if p.exists())
        if nearest.is_dir():
            return
        why = f"{nearest} is no folder"
    except OSError as error:
        why = reason(error)
    raise InputError(f"--output-dir: {path} cannot be written ({why}); name another place")
