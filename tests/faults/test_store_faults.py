"""The store under fire: full, read-only, removed, failing and damaged disks."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import ArtifactSpec, Config, Sessions, SessionSpec
from kernelry.errors import StoreError
from kernelry.models.executions import ExecutionStatus
from kernelry.models.sessions import now
from kernelry.output.fold import Stream
from kernelry.paths import StateDirectory, claim_state_directory
from kernelry.store import Store, backlog
from tests.acceptance.harness import unavailable
from tests.integration.artifacts.test_artifacts import Shelf, noise

from .conftest import Bystander
from .matrix import fault
from .records import add, add_session, ended, integrity, opened, queued

HANG = 60.0  # seconds after which something that should happen does not


def mount(path: Path, *options: str) -> None:
    """Mount an empty tmpfs, or remount one."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        unavailable(f"can't mount a tmpfs: {done.stderr.strip()}")


def unmount(path: Path) -> None:
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a small disk."""
    path = tmp_path / "disk"
    path.mkdir(mode=0o700)
    mount(path, "size=4m", "mode=700")
    yield path
    unmount(path)


def fill(disk: Path) -> Path:
    """Use up all of a disk; return the file that does."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


async def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < end, f"it does not come to pass that {what}"
        await asyncio.sleep(0.02)


# D4: the disk is full


@asynccontextmanager
async def neighbour(service: Sessions) -> AsyncIterator[Bystander]:
    """A bystander in a service that the test itself ends."""
    it = Bystander(await service.create(SessionSpec(id="bystander")), service)
    watching = asyncio.create_task(it.watch())
    yield it
    watching.cancel()
    await asyncio.wait([watching])
    if not watching.cancelled():
        watching.result()
    await it.look()


