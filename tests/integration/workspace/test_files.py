"""Whatever lies in a folder that cells write to, the server opens nothing outside of it."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Session, Sessions, SessionSpec
from kernelry.beneath import reading, resolve, writing
from kernelry.errors import (
    FileExistsConflictError,
    FileTooLargeError,
    InvalidArgumentError,
    KernelryError,
    NotAFileError,
    ScriptNotFoundError,
    WorkspaceFileNotFoundError,
)
from kernelry.lives.recovery import remove_spills
from kernelry.messaging.journal import newest_begun, read_journal
from kernelry.output import save_shown, transcript
from kernelry.output.fold import Display, Spill
from kernelry.output.transcript import Transcript
from kernelry.paths import Workspace
from kernelry.session.inspection import read_from, size_of
from kernelry.workspace import files, listing, scripts
from kernelry.workspace.files import Mode
from kernelry.workspace.listing import list_folder
from tests.faults.matrix import fault

HANG = 60  # seconds after which a test is stuck; nothing here takes that long
ROUNDS = 3000  # attempts against a process that swaps names all the time
SECRET = "the secret of this machine"
TERABYTE = 1 << 40

BAD_PATHS = [
    "",
    "../secret/key",
    "a/../../secret/key",
    "/etc/passwd",
    "a\0b",
    "x" * 10_000,
    "y/" * 600,
    "x" * 256,
    "\N{LATIN SMALL LETTER E WITH ACUTE}" * 128,
    "\ud800",
    "\udcff",
]

SWAP = """
import ctypes, os, sys
os.chdir(sys.argv[1])
exchange = ctypes.CDLL(None).renameat2
print("ready", flush=True)
while os.getppid() == int(sys.argv[2]):
    for name, other in ((b"folder", b"evil"), (b"file", b"link")):
        assert exchange(-100, name, -100, other, 2) == 0  # AT_FDCWD, RENAME_EXCHANGE
"""


@pytest.fixture(params=["openat2", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to resolve a path: in one call, and component by component."""
    if request.param == "walk":
        monkeypatch.setattr(resolve, "has_openat2", lambda: False)
    elif not resolve.has_openat2():
        pytest.skip("NOT TESTED: this system has no openat2")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder beside the workspace that holds a secret."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "key").write_text(SECRET)
    return folder


@pytest.fixture
def root(tmp_path: Path, secret: Path) -> Path:
    """A workspace with all that a cell may leave there."""
    root = tmp_path / "workspace"
    Workspace(root).create()
    (root / "plain.txt").write_text("plain")
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "x.txt").write_text("deep")
    (root / "passwd").symlink_to("/etc/passwd")
    (root / "key").symlink_to("../secret/key")
    (root / "away").symlink_to(secret)
    (root / "inner").symlink_to("plain.txt")
    (root / "self").symlink_to("self")
    (root / "zero").symlink_to("/dev/zero")
    (root / "magic").symlink_to("/proc/self/fd/0")
    os.link(root / "plain.txt", root / "hard.txt")
    os.mkfifo(root / "fifo")
    for name in ("huge", "huge.png", "huge.txt"):
        with (root / name).open("wb") as file:
            file.truncate(TERABYTE)
    return root


def read(root: Path, path: str) -> str:
    content = files.read(root, path, offset=0, limit=1000, data_bytes=1000)
    if content.page is not None:
        return content.page.text
    assert content.data is not None
    return content.data.decode()


LINKS = ["passwd", "key", "away/key", "inner", "self", "zero", "magic"]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("path", LINKS)
def test_a_link_is_not_followed_wherever_it_leads(root: Path, secret: Path, path: str) -> None:
    for attempt in (
        lambda: files.read(root, path, offset=0, limit=9, data_bytes=9),
        lambda: files.read_bytes(root, path, 1000),
        lambda: files.write(root, path, b"new", Mode.CREATE),
        lambda: files.write(root, path, b"new", Mode.OVERWRITE),
        lambda: files.write(root, path, b"new", Mode.APPEND),
        lambda: scripts.find_script(Workspace(root), path),
    ):
        with pytest.raises(NotAFileError, match="links are not followed"):
            attempt()
    assert (secret / "key").read_text() == SECRET
    assert os.listdir(secret) == ["key"]
    assert (root / "plain.txt").read_text() == "plain"


