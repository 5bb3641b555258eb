"""Several processes for one run, by torchrun or --processes, which share out trials or a trial.

Whatever starts them and whatever they share: the same bytes, also after kills and signals, one line
for what is refused, and one answer of them all.
"""

import os
import re
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import Popen

import pytest

import main_TOD
from tests.support.forks import FORK_SERVER
from tests.support.harness import run_script
from tests.support.people import People
from tests.support.processes import begun, go_on
from tests.support.several_ranks import free_port
from tests.support.soak import differences, outcome, refusal, results, run_folder, start
from tod.analysis.results import read_rows

# Ranks that share a trial cannot share a GPU, and a machine may have but one.
ALONE = ("--set=active_learning.trials=1", "--device=cpu")
MODES = {"trials": ("--set=active_learning.trials=3",), "data": (*ALONE, "--parallel=data")}
OTHER = "--set=training.momentum=0.5"


def torchrun(processes: int, *rendezvous: str) -> Sequence[str]:
    place = rendezvous or ("--standalone",)
    return ("-m", "torch.distributed.run", *place, f"--nproc_per_node={processes}")


def ended(output_dir: Path, *arguments: str, script: str = "main_TOD.py", **settings) -> str:
    """All that the processes of a run have printed, which have ended well."""
    status, output = outcome(start(script, output_dir, *arguments, **settings))
    assert status == 0, output
    return output


def same(output_dir: Path, expected: Path) -> bool:
    a, b = (results(run_folder("main_TOD.py", folder)) for folder in (output_dir, expected))
    return not differences(a, b)


def ranks_of(process: Popen) -> list[int]:
    """The processes that it has started, in their order, but for the one that forks them."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    names = {int(child): Path(f"/proc/{child}/comm").read_text() for child in children}
    return sorted(child for child, name in names.items() if name != f"{FORK_SERVER}\n")


def wait_until_it_has_ended(process: int) -> None:
    """Waits for a process of another's."""
    deadline = time.monotonic() + 120
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, f"{process} goes on"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, Path]:
    """The output folders of torchrun's two ranks, started cold, by what they share out."""
    folders = {mode: tmp_path_factory.mktemp(mode) for mode in MODES}
    for mode, folder in folders.items():
        ended(folder, *MODES[mode], launcher=torchrun(2), how=Popen)
    return folders


def test_ranks_leave_the_bytes_of_one_process_and_one_log_that_names_them(uninterrupted, finished):
    folder = run_folder("main_TOD.py", uninterrupted["trials"])
    found, expected = results(folder), results(finished)
    del expected["learning_curve.png"]  # of fewer trials
    assert not differences(expected, {name: found.get(name) for name in expected})
    log = (folder / "log.txt").read_text(encoding="utf-8")
    dealt = re.findall(r"^\[rank (\d)\] .* Trial:(\d)/3 .* Test acc", log, re.MULTILINE)
    assert set(dealt) == {("0", "1"), ("1", "2"), ("0", "3")}
    # One table, from whoever ends last, and over all trials.
    assert log.count("test accuracy in %") == 1
    assert log.count("(3)") == 2


def test_a_shared_trial_leaves_what_one_process_leaves(tmp_path, uninterrupted):
    go_on(tmp_path, *ALONE)
    one, two = (run_folder("main_TOD.py", place) for place in (tmp_path, uninterrupted["data"]))
    files = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (one, two)]
    assert files[0] == files[1]
    recorded = [(folder / "config.yaml").read_text(encoding="utf-8") for folder in (one, two)]
    assert recorded[0].replace("\n  ranks: 1\n", "\n  ranks: 2\n") == recorded[1]
    labeled = [read_rows(folder / "results.csv").num_labeled for folder in (one, two)]
    assert labeled[0].equals(labeled[1])
    log = (two / "log.txt").read_text(encoding="utf-8")
    assert "rank" not in log
    assert log.count("Test acc") == 2


@pytest.mark.parametrize("mode", MODES)
def test_stopped_and_killed_processes_go_on_to_the_same_bytes(tmp_path, uninterrupted, mode):
    shares_data, command = mode == "data", (tmp_path, *MODES[mode])
    number, trials = (signal.SIGTERM, (1,)) if shares_data else (signal.SIGINT, (1, 2))
    process = begun(*command, "--processes=2", trials=trials)
    process.send_signal(number)
    status, output = outcome(process)
    assert status == 128 + number, output
    assert "interrupted; the same command again continues" in output
    assert "failed" not in output and "Traceback" not in output
    for killed in (0, 1) if shares_data else (1,):
        process = begun(*command, "--processes=2", trials=trials)
        ranks = ranks_of(process)
        if shares_data:  # the other is to notice, before it is told
            process.send_signal(signal.SIGSTOP)
            os.kill(ranks[1 - killed], signal.SIGCONT)
        os.kill(ranks[killed], signal.SIGKILL)
        if shares_data:
            wait_until_it_has_ended(ranks[1 - killed])
            process.send_signal(signal.SIGCONT)
        status, output = outcome(process)
        assert status in ((2, 137) if shares_data else (137,))
        line = "another rank has failed, and says why" if shares_data else "interrupted; the same"
        assert f"[rank {1 - killed}] {line}" in output
        assert "Traceback" not in output
    output = ended(*command, "--processes=2" if shares_data else "--processes=9")
    assert "continuing with trial 1, cycle " in output
    assert output.count("test accuracy in %") == 1
    if not shares_data:  # there are at most as many processes as trials
        dealt = set(re.findall(r"\[rank (\d)\] .* Trial:(\d)/3 ", output))
        assert dealt == {("0", "1"), ("1", "2"), ("2", "3")}
    assert same(tmp_path, uninterrupted[mode])


