"""Image files, decoded once and kept beside their originals."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tod.config import PROJECT_DIR, Images, InputError
from tod.data import decoding

CONFIG = Images(size=8, resize=12)


@pytest.fixture
def folder(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 256, (10 + number, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def load(folder: Path, config: Images = CONFIG) -> torch.Tensor:
    return decoding.load_images(folder, [f"{n}.png" for n in range(6)], config)


def kept(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob(".decoded*.npy"))


@pytest.fixture
def decodings(monkeypatch) -> list[int]:
    """How many images each decoding took."""
    counts = []
    decode_all = decoding._decode_all

    def counting(folder, files, *sizes):
        counts.append(len(files))
        return decode_all(folder, files, *sizes)

    monkeypatch.setattr(decoding, "_decode_all", counting)
    return counts


def test_images_are_decoded_once(folder, decodings):
    first = load(folder)
    assert first.shape == (6, 3, 8, 8)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, load(folder))
    assert decodings == [6]


@pytest.mark.parametrize("change", ["pixels", "time", "sizes"])
def test_what_has_changed_is_decoded_again_and_replaces_what_was_kept(folder, decodings, change):
    before, names = load(folder).clone(), kept(folder)
    if change == "pixels":
        Image.new("RGB", (14, 10), "white").save(folder / "0.png")
    elif change == "time":
        os.utime(folder / "0.png", ns=(1, 1))
    after = load(folder, Images(size=6, resize=12) if change == "sizes" else CONFIG)
    assert decodings == [6, 6]
    assert len(kept(folder)) == (2 if change == "sizes" else 1)
    assert kept(folder) != names
    if change == "pixels":
        assert (after[0] == 255).all()
    if change == "sizes":
        assert torch.equal(after, before[:, :, 1:7, 1:7])


@pytest.mark.parametrize("damage", ["cut", "emptied", "of another shape"])
def test_what_was_kept_and_is_damaged_is_decoded_again(folder, decodings, damage):
    expected = load(folder).clone()
    path = folder / kept(folder)[0]
    if damage == "of another shape":
        np.save(path, np.zeros((6, 4, 4, 3), dtype=np.uint8))
    else:
        os.truncate(path, 0 if damage == "emptied" else path.stat().st_size - 1)
    assert torch.equal(expected, load(folder))
    assert decodings == [6, 6]
    assert torch.equal(expected, load(folder))
    assert len(decodings) == 2


@pytest.mark.parametrize("obstacle", ["lock", "images"])
def test_where_nothing_can_be_kept_images_are_decoded_each_time(
    folder, decodings, caplog, obstacle
):
    expected = load(folder).clone()
    path = folder / (".lock" if obstacle == "lock" else kept(folder)[0])
    (folder / kept(folder)[0]).unlink()
    path.unlink(missing_ok=True)
    path.mkdir()
    for _ in range(2):
        assert torch.equal(load(folder), expected)
    assert decodings == [6, 6, 6]
    assert "the decoded images cannot be kept (Is a directory)" in caplog.text


def test_a_full_disk_keeps_nothing_and_stops_nothing(folder, decodings, caplog, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert torch.equal(load(folder), load(folder))
    assert decodings == [6, 6]
    assert "the decoded images cannot be kept (No space left on device)" in caplog.text
    assert [p.name for p in folder.glob(".*")] == [".lock"]


def test_what_a_killed_process_has_left_is_removed(folder):
    left = folder / "..decoded_12_8_0123456789abcdef.npy.partial"
    left.write_bytes(b"half")
    load(folder)
    assert not left.exists()


def test_damaged_image_keeps_nothing(folder):
    (folder / "3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"3\.png: cannot be read as an image"):
        load(folder)
    assert not kept(folder)


def test_two_processes_decode_a_folder_once_between_them(folder):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tod.config import Images; from tod.data import decoding\n"
        "decode_all = decoding._decode_all\n"
        "def slow(*arguments):\n"
        "    print('decodes', flush=True); time.sleep(1); return decode_all(*arguments)\n"
        "decoding._decode_all = slow\n"
        "files = [f'{n}.png' for n in range(6)]\n"
        "print(decoding.load_images(Path(sys.argv[1]), files, Images(size=8)).sum().item())\n"
    )
    command = [sys.executable, "-c", code, folder]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_DIR)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].split() for process in both]
    assert all(process.returncode == 0 for process in both)
    assert sorted(map(len, outputs)) == [1, 2]
    assert outputs[0][-1] == outputs[1][-1]


def test_where_files_cannot_be_locked_nothing_is_kept(folder, decodings, caplog, monkeypatch):
    @contextmanager
    def no_locks(path: Path) -> Iterator[None]:
        raise OSError(errno.ENOLCK, "No locks available")
        yield

    monkeypatch.setattr(decoding, "locked", no_locks)
    load(folder)
    assert not kept(folder)
    assert "the decoded images cannot be kept (No locks available)" in caplog.text


@pytest.mark.parametrize("quiet", [False, True])
def test_decoding_shows_a_bar_unless_quiet(folder, monkeypatch, caplog, quiet):
    shown = []
    monkeypatch.setattr(
        decoding, "tqdm", lambda done, *_, disable, **__: shown.append(disable) or done
    )
    caplog.set_level("WARNING" if quiet else "INFO", "tod.progress")
    load(folder)
    assert shown == [True if quiet else None]
