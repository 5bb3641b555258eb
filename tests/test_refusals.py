"""Bad input through the command line: one readable message, status 2, and nothing written."""

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import PROJECT_DIR, TINY_DIGITS, run_script

DIGITS = (PROJECT_DIR / "config" / "digits.yaml").read_text(encoding="utf-8")
ENTRIES = ("main_TOD.py", "main_LL4AL.py")


class Bad(NamedTuple):
    """Arguments to refuse, what the message must say, and a file `bad.yaml` to go with them."""

    arguments: tuple[str, ...]
    says: tuple[str, ...]
    file: str | bytes | None = None
    lines: int = 1

    def __str__(self) -> str:
        shown = " ".join(self.arguments)[:60] if self.file is None else repr(self.file[-50:])
        return shown.encode("unicode_escape").decode()


def argument(text: str, *says: str) -> Bad:
    return Bad(tuple(text.split()), says)


def value(override: str, right: str) -> Bad:
    """A value that the message must name, with its key, its source and what would be right."""
    key = override.partition("=")[0]
    return Bad((f"--set={override}",), (f"--set {override[:40]}", f" {key}: ", right))


def file(content: str | bytes, *says: str, lines: int = 1) -> Bad:
    return Bad(("--config=bad.yaml",), ("bad.yaml: ", *says), content, lines)


def digits(old: str, new: str) -> str:
    """The shipped file, changed."""
    assert DIGITS.count(old) == 1, old
    return DIGITS.replace(old, new)


def appended(text: str) -> str:
    return f"{DIGITS}{text}\n"


ARGUMENTS = [
    argument("--sampling=VAAL", "--sampling", "'VAAL'", "RANDOM"),
    argument("--sampling=tod", "--sampling", "'tod'", "RANDOM"),
    argument("--sampling=", "--sampling", "RANDOM"),
    argument("--auxiliary=VAAL", "--auxiliary", "'VAAL'", "NONE"),
    argument("--sampling=RANDOM --auxiliary=RANDOM", "--auxiliary", "'RANDOM'", "NONE"),
    argument("--seed=-1", "--seed", "-1", "whole number from 0"),
    argument("--seed=1.5", "--seed", "1.5", "whole number"),
    argument("--seed=zero", "--seed", "zero", "whole number"),
    argument("--seed=", "--seed", "whole number"),
    argument(f"--seed={2**63}", "--seed", str(2**63), "whole number"),
    argument(f"--seed={'9' * 5000}", "--seed", "999", "whole number"),
    argument("--seed", "--seed", "expected one argument"),
    argument("--trials=0", "--trials", "0 is not a trial"),
    argument("--trials=-1", "--trials", "-1 is not a trial"),
    argument("--trials=3-2", "--trials", "3-2", "1-3"),
    argument("--trials=2-", "--trials", "2-", "1-3"),
    argument("--trials=1,3", "--trials", "1,3", "1-3"),
    argument("--trials=all", "--trials", "all", "1-3"),
    argument("--trials=4", "--trials", "there are 3 trials", "active_learning.trials"),
    argument("--trials=1-4", "--trials", "there are 3 trials", "active_learning.trials"),
    argument(f"--trials={'9' * 5000}", "--trials", "999", "is not a trial"),
    argument("--device=gpu", "--device", "'gpu'", "cuda"),
    argument("--keep-weights=none", "--keep-weights", "'none'", "last"),
    argument("--overwrite=yes", "--overwrite", "yes"),
    argument("--epochs=3", "--epochs", "--help"),
    argument("digits", "digits", "--help"),
    argument("--config", "--config", "expected one argument"),
    argument("--config=", "--config", "cannot be read"),
    argument("--config=missing", "--config missing", "no such file", "cifar10, cifar100, digits"),
    argument("--config=missing.yaml", "--config missing.yaml", "no such file"),
    argument("--config=.", "--config .", "Is a directory"),
    argument(f"--config={'x' * 300}", "--config xxx", "File name too long"),
    argument("--data-dir=", "--data-dir: data_dir: '' is not a text"),
    argument("--set", "--set", "expected one argument"),
    argument("--set=", "--set", "KEY=VALUE"),
    argument("--set=training.epochs", "--set training.epochs", "KEY=VALUE"),
    argument("--set==3", "--set =3", "KEY=VALUE"),
    argument("--set=training.epochs=[1", "--set training.epochs=[1", "not YAML"),
    argument("--set=training.lr=!!int", "training.lr"),
    argument("--set=training.lr=!!timestamp", "training.lr"),
    argument(f"--set=training.epochs={'9' * 5000}", "--set training.epochs=999"),
    argument("--set=training.lr=!!python/name:os.system", "training.lr", "not YAML"),
    argument("--set=epochs=3", "--set epochs=3", "epochs", "unknown key"),
    argument("--set=training.epoch=3", "training.epoch", "nearest known", "training.epochs"),
    argument("--set=trainin.epochs=3", "trainin", "unknown key", "training"),
    argument("--set=training.=3", "--set training.=3", "unknown key"),
    argument("--set=.=3", "--set .=3", "unknown key"),
    argument("--set=name=mine", "--set name=mine", "name", "unknown key"),
    argument("--set=run.seed=3", "--set run.seed=3", "run", "unknown key"),
    argument("--set=training.lr.x=1", "--set training.lr.x=1", "training.lr"),
    argument("--set=cod=0.02", "--set cod=0.02", "cod", "is no section"),
    argument("--set=scoring=", "--set scoring=", "scoring", "is no section"),
]

