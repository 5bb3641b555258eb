"""Bad input through the command line: one readable message, status 2, and nothing written."""

import importlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.harness import TINY_DIGITS, run_script
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


def options(name: str, right: str, *bad: str) -> list[Bad]:
    """Arguments that the message must name, with their values and what would be right."""
    return [Bad((f"{name}={value}",), (name, value, right)) for value in bad]


def values(right: str, settings: str) -> list[Bad]:
    """Settings as KEY=VALUE|VALUE…: the message must name key and source, and what is right."""
    each = [setting.partition("=") for setting in settings.split()]
    return [
        Bad((f"--set={key}={bad}",), (f"--set {key}={bad}"[:46], f" {key}: ", right))
        for key, _, several in each
        for bad in several.split("|")
    ]


def file(content: str | bytes, *says: str, lines: int = 1) -> Bad:
    return Bad(("--config=bad.yaml",), ("bad.yaml: ", *says), content, lines)


def digits(old: str, new: str) -> str:
    assert DIGITS.count(old) == 1, old
    return DIGITS.replace(old, new)


def appended(text: str) -> str:
    return f"{DIGITS}{text}\n"


PEOPLE, LINEAR = "--config=own_images", "--set=model.name=linear"
ARGUMENTS = [
    *options("--sampling", "RANDOM", "VAAL", "tod", ""),
    *options("--auxiliary", "NONE", "VAAL", "RANDOM"),
    *options("--seed", "whole number from 0", "-1", "1.5", "zero", "", str(2**63)),
    *options(
        "--trials", "a trial, like 2, or a range, like 1-3", "0", "-1", "3-2", "2-", "all", "1,3"
    ),
    *options("--device", "cuda", "gpu"),
    *options("--keep-weights", "last", "none"),
    *(argument(name, name, "expected one argument") for name in ("--seed", "--config", "--set")),
    argument("--trials=4", "--trials", "there are 3 trials", "active_learning.trials"),
    argument("--trials=1-4", "--trials", "there are 3 trials", "active_learning.trials"),
    *(
        argument(text, text[:8], "is for people's labels (--config own_images)")
        for text in ("--labels=labels.csv", "--relabel", "--partial")
    ),
    argument(f"{PEOPLE} --overwrite", "--overwrite", "labels", "--output-dir"),
    argument(f"{PEOPLE} --trials=2", "--trials", "there are 1 trials"),
    argument("--features=nowhere.npy --sampling=TYPICLUST", "--features: nowhere.npy", "No such"),
    argument(f"{PEOPLE} --features=x.npy", "--features", "order is known"),
    argument("--set=active_learning.initial=typical", "--features", "typical needs a file"),
    argument(f"{LINEAR} --set=model.extractor=null", "--features", "extractor=null needs a file"),
    argument(f"{LINEAR} --set=model.extractor=no_such", "extractor: no_such", "list_pretrained()"),
    argument(f"{LINEAR} --set=model.extractor=resnet50.no_such", "resnet50.no_such is no network"),
    argument(f"{PEOPLE} {LINEAR} --set=model.extractor=null", "people's images have not; name one"),
    argument(f"{PEOPLE} --set=active_learning.initial=balanced", "initial", "random"),
    argument(f"{PEOPLE} --set=active_learning.initial=herding", "initial", "features"),
    argument(f"{PEOPLE} --set=active_learning.imbalance=5", "imbalance", "write null"),
    argument(f"{PEOPLE} --sampling=FULL", "--sampling FULL", "nobody has given"),
    argument(f"{PEOPLE} --sampling=LOSS", "--sampling LOSS", "nobody has given"),
    argument(f"{PEOPLE} --set=active_learning.cycles=7", "cycles: 7 should be null"),
    argument(f"{PEOPLE} --set=active_learning.trials=3", "trials: 3 should be 1"),
    argument(f"{PEOPLE} --set=active_learning.query_size=1", "no room for audits"),
    argument(
        f"{PEOPLE} --set=active_learning.query_size=1 --set=active_learning.audit_share=0 "
        "--set=active_learning.check_share=0.1",
        "no room for checks",
    ),
    argument("--sampling=BALD", "--sampling BALD: needs dropout: ", "model.dropout=0.5"),
    argument("--processes=2 --sampling=BALD", "--sampling BALD: needs dropout: "),
    *options("--processes", "is not a whole number from 1 to 1,024", "0", "1025"),
    argument("--parallel=images", "argument --parallel: invalid choice: 'images'"),
    argument("--parallel=data", "shares a trial among several processes; add --processes 2"),
    argument(f"{PEOPLE} --processes=2", "--processes: people label for one trial; --parallel data"),
    argument("--overwrite=yes", "--overwrite", "yes"),
    argument("--epochs=3", "--epochs", "--help"),
    argument("digits", "digits", "--help"),
    argument("--config=", "--config", "cannot be read"),
    argument("--config=missing", "missing: cannot be read (No such", "--config", "network, digits"),
    argument("--config=missing.yaml", "missing.yaml: cannot be read (No such file", "--config"),
    argument("--config=.", ".: cannot be read (Is a directory)", "--config"),
    argument(f"--config={'x' * 256}", "xxx...: cannot be read (File name too long)", "--config"),
    argument("--data-dir=", "--data-dir: data_dir: '' is no path"),
    argument("--set=", "--set", "KEY=VALUE"),
    argument("--set=training.epochs", "--set training.epochs", "KEY=VALUE"),
    argument("--set=training.epochs=[1", "--set training.epochs=[1", "not YAML"),
    argument("--set=training.lr=!!int", "training.lr"),
    argument("--set=training.lr=!!timestamp", "training.lr"),
    argument(f"--set=training.epochs={'9' * 5000}", "--set training.epochs=999"),
    argument("--set=training.lr=!!python/name:os.system", "training.lr", "not YAML"),
    Bad(("--set=cod={margin: 1, margin: 2}",), ("--set cod={margin: 1, margin: 2}: ", "twice")),
    argument("--set=cod=0.02", "--set cod=0.02", "cod", "is no section"),
    argument("--set=scoring=", "--set scoring=", "scoring", "is no section"),
    *(
        argument(f"--set={key}=3", f"--set {key}=3: ", key.partition(".")[0], ": unknown key")
        for key in ("", "name", "run.seed", "training.", ".", "training.foo", "foo.bar.baz")
    ),
    *(
        argument(f"--set={key}=3", f"--set {key}=3: ", f"nearest known one is {nearest}\n")
        for keys, nearest in (
            (("epochs", "training.epoch"), "training.epochs"),
            (("trainig.epochs",), "training"),
            (("lr",), "training.lr"),
            (("cod.wieght",), "cod.weight"),
        )
        for key in keys
    ),
    argument("--set=training.lr.x=1", "--set training.lr.x=1: ", "training.lr"),
]

