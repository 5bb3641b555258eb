"""Runs of this version and of another one, compared byte by byte.

git worktree add ../before COMMIT && python -m tests.support.same_bytes ../before
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from tests.support.forks import one_thread
from tests.support.harness import PROJECT_DIR, TINY_DIGITS, table
from tests.support.people import CLASSES, People

TIMES = {"train_seconds"}
LL4AL = ("main_LL4AL.py", "--sampling=LL4AL")
PICTURES = (
    *("--set=dataset=image_folder", "--set=images.resize=72", "--set=images.size=64"),
    *("--set=augmentation.crop_padding=4", "--set=model.name=imagenet_resnet"),
)
KINDS = (
    ("main_TOD.py", "--sampling=TOD", "--auxiliary=TOD", "--set=active_learning.trials=2"),
    ("main_TOD.py", "--sampling=BADGE", "--auxiliary=NONE", "--set=training.fresh_weights=true"),
    ("main_TOD.py", "--sampling=BALD", "--auxiliary=NONE", "--set=model.dropout=0.3"),
    ("main_TOD.py", "--sampling=TYPICLUST", "--auxiliary=NONE", *PICTURES),
    (*LL4AL, "--auxiliary=LL4AL", "--set=ll4al.detach_epoch=0"),
    (*LL4AL, "--auxiliary=NONE"),
)
"""Simulated runs, three cycles each."""


def simulated(version: Path, place: Path) -> None:
    pictures = People(place / "pictures", count=0)
    names = [f"{('train', 'test')[n >= 100]}/{CLASSES[n % 2]}/{n}.png" for n in range(120)]
    pictures.add(*names)
    for number, (script, *arguments) in enumerate(KINDS):
        if PICTURES[0] in arguments:
            arguments.append(f"--data-dir={pictures.data}")
        settings = [*TINY_DIGITS, "--set=active_learning.cycles=3"]
        run(version, script, *settings, *arguments, f"--output-dir={place / str(number)}")


def labelled_by_people(version: Path, place: Path) -> None:
    """Five rounds of people's labels, with skips, ties, a part of a batch, a rename and a kill."""
    people = People(place)
    settings = ["--set=training.epochs=22", "--device=cpu", "--set=active_learning.audit_share=0.2"]
    command = ["main_TOD.py", *people.command(*settings, auxiliary="TOD")]
    run(version, *command)
    for number in range(5):
        first, skipped, tie, *others = people.batch(number)
        if number == 1:
            run(version, *command, "--labels", people.says(others[:3], file="part.csv"))
        if number == 2:
            renamed = people.data / first["file"]
            renamed.rename(renamed.with_name(f"renamed_{renamed.name}"))
        whole = people.says([first, tie, *others], file=f"all{number}.csv", skips=[skipped])
        given = ["--labels", whole, people.says([tie], people.wrong(tie), f"two{number}.csv")]
        if number == 3:
            kill_in_training(version, people, *command, *given)
        run(version, *command, *given)
        run(version, *command, "--labels", people.says([tie], file=f"three{number}.csv"))
    people.add("unlabeled/later.png")
    run(version, *command)


def kill_in_training(version: Path, people: People, *command: object) -> None:
    """Kills a round with SIGKILL as it saves its state."""
    progress = people.run / "progress"
    before = progress.stat().st_mtime_ns
    with start(version, *command) as process:
        while process.poll() is None and progress.stat().st_mtime_ns == before:
            time.sleep(0.005)
        process.kill()


def start(version: Path, *command: object) -> subprocess.Popen:
    """A cold process of a version."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=version, env=one_thread(), **pipes
    )


def run(version: Path, *command: object) -> None:
    """Runs a command of a version to its end.

    Raises:
        AssertionError: it failed.
    """
    with start(version, *command) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, f"{version}: {command}\n{output}"


def left(place: Path) -> Iterator[tuple[str, object]]:
    """What must be the same: rows of tables, without times, and tensors."""
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.suffix == ".csv" and "own_images" not in path.name and path.parent.name != "trials":
            yield name, table(path)
        elif path.suffix == ".pth":
            for network, state in torch.load(path, weights_only=True).items():
                for key, tensor in state.items() if isinstance(state, dict) else ():
                    yield f"{name} {network} {key}", tensor.numpy().tobytes()


def differ(a: object, b: object) -> bool:
    """Whether two files' contents differ; in tables, in the columns that both have."""
    if not (isinstance(a, list) and isinstance(b, list) and a and b):
        return a != b
    columns = (a[0].keys() & b[0].keys()) - TIMES
    kept = [[{key: row[key] for key in columns} for row in rows] for rows in (a, b)]
    return kept[0] != kept[1]


def main() -> None:
    """Compares, says what differs, and ends with status 1 where anything does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, metavar="OTHER", help="the folder of another version")
    other = parser.parse_args().other.resolve()
    works: tuple[Callable[[Path, Path], None], ...] = (simulated, labelled_by_people)
    status = 0
    for work in works:
        with tempfile.TemporaryDirectory() as folder:
            found = []
            for number, version in enumerate((PROJECT_DIR, other)):
                place = Path(folder, str(number))
                place.mkdir()
                work(version, place)
                found.append(dict(left(place)))
        a, b = found
        different = sorted(name for name in a.keys() | b.keys() if differ(a.get(name), b.get(name)))
        status |= bool(different)
        print(f"{work.__name__}: {len(a)} tables and tensors, {len(different)} differ")
        print(*different, sep="\n", end="\n" if different else "")
    raise SystemExit(status)


if __name__ == "__main__":
    main()
