"""Image files, decoded once and kept beside their originals."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from tod.config import PROJECT_DIR, InputError
from tod.data import decoding, picture
from tod.data import kept as kept_images
from tod.data.kept import KeptImages
from tod.schema import Images

CONFIG = Images(size=8, resize=12)


@pytest.fixture
def folder(tmp_path) -> Path:
    random = np.random.default_rng(0)
    for number in range(6):
        pixels = random.integers(0, 256, (10 + number, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return tmp_path


def load(folder: Path, config: Images = CONFIG) -> torch.Tensor:
    pixels, problems = decode(folder, names(folder), config)
    assert not problems
    return pixels


def decode(folder: Path, files: list[str], config: Images) -> tuple[torch.Tensor, dict[int, str]]:
    (found,) = decoding.load_images([(folder, files)], config)
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


def kept(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob(".*decoded*"))


def num_safe(path: Path, side: int) -> int:
    """How many images a kept file has, of this side."""
    image, entry = 3 * side**2, kept_images.ENTRY_SIZE
    content = path.read_bytes()
    count = len(content) // (image + entry)
    entries = np.frombuffer(content[count * image :], np.uint8).reshape(count, entry)
    return int(entries[:, : kept_images.KEY_SIZE].any(axis=1).sum())


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that are decoded, in the order of their beginning."""
    begun = []
    decode = picture.decode

    def noted(path: Path, **options: object) -> bytes:
        begun.append(path.name)
        return decode(path, **options)

    monkeypatch.setattr(picture, "decode", noted)
    return begun


def test_images_are_decoded_once(folder, decoded):
    first = load(folder)
    assert first.shape == (6, 3, 8, 8)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, load(folder))
    assert sorted(decoded) == names(folder)
    assert kept(folder) == [".decoded_12_8"]


def test_images_are_those_of_pillow(folder):
    pixels = load(folder)
    for found, name in zip(pixels, names(folder), strict=True):
        square = Image.open(folder / name).resize((12, 12), Image.Resampling.BILINEAR)
        expected = np.asarray(square.crop((2, 2, 10, 10))).transpose(2, 0, 1)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("change", ["pixels", "time", "name", "another file", "one less"])
def test_only_what_has_changed_is_decoded_again(folder, decoded, change):
    load(folder)
    decoded.clear()
    path = folder / "3.png"
    changed = [path.name]
    if change == "pixels":
        Image.new("RGB", (14, 10), "white").save(path)
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "name":
        path.rename(folder / "9.png")
        changed = ["9.png"]
    elif change == "another file":
        shutil.copy(path, folder / "33.png")
        changed = ["33.png"]
    else:
        path.unlink()
        changed = []
    after = load(folder)
    assert decoded == changed
    assert len(after) == len(names(folder))
    for found, name in zip(after, names(folder), strict=True):
        content, _ = picture.decode(folder / name, resize=12, size=8, read=picture.as_shown)
        assert found.permute(1, 2, 0).contiguous().numpy().tobytes() == content
    assert kept(folder) == [".decoded_12_8"]


def test_files_of_one_size_and_time_that_change_places_are_decoded_again(tmp_path):
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8), colour).save(tmp_path / name / "0.bmp")
        os.utime(tmp_path / name / "0.bmp", ns=(1, 1))
    files = ["a/0.bmp", "b/0.bmp"]
    before, _ = decode(tmp_path, files, CONFIG)
    before = before.clone()
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    after, _ = decode(tmp_path, files, CONFIG)
    assert torch.equal(after, before.flip(0))
    assert not torch.equal(after, before)


def test_another_version_of_the_decoding_decodes_again(folder, decoded, monkeypatch):
    load(folder)
    monkeypatch.setattr(picture, "VERSION", "another")
    load(folder)
    assert len(decoded) == 12


def test_other_sizes_are_kept_beside(folder, decoded):
    before = load(folder)
    smaller = load(folder, Images(size=6, resize=12))
    assert torch.equal(smaller, before[:, :, 1:7, 1:7])
    assert kept(folder) == [".decoded_12_6", ".decoded_12_8"]
    assert len(decoded) == 12


def test_what_is_mapped_stays_when_the_images_change(folder):
    before = load(folder)
    copy = before.clone()
    for path in folder.glob("*.png"):
        Image.new("RGB", (14, 10), "white").save(path)
    assert (load(folder) == 255).all()
    assert torch.equal(before, copy)


@pytest.mark.parametrize("damage", ["cut", "emptied", "of another shape"])
def test_what_was_kept_and_is_damaged_is_decoded_again(folder, decoded, damage):
    expected = load(folder).clone()
    path = folder / kept(folder)[0]
    if damage == "of another shape":
        path.write_bytes(bytes(1000))
    else:
        os.truncate(path, 0 if damage == "emptied" else path.stat().st_size - 1)
    assert torch.equal(expected, load(folder))
    assert len(decoded) == 12
    assert torch.equal(expected, load(folder))
    assert len(decoded) == 12


def test_what_an_earlier_version_kept_goes_and_is_not_believed(folder, decoded):
    reader = (picture.VERSION, picture.as_shown.__name__)
    keys = [decoding.file_key(folder, name, *reader) for name in names(folder)]
    for state in ("partial", "before"):
        (folder / f".decoded_12_8.{state}").write_bytes(bytes(6 * 192))
        (folder / f".decoded_12_8.{state}.keys").write_bytes(b"".join(keys))
    (folder / ".decoded_12_8_0123456789abcdef.npy").write_bytes(b"pixels")
    (folder / ".decoded_12_8").write_bytes(bytes(6 * 192) + b"".join(keys))
    assert (load(folder).amax(dim=(1, 2, 3)) > 0).all()
    assert sorted(decoded) == names(folder)
    assert kept(folder) == [".decoded_12_8"]


FILE_OPERATIONS = {
    *("open", "write", "flush", "truncate", "fsync", "rename", "replace", "unlink", "close"),
}


def is_killed_before(step: int, folder: Path, files: list[str]) -> bool:
    """Whether a process that loads these files comes to its `step`-th operation; it dies there."""
    process = os.fork()
    if process == 0:
        left = step

        def watch(frame: object, event: str, function: object) -> None:
            nonlocal left
            if event == "c_call" and function.__name__ in FILE_OPERATIONS:
                left -= 1
                if left == 0:
                    os._exit(9)  # what is not written yet is lost

        sys.setprofile(watch)
        try:
            decode(folder, files, CONFIG)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9


def test_at_whatever_file_operation_it_is_killed_each_image_keeps_its_own_pixels(
    folder, monkeypatch
):
    monkeypatch.setattr(kept_images, "CHUNK", 400)  # two images and a bit
    files = names(folder)
    expected = {n: picture.decode(folder / n, 12, 8, picture.as_shown).content for n in files}
    decode_one = picture.decode

    def interrupted(path: Path, **options: object) -> bytes:
        if path.name == "4.png":
            raise KeyboardInterrupt
        return decode_one(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(picture, "decode", interrupted)
        for chosen in (files, files[2:]):
            with pytest.raises(KeyboardInterrupt):
                decode(folder, chosen, CONFIG)
    begun = {name: (folder / name).read_bytes() for name in kept(folder)}
    for killed, then in ((files, files), (files[:1:-1], files), (files[:4], files[1:])):
        step, is_killed = 0, True
        while is_killed:
            step += 1
            for name in kept(folder):
                (folder / name).unlink()
            for name, content in begun.items():
                (folder / name).write_bytes(content)
            is_killed = is_killed_before(step, folder, killed)
            for chosen in (then, files[2:]):
                pixels, problems = decode(folder, chosen, CONFIG)
                assert not problems
                for image, name in zip(pixels, chosen, strict=True):
                    content = image.permute(1, 2, 0).contiguous().numpy().tobytes()
                    assert content == expected[name], (step, name)
            assert kept(folder) == [".decoded_12_8"]
        assert step > 10


@pytest.mark.parametrize("chunk", [1, 400, 10**6])
@pytest.mark.parametrize("moment", [1, 2, 4, 6])
def test_an_interrupted_decoding_goes_on_where_it_stopped(
    folder, decoded, monkeypatch, chunk, moment
):
    monkeypatch.setattr(kept_images, "CHUNK", chunk)
    safe = 0

    def flush(file: BinaryIO) -> None:
        nonlocal safe
        file.flush()
        safe = num_safe(folder / ".decoded_12_8", 8)
        if safe >= moment:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kept_images, "_flush", flush)
        load(folder)
    decoded.clear()
    pixels = load(folder)
    assert decoded == names(folder)[safe:]
    assert kept(folder) == [".decoded_12_8"]
    shutil.copytree(folder, folder / "again", ignore=shutil.ignore_patterns(".*"))
    assert torch.equal(pixels, load(folder / "again"))