@fault("D4")
async def test_cells_go_on_while_the_disk_is_full_and_are_all_kept_when_it_is_not(
    config: Config, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    mount(state, "size=16m", "mode=700")
    try:
        ids: list[str] = []
        async with Sessions(config) as service:
            store = service._store
            session = await service.create(SessionSpec(id="s"))
            async with neighbour(service) as bystander:
                filler = fill(state)
                while not store.degraded or len(ids) < 20:
                    run = await service.run(session, f"print('{len(ids)} ' * 500)")
                    assert await run.wait(HANG)
                    assert run.snapshot().status is ExecutionStatus.COMPLETED
                    ids.append(run.id)
                assert str(state) in store.degraded
                assert "Free space" in store.degraded
                assert store.unsaved > 0
                seen = len(bystander.latencies)
                await until(lambda: len(bystander.latencies) > seen + 3, "neighbours go on")
                assert session.find(ids[0]) is None  # not from the session's memory
                assert [await printed(service, each) for each in ids] == texts(ids)
                filler.unlink()
                await until(lambda: not store.degraded, "the store recovers")
                assert store.unsaved == 0
        assert integrity(state / "kernelry.sqlite") == "ok"
        async with Sessions(config) as service:
            assert [await printed(service, each) for each in ids] == texts(ids)
    finally:
        unmount(state)


async def printed(service: Sessions, execution_id: str) -> str:
    (output,) = (await service.execution(execution_id)).outputs
    assert isinstance(output, Stream)
    return output.text


def texts(ids: list[str]) -> list[str]:
    return [f"{number} " * 500 + "\n" for number in range(len(ids))]


@fault("D4")
async def test_what_a_full_disk_refused_is_read_from_memory_and_then_written_in_order(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = disk / "kernelry.sqlite"
    async with opened(path) as store:
        await add_session(store)
        filler = fill(disk)
        made = [await add(store, number, "x" * 20_000) for number in range(1, 50)]
        assert store.unsaved > 0
        assert store.degraded.startswith(f"can't write {path}: database or disk is full. Free")
        assert "\n" not in store.degraded
        open_one = queued(50)
        await store.add_execution(open_one)
        assert [await store.execution(each.id) for each in made] == made
        assert await store.execution(open_one.id) == open_one
        assert await store.open_executions() == [open_one]
        assert await store.newest_execution("s") == open_one
        assert await store.execution_ids("s") == {each.id for each in [*made, open_one]}
        assert (await store.sessions())[0].execution_count == 50
        await store.delete_session("s")
        assert await store.execution(open_one.id) is None
        assert await store.execution(made[0].id) is None
        assert await store.sessions() == []
        await add_session(store)  # under the same id: none of those before is its
        assert await store.execution(made[-1].id) is None
        again = [await add(store, number, session_id="s") for number in range(100, 110)]
        filler.unlink()
        await until(lambda: store.unsaved == 0, "what waited is written")
        assert store.degraded == ""
        await until(lambda: "the store can be written again" in caplog.text, "it is said")
    assert integrity(path) == "ok"
    async with opened(path) as store:
        assert [await store.execution(each.id) for each in again] == again
        assert await store.execution_ids("s") == {each.id for each in again}
        assert store.moved_aside is None


@fault("D4")
async def test_a_disk_that_its_own_log_fills_is_written_on(disk: Path) -> None:
    """A log of less than 1000 pages is not written back by itself."""
    path = disk / "kernelry.sqlite"
    async with opened(path) as store:
        await add_session(store)
        execution = await add(store, 1, "0" * 300_000)
    async with opened(path) as store:
        while not store.degraded:  # the same pages again and again
            execution = ended(execution, "1" * 300_000)
            await store.finish_execution(execution)
        await until(lambda: not store.degraded, "the log is emptied")
    async with opened(path) as store:
        assert await store.execution(execution.id) == execution


@fault("D4")
async def test_new_work_is_refused_when_too_much_waits_but_no_outcome_is(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "FULL_BYTES", 200_000)
    monkeypatch.setattr(backlog, "HARD_BYTES", 500_000)
    async with opened(disk / "kernelry.sqlite") as store:
        await add_session(store)
        admitted = [replace(queued(number), started_at=now()) for number in range(1, 30)]
        for each in admitted:
            await store.add_execution(each)
            await store.start_execution(each)
        filler = fill(disk)
        done = [ended(each, "y" * 100_000) for each in admitted]
        for each in done:
            await store.finish_execution(each)
        with pytest.raises(StoreError, match=r"Free space.*Then try again") as refused:
            await store.add_execution(queued(99))
        assert refused.value.retryable
        with pytest.raises(StoreError):
            await add_session(store, "other")
        assert await store.execution("s-99") is None
        kept = [await store.execution(each.id) for each in done]
        assert kept[0] == done[0]
        assert kept[-1] == replace(
            done[-1], outputs=(), outputs_complete=False, note=backlog.OUTPUTS_DROPPED
        )
        filler.unlink()
        await until(lambda: store.unsaved == 0, "what waited is written")
        assert [await store.execution(each.id) for each in done] == kept
        await add_session(store, "other")


@fault("D4")
async def test_an_artifact_that_a_full_disk_refuses_leaves_nothing(disk: Path) -> None:
    shelf = Shelf(disk)
    artifacts = await shelf.open()
    kept = await artifacts.store("a", ArtifactSpec(name="kept"), noise(1 << 20))
    with pytest.raises(StoreError, match=r"No space left.*Free space"):
        await artifacts.store("a", ArtifactSpec(name="refused"), noise(4 << 20))
    assert [path.name for path in shelf.files()] == [kept.hash]
    assert await artifacts.read_bytes(kept) == noise(1 << 20)
    await artifacts.store("a", ArtifactSpec(name="next"), noise(1 << 19))
    await shelf.close()


async def test_late_output_does_not_pile_up_while_the_disk_is_full(disk: Path) -> None:
    async with opened(disk / "kernelry.sqlite") as store:
        await add_session(store)
        filler = fill(disk)
        execution = await add(store, 1, "z" * 900_000)
        waiting = store.unsaved
        assert waiting > 0
        for number in range(50):
            execution = ended(execution, f"{number}" * 300_000)
            await store.finish_execution(execution)
        assert store.unsaved == waiting
        assert await store.execution(execution.id) == execution
        filler.unlink()


@fault("D4")
async def test_what_is_lost_at_the_end_is_named(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = disk / "kernelry.sqlite"
    async with opened(path) as store:
        await add_session(store)
        fill(disk)
        made = [await add(store, number, "x" * 50_000) for number in range(1, 30)]
        unsaved = store.unsaved
    lost = [record.message for record in caplog.records if record.message.startswith("lost: ")]
    assert len(lost) == unsaved
    (disk / "filler").unlink()
    async with opened(path) as store:
        for each in made:
            kept = await store.execution(each.id) == each
            assert kept != (f"lost: execution {each.id} of session 's' is completed" in lost)


# D5: the state directory is read-only, removed, somebody else's


@fault("D5")
async def test_a_read_only_directory_is_refused_at_the_start(disk: Path) -> None:
    path = disk / "kernelry.sqlite"
    async with opened(path) as store:
        await add_session(store)
    mount(disk, "remount", "ro")
    with pytest.raises(StoreError, match=f"{path}.*writable.*--state-dir"):
        await Store(path).open()
    for mode in ("700", "755"):
        mount(disk, "remount", "ro", f"mode={mode}")
        with pytest.raises(StoreError, match=rf"{disk}: Read-only.* Name another"):
            claim_state_directory(disk, explicit=True)
    mount(disk, "remount", "rw")
    async with opened(path) as store:
        assert [record.id for record in await store.sessions()] == ["s"]
        assert store.moved_aside is None


@fault("D4", "D5")
@pytest.mark.parametrize("free", [0, 36 * 1024])  # the latter is enough to open the file
async def test_a_full_disk_is_refused_at_the_start(disk: Path, free: int) -> None:
    path = disk / "kernelry.sqlite"
    async with opened(path) as store:
        await add_session(store)
    filler = fill(disk)
    with pytest.raises(StoreError, match=f"{disk}.*space"):
        claim_state_directory(disk, explicit=True)
    os.truncate(filler, filler.stat().st_size - free)
    with pytest.raises(StoreError, match=rf"{path}: .*[sS]pace.*--state-dir"):
        await Store(path).open()
    filler.unlink()
    async with opened(path) as store:
        assert [record.id for record in await store.sessions()] == ["s"]


@fault("D5")
@pytest.mark.parametrize("broken", ["somebody else's", "a link", "a file"])
def test_a_state_directory_that_is_not_ours_is_refused(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "state"
    if broken == "somebody else's":
        path.mkdir()
        os.chown(path, 12345, 12345)
    elif broken == "a link":
        (tmp_path / "real").mkdir()
        path.symlink_to(tmp_path / "real")
    else:
        path.write_text("")
    with pytest.raises(StoreError, match=rf"{path}.*Name another"):
        claim_state_directory(path, explicit=True)
    assert not list(tmp_path.glob("*/lock"))


@fault("D5")
async def test_a_directory_in_place_of_the_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernelry.sqlite"
    path.mkdir()
    with pytest.raises(StoreError, match=f"{path}: Is a directory. Move it away"):
        await Store(path).open()
    assert path.is_dir()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    state = claim_state_directory(tmp_path / "state", explicit=True)
    yield state
    state.release()


@fault("D5")
@pytest.mark.parametrize("gone", ["the directory", "the database", "its log", "all but its log"])
async def test_what_is_removed_is_put_back(state: StateDirectory, gone: str) -> None:
    path = state.database
    async with opened(path, state.reclaim) as store:
        await add_session(store)
        made = [await add(store, 1)]
        if gone == "the directory":
            shutil.rmtree(state.path)
        else:
            keep = {"its log": "", "all but its log": "-wal"}.get(gone, "-wal -shm").split(" ")
            for part in {"", "-wal", "-shm"} - set(keep):
                path.with_name(path.name + part).unlink()
        assert await store.execution("s-1") == made[0]
        made.append(await add(store, 2))
        assert store.unsaved == 0
        assert state.path.stat().st_mode & 0o777 == 0o700
        made.append(await add(store, 3))
        # What a killed server leaves is enough.
        copy = state.path.with_name("copy")
        shutil.copytree(state.path, copy)
    for place in (state.path, copy):
        assert integrity(place / "kernelry.sqlite") == "ok"
        async with opened(place / "kernelry.sqlite") as store:
            assert [await store.execution(each.id) for each in made] == made
    with pytest.raises(StoreError, match=f"process {os.getpid()} on"):
        claim_state_directory(state.path, explicit=True)


@fault("D5")
async def test_a_database_put_in_place_of_ours_is_kept_aside(state: StateDirectory) -> None:
    path = state.database
    async with opened(state.path / "other") as other:
        await add_session(other, "foreign")
    async with opened(path, state.reclaim) as store:
        await add_session(store)
        os.replace(state.path / "other", path)
        made = await add(store, 1)
        assert store.unsaved == 0
    (aside,) = state.path.glob("kernelry.sqlite.replaced-*Z")
    async with opened(path) as store, opened(aside) as other:
        assert await store.execution("s-1") == made
        assert [record.id for record in await other.sessions()] == ["foreign"]


@fault("D5", "D8")
async def test_a_directory_that_another_server_took_meanwhile_is_left_to_it(
    state: StateDirectory,
) -> None:
    async with opened(state.database, state.reclaim) as store:
        await add_session(store)
        shutil.rmtree(state.path)
        other = claim_state_directory(state.path, explicit=True)
        try:
            other.database.write_bytes(b"the other's")
            await add(store, 1)
            assert "in use by process" in store.degraded
            assert other.database.read_bytes() == b"the other's"
        finally:
            other.release()
        await until(lambda: store.unsaved == 0, "it is put back")


@fault("D5")
async def test_a_directory_that_turns_read_only_degrades_the_store_until_it_is_writable(
    state: StateDirectory,
) -> None:
    async with opened(state.database, state.reclaim) as store:
        await add_session(store)
        mount(state.path, "ro", "mode=700")
        try:
            made = await add(store, 1)
            assert str(state.path) in store.degraded
            assert "writ" in store.degraded
            assert await store.execution("s-1") == made
        finally:
            unmount(state.path)
        await until(lambda: not store.degraded, "the store recovers")
    async with opened(state.database) as store:
        assert await store.execution("s-1") == made


@fault("D5")
async def test_a_lock_of_another_program_is_waited_out_in_the_background(tmp_path: Path) -> None:
    path = tmp_path / "kernelry.sqlite"
    holder = "import sqlite3,sys;d=sqlite3.connect(sys.argv[1]);d.execute('BEGIN IMMEDIATE');"
    async with opened(path) as store:
        await add_session(store)
        other = subprocess.Popen(
            [sys.executable, "-c", holder + "print(1,flush=True);input()", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with other:
            assert other.stdout is not None
            assert other.stdout.readline()
            made = await add(store, 1)
            assert "End the program" in store.degraded
            assert await store.execution("s-1") == made
        await until(lambda: not store.degraded, "the store recovers")
