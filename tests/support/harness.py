"""What several tests need: the entry scripts as processes, and a digits run of seconds."""

import csv
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE, CompletedProcess, Popen
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import yaml
from torch import Tensor, nn

import main_TOD
from losses import AuxiliaryLoss
from tests.support.forks import Process, one_thread
from tod import config as configuration
from tod import data
from tod.analysis import records
from tod.config import PROJECT_DIR, Config, entry_script
from tod.config.entry_script import Strategy
from tod.config.identity import Identity, Options
from tod.engine.dataset_oracle import DatasetOracle
from tod.engine.device import prepare, select_device, select_precision, work_of_a_step
from tod.engine.experiment import environment, run_experiment
from tod.engine.launch import checked
from tod.engine.loop import Loop
from tod.engine.trial import Experiment, Trial
from tod.runs.folder import RunFolder
from tod.runs.monitor import Monitor
from tod.runs.signals import Interruption, handled_by
from tod.system.files import write_atomically

Loss = type[AuxiliaryLoss]
DEVICE = os.environ.get("TEST_DEVICE", "cpu")
"""Where the entry scripts run in the tests; TEST_DEVICE=cuda tests them on a GPU."""

TINY_DIGITS = [
    "--config=digits",
    f"--device={DEVICE}",
    "--precision=fp32",
    "--deterministic",
    "--set=model.width=4",
    "--set=active_learning.trials=1",
    "--set=active_learning.cycles=2",
    "--set=active_learning.initial_labels=40",
    "--set=active_learning.query_size=20",
    "--set=active_learning.subset_size=100",
    "--set=training.batch_size=16",
    "--set=training.lr=0.1",
    "--set=training.epochs=2",
    "--set=training.milestones=[1]",
]
"""Two cycles of two epochs on a narrow network."""


def run_script(
    script: str,
    *arguments: object,
    cwd: Path | None = None,
    start: type[Popen] = Process,
    first: Callable[[], None] | None = None,
    **environment: str,
) -> CompletedProcess:
    """Runs an entry script to its end, on one thread, and returns its status and output as text.

    With `start=Popen`, it starts cold; else it calls `first` before anything.
    """
    command = [sys.executable, PROJECT_DIR / script, *map(str, arguments)]
    pipes = {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, "text": True}
    with start(command, cwd=cwd, env=one_thread(first, **environment), **pipes) as process:
        output = process.communicate()
    return CompletedProcess(command, process.returncode, *output)


def script_of(name: str) -> entry_script.EntryScript:
    return importlib.import_module(name.removesuffix(".py")).SCRIPT


class Run(NamedTuple):
    """What an entry script would run, to look into it from within."""

    identity: Identity
    options: Options
    further: dict[str, Any]
    """The further arguments of the oracle."""

    @property
    def config(self) -> Config:
        return self.identity.config

    @property
    def folder(self) -> Path:
        return self.options.output_dir / self.identity.folder_name

    def method(self) -> tuple[Strategy, Loss]:
        """What the run is named after."""
        return script_of(self.identity.entry).method(self.identity)

    def start(self, sampling: Strategy | None = None) -> None:
        """Runs it to its end, or goes on with it; with another strategy, if one is given."""
        own, auxiliary = self.method()
        oracle = self.oracle()
        run_experiment(self.identity, sampling or own, auxiliary, self.options, oracle)

    def oracle(self) -> DatasetOracle:
        """Labels what the run queries."""
        return DatasetOracle(self.identity, **self.further)

    def stop_after(self, steps: int) -> None:
        """Runs it until SIGTERM comes in this optimiser step, from 1; it saves its state there."""
        with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as leaving:
            stop_in_step(patched, steps)
            self.start()
        assert leaving.value.code == 143

    @contextmanager
    def loop(self, number: int = 1) -> Iterator[Loop]:
        """The loop over one of its trials, before the first cycle, in an open folder."""
        config, trials = self.config, self.further["chosen"]
        sampling, auxiliary = self.method()
        device = select_device(self.options.device)
        precision = select_precision(self.options.precision, device, work_of_a_step(config))
        prepare(device, precision, self.identity.deterministic)
        dataset = data.load(config, self.identity.seed)
        folder = RunFolder(self.folder, self.identity, trials, trials)
        interruption = Interruption("")
        experiment = Experiment(
            config, self.identity.seed, auxiliary, dataset, device, precision, interruption
        )
        with folder, handled_by(interruption.note), Monitor(config, 1, [40, 60]) as monitor:
            folder.claim()
            folder.open(environment(experiment, dataset.fingerprint()))
            experiment.load_features()
            trial, oracle = Trial(experiment, number), self.oracle()
            yield Loop(trial, oracle, sampling, folder, monitor, self.options)