@pytest.mark.usefixtures("way")
def test_nothing_is_listed_made_or_deleted_through_a_linked_folder(
    root: Path, secret: Path
) -> None:
    with pytest.raises(NotAFileError):
        list_folder(root, "away")
    with pytest.raises(NotAFileError):
        files.delete(root, "away/key")
    for path in ("away/new", "away/new/er"):
        with pytest.raises(NotAFileError):
            files.write(root, path, b"new", Mode.CREATE)
    assert os.listdir(secret) == ["key"]
    everything = list_folder(root, ".", recursive=True)
    kinds = {entry.path: entry.type for entry in everything.entries}
    assert kinds["away"] == kinds["passwd"] == "link"
    assert kinds["fifo"] == "other"
    assert kinds["deep/er/x.txt"] == "file"
    assert not [path for path in kinds if path.startswith("away/")]


@pytest.mark.usefixtures("way")
def test_deleting_a_link_deletes_the_link_only(root: Path, secret: Path) -> None:
    for path in ("key", "away", "inner", "self"):
        assert files.delete(root, path).type == "link"
        assert not os.path.lexists(root / path)
    assert (secret / "key").read_text() == SECRET
    assert (root / "plain.txt").read_text() == "plain"


@pytest.mark.usefixtures("way")
def test_special_files_are_refused_at_once_and_can_be_deleted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # the path of a Unix socket is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    for path in ("fifo", "socket", "deep"):
        with pytest.raises(NotAFileError):
            files.read(root, path, offset=0, limit=9, data_bytes=9)
        for mode in Mode:
            with pytest.raises((NotAFileError, FileExistsConflictError)):
                files.write(root, path, b"x", mode)
    assert files.delete(root, "fifo").type == "other"
    with pytest.raises(NotAFileError, match="not empty"):
        files.delete(root, "deep")


@pytest.mark.usefixtures("way")
def test_a_sparse_file_of_a_terabyte_is_refused_by_its_size(root: Path) -> None:
    with pytest.raises(FileTooLargeError, match=str(TERABYTE)):
        files.read_bytes(root, "huge", 1000)
    with pytest.raises(FileTooLargeError):
        files.read(root, "huge.png", offset=0, limit=9, data_bytes=9)
    for path in ("huge", "huge.txt"):  # no text begins with NULs
        content = files.read(root, path, offset=0, limit=9, data_bytes=9)
        assert (content.page, content.data, content.size) == (None, None, TERABYTE)
    with (root / "huge.txt").open("r+b") as file:
        file.write(b"a" * files.PROBE_BYTES)
    with pytest.raises(FileTooLargeError):
        files.read(root, "huge.txt", offset=0, limit=9, data_bytes=9)
    os.replace(root / "huge.txt", root / "scripts" / "huge.py")
    with pytest.raises(FileTooLargeError):
        scripts.find_script(Workspace(root), "huge")


@pytest.mark.usefixtures("way")
def test_a_hard_link_is_a_file_and_replacing_it_leaves_the_other_name(root: Path) -> None:
    assert read(root, "hard.txt") == "plain"
    files.write(root, "hard.txt", b"new", Mode.OVERWRITE)
    assert (read(root, "hard.txt"), read(root, "plain.txt")) == ("new", "plain")


@fault("A6")
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("path", BAD_PATHS, ids=range(len(BAD_PATHS)))
def test_a_path_that_leads_out_or_is_none_is_refused(root: Path, path: str) -> None:
    for attempt in (
        lambda: files.read(root, path, offset=0, limit=9, data_bytes=9),
        lambda: files.write(root, path, b"new", Mode.CREATE),
        lambda: files.delete(root, path),
        lambda: list_folder(root, path),
        lambda: scripts.find_script(Workspace(root), path),
    ):
        with pytest.raises(InvalidArgumentError) as raised:
            attempt()
        assert len(str(raised.value)) < 1000
        str(raised.value).encode()  # it can be sent


