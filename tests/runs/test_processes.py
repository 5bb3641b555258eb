"""Several processes for one run, by --processes, and for each of its trials, by --parallel data."""

import csv
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen

import pytest

from tests.runs.test_ranks import SHORT_RUN, assert_same, rank_of_trial, second_save, torchrun
from tests.support.forks import FORK_SERVER, Process, one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, run_script
from tests.support.people import People
from tests.support.processes import wait_for
from tests.support.saves import wait_after_two_saves
from tests.support.several_ranks import RUN, free_port
from tests.support.soak import run_folder

ON_CPU = [*TINY_DIGITS, "--device=cpu"]
"""Ranks that share a trial cannot share a GPU, and a machine may have but one."""
SHORT_DATA = [*ON_CPU, "--parallel=data"]
DATA = [*ON_CPU, "--set=training.epochs=3", "--set=training.milestones=[2]", "--parallel=data"]


def start(
    output_dir: Path,
    *arguments: str,
    script: str = "main_TOD.py",
    first: Callable[[], None] | None = None,
) -> Popen:
    """Starts an entry script, whose processes print to one pipe."""
    return Process(
        [sys.executable, PROJECT_DIR / script, *arguments, f"--output-dir={output_dir}"],
        env=one_thread(first),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
    )


def children_of(process: Popen) -> list[int]:
    """The processes that it has started, in their order, but for the one that forks them."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    names = {int(child): Path(f"/proc/{child}/comm").read_text() for child in children}
    return sorted(child for child, name in names.items() if name != f"{FORK_SERVER}\n")


def wait_until_it_has_ended(process: int, seconds: float = 60.0) -> None:
    """Waits for a process of another's."""
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, f"{process} goes on"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """The output folder of two processes that shared one trial."""
    output_dir = tmp_path_factory.mktemp("shared")
    process = start(output_dir, *DATA, "--processes=2")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output_dir


def test_processes_share_out_the_trials(tmp_path, alone):
    process = start(tmp_path, *RUN, "--processes=9")  # at most as many as there are trials
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_same(tmp_path, alone)
    dealt = set(re.findall(r"\[rank (\d)\] .* Trial:(\d)/3 ", output))
    assert dealt == {("0", "1"), ("1", "2"), ("2", "3")}
    assert output.count("test accuracy in %") == 1


