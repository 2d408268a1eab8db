"""D7: the store is given files that are damaged, older or newer."""

import os
import random
import shutil
import sqlite3
from contextlib import closing
from importlib import resources
from pathlib import Path

import pytest

from kernelry.errors import StoreError
from kernelry.output.fold import Stream
from kernelry.store import Store

from .matrix import fault
from .records import add, add_session, opened, queued

FLIPS = 200


@pytest.fixture
async def real(tmp_path: Path) -> Path:
    """A database as a server leaves it."""
    path = tmp_path / "real" / "kernelry.sqlite"
    path.parent.mkdir()
    async with opened(path) as store:
        for name in ("s", "t"):
            await add_session(store, name)
            for number in range(1, 6):
                await add(store, number, "text " * 300 * number, session_id=name)
        await store.add_execution(queued(9))
    return path


def damage(path: Path, how: str) -> None:
    size = path.stat().st_size
    if how == "not a database":
        path.write_bytes(b"hello, world\n" * 1000)
    elif how == "short":
        path.write_bytes(b"SQLite format 3\0")
    elif how == "truncated":
        os.truncate(path, size // 2)
    elif how == "truncated to whole pages":
        os.truncate(path, size - 3 * 4096)
    elif how == "a header that says read-only":
        with path.open("r+b") as file:
            file.seek(18)
            file.write(bytes([3]))
    elif how == "a page of zeros":
        with path.open("r+b") as file:
            file.seek(2 * 4096)
            file.write(bytes(4096))
    else:
        with closing(sqlite3.connect(path)) as db:
            db.executescript(how)


BROKEN = [
    "a header that says read-only",
    "not a database",
    "short",
    "truncated",
    "truncated to whole pages",
    "a page of zeros",
]
UNREADABLE = [
    "UPDATE sessions SET status = 'asleep'",
    "UPDATE sessions SET tags = '[' WHERE id = 's'",
    "UPDATE sessions SET created_at = 1e300",
    "UPDATE executions SET status = 'odd' WHERE ended_at IS NULL",
    "ALTER TABLE sessions RENAME COLUMN tags TO tigs",
    "DROP TABLE outputs",
    "PRAGMA user_version = 1342177283",
]


@fault("D7")
@pytest.mark.parametrize("how", BROKEN + UNREADABLE)
async def test_a_damaged_database_is_moved_aside_and_a_new_one_begun(
    real: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(real, how)
    bad = real.read_bytes()
    asides = set()
    for _ in range(3):  # in the same second
        real.write_bytes(bad)
        async with opened(real) as store:
            aside = store.moved_aside
            assert aside is not None
            assert aside.name.startswith("kernelry.sqlite.corrupt-2")
            assert aside.read_bytes() == bad
            assert await store.sessions() == []
            await add_session(store)
            assert f"was moved to {aside}" in caplog.text
            asides.add(aside)
    assert len(asides) == 3
    async with opened(real) as store:
        assert store.moved_aside is None
        assert len(await store.sessions()) == 1


@fault("D7")
async def test_the_log_of_a_damaged_database_is_moved_with_it(real: Path) -> None:
    async with opened(real) as store:
        await add(store, 10)
        killed = real.with_name("killed")
        for part in ("", "-wal", "-shm"):
            shutil.copy(real.with_name(real.name + part), killed.with_name(killed.name + part))
    log = killed.with_name("killed-wal").read_bytes()
    assert log
    damage(killed, "not a database")
    async with opened(killed) as store:
        assert store.moved_aside is not None
        moved = store.moved_aside.with_name(store.moved_aside.name + "-wal")
        assert moved.read_bytes() == log
        assert await store.sessions() == []


@fault("D7")
async def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "kernelry.sqlite"
    path.touch()
    async with opened(path) as store:
        assert store.moved_aside is None
        await add_session(store)


@fault("D7")
async def test_a_database_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "kernelry.sqlite"
    first = resources.files("kernelry.store").joinpath("migrations", "0001_initial.sql").read_text()
    rows = """
    INSERT INTO sessions VALUES ('old', 'd', '["a"]', '{}', 'active', 1.5, 2.5, 3, 1);
    INSERT INTO executions (id, session_id, "index", generation, code, status, created_at, ended_at)
    VALUES ('e', 'old', 1, 3, 'print(1)', 'completed', 1.5, 2.5);
    INSERT INTO outputs VALUES ('e', 0, '{"output_type": "stream", "name": "stdout", "text": "1"}');
    """
    with closing(sqlite3.connect(path)) as db:
        db.executescript(f"{first}\n{rows}\nPRAGMA user_version = 1;")
    async with opened(path) as store:
        assert store.moved_aside is None
        (record,) = await store.sessions()
        assert (record.id, record.tags, record.generation) == ("old", ("a",), 3)
        execution = await store.execution("e")
        assert execution is not None
        assert execution.outputs == (Stream("stdout", "1"),)
        await add(store, 2, session_id="old")


@fault("D7")
async def test_a_database_of_a_newer_kernelry_is_refused_and_left_as_it_is(real: Path) -> None:
    with closing(sqlite3.connect(real)) as db:
        db.execute("PRAGMA user_version = 99")
    before = real.read_bytes()
    with pytest.raises(StoreError, match=rf"{real} was written by a newer kernelry.*--state-dir"):
        await Store(real).open()
    assert [path.name for path in real.parent.iterdir()] == ["kernelry.sqlite"]
    assert real.read_bytes() == before


@fault("D7")
async def test_one_damaged_execution_is_an_error_of_its_own(real: Path) -> None:
    damage(real, "UPDATE executions SET error = '{' WHERE id = 's-1'")
    async with opened(real) as store:
        with pytest.raises(StoreError, match="damaged"):
            await store.execution("s-1")
        assert await store.execution("s-2") is not None


@fault("D7")
async def test_no_flipped_bit_crashes_the_store(real: Path, tmp_path: Path) -> None:
    whole = real.read_bytes()
    rng = random.Random(7)
    outcomes = dict.fromkeys(["fine", "moved aside", "record refused", "refused"], 0)
    for number in range(FLIPS):
        # Half of them where SQLite keeps what it needs first.
        end = len(whole) if number % 2 else 4 * 4096
        place, bit = rng.randrange(end), rng.randrange(8)
        path = tmp_path / f"{number}" / "kernelry.sqlite"
        path.parent.mkdir()
        flipped = bytearray(whole)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            outcomes[await use(path)] += 1
        except StoreError as refusal:
            # Of a changed schema number nobody can tell that it is none of a newer kernelry.
            assert 60 <= place < 64, (number, place, bit, refusal)
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"flip {number}: bit {bit} of byte {place}") from error
    assert outcomes["fine"], outcomes
    assert outcomes["moved aside"], outcomes


async def use(path: Path) -> str:
    """Read all of a database and write to it; say how it was."""
    async with opened(path) as store:
        outcome = "moved aside" if store.moved_aside else "fine"
        await store.sessions()
        await store.open_executions()
        for each in [f"{session}-{number}" for session in "st" for number in range(1, 6)]:
            try:
                await store.execution(each)
            except StoreError:
                outcome = "record refused"
        await add_session(store, "new")
        await add(store, 1, session_id="new")
    return outcome