def test_the_lowest_layer_refuses_such_paths_as_well(root: Path) -> None:
    for path in ("../secret/key", "/etc/passwd", "a\0b", "deep/../../secret/key", "\ud800"):
        with pytest.raises(OSError):
            reading.read(root, path, 1000)
        with pytest.raises(OSError):
            writing.replace(root, path, b"x")
    for path in ("", ".", "./"):
        with pytest.raises(OSError):
            writing.remove(root, path)


def test_names_that_not_all_systems_take_are_not_made(root: Path) -> None:
    for path in ("con", "deep/AUX.txt", "nul.tar.gz", "a\\b", "line\nbreak", "bell\a"):
        with pytest.raises(InvalidArgumentError):
            files.write(root, path, b"x", Mode.CREATE)


def test_a_name_is_made_in_one_form_and_found_in_both(root: Path) -> None:
    composed, decomposed = "caf\u00e9.txt", "cafe\u0301.txt"
    assert files.write(root, decomposed, b"1", Mode.CREATE).path == composed
    assert read(root, decomposed) == read(root, composed) == "1"
    (root / "u\u0308.txt").write_text("as it was unpacked")
    assert read(root, "u\u0308.txt") == "as it was unpacked"


def test_names_that_are_not_utf_8_are_listed(root: Path) -> None:
    (Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9"))).write_text("latin")
    found = list_folder(root, ".", pattern="caf*")
    assert [entry.path for entry in found.entries] == ["caf\\xe9"]


def test_a_listing_has_an_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        (root / "many" / str(i)).mkdir(parents=True)
    everything = list_folder(root, "many", recursive=True)
    assert (len(everything.entries), everything.complete) == (40, True)
    before = os.getcwd()
    os.chdir(root / "deep")
    try:
        for _ in range(30):  # deeper than a path can be
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(before)
    assert 15 < len(list_folder(root, "deep", recursive=True).entries) < 30
    monkeypatch.setattr(listing, "SCANNED", 10)
    cut = list_folder(root, "many")
    assert (len(cut.entries), cut.complete) == (10, False)


@pytest.mark.usefixtures("way")
def test_a_file_is_written_whole_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.write(root, "new/er/a.txt", b"1", Mode.CREATE).created
    with pytest.raises(FileExistsConflictError, match="overwrite=true"):
        files.write(root, "new/er/a.txt", b"2", Mode.CREATE)
    (root / "new" / "er" / "a.txt").chmod(0o640)
    assert not files.write(root, "new/er/a.txt", b"3", Mode.OVERWRITE).created
    assert (root / "new" / "er" / "a.txt").stat().st_mode & 0o777 == 0o640
    assert files.write(root, "new/er/a.txt", b"4", Mode.APPEND).size == 2
    assert files.write(root, "new/er/b.txt", b"5", Mode.APPEND).created

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(os, "link", full)
    for path, mode in (("new/er/a.txt", Mode.OVERWRITE), ("new/er/c.txt", Mode.CREATE)):
        with pytest.raises(KernelryError, match="No space left"):
            files.write(root, path, b"6", mode)
    assert sorted(os.listdir(root / "new" / "er")) == ["a.txt", "b.txt"]
    assert read(root, "new/er/a.txt") == "34"


def test_a_file_system_without_hard_links_is_written_to_as_well(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    files.write(root, "new.txt", b"1", Mode.CREATE)
    with pytest.raises(FileExistsConflictError):
        files.write(root, "new.txt", b"2", Mode.CREATE)
    assert read(root, "new.txt") == "1"


def test_pages_of_a_text_count_characters(root: Path) -> None:
    text = "".join(f"é{i}\n" for i in range(50_000))
    (root / "long.txt").write_text(text)
    pages, offset = [], 0
    while True:
        page = files.read(root, "long.txt", offset=offset, limit=39_999, data_bytes=0).page
        assert page is not None
        assert page.total == len(text)
        pages.append(page.text)
        if page.end == page.total:
            break
        offset = page.end
    assert "".join(pages) == text
    beyond = files.read(root, "long.txt", offset=10**9, limit=10, data_bytes=0).page
    assert beyond is not None
    assert beyond.text == ""


def test_a_missing_file_is_said_to_be_missing(root: Path) -> None:
    for path in ("none", "none/at/all", "deep/er/none"):
        for attempt in (
            lambda path=path: files.delete(root, path),
            lambda path=path: files.read(root, path, offset=0, limit=9, data_bytes=9),
        ):
            with pytest.raises(WorkspaceFileNotFoundError, match="list_files"):
                attempt()


@contextmanager
def swapping(root: Path, secret: Path) -> Iterator[None]:
    """Have a process swap a folder and a file with links all the time."""
    (root / "folder").mkdir()
    (root / "folder" / "key").write_text("harmless")
    (root / "evil").symlink_to(secret)
    (root / "file").write_text("harmless")
    (root / "link").symlink_to(secret / "key")
    process = subprocess.Popen(
        [sys.executable, "-c", SWAP, str(root), str(os.getpid())], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(HANG)
        process.stdout.close()


@pytest.mark.usefixtures("way")
def test_a_swap_of_names_in_the_right_moment_leads_nowhere(root: Path, secret: Path) -> None:
    got: list[str] = []
    with swapping(root, secret):
        for i in range(ROUNDS):
            for path in ("folder/key", "file"):
                try:
                    got.append(read(root, path))
                except KernelryError:
                    got.append("refused")
            mode = [Mode.CREATE, Mode.OVERWRITE, Mode.APPEND][i % 3]
            written = [(f"folder/{i}", mode), ("folder/new/er", mode), ("file", Mode.APPEND)]
            for path, how in written:
                try:
                    files.write(root, path, b"harmless", how)
                except KernelryError:
                    got.append("refused")
            try:
                files.delete(root, f"folder/{i}")
            except KernelryError:
                got.append("refused")
    assert "refused" in got
    assert {text.replace("harmless", "") for text in got} == {"", "refused"}
    assert os.listdir(secret) == ["key"]
    assert (secret / "key").read_text() == SECRET


def test_scripts_stay_in_their_folder(root: Path, secret: Path) -> None:
    workspace = Workspace(root)
    os.rmdir(root / "scripts")
    (root / "scripts").symlink_to(secret)
    with pytest.raises(NotAFileError, match="links are not followed"):
        scripts.save_script(workspace, "mine", "print(1)", overwrite=True)
    with pytest.raises(NotAFileError):
        scripts.find_script(workspace, "mine")
    assert os.listdir(secret) == ["key"]
    os.unlink(root / "scripts")
    with pytest.raises(ScriptNotFoundError):
        scripts.find_script(workspace, "mine")
    scripts.save_script(workspace, "mine", "print(1)", overwrite=False)
    assert scripts.script_name(workspace, "mine") == "scripts/mine.py"


async def test_images_are_not_saved_through_a_link(root: Path, secret: Path) -> None:
    os.rmdir(root / "outputs")
    (root / "outputs").symlink_to(secret)
    picture = Display({"image/svg+xml": "<svg/>"})
    [shown] = await save_shown((picture,), Workspace(root), "s-1")
    assert os.listdir(secret) == ["key"]
    assert isinstance(shown, Display)
    assert "not saved" in str(shown.metadata)


# A session's private directory: its kernel writes there, the server reads.

TRICKS = ["link", "fifo", "sparse", "folder"]


def plant(path: Path, trick: str, secret: Path) -> None:
    """Put something else where the server looks for a kernel's file."""
    path.unlink(missing_ok=True)
    match trick:
        case "link":
            path.symlink_to(secret / "key")
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            with path.open("wb") as file:
                file.truncate(TERABYTE)


@pytest.mark.parametrize("trick", TRICKS)
def test_a_journal_that_is_none_is_not_read(tmp_path: Path, secret: Path, trick: str) -> None:
    plant(tmp_path / "journal.jsonl", trick, secret)
    assert not read_journal(tmp_path / "journal.jsonl")
    assert newest_begun(tmp_path / "journal.jsonl") == ""


@pytest.mark.parametrize("trick", TRICKS)
def test_stacks_that_are_none_are_not_read(tmp_path: Path, secret: Path, trick: str) -> None:
    plant(tmp_path / "stacks.txt", trick, secret)
    size_of(tmp_path / "stacks.txt")
    assert read_from(tmp_path / "stacks.txt", 0).strip("\0") == ""


@pytest.mark.parametrize("chars", [-1, 5])
@pytest.mark.parametrize("trick", TRICKS)
def test_a_spill_file_that_is_none_is_not_read(
    tmp_path: Path, secret: Path, trick: str, chars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcript, "SPILL_BYTES", 1 << 20)
    spill = tmp_path / "spill"
    spill.mkdir()
    plant(spill / "e.txt", trick, secret)
    text = Transcript([Spill("e.txt", chars=chars)], spill).read(0, 1000).text
    assert SECRET not in text
    assert len(text) < 1000


def test_a_spill_file_elsewhere_is_not_read(tmp_path: Path, secret: Path) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    for name in ("../secret/key", str(secret / "key"), "a\0b", "\ud800"):
        assert Transcript([Spill(name)], spill).total == 0


def test_clearing_spill_files_removes_nothing_elsewhere(tmp_path: Path, secret: Path) -> None:
    spill = tmp_path / "spill"
    spill.symlink_to(secret)
    assert reading.names(tmp_path, "spill") == []
    remove_spills(spill, ["key"], set())
    assert (secret / "key").read_text() == SECRET


async def test_what_a_cell_puts_in_place_of_its_files_leads_nowhere(
    sessions: Sessions, secret: Path
) -> None:
    session: Session = await sessions.create(SessionSpec(id="s"))
    run = await sessions.run(session, "print('x' * 300_000)", timeout=None)
    assert await run.wait(HANG)
    execution = run.snapshot()
    [spill] = [output for output in execution.outputs if isinstance(output, Spill)]
    swap = f"""
import os
os.chdir({str(session.directory)!r})
for name in ("spill/{spill.file}", "stacks.txt"):
    os.unlink(name)
    os.symlink({str(secret / "key")!r}, name)
"""
    run = await sessions.run(session, swap, timeout=None)
    assert await run.wait(HANG)
    page = Transcript(execution.outputs, session.spill_dir).read(0, 1 << 20)
    assert SECRET not in page.text
    assert "not kept any more" in page.text
    assert await session.stack() == ""


@pytest.mark.parametrize("fresh", [False, True], ids=["as configured", "fresh"])
async def test_the_next_kernel_writes_nothing_through_what_the_one_before_left(
    sessions: Sessions, secret: Path, fresh: bool
) -> None:
    """Its log was opened, emptied and written before its walls stood, wherever a link led."""
    session: Session = await sessions.create(SessionSpec(id="s"))
    session.record = replace(session.record, fresh=fresh)
    await session.ensure_kernel()
    names = ("kernel.log", "stacks.txt", "touched", "journal.jsonl", "spill")
    plant_all = f"""
import os, shutil
os.chdir({str(session.directory)!r})
for name in {names}:
    shutil.rmtree(name) if os.path.isdir(name) else os.path.exists(name) and os.unlink(name)
    os.symlink({str(secret / "key")!r}, name)
"""
    run = await sessions.run(session, plant_all, timeout=None)
    assert await run.wait(HANG)
    assert run.snapshot().error is None
    await session.restart()
    run = await sessions.run(session, "print('x' * 300_000)", timeout=None)
    assert await run.wait(HANG)
    assert run.snapshot().error is None
    assert (secret / "key").read_text() == SECRET
    assert not any((session.directory / name).is_symlink() for name in names)
