"""What several tests need: the entry scripts as processes, and a digits run of seconds."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

import command_line
import configuration

PROJECT_DIR = Path(__file__).resolve().parent.parent

DEVICE = os.environ.get("TEST_DEVICE", "cpu")
"""Where the entry scripts run in the tests; TEST_DEVICE=cuda tests them on a GPU."""

TINY_DIGITS = [
    "--config=digits",
    f"--device={DEVICE}",
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
    script: str, *arguments: object, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Runs an entry script to its end, on one thread, and returns its status and output as text."""
    return subprocess.run(
        [sys.executable, PROJECT_DIR / script, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def tiny_run(
    output_dir: Path,
    script: str = "main_TOD.py",
    sampling: str = "TOD",
    auxiliary: str = "TOD",
    *arguments: str,
) -> command_line.Run:
    """What the entry script would run for the tiny digits, to look into it from within."""
    both = {"main_TOD.py": "TOD", "main_LL4AL.py": "LL4AL"}[script]
    return command_line.parse_arguments(
        script,
        ("RANDOM", both),
        ("NONE", both),
        [
            *TINY_DIGITS,
            f"--output-dir={output_dir}",
            f"--sampling={sampling}",
            f"--auxiliary={auxiliary}",
            *arguments,
        ],
    )


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
        output_dir: where the folder is made.
        accuracies: of each trial, in % by cycle, as far as it has got.
        config: the configuration's name, after which the folder is called.
        sampling, auxiliary, seed: the strategy, and what it began with.
        cycles: of a finished trial.
        diagnostics: further columns; in a trial's cycle c they hold c + 0.1 · trial, and in the
            last cycle nothing.
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
    settings["run"] = {"sampling": sampling, "auxiliary": auxiliary, "seed": seed, "data": "x"}
    settings["run"] |= run
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder
