"""Kills runs at random moments, lets them go on, and compares every byte with an uninterrupted run.

python -m tests.support.soak --kills 100
"""

import argparse
import csv
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen
from typing import Any

import torch

import main_TOD
from tests.support.forks import Process, one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS
from tests.support.loading import refused
from tests.support.saves import save_after_each_epoch

RUN = [
    *TINY_DIGITS,
    "--set=active_learning.trials=2",
    "--set=active_learning.initial_labels=20",
    "--set=active_learning.query_size=12",
    "--set=training.epochs=3",
    "--set=training.milestones=[2]",
]
SCRIPTS = {"main_TOD.py": "TOD", "main_LL4AL.py": "LL4AL"}


def start(
    script: str,
    output_dir: Path,
    *arguments: object,
    launcher: Sequence[object] = (),
    how: type[Popen] = Process,
    first: Callable[[], None] = save_after_each_epoch,
    **settings: Any,
) -> Popen:
    """Starts an entry script on the soak's run; all that it prints goes to a pipe.

    A cold one, with `how=Popen`, calls nothing first.
    """
    run = (PROJECT_DIR / script, *RUN, f"--output-dir={output_dir}", *arguments)
    pipes = {"stdin": DEVNULL, "stdout": PIPE, "stderr": STDOUT, "text": True}
    return how([sys.executable, *launcher, *run], env=one_thread(first), **pipes | settings)


def outcome(process: Popen) -> tuple[int, str]:
    output, _ = process.communicate()
    return process.returncode, output


def refusal(output_dir: Path, *arguments: object) -> str:
    """The one line with which main_TOD.py refuses the soak's run, in this process."""
    return refused(main_TOD.main, [*RUN, f"--output-dir={output_dir}", *map(str, arguments)])


def run_folder(script: str, output_dir: Path) -> Path:
    """Where a run of `start` puts its results."""
    method = SCRIPTS[script]
    return output_dir / f"digits_auxiliary_{method}_sampling_{method}_seed0"


def results(folder: Path) -> dict[str, object]:
    """All that must be the same in two runs, by file."""
    assert not list((folder / "progress").iterdir())
    found: dict[str, object] = {"learning_curve.png": (folder / "learning_curve.png").read_bytes()}
    for row in csv.DictReader((folder / "results.csv").open()):
        del row["train_seconds"]
        found[f"results.csv, trial {row['trial']}, cycle {row['cycle']}"] = row
    for path in sorted((folder / "queries").iterdir()):
        found[f"queries/{path.name}"] = path.read_bytes()
    for path in sorted((folder / "weights").iterdir()):
        for network, state in torch.load(path, weights_only=True).items():
            tensors = state.items() if isinstance(state, dict) else [("", torch.tensor(state))]
            for name, tensor in tensors:
                found[f"weights/{path.name} {network} {name}"] = tensor.numpy().tobytes()
    return found


def differences(a: dict[str, object], b: dict[str, object]) -> list[str]:
    return [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]


def computed(process: Popen, limit: float = math.inf) -> float:
    """Kills a process that computes for more than so many seconds; how many it has, at its end.

    These do not depend on how busy the machine is.
    """
    seconds = 0.0
    while process.poll() is None:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if seconds > limit:
            process.kill()
        time.sleep(0.01)
    return seconds


def soak(script: str, kills: int, output_dir: Path, seed: int = 0) -> int:
    """Kills `kills` times; returns how many runs ended, each the same as the uninterrupted one."""
    moments = random.Random(f"{script} {seed}")
    process = start(script, output_dir / "reference")
    seconds = computed(process)
    status, output = outcome(process)
    assert status == 0, output
    expected = results(run_folder(script, output_dir / "reference"))

    ended, killed = 0, 0
    while killed < kills or ended == 0:
        process = start(script, output_dir / "killed")
        computed(process, moments.uniform(0.1, 1.0) * seconds if killed < kills else math.inf)
        status, output = outcome(process)
        if status == -signal.SIGKILL:
            killed += 1
            continue
        assert status == 0, output
        differing = differences(expected, results(run_folder(script, output_dir / "killed")))
        assert not differing, f"{script} ended otherwise after {killed} kills: {differing}"
        ended += 1
        shutil.rmtree(output_dir / "killed")
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each entry script (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    for script in SCRIPTS:
        with tempfile.TemporaryDirectory() as folder:
            ended = soak(script, arguments.kills, Path(folder), arguments.seed)
        print(f"{script}: {arguments.kills} kills, {ended} runs ended, all as uninterrupted")


if __name__ == "__main__":
    main()