def two_nodes(output_dir: Path, *arguments: str, places: Sequence[Sequence[str]]) -> list[str]:
    """What each of two nodes, of one rank, has printed."""
    nodes = [
        start("main_TOD.py", output_dir, *arguments, launcher=torchrun(1, "--nnodes=2", *place))
        for place in places
    ]
    found = [outcome(node) for node in nodes]
    assert [status for status, _ in found] == [0, 0], found
    return [output for _, output in found]


def test_a_rank_that_dies_takes_no_other_trial_with_it_and_two_nodes_go_on(tmp_path, uninterrupted):
    process = begun(tmp_path, *MODES["trials"], trials=(1, 2), launcher=torchrun(2))
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    status, output = outcome(process)
    assert status != 0
    # torchrun stops the other rank with SIGTERM, which saves.
    assert "[rank 0] interrupted; the same command again continues" in output
    address = ("--master_addr=127.0.0.1", f"--master_port={free_port()}")
    places = [(*address, f"--node_rank={node}") for node in (0, 1)]
    for rank, output in enumerate(two_nodes(tmp_path, *MODES["trials"], places=places)):
        assert f"[rank {rank}] continuing with trial {1 + rank}, cycle " in output
        lines = [line for line in output.splitlines() if "Test acc" in line]
        assert lines and all(line.startswith(f"[rank {rank}] ") for line in lines)
    assert same(tmp_path, uninterrupted["trials"])


def test_two_nodes_share_a_trial(tmp_path, uninterrupted):
    place = ("--rdzv_id=1", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{free_port()}")
    two_nodes(tmp_path, *MODES["data"], places=[place] * 2)
    assert same(tmp_path, uninterrupted["data"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("launcher", [torchrun(2), ()], ids=["torchrun", "processes"])
def test_a_finished_run_and_a_refused_one_are_answered_once(uninterrupted, launcher, mode):
    command = (uninterrupted[mode], *MODES[mode], *["--processes=2"] * (not launcher))
    if launcher:
        output = ended(*command, launcher=launcher)
        assert output.count("is finished") == output.count("test accuracy in %") == 1
    status, output = outcome(start("main_TOD.py", *command, OTHER, launcher=launcher))
    assert status == 2 or (status and launcher)
    assert output.count("holds a run with another training.momentum (0.9 there, 0.5 here)") == 1
    # Whatever traceback there is, is torchrun's alone.
    assert "tod/" not in output and ("Traceback" not in output or launcher)


def test_more_ranks_than_trials_start_afresh(tmp_path, finished):
    shutil.copytree(finished.parent, tmp_path, dirs_exist_ok=True)
    output = ended(tmp_path, "--overwrite", launcher=torchrun(3))
    assert output.count("Test acc") == 4
    assert "is finished" not in output
    assert not differences(results(finished), results(run_folder("main_TOD.py", tmp_path)))


def test_three_ranks_share_ll4al(tmp_path):
    output = ended(tmp_path, *MODES["data"], "--processes=3", script="main_LL4AL.py")
    assert output.count("Test acc") == 2


def test_a_shared_trial_that_diverges_says_so_once(tmp_path):
    diverging = (*MODES["data"], "--processes=2", "--set=training.lr=1e30")
    status, output = outcome(start("main_TOD.py", tmp_path, *diverging))
    assert status == 2
    assert output.count("is not finite; what was saved stays") == 1
    assert "Traceback" not in output


def test_torchrun_and_processes_at_once_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    line = refusal(tmp_path, "--processes=2", "--parallel=data")
    assert "torchrun has started the processes; leave it out" in line
    assert not list(tmp_path.iterdir())


def test_people_s_images_are_shared_too(tmp_path):
    people = People(tmp_path)
    first = people.command("--device=cpu", auxiliary="TOD")
    main_TOD.main(first)
    shared = ["--parallel=data", "--processes=2", "--labels", people.answers(0)]
    done = run_script("main_TOD.py", *first, *shared)
    assert done.returncode == 0, done.stderr
    asked = people.batch(1)
    assert len(asked) == 10
    assert all(0 <= float(row["score"]) <= 1 for row in asked)
    # The shared pass over the pool has its scores from the network that is saved.
    main_TOD.main([*first, "--labels", str(people.answers(1))])
    assert len(people.batch(2)) == 10
