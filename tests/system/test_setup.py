"""The set-up that run.sh and test.sh share."""

import os
import signal
import subprocess
import time

import pytest

from tests.support.harness import PROJECT_DIR

PIP_THAT_CATCHES_SIGINT = """#!/bin/sh
[ "$1" = -m ] || exit 0
trap 'exit 1' INT
touch asked
sleep 60 &
wait
"""


@pytest.mark.parametrize("script", ["run.sh", "test.sh"])
def test_ctrl_c_while_pip_looks_for_packages_ends_the_script(tmp_path, script):
    python = tmp_path / "python"
    python.write_text(PIP_THAT_CATCHES_SIGINT)
    python.chmod(0o755)
    (tmp_path / "python3").symlink_to(python)
    found = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        ["bash", PROJECT_DIR / script],
        cwd=tmp_path,
        env={**os.environ, "PATH": found},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "asked").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    printed = process.communicate(timeout=30)
    assert (process.returncode, *printed) == (130, "", "interrupted\n")
