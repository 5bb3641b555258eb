"""model.name=linear: runs on frozen features, which an extractor makes or a file gives."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

import main_LL4AL
import main_TOD
from models.extractor import LITE0, LITE0_FEATURES, Extractor
from tests.strategies.test_first_labels import digits_features
from tests.support.harness import (
    DEVICE,
    TINY_DIGITS,
    Run,
    run_script,
    run_tod_alone,
    table,
    tiny_run,
    weights_of,
)
from tests.support.loading import refused
from tests.support.people import People
from tests.support.processes import begun, wait_for
from tests.support.soak import differences, outcome, results, run_folder, start
from tod import config as configuration
from tod import data
from tod.config import PROJECT_DIR
from tod.data import extraction, picture
from tod.engine.asking import Candidates, first_batch
from tod.people.requests import CHECK

LINEAR = (
    *("--set=model.name=linear", "--set=model.extractor_size=32"),
    *("--set=training.epochs=8", "--set=training.milestones=[6]", "--set=training.lr=3.0"),
)
SHORT = ("--set=training.epochs=3", "--set=training.milestones=[2]", "--set=model.dropout=0.1")
FROM_FILE = (*LINEAR, "--set=model.extractor=null")
METHODS = [
    *(("main_TOD.py", name, "TIDAL" if name == "TIDAL" else "TOD") for name in main_TOD.SAMPLING),
    *(("main_LL4AL.py", name, "LL4AL") for name in main_LL4AL.SAMPLING),
    ("main_LL4AL.py", "LL4AL", "NONE"),
]
no_pictures = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where the digits' features are kept, so that they are computed once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def digits(place) -> np.ndarray:
    """The features of the training images, of unit length."""
    dataset = data.load(configuration.load("digits"), 0)
    arguments = (Extractor(LITE0, 32), picture.as_shown, torch.device(DEVICE))
    train, _ = extraction.features_of(dataset, "digits", place, *arguments)
    return functional.normalize(torch.from_numpy(train.numpy())).numpy()


@pytest.fixture
def linear(tmp_path, place, digits) -> Callable[..., Run]:
    """What an entry script would run on the digits' features."""

    def run(*arguments: str, method=("main_TOD.py", "TOD", "TOD"), name: str = "run") -> Run:
        return tiny_run(tmp_path / name, *method, *LINEAR, f"--data-dir={place}", *arguments)

    return run


def queried(folder: Path, cycle: int = 1) -> list[str]:
    return [row["index"] for row in table(folder / f"queries/trial1_cycle{cycle}.csv")]


def last_accuracy(folder: Path) -> float:
    return float(table(folder / "results.csv")[-1]["test_accuracy"])


@no_pictures
@pytest.mark.parametrize("method", METHODS, ids="-".join)
def test_every_strategy_runs_on_features_and_the_heads_learn(linear, method):
    run = linear(*(SHORT if method[1] == "FULL" else SHORT[2:]), method=method)
    run.start()
    assert last_accuracy(run.folder) > 55
    if method[1] != "FULL":
        assert len({*queried(run.folder, 0), *queried(run.folder)}) == 60


@no_pictures
def test_cod_trains_the_consistency_head_and_nothing_else_does(linear):
    heads = {}
    for auxiliary in ("NONE", "TOD"):
        run = linear(method=("main_TOD.py", "TOD", auxiliary), name=auxiliary)
        with run.loop() as loop:
            before = weights_of(loop.trial.backbone)
            loop.trial.train()
            after = weights_of(loop.trial.backbone)
            heads[auxiliary] = [
                not torch.equal(before[f"{head}.weight"], after[f"{head}.weight"])
                for head in ("linear", "linear1")
            ]
            if auxiliary == "TOD":
                teacher = weights_of(loop.trial.auxiliary.teacher)["linear.weight"]
                assert not torch.equal(teacher, after["linear.weight"])
    assert heads == {"NONE": [True, False], "TOD": [True, True]}


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path, place, digits):
    settings = ("--set=active_learning.trials=1", "--set=scoring.augment=true")
    arguments = (*LINEAR, *SHORT, *settings, f"--data-dir={place}")
    killed = begun(tmp_path / "killed", *arguments)
    killed.kill()
    assert outcome(killed)[0] == -9
    for name in ("whole", "killed"):
        status, output = outcome(start("main_TOD.py", tmp_path / name, *arguments))
        assert status == 0, output
    assert "continuing with trial 1, cycle " in output
    folders = (run_folder("main_TOD.py", tmp_path / name) for name in ("whole", "killed"))
    assert not differences(*map(results, folders))


def test_two_ranks_that_share_a_trial_query_as_one_process(tmp_path, place, digits):
    shared = ("--set=active_learning.trials=1", f"--data-dir={place}", "--device=cpu")
    found = []
    for name, ranks in (("one", ()), ("two", ("--parallel=data", "--processes=2"))):
        command = ("main_TOD.py", tmp_path / name, *LINEAR, *shared, *ranks)
        status, output = outcome(start(*command))
        assert status == 0, output
        found.append(queried(run_folder("main_TOD.py", tmp_path / name)))
    assert found[0] == found[1]