def stop_in_step(patched: pytest.MonkeyPatch, step: int) -> list[Loop]:
    """Sends SIGTERM to this process in one of the next optimiser steps, from 1; lists these."""
    after_step, steps = Loop._after_step, []

    def count(loop: Loop) -> None:
        steps.append(loop)
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(loop)

    patched.setattr(Loop, "_after_step", count)
    return steps


def tiny_run(
    output_dir: Path,
    script: str = "main_TOD.py",
    sampling: str = "TOD",
    auxiliary: str = "TOD",
    *arguments: str,
) -> Run:
    """What the entry script would run for the tiny digits."""
    chosen = (f"--sampling={sampling}", f"--auxiliary={auxiliary}", *arguments)
    argv = [*TINY_DIGITS, f"--output-dir={output_dir}", *chosen]
    command = checked(script_of(script), entry_script.parse(script_of(script), argv))
    further = {"overwrite": command.overwrite, "features": command.features}
    return Run(command.identity, command.options, {"chosen": command.trials, **further})


def run_tod_alone(output_dir: Path, *arguments: object) -> Path:
    """Runs main_TOD.py on the tiny digits in this process, without the COD loss; its folder."""
    given = (f"--output-dir={output_dir}", "--auxiliary=NONE", *map(str, arguments))
    main_TOD.main([*TINY_DIGITS, *given])
    (folder,) = output_dir.glob("digits_auxiliary_NONE_*")
    return folder


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states are the same, bit for bit."""
    return all(torch.equal(a[name], b[name]) for name in a)


def checkpoint(folder: Path, cycle: int) -> dict[str, Any]:
    """The weights that the first trial of a run has published after a cycle."""
    return torch.load(folder / "weights" / f"trial1_cycle{cycle}.pth", weights_only=True)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_undrawn(path: Path, draw: Callable[[], bytes], mark: str = "") -> None:
    """Takes the place of `records._write_picture` where pictures are not the subject."""
    write_atomically(path, b"not drawn")


def without_pictures() -> AbstractContextManager[object]:
    """Runs in this process write their pictures without drawing them."""
    return patch.object(records, "_write_picture", write_undrawn)


def python_in(page: str) -> list[str]:
    """The Python code that a page of the documentation shows, in its order."""
    text = (PROJECT_DIR / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def write_run(
    output_dir: Path,
    accuracies: Sequence[Sequence[float]],
    *,
    config: str = "digits",
    sampling: str = "TOD",
    auxiliary: str = "NONE",
    seed: int = 0,
    cycles: int = 3,
    diagnostics: Sequence[str] = (),
    **run: object,
) -> Path:
    """Writes a run folder by hand: 100 labels at first, then 50 a cycle.

    Args:
        accuracies: of each trial, in % by cycle, as far as it has got.
        cycles: of a finished trial.
        diagnostics: further columns, which hold cycle + 0.1 · trial, and in the last cycle nothing.
        run: added to the section of config.yaml.
    """
    folder = output_dir / f"{config}_auxiliary_{auxiliary}_sampling_{sampling}_seed{seed}"
    folder.mkdir(parents=True)
    lines = [",".join(("trial", "cycle", "num_labeled", "test_accuracy", *diagnostics))]
    for trial, of_trial in enumerate(accuracies, start=1):
        for cycle, accuracy in enumerate(of_trial, start=1):
            value = "" if cycle == cycles else str(cycle + trial / 10)
            cells = (trial, cycle, 50 + 50 * cycle, accuracy, *[value] * len(diagnostics))
            lines.append(",".join(map(str, cells)))
    (folder / "results.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = configuration.load(config, [f"active_learning.cycles={cycles}"]).as_dict()
    chosen = {"sampling": sampling, "auxiliary": auxiliary, "seed": seed, "data": "x"}
    settings["run"] = chosen | run
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder
