"""What is kept of pictures outlives kills, interruptions, full disks, other processes."""

import errno
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from unittest.mock import Mock

import pytest

from tests.support import decoding
from tests.support.decoding import STORE, WHITE, clear, decode, kept, load, names, no_locks
from tests.support.loading import refused
from tests.support.pictures import write_classes
from tod.config import InputError
from tod.data import picture, store

FILE_OPERATIONS = {
    *("open", "close", "write", "writelines", "flush"),
    *("truncate", "rename", "replace", "unlink"),
}


def no_sync(descriptor):
    """What is written outlives a kill without it."""


def statuses_of(*functions):
    """Those with which forks of this process end, or minus their signals' numbers."""
    processes = [multiprocessing.get_context("fork").Process(target=work) for work in functions]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def is_killed_before(step, folder, files):
    """Whether a process that loads these files comes to its `step`-th operation; it dies there."""

    def work(left=step):
        def watch(frame, event, function):
            nonlocal left
            is_sync = event == "call" and frame.f_code is no_sync.__code__
            if is_sync or (event == "c_call" and function.__name__ in FILE_OPERATIONS):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)  # what is not written yet is lost

        sys.setprofile(watch)
        decoding.load_folders([(folder, files)])

    (status,) = statuses_of(work)
    assert status in (0, -signal.SIGKILL)
    return status != 0


def test_at_whatever_file_operation_it_is_killed_each_image_keeps_its_own_pixels(
    folder, decoded, monkeypatch
):
    monkeypatch.setattr(store, "CHUNK", 400)  # two images and a bit
    monkeypatch.setattr(os, "fsync", no_sync)
    files = names(folder)
    load(folder, files[:2])  # a file that a longer list has to replace
    begun = {name: (folder / name).read_bytes() for name in kept(folder)}
    for killed, then in ((files, files), (files[:1:-1], files), (files[:4], files[1:])):
        again = []
        for step in itertools.count(1):
            clear(folder)
            write_classes(folder, begun)
            is_killed = is_killed_before(step, folder, killed)
            decoded.clear()
            load(folder, then)
            again.append(len(decoded))
            load(folder, files[2:])
            assert kept(folder) == [STORE]
            if not is_killed:
                break
        assert step > 10
        if killed == then:  # what is safe is not decoded again
            assert again == sorted(again, reverse=True)
            assert (again[0], again[-1]) == (4, 0) and 1 in again


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("chunk", "seconds", "counts"),
    [(400, 99, {6, 3, 0}), (10**6, 99, {6, 0}), (10**6, 0.0, {*range(7)})],
)
def test_whenever_the_disk_is_full_or_it_is_interrupted_what_is_safe_is_not_decoded_again(
    folder, decoded, monkeypatch, error, chunk, seconds, counts
):
    monkeypatch.setattr(store, "CHUNK", chunk)
    monkeypatch.setattr(store, "SECONDS", seconds)
    again, said = [], []
    for moment in itertools.count(1):
        clear(folder)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", Mock(side_effect=[None] * (moment - 1) + [error] * 99))
            try:
                load(folder)
                break
            except (InputError, KeyboardInterrupt) as stopped:
                said.append(str(stopped))
        decoded.clear()
        load(folder)
        assert kept(folder) == [STORE]
        assert sorted(decoded) == names(folder)[6 - len(decoded) :]
        again.append(len(decoded))
    assert again == sorted(again, reverse=True)
    assert {*again} == counts
    if isinstance(error, OSError):
        assert all("cannot be written (No space left); what was" in line for line in said)
        assert said[-1].startswith(str(folder / STORE))
        assert "what was written is kept" in said[-1]
    assert not any("\n" in line for line in said)


def test_a_power_cut_that_loses_what_was_written_first_leaves_no_image_with_others_pixels(
    folder, monkeypatch
):
    monkeypatch.setattr(store, "CHUNK", 400)
    path, on_disk = folder / STORE, []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: path.exists() and on_disk.append(path.read_bytes()))
        load(folder)
    torn = {
        before[:place] + after[place:]
        for before, after in itertools.pairwise(on_disk)
        for place in range(0, len(after), 64)
    }
    assert len(torn) > 10
    for content in torn:
        path.write_bytes(content)
        load(folder)


LACKING = [OSError(code, os.strerror(code)) for code in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), *LACKING], ids=repr)
def test_what_the_machine_lacks_is_no_broken_picture_and_loses_nothing(folder, decoded, error):
    decoded.errors["3.png"] = error
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            load(folder, names(folder)[:5])
    else:
        line = refused(load, folder, names(folder)[:5])
        assert line.startswith(f"{folder / '3.png'}: cannot be read now (")
        assert "run the same command again" in line
    decoded.errors.clear()
    decoded.clear()
    WHITE.save(folder / "0.png")
    load(folder)  # a list of other files
    assert sorted(decoded) == ["0.png", "3.png", "4.png", "5.png"]


def test_a_kept_file_that_cannot_be_opened_for_want_of_files_stays(folder, decoded, monkeypatch):
    load(folder)
    with monkeypatch.context() as patch:
        patch.setattr(picture.Path, "open", Mock(side_effect=LACKING[0]))
        assert "Too many open files" in refused(load, folder)
    load(folder)
    assert len(decoded) == 6


def test_two_processes_decode_a_folder_once_between_them(folder, decoded, monkeypatch):
    def slow(path, **options):
        time.sleep(0.3)
        return decoded(path, **options)

    def work():
        load(folder)
        sys.exit(len(decoded))

    monkeypatch.setattr(picture, "decode", slow)
    assert sorted(statuses_of(work, work)) == [0, 6]


def test_who_reads_while_others_decode_another_list_gets_his_own_images(folder, monkeypatch):
    decode(folder, names(folder)[:2])
    locked, others = store.locked, [names(folder)[::-1][:3]]

    def others_first(path):
        while others:
            decode(folder, others.pop())
        return locked(path)

    monkeypatch.setattr(store, "locked", others_first)
    load(folder)


def test_disks_are_asked_for_all_folders_before_the_first_is_decoded(
    tmp_path, decoded, monkeypatch
):
    listings = [(tmp_path / "a", ["0.png", "1.png"]), (tmp_path / "b", ["0.png"])]
    write_classes(tmp_path, {f"{path}/{name}": WHITE for path, files in listings for name in files})
    usage = shutil.disk_usage(tmp_path)

    def load_with(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=free))
        decoding.load_folders(listings)

    words = "the decoded images need 6.27e-07 GB there, and 5e-07 GB are free"
    assert words in refused(load_with, 500)  # for each of them alone
    assert not decoded
    assert not [*tmp_path.rglob(".decoded*")]
    load_with(free=627)
    load_with(free=0)  # nothing more is needed
    assert len(decoded) == 3


@pytest.mark.parametrize("problem", ["Is a directory", "No locks available"])
def test_where_nothing_can_be_kept_images_are_decoded_each_time(
    folder, decoded, caplog, monkeypatch, problem
):
    if problem == "Is a directory":
        no_locks(folder)
    else:
        monkeypatch.setattr(store, "locked", Mock(side_effect=OSError(errno.ENOLCK, problem)))
    (folder / "2.png").write_bytes(b"no image")
    for _ in range(2):
        _, problems = decode(folder)
        assert list(problems) == ["2.png"]
    assert sorted(decoded) == sorted(2 * names(folder))
    assert f"the decoded images cannot be kept ({problem})" in caplog.text
    assert not kept(folder)


def test_without_any_place_for_temporary_files_one_line_names_tmpdir(folder, monkeypatch):
    no_locks(folder)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(folder / "nowhere")])
    line = refused(load, folder)
    assert "No usable temporary directory found" in line
    assert line.endswith("make room, or name another place by TMPDIR")


def test_what_a_read_only_folder_lacks_is_read_each_time(folder, decoded, caplog):
    decoded.errors["2.png"] = OSError(errno.EIO, "Input/output error")
    assert decode(folder)[1] == {"2.png": "Input/output error"}
    no_locks(folder)
    assert decode(folder)[1] == {"2.png": "Input/output error"}
    assert "cannot be kept" not in caplog.text  # nothing could be anyway
    decoded.errors.clear()
    for _ in range(2):
        load(folder)
    assert decoded[6:] == ["2.png"] * 3
    assert "the decoded images cannot be kept (Is a directory)" in caplog.text