WHOLE = "a whole number"
FINITE = "a finite number"
VALUES = [
    *(value(f"dataset={bad}", "cifar10, cifar100") for bad in ("mnist", "3", "", "[digits]")),
    *(value(f"data_dir={bad}", "a text") for bad in ('""', "5", "[data]", "null", r'"a\0b"')),
    value(r'data_dir="\ud800"', "a text"),
    *(value(f"model.name={bad}", "resnet, imagenet_resnet") for bad in ("vgg", "1", "null")),
    *(value(f"model.width={bad}", WHOLE) for bad in ("0", "-1", "1.5", "true", "1e2", "1" * 13)),
    *(value(f"model.pretrained={bad}", "true or false") for bad in ("1", '"yes"', "null")),
    *(value(f"images.resize={bad}", WHOLE) for bad in ("0", "8.0", "big", "1" * 13)),
    *(value(f"images.size={bad}", WHOLE) for bad in ("-8", "[8, 8]", "false", "1" * 13)),
    *(
        value(f"images.mean={bad}", "a list of three values")
        for bad in (
            "0.5",
            "[0.5, 0.5]",
            "[0.5, .nan, 0.5]",
            "[-0.1, 0, 0]",
            "[a, b, c]",
            "[2, 0, 0]",
        )
    ),
    *(
        value(f"images.std={bad}", "a list of three values")
        for bad in ("[0, 1, 1]", "[.inf, 1, 1]", "[1, 1, 1, 1]", "{r: 1}", "[true, 1, 1]")
    ),
    *(value(f"augmentation.flip={bad}", "true or false") for bad in ("1", "maybe", "")),
    *(value(f"augmentation.crop_padding={bad}", WHOLE) for bad in ("-1", "1.0", "1" * 13)),
    *(
        value(f"active_learning.trials={bad}", WHOLE)
        for bad in ("0", "-3", "2.0", "true", "[3]", str(2**62))
    ),
    *(value(f"active_learning.cycles={bad}", WHOLE) for bad in ("0", "seven", "null")),
    *(value(f"active_learning.initial_labels={bad}", WHOLE) for bad in ("0", "1", "-5", "1e2")),
    *(value(f"active_learning.query_size={bad}", WHOLE) for bad in ("0", "-50", ".nan")),
    *(value(f"active_learning.subset_size={bad}", WHOLE) for bad in ("0", "-500", "all")),
    *(value(f"training.batch_size={bad}", WHOLE) for bad in ("0", "1", "-64", str(2**62))),
    *(
        value(f"training.epochs={bad}", WHOLE)
        for bad in ("0", "1e2", ".inf", f"1{'0' * 30}", f"0x{'f' * 5000}")
    ),
    *(
        value(f"training.lr={bad}", FINITE)
        for bad in ("0", "-0.1", ".nan", ".inf", "true", "null", "1.0e+300", f"1{'0' * 400}")
    ),
    value("training.lr=1e-4", "'1e-4' is not a finite number above 0; to YAML this is text, write"),
    *(value(f"training.momentum={bad}", "from 0 to below 1") for bad in ("1", "-0.1", ".nan", "x")),
    *(
        value(f"training.weight_decay={bad}", FINITE)
        for bad in ("-5.0e-4", "5e-4", ".inf", "1.0e+300")
    ),
    *(
        value(f"training.milestones={bad}", "an increasing list")
        for bad in ("16", "[0]", "[16, 8]", "[8, 8]", "[8, x]", "null", "[1.5]", "[true]", "{8: 1}")
    ),
    *(value(f"cod.weight={bad}", FINITE) for bad in ("-1", ".nan", "-.inf", "2e-2")),
    *(value(f"cod.ema_decay={bad}", "from 0 to 1") for bad in ("1.5", "-0.1", ".nan", "high")),
    *(value(f"cod.fixed_batch_in_first_cycle={bad}", "true or false") for bad in ("0", '"on"')),
    *(value(f"ll4al.margin={bad}", FINITE) for bad in ("-1", ".nan", ".inf", "null")),
    *(value(f"ll4al.weight={bad}", FINITE) for bad in ("-1", ".nan", ".inf", "heavy")),
    *(value(f"ll4al.detach_epoch={bad}", WHOLE) for bad in ("-1", "1.5", "never")),
    *(value(f"scoring.augment={bad}", "true or false") for bad in ("0", "some")),
    *(value(f"scoring.lowest_in_first_cycle={bad}", "true or false") for bad in ("null", "2")),
]


def contradiction(overrides: str, key: str, *says: str) -> Bad:
    return Bad(tuple(f"--set={o}" for o in overrides.split()), (f" {key}: ", *says))


CONTRADICTIONS = [
    contradiction(
        "active_learning.query_size=400",
        "active_learning.query_size",
        "initial_labels + (cycles - 1) * query_size = 2500 labels",
        "1437 training images",
    ),
    contradiction(
        "active_learning.initial_labels=1138", "active_learning.query_size", "= 1438 labels"
    ),
    contradiction("active_learning.cycles=28", "active_learning.query_size", "= 1450 labels"),
    contradiction(
        "active_learning.subset_size=49",
        "active_learning.subset_size",
        "49 is smaller than query_size 50",
    ),
    contradiction("training.milestones=[15,26]", "training.milestones", "26", "15 epochs"),
    contradiction("training.epochs=11", "training.milestones", "12", "11 epochs"),
    contradiction("model.pretrained=true model.width=64", "model.pretrained", "imagenet_resnet"),
    contradiction(
        "model.name=imagenet_resnet model.pretrained=true", "model.width", "16", "write 64"
    ),
    contradiction("images.size=9", "images.size", "9 is for image files"),
    Bad(
        ("--config=image_folder", "--set=images.resize=8", "--set=images.size=9"),
        (" images.size: ", "9 is larger than resize 8"),
    ),
    Bad(("--config=image_folder", "--set=images.size="), (" images.size: ", "null")),
    Bad(
        ("--config=caltech101", "--set=images.size=", "--set=images.resize="),
        (" images.size: ", "null"),
    ),
    Bad(
        ("--config=cifar10", "--set=active_learning.cycles=20"),
        ("active_learning.query_size", "= 52500 labels", "50000 training images"),
    ),
]