def test_an_interrupted_decoding_of_other_files_is_not_lost(folder, decoded, monkeypatch):
    monkeypatch.setattr(kept_images, "CHUNK", 1)
    (folder / "4.png").rename(folder / "other")
    (folder / "5.png").write_bytes(b"broken")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space"):
        patch.setattr(kept_images, "_flush", full_after(8))
        load(folder)
    decoded.clear()
    (folder / "other").rename(folder / "4.png")
    Image.new("RGB", (14, 10), "white").save(folder / "5.png")
    Image.new("RGB", (14, 10), "white").save(folder / "0.png")
    load(folder)
    assert decoded == ["0.png", "4.png", "5.png"]


def full_after(count: int) -> Callable[[BinaryIO], None]:
    """Replaces `_flush`: the disk is full from so many times on."""
    left = count

    def flush(file: BinaryIO) -> None:
        nonlocal left
        file.flush()
        left -= 1
        if left <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    return flush


def test_a_disk_that_fills_up_is_one_line_and_nothing_is_lost(folder, decoded, monkeypatch):
    monkeypatch.setattr(kept_images, "CHUNK", 1)
    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        patch.setattr(kept_images, "_flush", full_after(7))
        load(folder)
    assert "cannot be written (No space left on device); what was decoded is kept" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    decoded.clear()
    load(folder)
    assert decoded == ["3.png", "4.png", "5.png"]


def test_a_disk_too_small_is_one_line_before_decoding(folder, decoded, monkeypatch):
    usage = shutil.disk_usage(folder)._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(InputError) as caught:
        load(folder)
    assert "the decoded images need 1.25e-06 GB there, and 1e-06 GB are free" in str(caught.value)
    assert not decoded
    assert not any(path.name.startswith(".decoded") for path in folder.iterdir())


@pytest.mark.parametrize("obstacle", ["a folder in the lock's place", "no locks"])
def test_where_nothing_can_be_kept_images_are_decoded_each_time(
    folder, decoded, caplog, monkeypatch, obstacle
):
    expected = load(folder).clone()
    (folder / kept(folder)[0]).unlink()
    if obstacle == "no locks":
        problem = "No locks available"

        @contextmanager
        def no_locks(path: Path) -> Iterator[None]:
            raise OSError(errno.ENOLCK, problem)
            yield

        monkeypatch.setattr(decoding, "locked", no_locks)
    else:
        problem = "Is a directory"
        (folder / ".lock").unlink()
        (folder / ".lock").mkdir()
    for _ in range(2):
        assert torch.equal(load(folder), expected)
    assert len(decoded) == 18
    assert f"the decoded images cannot be kept ({problem})" in caplog.text
    assert not kept(folder)


def test_without_any_place_for_temporary_files_one_line_names_tmpdir(folder, monkeypatch):
    (folder / ".lock").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(folder / "nowhere")])
    with pytest.raises(InputError) as caught:
        load(folder)
    assert "No usable temporary directory found" in str(caught.value)
    assert str(caught.value).endswith("make room, or name another place by TMPDIR")
    assert "\n" not in str(caught.value)


def test_pictures_that_keep_few_grey_levels_are_told_once_a_run_also_when_they_are_kept(
    tmp_path, caplog, monkeypatch
):
    dim = np.arange(256, dtype=np.uint16).reshape(16, 16)
    for name, values in {"a": 257 * dim, "b": dim, "c": 20 * dim, "d": 40 * dim}.items():
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "0.png")
    listings = [(tmp_path / name, ["0.png"]) for name in "abcd"]
    words = (
        f"{tmp_path / 'b' / '0.png'}: fewer than 32 of its grey levels are left in 8 bits "
        "(2 such in all); stretch them beforehand, all by one factor"
    )
    for _ in range(2):
        caplog.clear()
        decoding.load_images(listings, CONFIG)
        assert caplog.messages == [words]
    # A list of other files takes over what is kept.
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / "1.png")
    caplog.clear()
    decoding.load_images([(tmp_path / "b", ["0.png", "1.png"])], CONFIG)
    assert caplog.messages == [words.replace("2 such", "1 such")]
    caplog.clear()
    list(decoding.decoded_once(tmp_path, [f"{name}/0.png" for name in "abcd"], CONFIG, 1))
    assert caplog.messages == [words]


def test_what_is_kept_needs_no_lock(folder, decoded, caplog):
    expected = load(folder).clone()
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()
    assert torch.equal(load(folder), expected)
    assert len(decoded) == 6
    assert not caplog.text


def test_all_that_cannot_be_read_is_told_and_what_was_decoded_is_kept(folder, decoded):
    whole = load(folder).clone()
    for name in ("1.png", "4.png"):
        (folder / name).write_bytes(b"no image")
    pixels, problems = decode(folder, names(folder), CONFIG)
    assert sorted(problems) == [1, 4]
    assert all("no picture of a known kind" in why for why in problems.values())
    assert torch.equal(pixels[[0, 2, 3, 5]], whole[[0, 2, 3, 5]])
    decoded.clear()
    _, again = decode(folder, names(folder), CONFIG)
    assert again.keys() == problems.keys()
    assert sorted(decoded) == ["1.png", "4.png"]
    decoded.clear()
    Image.new("RGB", (14, 10), "white").save(folder / "1.png")
    pixels, problems = decode(folder, names(folder), CONFIG)
    assert sorted(problems) == [4]
    assert (pixels[1] == 255).all()
    assert sorted(set(decoded)) == ["1.png", "4.png"]


def test_what_could_not_be_read_for_a_moment_is_read_the_next_time(folder, monkeypatch):
    decode_one = picture.decode

    def flaky(path: Path, **options: object) -> bytes:
        if path.name == "2.png":
            raise OSError(errno.EIO, "Input/output error")
        return decode_one(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(picture, "decode", flaky)
        mapped, problems = decode(folder, names(folder), CONFIG)
    assert problems == {2: "Input/output error"}
    pixels = load(folder)
    assert torch.equal(pixels[[0, 1, 3, 4, 5]], mapped[[0, 1, 3, 4, 5]])
    assert torch.equal(pixels, load(folder))
    assert pixels[2].float().std() > 0


LACKS = [
    MemoryError(),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENFILE, "Too many open files in system"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("lack", LACKS, ids=lambda error: str(error) or "memory")
def test_what_the_machine_lacks_is_no_broken_picture_and_loses_nothing(
    folder, decoded, monkeypatch, lack
):
    decode_one = picture.decode

    def lacking(path: Path, **options: object) -> picture.Pixels:
        if path.name == "3.png":
            raise lack
        return decode_one(path, **options)

    with monkeypatch.context() as patch, pytest.raises(InputError) as caught:
        patch.setattr(picture, "decode", lacking)
        load(folder)
    assert str(caught.value).startswith(f"{folder / '3.png'}: cannot be read now (")
    assert "run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    decoded.clear()
    load(folder)
    assert sorted(decoded) == ["3.png", "4.png", "5.png"]


def test_a_kept_file_that_cannot_be_opened_for_want_of_files_stays(folder, decoded, monkeypatch):
    load(folder)
    open_path = Path.open

    def too_many(path: Path, *arguments: object, **options: object) -> object:
        if path.name == ".decoded_12_8":
            raise OSError(errno.EMFILE, "Too many open files")
        return open_path(path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="Too many open files"):
        patch.setattr(Path, "open", too_many)
        load(folder)
    load(folder)
    assert len(decoded) == 6


def test_no_file_is_no_image(tmp_path):
    pixels, problems = decode(tmp_path, [], CONFIG)
    assert pixels.shape == (0, 3, 8, 8)
    assert not problems


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    random = np.random.default_rng(0)
    for number in range(100):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            tmp_path / f"{number:03d}.png"
        )
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.memory import most_private_bytes, private_bytes\n"
        "from tod.schema import Images; from tod.data import decoding\n"
        "from tod.data.dataset import ImageSet; import tod.data, torch\n"
        "files = [f'{n:03d}.png' for n in range(100)] * int(sys.argv[2])\n"
        "before = private_bytes()\n"
        "with most_private_bytes() as most:\n"
        "    pixels, _ = decoding.load_images([(Path(sys.argv[1]), files)], Images(size=224))[0]\n"
        "    images = ImageSet(pixels, torch.zeros(len(files), dtype=torch.int64))\n"
        "    tod.data.statistics(images)\n"
        "    tod.data.Dataset(images, images, [], None, None).fingerprint()\n"
        "print(most[0] - before)\n"
    )
    few, many = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, tmp_path, str(times)],
                cwd=PROJECT_DIR,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for times in (3, 39)
    )
    # 300 images are 45 MB, and 3,900 are 587 MB; what both need differs by 60 MB between processes.
    assert many < few + 100e6


def test_two_processes_decode_a_folder_once_between_them(folder):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tod.schema import Images; from tod.data import decoding\n"
        "from tod.data import picture; decode = picture.decode\n"
        "def slow(path, **options):\n"
        "    print(path.name, flush=True); time.sleep(0.3); return decode(path, **options)\n"
        "picture.decode = slow\n"
        "files = [f'{n}.png' for n in range(6)]\n"
        "found = decoding.load_images([(Path(sys.argv[1]), files)], Images(size=8))\n"
        "print(found[0][0].sum().item())\n"
    )
    command = [sys.executable, "-c", code, folder]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT_DIR)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].split() for process in both]
    assert all(process.returncode == 0 for process in both)
    assert sorted(map(len, outputs)) == [1, 7]
    assert outputs[0][-1] == outputs[1][-1]


@pytest.mark.parametrize("quiet", [False, True])
def test_decoding_shows_a_bar_unless_quiet(folder, monkeypatch, caplog, quiet):
    shown = []

    def bar(**options: object) -> tqdm:
        shown.append(options["disable"])
        return tqdm(disable=True)

    monkeypatch.setattr(kept_images, "tqdm", bar)
    caplog.set_level("WARNING" if quiet else "INFO", "tod.progress")
    load(folder)
    assert shown == [True if quiet else None]


def test_a_killed_decoding_goes_on_where_it_stopped(tmp_path, decoded):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number:02d}.png")
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tod.schema import Images; from tod.data import decoding, kept, picture\n"
        "decode = picture.decode\n"
        "def slow(*arguments, **options):\n"
        "    time.sleep(0.05); return decode(*arguments, **options)\n"
        "picture.decode = slow; kept.CHUNK = 3072 * 4\n"
        "folder = Path(sys.argv[1]); files = sorted(p.name for p in folder.glob('*.png'))\n"
        "decoding.load_images([(folder, files)], Images(size=32))\n"
    )
    store = tmp_path / ".decoded_32_32"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=PROJECT_DIR) as process:
        while not (store.exists() and num_safe(store, 32) >= 8):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    safe = num_safe(store, 32)
    assert 8 <= safe < 40
    found = load(tmp_path, Images(size=32))
    np.testing.assert_array_equal(found, pixels.transpose(0, 3, 1, 2))
    assert sorted(decoded) == names(tmp_path)[safe:]