def test_where_one_process_dies_the_others_save_and_the_same_command_goes_on(tmp_path, alone):
    process = start(tmp_path, *RUN, "--processes=2", first=wait_after_two_saves)
    for trial in (1, 2):
        wait_for(second_save(tmp_path, trial), process)
    os.kill(rank_of_trial(2, tmp_path), signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGKILL
    assert "[rank 0] interrupted; the same command again continues" in output
    again = start(tmp_path, *RUN, "--processes=2")
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert "continuing with trial 1, cycle " in output
    assert_same(tmp_path, alone)


@pytest.mark.parametrize(
    ("arguments", "number"), [(RUN, signal.SIGINT), (DATA, signal.SIGTERM)], ids=["trials", "data"]
)
def test_a_signal_reaches_all_processes_which_end_with_its_status(
    tmp_path, alone, shared, arguments, number
):
    process = start(tmp_path, *arguments, "--processes=2", first=wait_after_two_saves)
    wait_for(second_save(tmp_path), process)
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == 128 + number, output
    assert "interrupted; the same command again continues" in output
    assert "failed" not in output and "Traceback" not in output
    again = start(tmp_path, *arguments, "--processes=2")
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert_same(tmp_path, alone if arguments == RUN else shared)


def test_a_refusal_is_one_line_of_rank_0_and_status_2(tmp_path):
    arguments = [*SHORT_RUN, "--set=active_learning.trials=2", "--processes=2"]
    assert start(tmp_path, *arguments).wait() == 0
    process = start(tmp_path, *arguments, "--set=training.momentum=0.5")
    output, _ = process.communicate()
    assert process.returncode == 2
    assert output.count("holds a run with another training.momentum") == 1
    assert "Traceback" not in output


def test_what_suits_no_process_is_refused_before_any_begins(tmp_path):
    process = start(tmp_path, *SHORT_RUN, "--sampling=BALD", "--processes=2")
    output, _ = process.communicate()
    assert process.returncode == 2
    assert output.startswith("--sampling BALD: needs dropout")
    assert len(output.splitlines()) == 1


# ------------------------------------------------------------------ --parallel data


def test_a_shared_trial_leaves_what_one_process_leaves(tmp_path, shared):
    done = run_script("main_TOD.py", *DATA[:-1], f"--output-dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    one, two = (run_folder("main_TOD.py", folder) for folder in (tmp_path, shared))
    names = [
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        for folder in (one, two)
    ]
    assert names[0] == names[1]
    lines = [
        (folder / "config.yaml").read_text(encoding="utf-8").splitlines() for folder in (one, two)
    ]
    assert set(lines[0]) ^ set(lines[1]) == {"  ranks: 1", "  ranks: 2"}
    rows = [list(csv.DictReader((folder / "results.csv").open())) for folder in (one, two)]
    assert [row["num_labeled"] for row in rows[0]] == [row["num_labeled"] for row in rows[1]]
    log = (two / "log.txt").read_text(encoding="utf-8")
    assert "rank" not in log
    assert log.count("Test acc") == 2


def test_torchrun_shares_a_trial_as_processes_do(tmp_path, shared):
    process = torchrun(2, tmp_path, *DATA, how=Popen)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_same(tmp_path, shared)
    finished = torchrun(2, tmp_path, *DATA)
    output, _ = finished.communicate()
    assert finished.returncode == 0, output
    assert output.count("is finished") == 1


def test_two_nodes_share_a_trial(tmp_path, shared):
    place = f"--rdzv_endpoint=127.0.0.1:{free_port()}"
    rendezvous = ("--nnodes=2", "--rdzv_id=1", "--rdzv_backend=c10d", place)
    nodes = [torchrun(1, tmp_path, *DATA, rendezvous=rendezvous) for _ in range(2)]
    outputs = [node.communicate()[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert_same(tmp_path, shared)


def test_another_number_of_ranks_goes_on_with_a_warning(tmp_path):
    two_trials = "--set=active_learning.trials=2"
    process = start(tmp_path, *SHORT_DATA, two_trials, "--processes=2", "--trials=1")
    process.communicate()
    assert process.returncode == 0
    alone = run_script("main_TOD.py", *ON_CPU, two_trials, f"--output-dir={tmp_path}")
    assert alone.returncode == 0, alone.stderr
    assert "the run began with ranks 2 and goes on with 1: its numbers may differ" in alone.stdout


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_stops_all_and_the_same_command_goes_on(tmp_path, shared, rank):
    process = start(tmp_path, *DATA, "--processes=2", first=wait_after_two_saves)
    wait_for(second_save(tmp_path), process)
    ranks = children_of(process)
    process.send_signal(signal.SIGSTOP)  # or it might stop the other before that has noticed
    os.kill(ranks[rank], signal.SIGKILL)
    os.kill(ranks[1 - rank], signal.SIGCONT)
    wait_until_it_has_ended(ranks[1 - rank])
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (2, 128 + signal.SIGKILL)
    assert f"[rank {1 - rank}] another rank has failed, and says why" in output
    assert "Traceback" not in output
    again = start(tmp_path, *DATA, "--processes=2")
    output, _ = again.communicate()
    assert again.returncode == 0, output
    assert "continuing with trial 1, cycle " in output
    assert_same(tmp_path, shared)


def test_three_ranks_share_ll4al(tmp_path):
    process = start(tmp_path, *SHORT_DATA, "--processes=3", script="main_LL4AL.py")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.count("Test acc") == 2


def test_a_refusal_of_a_shared_trial_is_one_line_too(tmp_path):
    assert start(tmp_path, *SHORT_DATA, "--processes=2").wait() == 0
    process = start(tmp_path, *SHORT_DATA, "--processes=2", "--set=training.momentum=0.5")
    output, _ = process.communicate()
    assert process.returncode == 2
    assert len(output.splitlines()) == 1
    assert "holds a run with another training.momentum" in output


@pytest.mark.parametrize("name", ["resnet", "imagenet_resnet"])
@pytest.mark.parametrize("kind", [("4", "fp32"), ("16", "bf16")], ids="-".join)
def test_a_rank_without_a_share_of_the_last_batch_trains_on(tmp_path, name, kind):
    width, precision = kind
    last_of_two = ("--set=active_learning.initial_labels=34", "--set=active_learning.cycles=1")
    network = (f"--set=model.name={name}", f"--set=model.width={width}", f"--precision={precision}")
    process = start(tmp_path, *SHORT_DATA, "--processes=2", *last_of_two, *network)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.count("Test acc") == 1


def test_a_shared_trial_that_diverges_says_so_once(tmp_path):
    process = start(tmp_path, *SHORT_DATA, "--processes=2", "--set=training.lr=1e30")
    output, _ = process.communicate()
    assert process.returncode == 2
    assert output.count("is not finite; what was saved stays") == 1
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--processes=1025"], "argument --processes: 1025 is not a whole number from 1 to 1,024"),
        (["--parallel=data"], "--parallel data: shares a trial among several processes; add --pro"),
        (["--processes=0"], "argument --processes: 0 is not a whole number from 1"),
        (["--parallel=images"], "argument --parallel: invalid choice: 'images'"),
    ],
)
def test_what_cannot_be_shared_is_refused(tmp_path, arguments, line):
    refused = run_script("main_TOD.py", *TINY_DIGITS, *arguments, f"--output-dir={tmp_path}")
    assert refused.returncode == 2
    assert line in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_people_s_one_trial_is_not_shared_out_as_trials(tmp_path):
    people = People(tmp_path)
    refused = run_script("main_TOD.py", *people.command("--processes=2"))
    assert refused.returncode == 2
    assert refused.stderr.endswith(
        "argument --processes: people label for one trial; --parallel data shares it (--help lists "
        "the arguments)\n"
    )


def test_people_s_images_are_shared_too(tmp_path):
    people = People(tmp_path)
    first = people.command("--device=cpu", auxiliary="TOD")
    assert run_script("main_TOD.py", *first).returncode == 0
    shared = ["--parallel=data", "--processes=2", "--labels", people.answers(0)]
    done = run_script("main_TOD.py", *first, *shared)
    assert done.returncode == 0, done.stderr
    asked = people.batch(1)
    assert len(asked) == 10
    assert all(0 <= float(row["score"]) <= 1 for row in asked)
    # The shared pass over the pool has its scores from the network that is saved.
    done = run_script("main_TOD.py", *first, "--labels", people.answers(1))
    assert done.returncode == 0, done.stderr
    assert len(people.batch(2)) == 10