def test_ctrl_c_while_features_are_computed_ends_all_ranks_of_a_trial(tmp_path):
    settings = (*LINEAR, "--set=model.extractor_size=64", f"--data-dir={tmp_path}", "--device=cpu")
    process = start("main_TOD.py", tmp_path, *settings, "--parallel=data", "--processes=2")
    store = tmp_path / f".features_digits_{LITE0}_64"
    wait_for(store, process)
    process.send_signal(signal.SIGINT)
    status, output = outcome(process)
    assert (status, output.splitlines()[-1]) == (130, "interrupted")
    assert "Traceback" not in output
    assert store.stat().st_size < 1000 * LITE0_FEATURES * 4  # of the 1,797 images


def test_weights_that_cannot_be_had_end_a_run_with_one_line(tmp_path):
    folders = (f"--output-dir={tmp_path}", f"--data-dir={tmp_path}")
    command = ("main_TOD.py", *TINY_DIGITS, *LINEAR, *folders, "--set=model.extractor=test_vit")
    done = run_script(*command, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.endswith(f" at {PROJECT_DIR / 'test_vit.safetensors'}\n")


# ------------------------------------------------------- the rows of a file


@pytest.fixture
def rows() -> np.ndarray:
    """Of the training images and, after them, of the test images; each class is a spot."""
    labels = data.load(configuration.load("digits"), 0).test.labels
    noise = np.random.default_rng(1).normal(size=(len(labels), 10))
    return np.concatenate([digits_features(), np.eye(10)[labels] * 100 + noise]).astype(np.float32)


def run_on_file(output_dir: Path, rows: np.ndarray, *arguments: str) -> Path:
    output_dir.mkdir(exist_ok=True)
    np.save(output_dir / "rows.npy", rows)
    given = f"--features={output_dir / 'rows.npy'}"
    return run_tod_alone(output_dir / "out", "--sampling=RANDOM", *FROM_FILE, given, *arguments)


@no_pictures
@pytest.mark.parametrize("tail", [(), ("--set=active_learning.imbalance=3",)])
def test_the_heads_train_on_the_rows_of_a_file_and_are_tested_on_those_behind_them(
    tmp_path, rows, tail
):
    assert last_accuracy(run_on_file(tmp_path / "right", rows, *tail)) > 99
    rows[1437:] = np.roll(rows[1437:], 1, axis=0)
    assert last_accuracy(run_on_file(tmp_path / "turned", rows, *tail)) < 40


@pytest.mark.parametrize("count", [1437, 1796, 1798])
def test_a_file_without_a_row_for_each_image_is_refused(tmp_path, rows, count):
    line = refused(run_on_file, tmp_path, np.resize(rows, (count, 10)))
    assert f"has the shape ({count}, 10), and there are 1,797 training and test images" in line
    assert not (tmp_path / "out").exists()


@no_pictures
@pytest.mark.parametrize("how", ["typical", "herding"])
def test_first_labels_chosen_by_features_need_no_file(tmp_path, linear, digits, how):
    """They are those that a file with the same features would give a ResNet."""
    typical = f"--set=active_learning.initial={how}"
    run = linear(typical, method=("main_TOD.py", "TYPICLUST", "NONE"))
    run.start()
    np.save(tmp_path / "f.npy", digits)
    given = (typical, "--sampling=TYPICLUST", f"--features={tmp_path / 'f.npy'}")
    resnet = run_tod_alone(tmp_path / "resnet", *given)
    for cycle in (0, 1):
        assert queried(run.folder, cycle) == queried(resnet, cycle)


# ------------------------------------------------------------ people's rounds


def test_a_round_on_a_pool_that_has_grown_computes_the_new_pictures(tmp_path, monkeypatch):
    people, opened, made_of = People(tmp_path, count=24), [], extraction.made_of
    monkeypatch.setattr(
        extraction, "made_of", lambda path, make: opened.append(path.name) or made_of(path, make)
    )
    people.rounds([-1, 0], *LINEAR, auxiliary="TOD")
    assert len({*opened}) == len(opened) == 24
    people.add("unlabeled/new.png", "unlabeled/newer.png")
    people.rounds([1], *LINEAR, auxiliary="TOD")
    assert sorted(opened[24:]) == ["new.png", "newer.png"]
    assert len(people.batch(2)) == 6


def test_herding_chooses_the_first_batch_of_people_but_never_its_audits(tmp_path):
    batches = {}
    for initial in ("random", "herding"):
        people = People(tmp_path / initial, count=60)
        settings = f"--set=active_learning.initial={initial}", "--set=active_learning.query_size=8"
        people.rounds([-1], *LINEAR, *settings)
        for row in people.batch(0):
            batches.setdefault((initial, row["reason"]), []).append(row["sha256"])
    assert batches["herding", "audit"] == batches["random", "audit"]
    herded = batches["herding", "first"]
    assert len({*herded}) == len(batches["random", "first"]) == 7
    # Of a bright class and a dark one, random draws may have any number.
    assert {people.truth[digest] for digest in herded} == {"cat", "dog"}
    people.rounds([0], *LINEAR, *settings)
    assert len(people.batch(1)) == 8


@pytest.mark.parametrize("initial", ["typical", "herding"])
def test_a_first_batch_of_nothing_but_ties_chooses_none(initial):
    features = np.eye(3, dtype=np.float32)
    random = np.random.default_rng(0)
    among = Candidates(np.array([0, 2]), {0: CHECK, 2: CHECK}, 0.1)
    assert first_batch(among, 5, random, initial, features) == [(0, CHECK), (2, CHECK)]
