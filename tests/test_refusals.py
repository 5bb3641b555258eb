"""Bad input through the command line: one readable message, status 2, and nothing written."""

import importlib
import itertools
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.harness import TINY_DIGITS, run_script
from tod.cli import exit_status
from tod.config import PROJECT_DIR

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


def values(key: str, right: str, *bad: str) -> list[Bad]:
    """Values that the message must name, with their key, their source and what would be right."""
    overrides = [f"{key}={value}" for value in bad]
    return [Bad((f"--set={o}",), (f"--set {o[:40]}", f" {key}: ", right)) for o in overrides]


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
    argument("--seed", "--seed", "expected one argument"),
    argument("--trials=0", "--trials", "0 is not a trial"),
    argument("--trials=-1", "--trials", "-1 is not a trial"),
    argument("--trials=3-2", "--trials", "3-2", "1-3"),
    argument("--trials=2-", "--trials", "2-", "1-3"),
    argument("--trials=1,3", "--trials", "1,3", "1-3"),
    argument("--trials=all", "--trials", "all", "1-3"),
    argument("--trials=4", "--trials", "there are 3 trials", "active_learning.trials"),
    argument("--trials=1-4", "--trials", "there are 3 trials", "active_learning.trials"),
    argument("--labels=labels.csv", "--labels", "--config own_images"),
    argument("--relabel", "--relabel", "--config own_images"),
    argument("--partial", "--partial", "--config own_images"),
    argument("--config=own_images --overwrite", "--overwrite", "labels", "--output-dir"),
    argument("--config=own_images --trials=2", "--trials", "there are 1 trials"),
    argument("--features=nowhere.npy --sampling=TYPICLUST", "--features: nowhere.npy", "No such"),
    argument("--config=own_images --features=x.npy", "--features", "order is known"),
    argument("--set=active_learning.initial=typical", "--features", "typical needs a file"),
    argument("--config=own_images --set=active_learning.initial=balanced", "initial", "random"),
    argument("--config=own_images --sampling=FULL", "--sampling FULL", "nobody has given"),
    argument("--config=own_images --set=active_learning.imbalance=5", "imbalance", "write null"),
    argument("--config=own_images --sampling=LOSS", "--sampling LOSS", "nobody has given"),
    argument("--config=own_images --set=active_learning.cycles=7", "cycles: 7 should be null"),
    argument("--config=own_images --set=active_learning.trials=3", "trials: 3 should be 1"),
    argument("--config=own_images --set=active_learning.query_size=1", "no room for audits"),
    argument("--device=gpu", "--device", "'gpu'", "cuda"),
    argument("--keep-weights=none", "--keep-weights", "'none'", "last"),
    argument("--overwrite=yes", "--overwrite", "yes"),
    argument("--epochs=3", "--epochs", "--help"),
    argument("digits", "digits", "--help"),
    argument("--config", "--config", "expected one argument"),
    argument("--config=", "--config", "cannot be read"),
    argument(
        "--config=missing", "missing: cannot be read (No such", "--config", "small_network, digits"
    ),
    argument("--config=missing.yaml", "missing.yaml: cannot be read (No such file", "--config"),
    argument("--config=.", ".: cannot be read (Is a directory)", "--config"),
    argument(f"--config={'x' * 256}", "xxx...: cannot be read (File name too long)", "--config"),
    argument("--data-dir=", "--data-dir: data_dir: '' is no path"),
    argument("--set", "--set", "expected one argument"),
    argument("--set=", "--set", "KEY=VALUE"),
    argument("--set=training.epochs", "--set training.epochs", "KEY=VALUE"),
    argument("--set==3", "--set =3", "unknown key"),
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