INTEGER = "should be a valid integer"
NUMBER = "should be a valid number"
FINITE = "should be a finite number"
AT_LEAST = "should be greater than or equal to"
AT_MOST = "should be less than or equal to"
LARGE = "1" * 13
VALUES = [
    *values("should be 'cifar10', 'cifar100'", "dataset=mnist|3||[digits]"),
    *values("is no path", r'data_dir=""|"\x20"|"a\0b"'),
    *values("should be a valid string", r'data_dir=5|[data]|null|"\ud800" model.extractor=5'),
    *values("should be 'resnet', 'imagenet_resnet' or 'linear'", "model.name=vgg|1|null"),
    *values("should be 'refuse' or 'skip'", "images.unreadable=ignore"),
    *values(
        INTEGER,
        "model.width=1.5|true|1e2 images.resize=8.0|big images.size=[8,8]|false "
        "augmentation.crop_padding=1.0 active_learning.trials=2.0|true|[3] "
        "model.extractor_size=64.5 active_learning.cycles=seven active_learning.initial_labels=1e2 "
        "active_learning.query_size=.nan active_learning.subset_size=all training.epochs=1e2|.inf "
        "training.batch_size=064|1:30|0x10 "
        "training.milestones=[8,x]|[1.5]|[true] ll4al.detach_epoch=1.5|never",
    ),
    *values(
        NUMBER,
        "training.lr=true|null|'1e-4'|\"0.5\"|'20'|1e|e5|1e5x training.momentum=x cod.weight=2e "
        "cod.ema_decay=high ll4al.margin=null ll4al.weight=heavy images.std=[true,1,1]",
    ),
    *values(f"'a' {NUMBER}", "images.mean=[a,b,c]"),
    *values(NUMBER, f"training.lr=1{'0' * 400}"),
    *values(
        FINITE,
        "training.lr=.nan|.inf|1e400 training.momentum=.nan training.weight_decay=.inf "
        "cod.weight=.nan|-.inf cod.ema_decay=.nan ll4al.margin=.nan|.inf ll4al.weight=.nan|.inf "
        "images.mean=[0.5,.nan,0.5] images.std=[.inf,1,1]",
    ),
    *values(
        "should be true or false",
        'model.pretrained=1|"yes"|null augmentation.flip=1|maybe| scoring.augment=0|some '
        'scoring.lowest_in_first_cycle=null|2 cod.fixed_batch_in_first_cycle=0|"on"',
    ),
    *values(
        f"{AT_LEAST} 0",
        "images.mean=[-0.1,0,0] augmentation.crop_padding=-1 training.momentum=-0.1 "
        "training.weight_decay=-5.0e-4|-5e-4 cod.weight=-1 cod.ema_decay=-0.1 ll4al.margin=-1 "
        "ll4al.weight=-1 ll4al.detach_epoch=-1",
    ),
    *values(
        f"{AT_LEAST} 1",
        "model.width=0|-1 images.resize=0 images.size=-8 active_learning.trials=0|-3 "
        "active_learning.cycles=0 active_learning.query_size=0|-50 "
        "active_learning.subset_size=0|-500 training.epochs=0",
    ),
    *values(f"0 {AT_LEAST} 1", "training.milestones=[0]"),
    *values(f"{AT_LEAST} 2", "active_learning.initial_labels=0|1|-5 training.batch_size=0|1|-64"),
    *values(f"{AT_LEAST} 32", "model.extractor_size=31"),
    *values(f"{AT_MOST} 2048", "model.extractor_size=2049"),
    *values(f"{AT_MOST} 1", "images.mean=[2,0,0] cod.ema_decay=1.5"),
    *values(f"{AT_MOST} 224", f"augmentation.crop_padding={LARGE}"),
    *values(f"{AT_MOST} 1000", f"active_learning.trials={2**62}"),
    *values(f"{AT_MOST} 1024", f"model.width=1025|{LARGE}"),
    *values(f"{AT_MOST} 4096", f"images.resize=4097|{LARGE} images.size={LARGE}"),
    *values(f"{AT_MOST} 1000000000", f"training.epochs=1{'0' * 30}"),
    *values(f"{AT_MOST} 1000000000", f"training.batch_size={2**62}"),
    *values(f"{AT_MOST} 3400000", "training.lr=1.0e+300 training.weight_decay=1.0e+300"),
    *values(
        "should be greater than 0",
        "images.std=[0,1,1]|[1,1,-1] training.lr=0|-0.1|-1e-4 images.test_share=0|-0.1",
    ),
    *values(
        "should be less than 1",
        "active_learning.audit_share=1 active_learning.check_share=1 training.momentum=1 "
        "images.test_share=1|2 model.dropout=1",
    ),
    *values("should be a list", "training.milestones=16|null|{a} images.std={r}"),
    *values("0.5 should be a list", "images.mean=0.5"),
    *values("a list of three values", "images.mean=[0.5,0.5]|[] images.std=[1,1,1,1]"),
    *values("larger than the one before", "training.milestones=[16,8]|[8,8]"),
    *values("null is for own_images", "active_learning.cycles=null"),
    *values("null is all images", "active_learning.initial_labels=null"),
    *values(
        "0.1 is for own_images", "active_learning.audit_share=0.1 active_learning.check_share=0.1"
    ),
    *values("95.0 is for own_images", "active_learning.target_accuracy=95"),
    *values("greater than or equal to 1", "active_learning.target_accuracy=0.95"),
    *values("9 is for image files", "images.size=9"),
    *values("0.2 is for image_folder", "images.test_share=0.2"),
]


