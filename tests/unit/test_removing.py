"""Folders that sessions have filled are removed: of any depth, and no link is followed."""

import os
from pathlib import Path

import pytest

from kernelry.beneath import put_aside, remove_tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "folder"
    made.mkdir()
    return made


def test_a_folder_that_is_deeper_than_any_path_is_removed(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    assert remove_tree(folder)
    assert not folder.exists()


def test_links_are_removed_and_what_they_lead_to_stays(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    mode = kept.stat().st_mode
    (folder / "link").symlink_to(kept)
    (folder / "below").mkdir()
    (folder / "below" / "link").symlink_to(kept / "file")
    assert remove_tree(folder)
    assert (kept / "file").read_text() == "kept"
    assert kept.stat().st_mode == mode


def test_folders_that_were_shut_and_odd_files_are_removed(folder: Path) -> None:
    (folder / "shut" / "inner").mkdir(parents=True)
    (folder / "shut" / "inner" / "file").write_text("x")
    os.mkfifo(folder / "fifo")
    (folder / "shut" / "inner").chmod(0)
    (folder / "shut").chmod(0)
    assert remove_tree(folder)
    assert not folder.exists()


def test_what_is_not_removed_in_time_is_left_for_the_next(folder: Path) -> None:
    for number in range(10):
        (folder / str(number)).write_text("x")
    assert not remove_tree(folder, 0)
    assert folder.exists()
    assert remove_tree(folder)


def test_what_is_put_aside_is_gone_at_once(folder: Path) -> None:
    (folder / "file").write_text("x")
    aside = put_aside(folder)
    assert aside is not None and not folder.exists() and (aside / "file").exists()
    assert put_aside(folder) is None
    assert remove_tree(aside) and remove_tree(aside)