MANY_WRONG = """
dataset: mnist
data_dir: 5
model: {name: resnet, widht: 64}
augmentation: yes
active_learning: {trials: 0, cycles: 7, initial_labels: 100, query_size: 50, subset_size: 49}
training: {batch_size: 64, lr: 1e-4, momentum: .nan, weight_decay: 0, milestones: []}
"""
FILES = [
    file("", "holds no settings", "config/"),
    file("- dataset: digits\n", "holds no settings"),
    file("digits", "holds no settings"),
    file("{}", "dataset", "is missing", "cifar10, cifar100", lines=8),
    file("dataset: [digits", "is not YAML", "line 1"),
    file("\tdataset: digits", "is not YAML"),
    file("a: b: c", "is not YAML"),
    file("dataset: digits\n---\ndataset: digits\n", "is not YAML"),
    file(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "is not YAML"),
    file(bytes(64), "is not YAML"),
    file(DIGITS.encode("utf-16"), "is not YAML"),
    file("[" * 5000, "is not YAML"),
    file("!!python/object/apply:os.system ['touch executed']", "is not YAML"),
    file(appended("x: !!python/object/apply:os.system ['touch executed']"), "is not YAML"),
    file(appended("x: !!python/object/new:os.system ['touch executed']"), "is not YAML"),
    file(appended("x: !!python/module:antigravity"), "is not YAML"),
    file(appended("x: !!int ''"), "is not YAML"),
    file(appended("x: !!bool x"), "is not YAML"),
    file(appended("x: !!timestamp x"), "is not YAML"),
    file(appended("[a, b]: 1"), "is not YAML"),
    file(appended("x: *nowhere"), "is not YAML"),
    file(appended("trainig: {}"), "trainig", "unknown key", "training"),
    file(appended(r'"a\nb": 1'), "unknown key"),
    file(appended("1: 2"), "1", "unknown key"),
    file(appended("? " + "k" * 3000 + "\n: 1"), "kkk", "unknown key"),
    file(appended("null: 2"), "unknown key"),
    file(appended("training.lr: 1"), "training.lr", "unknown key"),
    file(f"training.lr: 1\n{digits('lr: 0.02', 'lr: fast')}", "unknown key", "'fast'", lines=2),
    file(digits("  epochs: 15", "  epohcs: 20"), "training.epochs", "training.epohcs", lines=2),
    file(digits("dataset: digits", ""), "dataset", "is missing", "cifar10"),
    file(digits("lr: 0.02", "lr: 1e-1"), "training.lr", "'1e-1'", "write 0.1"),
    file(digits("dataset: digits", "dataset: &a [*a]"), "dataset", "cifar10"),
    file("&a\nmodel: *a\n", "model.model", "model.name", lines=9),
    file(
        MANY_WRONG,
        *("dataset: 'mnist'", "data_dir: 5", "model.widht", "model.width"),
        *("augmentation: True is no section", "active_learning.trials: 0"),
        *("active_learning.subset_size: 49", "training.epochs: is missing", "write 0.0001"),
        *("training.momentum: nan", "cod: is missing", "ll4al: is missing", "scoring: is missing"),
        lines=12,
    ),
]

FOLDERS = [
    (["--output-dir=a_file"], "a_file", "cannot be written"),
    (["--output-dir=a_file/b"], "a_file/b", "cannot be written"),
    (["--output-dir=taken"], "taken", "cannot be written"),
    ([f"--output-dir={'x' * 256}"], "xxx", "File name too long"),
    (["--config=image_folder", f"--data-dir={'x' * 256}"], "xxx", "File name too long"),
]


class Answer(NamedTuple):
    """What a command said, and what lay in its folder before and after."""

    process: subprocess.CompletedProcess
    before: list[Path]
    after: list[Path]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    # A refusal takes a tenth of a second, nearly all of it the start of Python.
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def answers(pool, request, tmp_path_factory) -> dict[tuple, Future]:
    """The answers to all the selected commands, which run side by side."""

    def ask(script: str, bad: Bad) -> Answer:
        folder = tmp_path_factory.mktemp("refused")
        if bad.file is not None:
            content = bad.file if isinstance(bad.file, bytes) else bad.file.encode()
            (folder / "bad.yaml").write_bytes(content)
        before = sorted(folder.rglob("*"))
        process = run_script(script, *bad.arguments, cwd=folder)
        return Answer(process, before, sorted(folder.rglob("*")))

    selected = [
        (item.callspec.params["script"], item.callspec.params["bad"])
        for item in request.session.items
        if item.originalname == test_bad_input_is_refused_in_a_readable_message.__name__
    ]
    return {(script, bad): pool.submit(ask, script, bad) for script, bad in selected}