def contradiction(settings: str, key: str, *says: str, config: str = "digits") -> Bad:
    overrides = (f"--set={setting}" for setting in settings.split())
    return Bad((f"--config={config}", *overrides), (f" {key}: ", *says))


SIZE, QUERIES, SUBSET = "images.size", "active_learning.query_size", "active_learning.subset_size"
LABELS = "initial_labels + (cycles - 1) * query_size ="
CONTRADICTIONS = [
    contradiction(f"{QUERIES}=400", QUERIES, f"{LABELS} 2500 labels", "1437 training images"),
    contradiction("active_learning.initial_labels=1138", QUERIES, "= 1438 labels"),
    contradiction("active_learning.cycles=28", QUERIES, "= 1450 labels"),
    contradiction(f"{SUBSET}=49", SUBSET, "49 is smaller than query_size 50"),
    contradiction("training.milestones=[15,26]", "training.milestones", "26", "15 epochs"),
    contradiction("training.epochs=11", "training.milestones", "12", "11 epochs"),
    contradiction("model.pretrained=true model.width=64", "model.pretrained", "imagenet_resnet"),
    contradiction(
        "model.name=imagenet_resnet model.pretrained=true", "model.width", "16", "write 64"
    ),
    contradiction(
        "images.resize=8 images.size=9", SIZE, "9 is larger than resize 8", config="image_folder"
    ),
    contradiction("images.size=", SIZE, "null", config="image_folder"),
    contradiction("images.size= images.resize=", SIZE, "null", config="image_folder"),
    contradiction("images.size= images.resize=", SIZE, "null", config="caltech101"),
    contradiction(
        "active_learning.cycles=20", QUERIES, "= 52500 labels", "50000 train", config="cifar10"
    ),
]
FILES = [
    file(
        "",
        "holds no settings",
        "caltech101_features, cifar10, cifar100, cifar10_features, cifar10_small_network, digits",
    ),
    file("- dataset: digits\n", "holds no settings"),
    file("digits", "holds no settings"),
    file("{}", "dataset: is missing", "config/digits.yaml", lines=8),
    file("dataset: [digits", "is not YAML", "line 1"),
    *(
        file(digits(*change), f"line {line}: the key {key} is there twice")
        for key, line, *change in (
            ("dataset", 3, "dataset: digits\n", "dataset: digits\ndataset: svhn\n"),
            ("lr", 24, "  lr: 0.02\n", "  lr: 0.02\n  lr: 0.1\n"),
            ("lr", 24, "  lr: 0.02\n", "  lr: 0.02\n  'lr': 0.02\n"),
            ("a", 26, "milestones: [12]", "milestones: [{a: 1, b: 2, a: 1}]"),
        )
    ),
    *(
        file(content, "is not YAML")
        for content in (
            *("\tdataset: digits", "a: b: c", "dataset: digits\n---\ndataset: digits\n"),
            *(digits("lr: 0.02", "{lr: 1, lr: 2}"), "[" * 5000),
            *(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", bytes(64), DIGITS.encode("utf-16")),
            "!!python/object/apply:os.system ['touch executed']",
            appended("x: !!python/object/apply:os.system ['touch executed']"),
            appended("x: !!python/object/new:os.system ['touch executed']"),
            appended("x: !!python/module:antigravity"),
            *(appended(f"x: {bad}") for bad in ("!!int ''", "!!bool x", "!!timestamp x", "*none")),
            appended("[a, b]: 1"),
        )
    ),
    *(
        file(appended(text), f"{key}: unknown key")
        for key, text in (
            *(("trainig", "trainig: {}"), ("training.lr", "training.lr: 1"), ("1", "1: 2")),
            *(("", r'"a\nb": 1'), ("...", "? " + "k" * 3000 + "\n: 1"), ("", "null: 2")),
        )
    ),
    file(f"training.lr: 1\n{digits('lr: 0.02', 'lr: fast')}", "unknown key", "'fast'", lines=2),
    file(digits("  epochs: 15", "  epohcs: 20"), "training.epochs", "training.epohcs", lines=2),
    file(digits("dataset: digits", ""), "dataset: is missing", "config/digits.yaml"),
    file(digits("lr: 0.02", "lr: 1e-1x"), "training.lr", f"'1e-1x' {NUMBER}"),
    file(digits("dataset: digits", "dataset: &a [*a]"), "dataset", "cifar10"),
    file("&a\nmodel: *a\n", "model.model", "model.name", lines=9),
]


# The entries take turns: they share what refuses, and both together would take twice the time.
BAD = [*ARGUMENTS, *VALUES, *CONTRADICTIONS, *FILES]
ROWS = [*zip(itertools.cycle(ENTRIES), BAD, strict=False)]


@pytest.fixture
def refuse(tmp_path, monkeypatch, call_script) -> Callable[..., None]:
    """Calls an entry script in the test's folder; it refuses, and the folder is as it was."""
    monkeypatch.chdir(tmp_path)

    def call(script: str, bad: Bad, run: Callable = call_script) -> None:
        if bad.file is not None:
            content = bad.file if isinstance(bad.file, bytes) else bad.file.encode()
            (tmp_path / "bad.yaml").write_bytes(content)
        before = sorted(tmp_path.rglob("*"))
        done = run(script, *bad.arguments)
        lines = done.stderr.splitlines()
        assert "Traceback" not in done.stderr
        assert all(line.isprintable() and 0 < len(line) <= 400 for line in lines)
        assert (done.returncode, done.stdout, len(lines)) == (2, "", bad.lines)
        assert [words for words in bad.says if words not in done.stderr] == []
        assert sorted(tmp_path.rglob("*")) == before

    return call


@pytest.mark.parametrize(("script", "bad"), ROWS, ids=str)
def test_bad_input_is_refused_in_a_readable_message(script, bad, refuse):
    main_only = "--sampling=" in "".join(bad.arguments)  # of strategies that LL4AL has not
    refuse("main_TOD.py" if main_only else script, bad)


def test_a_folder_that_cannot_be_used_is_refused(refuse, tmp_path):
    (tmp_path / "a_file").write_text("mine")
    taken = tmp_path / "taken" / "digits_auxiliary_TOD_sampling_TOD_seed0"
    taken.parent.mkdir()
    taken.write_text("mine")
    long = "x" * 256
    for arguments, *says in (
        (["--output-dir=a_file"], "a_file", "cannot be written"),
        (["--output-dir=a_file/b"], "a_file/b", "cannot be written"),
        (["--output-dir=taken"], "taken", "cannot be written"),
        ([f"--output-dir={long}"], "xxx", "File name too long"),
        (["--config=image_folder", f"--data-dir={long}"], "xxx", "File name too long"),
    ):
        refuse("main_TOD.py", Bad((*TINY_DIGITS, *arguments), (*says,)))
    assert (tmp_path / "a_file").read_text() == taken.read_text() == "mine"


# The same in processes of their own, as people meet it.
PROCESSES = [
    ("main_TOD.py", Bad(("--set=training.lr=-1", "--set=lr=1"), ("--set lr=1: ",), lines=2)),
    ("main_TOD.py", Bad(("--seed=x",), ("main_TOD.py: ", "--seed", "x is not a whole number"))),
    ("main_LL4AL.py", file(appended("dataset: svhn"), "the key dataset is there twice")),
    ("plot.py", Bad(("nowhere",), ("nowhere",))),
    ("report.py", Bad(("nowhere",), ("nowhere",))),
    ("predict.py", Bad(("nowhere", "."), ("nowhere",))),
]


@pytest.mark.parametrize(("script", "bad"), PROCESSES, ids=str)
def test_an_entry_script_refuses_with_status_2(script, bad, refuse):
    refuse(script, bad, run_script)


def test_help_and_refusals_import_only_what_they_use_and_take_little_time(tmp_path):
    code = """
import time, torch
begun = time.process_time()
import sys, main_TOD, main_LL4AL
from tod.config.cli import exit_status
for entry in (main_TOD, main_LL4AL):
    for argument in sys.argv[1:]:
        try:
            with exit_status():
                entry.main([argument])
        except SystemExit as exit:
            print('status', exit.code or 0)
print(*{'torchvision', 'timm', 'sklearn', 'scipy', 'matplotlib', 'pandas'} & {*sys.modules})
print(time.process_time() - begun)
"""
    command = [sys.executable, "-c", code, "--help"]
    command += ["--set=training.lr=x", "--config=missing", "--seed=x"]
    settings = {"cwd": tmp_path, "env": {"PYTHONPATH": str(PROJECT_DIR)}, "text": True}
    *lines, slow, seconds = subprocess.check_output(command, **settings).splitlines()
    statuses = [line for line in lines if line.startswith("status")]
    assert statuses == ["status 0", "status 2", "status 2", "status 2"] * 2
    assert slow == ""
    assert float(seconds) < 1.0  # of work beside PyTorch's own import; all eight take 0.2


@pytest.mark.parametrize("script", ENTRIES)
def test_help_lists_every_argument_and_what_the_entry_offers(script, call_script):
    done = call_script(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    options = ("config", "sampling", "auxiliary", "seed", "data-dir", "output-dir", "device", "set")
    options += ("trials", "overwrite", "keep-weights")
    assert [name for name in options if f"--{name}" not in done.stdout] == []
    module = importlib.import_module(script.removesuffix(".py"))
    for offered in (module.SAMPLING, module.AUXILIARY):
        assert f"{{{','.join(offered)}}}" in done.stdout
