"""Trials dealt out to several processes by torchrun."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen

from tests.support.forks import Process, one_thread
from tests.support.harness import PROJECT_DIR
from tests.support.processes import wait_for
from tests.support.saves import wait_after_two_saves
from tests.support.several_ranks import RUN, free_port
from tests.support.soak import differences, results, run_folder

SHORT_RUN = [*RUN, "--set=training.epochs=2", "--set=training.milestones=[1]"]


def torchrun(
    processes: int,
    output_dir: Path,
    *arguments: str,
    rendezvous: Sequence[str] = ("--standalone",),
    how: type[Popen] = Process,
    first: Callable[[], None] | None = None,
) -> Popen:
    """Starts main_TOD.py as so many ranks of one node; what they print goes to one pipe."""
    command = [sys.executable, "-m", "torch.distributed.run", *rendezvous]
    return how(
        [
            *command,
            f"--nproc_per_node={processes}",
            PROJECT_DIR / "main_TOD.py",
            *arguments,
            f"--output-dir={output_dir}",
        ],
        env=one_thread(first),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
    )


def assert_same(output_dir: Path, expected: Path) -> None:
    a, b = (results(run_folder("main_TOD.py", folder)) for folder in (output_dir, expected))
    assert not differences(a, b)


def second_save(output_dir: Path, trial: int = 1) -> Path:
    """The file that a trial has once it has saved a second state."""
    return run_folder("main_TOD.py", output_dir) / "progress" / f"trial{trial}.before.pt"


def rank_of_trial(trial: int, output_dir: Path) -> int:
    """The process id of the rank that has this trial, from the locks that the kernel lists."""
    lock = run_folder("main_TOD.py", output_dir) / ".locks" / f"trial{trial}"
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        found = re.search(rf"WRITE (\d+) \S+:{inode} 0 EOF$", line)
        if found:
            return int(found[1])
    raise AssertionError(f"no process has trial {trial}")


def test_ranks_give_the_bytes_of_one_process_and_one_log_that_names_them(tmp_path, alone):
    process = torchrun(2, tmp_path, *RUN, how=Popen)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_same(tmp_path, alone)
    log = (run_folder("main_TOD.py", tmp_path) / "log.txt").read_text(encoding="utf-8")
    lines = [line for line in log.splitlines() if "Test acc" in line]
    dealt = {re.match(r"\[rank (\d)\] .* Trial:(\d)/3 ", line).groups() for line in lines}
    assert dealt == {("0", "1"), ("1", "2"), ("0", "3")}
    # One table, from whoever ends last, and over all trials.
    assert log.count("test accuracy in %") == 1
    assert log.count("(3)") == 2


def test_nodes_share_out_the_trials_of_one_run(tmp_path, alone):
    address = ("--nnodes=2", "--master_addr=127.0.0.1", f"--master_port={free_port()}")
    nodes = [
        torchrun(1, tmp_path, *RUN, rendezvous=(*address, f"--node_rank={node}")) for node in (0, 1)
    ]
    outputs = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    for rank, output in enumerate(outputs):
        lines = [line for line in output.splitlines() if "Test acc" in line]
        assert lines and all(line.startswith(f"[rank {rank}] ") for line in lines)
    assert_same(tmp_path, alone)


def test_a_rank_that_dies_takes_no_other_trial_with_it(tmp_path, alone):
    process = torchrun(2, tmp_path, *RUN, first=wait_after_two_saves)
    for trial in (1, 2):
        wait_for(second_save(tmp_path, trial), process)
    os.kill(rank_of_trial(2, tmp_path), signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode != 0
    # torchrun stops the other rank with SIGTERM, which saves.
    assert "[rank 0] interrupted; the same command again continues" in output
    again = torchrun(2, tmp_path, *RUN)
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert "continuing with trial 1, cycle " in output
    assert_same(tmp_path, alone)


def test_a_finished_run_and_a_refused_one_are_answered_once(tmp_path):
    arguments = [*SHORT_RUN, "--set=active_learning.trials=2"]
    shown = []
    for further in ((), (), ("--set=training.momentum=0.5",)):
        process = torchrun(3, tmp_path, *arguments, *further)
        shown.append((process.communicate()[0], process.returncode))
    (first, _), (again, _), (refused, _) = shown
    assert [status != 0 for _, status in shown] == [False, False, True]
    assert first.count("test accuracy in %") == again.count("test accuracy in %") == 1
    assert again.count("is finished") == 1
    assert refused.count("holds a run with another training.momentum") == 1
    # Whatever traceback there is, is torchrun's alone.
    assert str(PROJECT_DIR / "tod") not in refused


def test_more_ranks_than_trials_and_starting_afresh(tmp_path):
    for arguments in ((), ("--overwrite",)):
        process = torchrun(3, tmp_path, *SHORT_RUN, "--set=active_learning.trials=2", *arguments)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert output.count("Test acc") == 4
        assert "is finished" not in output