def assert_readable(stderr: str) -> None:
    assert "Traceback" not in stderr
    for line in stderr.splitlines():
        assert line.isprintable()
        assert 0 < len(line) <= 400


# The entries take turns: they share what refuses, and both together would take twice the time.
BAD = [*ARGUMENTS, *VALUES, *CONTRADICTIONS, *FILES]
ROWS = [*zip(itertools.cycle(ENTRIES), BAD, strict=False)]


@pytest.mark.parametrize(("script", "bad"), ROWS, ids=str)
def test_bad_input_is_refused_in_a_readable_message(script, bad, answers):
    process, before, after = answers[script, bad].result()
    assert_readable(process.stderr)
    assert process.returncode == 2
    assert process.stdout == ""
    assert len(process.stderr.splitlines()) == bad.lines
    for words in bad.says:
        assert words in process.stderr
    assert before == after


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("main_TOD.py", "--sampling=LL4AL"),
        ("main_TOD.py", "--auxiliary=LL4AL"),
        ("main_LL4AL.py", "--sampling=TOD"),
        ("main_LL4AL.py", "--auxiliary=TOD"),
    ],
)
def test_an_entry_refuses_what_only_the_other_offers(script, option, tmp_path):
    process = run_script(script, option, cwd=tmp_path)
    name, wrong = option.split("=")
    assert process.returncode == 2
    assert name in process.stderr
    assert f"'{wrong}'" in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("bad", FOLDERS, ids=lambda bad: " ".join(bad[0])[:40])
def test_a_folder_that_cannot_be_used_is_refused(bad, tmp_path):
    arguments, *says = bad
    (tmp_path / "a_file").write_text("mine")
    taken = tmp_path / "taken" / "digits_auxiliary_TOD_sampling_TOD_seed0"
    taken.parent.mkdir()
    taken.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    process = run_script("main_TOD.py", *TINY_DIGITS, *arguments, cwd=tmp_path)
    assert_readable(process.stderr)
    assert process.returncode == 2
    for words in says:
        assert words in process.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a_file").read_text() == taken.read_text() == "mine"


QUICK = [("--help",), ("--set=training.lr=1e-4",), ("--config=missing",), ("--seed=x",)]


@pytest.mark.parametrize("script", ENTRIES)
@pytest.mark.parametrize("arguments", QUICK, ids=" ".join)
def test_help_and_refusals_import_no_torch(script, arguments, tmp_path):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, *{arguments!r}]\n"
        "try:\n"
        f"    runpy.run_path({str(PROJECT_DIR / script)!r}, run_name='__main__')\n"
        "except SystemExit as exit:\n"
        "    status = exit.code or 0\n"
        "print('status', status, sorted({'torch', 'torchvision', 'sklearn'} & set(sys.modules)))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines()[-1] == f"status {0 if arguments == QUICK[0] else 2} []"


@pytest.mark.parametrize("script", ENTRIES)
@pytest.mark.parametrize("arguments", QUICK[:2], ids=" ".join)
def test_help_and_refusals_answer_within_half_a_second(script, arguments, tmp_path):
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        run_script(script, *arguments, cwd=tmp_path)
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.5


@pytest.mark.parametrize("script", ENTRIES)
def test_help_lists_every_argument_and_what_the_entry_offers(script, tmp_path):
    process = run_script(script, "--help", cwd=tmp_path)
    assert process.returncode == 0
    assert process.stderr == ""
    options = ("config", "sampling", "auxiliary", "seed", "data-dir", "output-dir", "device", "set")
    for name in (*options, "trials", "overwrite", "keep-weights"):
        assert f"--{name}" in process.stdout
    method = script.removeprefix("main_").removesuffix(".py")
    others = (
        "ENTROPY,MARGIN,LEAST_CONFIDENCE,CORESET,BADGE,LOSS," if script == "main_TOD.py" else ""
    )
    assert f"{{RANDOM,{others}{method}}}" in process.stdout
    assert f"{{NONE,{method}}}" in process.stdout
    assert not any(tmp_path.iterdir())