def test_a_large_picture_is_read_without_a_word(tmp_path, recwarn, caplog):
    Image.new("1", (10_000, 19_000), 1).save(tmp_path / "large.png")
    assert (load(tmp_path) == 255).all()
    assert not recwarn
    assert not caplog.text


def test_files_of_little_are_safe_after_seconds_and_at_an_end(folder, decoded, monkeypatch):
    decode_one = picture.decode

    def interrupted(path: Path, **options: object) -> bytes:
        if path.name == "4.png":
            raise KeyboardInterrupt
        return decode_one(path, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(picture, "decode", interrupted)
        load(folder)
    decoded.clear()
    load(folder)
    assert sorted(decoded) == ["4.png", "5.png"]


def test_what_took_seconds_is_saved_at_once(folder, monkeypatch):
    saved = []
    save = KeptImages._save

    def noted(store: KeptImages, file: BinaryIO, count: int, entries: dict[int, bytes]) -> None:
        saved.append(len(entries))
        save(store, file, count, entries)

    monkeypatch.setattr(kept_images, "SECONDS", 0.0)
    monkeypatch.setattr(KeptImages, "_save", noted)
    load(folder)
    assert saved == [1] * 6 + [0]


def test_who_reads_while_others_decode_another_list_gets_his_own_images(folder):
    (folder / "2.png").write_bytes(b"no image")
    decode(folder, names(folder), CONFIG)
    expected = [
        picture.decode(folder / n, 12, 8, picture.as_shown).content for n in ("0.png", "5.png")
    ]
    find = KeptImages.find
    turns = []

    def find_then_others_decode(store: KeptImages, keys: list[bytes]):
        found = find(store, keys)
        if not turns:
            turns.append("other")
            decode(folder, names(folder)[::-1][:3], CONFIG)
        return found

    with patch.object(KeptImages, "find", find_then_others_decode):
        pixels, problems = decode(folder, names(folder), CONFIG)
    assert list(problems) == [2]
    for index, content in zip((0, 5), expected, strict=True):
        assert pixels[index].permute(1, 2, 0).contiguous().numpy().tobytes() == content


def test_what_a_read_only_folder_lacks_is_read_each_time(folder, decoded, monkeypatch):
    whole = load(folder).clone()
    content = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(b"no image")
    decode(folder, names(folder), CONFIG)
    (folder / "2.png").write_bytes(content)

    def read_only(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(decoding, "locked", read_only)
    decoded.clear()
    for _ in range(2):
        assert torch.equal(load(folder), whole)
    assert decoded == ["2.png", "2.png"]


def test_an_unfinished_file_of_a_read_only_folder_is_decoded_anew_outside_of_it(
    folder, decoded, monkeypatch
):
    whole = load(folder).clone()
    os.utime(folder / "2.png", ns=(1, 1))
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space"):
        patch.setattr(kept_images, "_flush", full_after(1))
        load(folder)
    monkeypatch.setattr(decoding, "AHEAD", 0)  # what is missing is more than memory should hold
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()
    decoded.clear()
    assert torch.equal(load(folder), whole)
    assert sorted(decoded) == names(folder)


def test_disks_are_asked_for_all_folders_before_the_first_is_decoded(
    tmp_path, decoded, monkeypatch
):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    listings = [(tmp_path / name, ["0.png"]) for name in ("a", "b")]
    usage = shutil.disk_usage(tmp_path)._replace(free=300)  # for one of them
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"need 4.18e-07 GB there"):
        patch.setattr(shutil, "disk_usage", lambda place: usage)
        decoding.load_images(listings, CONFIG)
    assert not decoded
    decoding.load_images(listings, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=0))
        decoding.load_images(listings, CONFIG)  # nothing more is needed
    assert len(decoded) == 2


def test_a_file_that_goes_after_it_was_listed_is_a_problem_of_its_own(folder):
    files = names(folder)
    (folder / "3.png").unlink()
    _, problems = decode(folder, files, CONFIG)
    assert problems == {3: "No such file or directory"}
