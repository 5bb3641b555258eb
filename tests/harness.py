"""What several tests need: the entry scripts as processes, and a digits run of seconds."""

import os
import subprocess
import sys
from pathlib import Path

import command_line

PROJECT_DIR = Path(__file__).resolve().parent.parent

TINY_DIGITS = [
    "--config=digits",
    "--device=cpu",
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