INTEGER = "should be a valid integer"
NUMBER = "should be a valid number"
FINITE = "should be a finite number"
AT_LEAST = "should be greater than or equal to"
AT_MOST = "should be less than or equal to"
TRUE_OR_FALSE = "should be true or false"
LARGE = "1" * 13
VALUES = [
    *values("dataset", "should be 'cifar10', 'cifar100'", "mnist", "3", "", "[digits]"),
    *values("data_dir", "is no path", '""', '" "', r'"a\0b"'),
    *values("data_dir", "should be a valid string", "5", "[data]", "null", r'"\ud800"'),
    *values("model.name", "should be 'resnet' or 'imagenet_resnet'", "vgg", "1", "null"),
    *values("model.width", f"{AT_LEAST} 1", "0", "-1"),
    *values("model.width", f"{AT_MOST} 1024", "1025", LARGE),
    *values("model.width", INTEGER, "1.5", "true", "1e2"),
    *values("model.pretrained", TRUE_OR_FALSE, "1", '"yes"', "null"),
    *values("images.resize", f"{AT_LEAST} 1", "0"),
    *values("images.resize", f"{AT_MOST} 4096", "4097", LARGE),
    *values("images.resize", INTEGER, "8.0", "big"),
    *values("images.size", f"{AT_LEAST} 1", "-8"),
    *values("images.size", f"{AT_MOST} 4096", LARGE),
    *values("images.size", INTEGER, "[8, 8]", "false"),
    *values("images.mean", "0.5 should be a list", "0.5"),
    *values("images.mean", "a list of three values", "[0.5, 0.5]", "[]"),
    *values("images.mean", FINITE, "[0.5, .nan, 0.5]"),
    *values("images.mean", f"{AT_LEAST} 0", "[-0.1, 0, 0]"),
    *values("images.mean", f"'a' {NUMBER}", "[a, b, c]"),
    *values("images.mean", f"{AT_MOST} 1", "[2, 0, 0]"),
    *values("images.std", "should be greater than 0", "[0, 1, 1]", "[1, 1, -1]"),
    *values("images.std", FINITE, "[.inf, 1, 1]"),
    *values("images.std", "a list of three values", "[1, 1, 1, 1]"),
    *values("images.std", "{'r': 1} should be a list", "{r: 1}"),
    *values("images.std", NUMBER, "[true, 1, 1]"),
    *values("augmentation.flip", TRUE_OR_FALSE, "1", "maybe", ""),
    *values("augmentation.crop_padding", f"{AT_LEAST} 0", "-1"),
    *values("augmentation.crop_padding", f"{AT_MOST} 224", LARGE),
    *values("augmentation.crop_padding", INTEGER, "1.0"),
    *values("active_learning.trials", f"{AT_LEAST} 1", "0", "-3"),
    *values("active_learning.trials", f"{AT_MOST} 1000", str(2**62)),
    *values("active_learning.trials", INTEGER, "2.0", "true", "[3]"),
    *values("active_learning.cycles", f"{AT_LEAST} 1", "0"),
    *values("active_learning.cycles", INTEGER, "seven"),
    *values("active_learning.cycles", "null is for own_images", "null"),
    *values("active_learning.initial_labels", "null is all images", "null"),
    *values("active_learning.audit_share", "0.1 is for own_images", "0.1"),
    *values("active_learning.audit_share", "should be less than 1", "1"),
    *values("active_learning.initial_labels", f"{AT_LEAST} 2", "0", "1", "-5"),
    *values("active_learning.initial_labels", INTEGER, "1e2"),
    *values("active_learning.query_size", f"{AT_LEAST} 1", "0", "-50"),
    *values("active_learning.query_size", INTEGER, ".nan"),
    *values("active_learning.subset_size", f"{AT_LEAST} 1", "0", "-500"),
    *values("active_learning.subset_size", INTEGER, "all"),
    *values("training.batch_size", f"{AT_LEAST} 2", "0", "1", "-64"),
    *values("training.batch_size", f"{AT_MOST} 1000000000", str(2**62)),
    *values("training.epochs", f"{AT_LEAST} 1", "0"),
    *values("training.epochs", f"{AT_MOST} 1000000000", f"1{'0' * 30}", f"0x{'f' * 5000}"),
    *values("training.epochs", INTEGER, "1e2", ".inf"),
    *values("training.lr", "should be greater than 0", "0", "-0.1", "-1e-4"),
    *values("training.lr", FINITE, ".nan", ".inf", "1e400"),
    *values("training.lr", NUMBER, "true", "null", f"1{'0' * 400}", "'1e-4'"),
    *values("training.lr", f"{AT_MOST} 3400000", "1.0e+300"),
    *values("training.momentum", "should be less than 1", "1"),
    *values("training.momentum", f"{AT_LEAST} 0", "-0.1"),
    *values("training.momentum", FINITE, ".nan"),
    *values("training.momentum", NUMBER, "x"),
    *values("training.weight_decay", f"{AT_LEAST} 0", "-5.0e-4", "-5e-4"),
    *values("training.weight_decay", FINITE, ".inf"),
    *values("training.weight_decay", f"{AT_MOST} 3400000", "1.0e+300"),
    *values("training.milestones", "should be a list", "16", "null", "{8: 1}"),
    *values("training.milestones", f"0 {AT_LEAST} 1", "[0]"),
    *values("training.milestones", "larger than the one before", "[16, 8]", "[8, 8]"),
    *values("training.milestones", INTEGER, "[8, x]", "[1.5]", "[true]"),
    *values("cod.weight", f"{AT_LEAST} 0", "-1"),
    *values("cod.weight", FINITE, ".nan", "-.inf"),
    *values("cod.weight", NUMBER, "2e"),
    *values("cod.ema_decay", f"{AT_MOST} 1", "1.5"),
    *values("cod.ema_decay", f"{AT_LEAST} 0", "-0.1"),
    *values("cod.ema_decay", FINITE, ".nan"),
    *values("cod.ema_decay", NUMBER, "high"),
    *values("cod.fixed_batch_in_first_cycle", TRUE_OR_FALSE, "0", '"on"'),
    *values("ll4al.margin", f"{AT_LEAST} 0", "-1"),
    *values("ll4al.margin", FINITE, ".nan", ".inf"),
    *values("ll4al.margin", NUMBER, "null"),
    *values("ll4al.weight", f"{AT_LEAST} 0", "-1"),
    *values("ll4al.weight", FINITE, ".nan", ".inf"),
    *values("ll4al.weight", NUMBER, "heavy"),
    *values("ll4al.detach_epoch", f"{AT_LEAST} 0", "-1"),
    *values("ll4al.detach_epoch", INTEGER, "1.5", "never"),
    *values("scoring.augment", TRUE_OR_FALSE, "0", "some"),
    *values("scoring.lowest_in_first_cycle", TRUE_OR_FALSE, "null", "2"),
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
    contradiction("images.test_share=0.2", "images.test_share", "0.2 is for image_folder"),
    *values("images.test_share", "should be greater than 0", "0", "-0.1"),
    *values("images.test_share", "should be less than 1", "1", "2"),
    *values("images.unreadable", "should be 'refuse' or 'skip'", "ignore"),
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
training: {batch_size: 64, lr: fast, momentum: .nan, weight_decay: 0, milestones: []}
"""
FILES = [
    file("", "holds no settings", "cifar10, cifar100, cifar10_small_network, digits"),
    file("- dataset: digits\n", "holds no settings"),
    file("digits", "holds no settings"),
    file("{}", "dataset: is missing", "config/digits.yaml", lines=8),
    file("dataset: [digits", "is not YAML", "line 1"),
    file("\tdataset: digits", "is not YAML"),
    file("a: b: c", "is not YAML"),
    file("dataset: digits\n---\ndataset: digits\n", "is not YAML"),
    file(
        appended("dataset: svhn"),
        f"line {DIGITS.count(chr(10)) + 1}",
        "the key dataset is there twice",
    ),
    file(digits("lr: 0.02", "{lr: 1, lr: 2}"), "is not YAML"),
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
    file(digits("dataset: digits", ""), "dataset: is missing", "config/digits.yaml"),
    file(digits("lr: 0.02", "lr: 1e-1x"), "training.lr", f"'1e-1x' {NUMBER}"),
    file(digits("dataset: digits", "dataset: &a [*a]"), "dataset", "cifar10"),
    file("&a\nmodel: *a\n", "model.model", "model.name", lines=9),
    file(
        MANY_WRONG,
        *("dataset: 'mnist'", "data_dir: 5", "model.widht", "model.width"),
        *("augmentation: True is no section", "active_learning.trials: 0"),
        *("active_learning.subset_size: 49", "training.epochs: is missing", f"'fast' {NUMBER}"),
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
    """What a command said, its status, and whether its folder is as it was."""

    status: int
    stdout: str
    stderr: str
    nothing_written: bool


@pytest.fixture
def refusal(tmp_path, monkeypatch, capsys) -> Callable[..., Answer]:
    """Calls an entry script in this process, in the test's folder, until it exits."""
    monkeypatch.chdir(tmp_path)

    def call(script: str, *arguments: str) -> Answer:
        entry = importlib.import_module(script.removesuffix(".py"))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as left, exit_status():
            entry.main([*arguments])
        captured = capsys.readouterr()
        unchanged = sorted(tmp_path.rglob("*")) == before
        return Answer(left.value.code or 0, captured.out, captured.err, unchanged)

    return call


def assert_refused(answer: Answer, *says: str, lines: int = 1) -> None:
    assert "Traceback" not in answer.stderr
    for line in answer.stderr.splitlines():
        assert line.isprintable()
        assert 0 < len(line) <= 400
    assert answer.status == 2
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == lines
    for words in says:
        assert words in answer.stderr
    assert answer.nothing_written


# The entries take turns: they share what refuses, and both together would take twice the time.
BAD = [*ARGUMENTS, *VALUES, *CONTRADICTIONS, *FILES]
ROWS = [*zip(itertools.cycle(ENTRIES), BAD, strict=False)]


@pytest.mark.parametrize(("script", "bad"), ROWS, ids=str)
def test_bad_input_is_refused_in_a_readable_message(script, bad, refusal, tmp_path):
    if bad.file is not None:
        content = bad.file if isinstance(bad.file, bytes) else bad.file.encode()
        (tmp_path / "bad.yaml").write_bytes(content)
    assert_refused(refusal(script, *bad.arguments), *bad.says, lines=bad.lines)


@pytest.mark.parametrize(
    ("script", "option"),
    [
        ("main_TOD.py", "--sampling=LL4AL"),
        ("main_TOD.py", "--auxiliary=LL4AL"),
        ("main_LL4AL.py", "--sampling=TOD"),
        ("main_LL4AL.py", "--auxiliary=TOD"),
    ],
)
def test_an_entry_refuses_what_only_the_other_offers(script, option, refusal):
    name, wrong = option.split("=")
    assert_refused(refusal(script, option), script, name, f"'{wrong}'")


@pytest.mark.parametrize("bad", FOLDERS, ids=lambda bad: " ".join(bad[0])[:40])
def test_a_folder_that_cannot_be_used_is_refused(bad, refusal, tmp_path):
    arguments, *says = bad
    (tmp_path / "a_file").write_text("mine")
    taken = tmp_path / "taken" / "digits_auxiliary_TOD_sampling_TOD_seed0"
    taken.parent.mkdir()
    taken.write_text("mine")
    assert_refused(refusal("main_TOD.py", *TINY_DIGITS, *arguments), *says)
    assert (tmp_path / "a_file").read_text() == taken.read_text() == "mine"


# The same in processes of their own, as people meet it.
PROCESSES = [
    ("main_TOD.py", Bad(("--config=missing",), ("missing: cannot be read",))),
    ("main_TOD.py", Bad(("--set=training.lr=-1", "--set=lr=1"), ("--set lr=1: ",), lines=2)),
    ("main_TOD.py", Bad(("--seed=x",), ("main_TOD.py: ", "--seed", "x is not a whole number"))),
    ("main_TOD.py", Bad((*TINY_DIGITS, "--output-dir=bad.yaml"), ("bad.yaml",), "mine")),
    ("main_LL4AL.py", file(appended("dataset: svhn"), "the key dataset is there twice")),
    ("main_LL4AL.py", Bad(("--sampling=TOD",), ("main_LL4AL.py: ", "--sampling", "'TOD'"))),
    ("plot.py", Bad(("nowhere",), ("nowhere",))),
    ("report.py", Bad(("nowhere",), ("nowhere",))),
]


@pytest.mark.parametrize(("script", "bad"), PROCESSES, ids=str)
def test_an_entry_script_refuses_with_status_2(script, bad, tmp_path):
    if bad.file is not None:
        (tmp_path / "bad.yaml").write_text(bad.file, encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    process = run_script(script, *bad.arguments, cwd=tmp_path)
    unchanged = sorted(tmp_path.rglob("*")) == before
    answer = Answer(process.returncode, process.stdout, process.stderr, unchanged)
    assert_refused(answer, *bad.says, lines=bad.lines)


@pytest.mark.parametrize("script", ENTRIES)
def test_help_and_refusals_import_only_what_they_use(script, tmp_path):
    quick = ["--help"], ["--set=training.lr=x"], ["--config=missing"], ["--seed=x"]
    code = (
        f"import sys, {script.removesuffix('.py')} as entry\n"
        "from tod.cli import exit_status\n"
        f"for arguments in {quick!r}:\n"
        "    try:\n"
        "        with exit_status():\n"
        "            entry.main(arguments)\n"
        "    except SystemExit as exit:\n"
        "        print('status', exit.code or 0)\n"
        "slow = {'torchvision', 'sklearn', 'scipy', 'matplotlib', 'pandas'}\n"
        "print(sorted(slow & set(sys.modules)))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = [line for line in process.stdout.splitlines() if line.startswith("status")]
    assert statuses == ["status 0", "status 2", "status 2", "status 2"]
    assert process.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("script", ENTRIES)
@pytest.mark.parametrize("argument", ["--help", "--set=training.lr=x"])
def test_help_and_refusals_take_little_more_than_pytorchs_own_import(script, argument, tmp_path):
    def seconds(name: object, *arguments: str) -> float:
        """Of work: other processes may make it wait, here and there."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run_script(name, *arguments, cwd=tmp_path, start=subprocess.Popen)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    alone = tmp_path / "torch_alone.py"
    alone.write_text("import torch")
    # Of 1.3 to 2.6 s, from machine to machine: together 2.5 s on most.
    assert any(seconds(script, argument) < seconds(alone) + 1.0 for _ in range(5))


@pytest.mark.parametrize("script", ENTRIES)
def test_help_lists_every_argument_and_what_the_entry_offers(script, refusal):
    answer = refusal(script, "--help")
    assert answer.status == 0
    assert answer.stderr == ""
    assert answer.nothing_written
    options = ("config", "sampling", "auxiliary", "seed", "data-dir", "output-dir", "device", "set")
    for name in (*options, "trials", "overwrite", "keep-weights"):
        assert f"--{name}" in answer.stdout
    method = script.removeprefix("main_").removesuffix(".py")
    entry = importlib.import_module(script.removesuffix(".py"))
    offered = ",".join(entry.SAMPLING)
    assert offered.startswith("RANDOM,") and offered.endswith(f",{method}")
    assert f"{{{offered}}}" in answer.stdout
    assert f"{{NONE,{method}}}" in answer.stdout
