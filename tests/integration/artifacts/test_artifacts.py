"""Artifacts: kept once, found again, counted right, whatever dies."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from kernelry import (
    ArtifactLimits,
    ArtifactQuery,
    ArtifactSpec,
    Config,
    Sessions,
    SessionSpec,
    SessionStatus,
)
from kernelry.artifacts.keeper import Keeper
from kernelry.artifacts.service import Artifacts
from kernelry.errors import (
    ArtifactNotFoundError,
    ConflictError,
    IntegrityError,
    InvalidArgumentError,
    LimitExceededError,
    NotAFileError,
    SessionNotFoundError,
    WorkspaceFileNotFoundError,
)
from kernelry.models.executions import Execution, ExecutionStatus
from kernelry.models.sessions import SessionRecord
from kernelry.output.fold import Display, Spill, Stream
from kernelry.store import Store

HANG = 60  # seconds after which a test is stuck
SPEC = ArtifactSpec(name="data.bin")
MEGABYTE = 1 << 20


class Shelf:
    """Artifacts on a store of their own, without kernels; restarted as often as one likes."""

    def __init__(self, root: Path, limits: ArtifactLimits | None = None) -> None:
        self.root = root
        self.workspace = root / "workspace"
        self.workspace.mkdir(exist_ok=True)
        self.limits = limits or ArtifactLimits()
        self.store: Store
        self.artifacts: Artifacts
        self.keeper: Keeper

    @property
    def blobs(self) -> Path:
        return self.root / "state" / "blobs"

    async def open(self) -> Artifacts:
        self.store = Store(self.root / "state" / "kernelry.sqlite")
        (self.root / "state").mkdir(mode=0o700, exist_ok=True)
        await self.store.open()
        self.artifacts = Artifacts(self.store, self.blobs, self.workspace, self.limits)
        await self.artifacts.open()
        self.keeper = Keeper(self.artifacts, self.store, self.workspace)
        await self.keeper.open()
        for name in ("a", "b"):
            await self.store.save_session(SessionRecord(id=name))
        return self.artifacts

    async def close(self) -> None:
        await self.artifacts.aclose()
        await self.store.aclose()

    async def restart(self) -> Artifacts:
        await self.close()
        artifacts = await self.open()
        await artifacts.sweep()
        return artifacts

    def files(self) -> list[Path]:
        return [path for path in self.blobs.rglob("*") if path.is_file()]

    async def references(self) -> dict[str, int]:
        return await self.store.read(
            lambda s: {row["hash"]: row["refs"] for row in s.execute("blobs")}
        )


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    shelf = Shelf(tmp_path)
    await shelf.open()
    yield shelf
    await shelf.close()


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def content(artifacts: Artifacts, artifact_id: str) -> bytes:
    return await artifacts.read_bytes(await artifacts.get(artifact_id))


async def names(artifacts: Artifacts, **query: str) -> list[str]:
    found, total = await artifacts.query(ArtifactQuery(**query), limit=1000)  # type: ignore[arg-type]
    assert total == len(found)
    return [each.name for each in found]


# What an artifact is


async def test_ls_6_an_artifact_carries_what_was_said_of_it(shelf: Shelf) -> None:
    for kind in ("user_input", "tool_result", "agent_output", "system_generated", "my_own"):
        spec = ArtifactSpec(
            name=f"{kind} é.csv",
            type=kind,
            tags=("raw", "x" * 64, "raw"),
            metadata={"rows": 3, "deep": [None, {"é": 1.5}]},
        )
        made = await shelf.artifacts.store("a", spec, b"a,b\n1,2\n")
        assert (made.session_id, made.name, made.type) == ("a", f"{kind} é.csv", kind)
        assert (made.tags, made.metadata) == (("raw", "x" * 64), spec.metadata)
        assert (made.size, made.mime_type, made.version, made.previous) == (8, "text/csv", 1, "")
        assert await shelf.artifacts.get(made.id) == made


@pytest.mark.parametrize(
    ("name", "content", "mime_type"),
    [
        ("a.png", b"", "image/png"),
        ("notes", b"text", "text/plain"),
        ("notes", b"\0\xff", "application/octet-stream"),
    ],
)
async def test_the_type_of_data_is_told_by_name_and_content(
    shelf: Shelf, name: str, content: bytes, mime_type: str
) -> None:
    made = await shelf.artifacts.store("a", ArtifactSpec(name=name), content)
    assert made.mime_type == mime_type
    said = ArtifactSpec(name=name, mime_type="text/html; charset=utf-8")
    assert (await shelf.artifacts.store("a", said, content)).mime_type == said.mime_type


@pytest.mark.parametrize(
    "spec",
    [
        ArtifactSpec(name=""),
        ArtifactSpec(name="x" * 256),
        ArtifactSpec(name="a\nb"),
        ArtifactSpec(name="a\0b"),
        ArtifactSpec(name="\ud800"),
        ArtifactSpec(name="art-0123456789abcdef"),
        ArtifactSpec(name="a", type="Own Type"),
        ArtifactSpec(name="a", type="x" * 65),
        ArtifactSpec(name="a", mime_type="text"),
        ArtifactSpec(name="a", mime_type="text/é"),
        ArtifactSpec(name="a", tags=("x" * 65,)),
        ArtifactSpec(name="a", tags=("",)),
        ArtifactSpec(name="a", tags=("\ud800",)),
        ArtifactSpec(name="a", tags=("x",) * 51),
        ArtifactSpec(name="a", metadata={"x": "y" * 20_000}),
        ArtifactSpec(name="a", metadata={"x": object()}),
        ArtifactSpec(name="a", metadata={"x": float("nan")}),
    ],
)
async def test_ls_6_what_can_not_be_kept_is_refused(shelf: Shelf, spec: ArtifactSpec) -> None:
    with pytest.raises(InvalidArgumentError):
        await shelf.artifacts.store("a", spec, b"x")
    assert await names(shelf.artifacts) == []


@pytest.mark.parametrize("length", [1, 255])
async def test_ls_6_a_name_may_be_as_long_as_is_said(shelf: Shelf, length: int) -> None:
    made = await shelf.artifacts.store("a", ArtifactSpec(name="é" * length), b"x")
    assert (await shelf.artifacts.newest("a", "é" * length)).id == made.id


async def test_ls_6_only_into_a_session_that_exists(shelf: Shelf) -> None:
    with pytest.raises(SessionNotFoundError):
        await shelf.artifacts.store("none", SPEC, b"x")
    await shelf.store.begin_deletion("b")
    with pytest.raises(SessionNotFoundError):
        await shelf.artifacts.store("b", SPEC, b"x")
    assert shelf.files() == []


@pytest.mark.parametrize("status", SessionStatus)
async def test_ls_6_only_into_a_session_whose_end_is_not_final(
    shelf: Shelf, status: SessionStatus
) -> None:
    await shelf.store.save_session(SessionRecord(id="a", status=status))
    if status in (SessionStatus.COMPLETED, SessionStatus.CANCELLED):
        with pytest.raises(ConflictError, match=f"'a' is {status}, that is final.*another session"):
            await shelf.artifacts.store("a", SPEC, b"x")
        assert shelf.files() == []
    else:
        await shelf.artifacts.store("a", SPEC, b"x")
    # What one of its last executions printed is kept: that is only told late.
    chunks = [b"y"]
    await shelf.artifacts.store_chunks(
        "a", ArtifactSpec(name="output.txt"), lambda: chunks, execution_id="e"
    )
    assert "output.txt" in await names(shelf.artifacts)


async def test_ls_6_too_large_or_too_many_is_an_error_that_names_the_limit(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, ArtifactLimits(size=100, count=3, total=250))
    artifacts = await shelf.open()
    with pytest.raises(LimitExceededError, match=r"100 bytes .artifact_size_limit"):
        await artifacts.store("a", SPEC, bytes(101))
    (shelf.workspace / "large").write_bytes(bytes(101))
    with pytest.raises(LimitExceededError, match="artifact_size_limit"):
        await artifacts.store_file("a", SPEC, "large")
    for _ in range(2):
        await artifacts.store("a", SPEC, bytes(100))
    with pytest.raises(LimitExceededError, match=r"250 together .artifact_total_limit"):
        await artifacts.store("a", SPEC, bytes(51))
    last = await artifacts.store("a", SPEC, bytes(50))
    with pytest.raises(LimitExceededError, match=r"limit is 3 .artifact_count_limit.*delete_artif"):
        await artifacts.store("a", SPEC, b"")
    await artifacts.store("b", SPEC, b"x")  # others have their own
    await artifacts.delete(last.id)
    await artifacts.store("a", SPEC, b"")
    assert not list((shelf.blobs / "new").iterdir())
    assert len(shelf.files()) == 3
    await shelf.close()


# Contents


async def test_ls_7_the_same_bytes_are_kept_once(shelf: Shelf) -> None:
    first = await shelf.artifacts.store("a", ArtifactSpec(name="one"), b"same")
    (shelf.workspace / "f").write_bytes(b"same")
    second = await shelf.artifacts.store_file("b", ArtifactSpec(name="two"), "f")
    assert first.hash == second.hash
    assert first.id != second.id
    assert len(shelf.files()) == 1
    assert await shelf.references() == {first.hash: 2}
    # known answer: BLAKE3 of b"same"
    assert (
        first.hash
        == subprocess.check_output(
            [sys.executable, "-c", "import blake3; print(blake3.blake3(b'same').hexdigest())"],
            text=True,
        ).strip()
    )


@pytest.mark.parametrize("restarts", [False, True])
async def test_ls_7_deleting_one_of_two_references_keeps_the_content(
    shelf: Shelf, restarts: bool
) -> None:
    artifacts = shelf.artifacts
    first = await artifacts.store("a", ArtifactSpec(name="one"), b"same")
    second = await artifacts.store("b", ArtifactSpec(name="two"), b"same")
    if restarts:
        artifacts = await shelf.restart()
    await artifacts.delete(first.id)
    assert await content(artifacts, second.id) == b"same"
    if restarts:
        artifacts = await shelf.restart()
        assert await content(artifacts, second.id) == b"same"
    await artifacts.delete(second.id)
    assert shelf.files() == []
    assert await shelf.references() == {}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * (2 * MEGABYTE))


@pytest.mark.parametrize("data", [b"x" * 1000, b"x" * 100_000, noise(3 * MEGABYTE)])
@pytest.mark.parametrize("damage", [flip, cut_short, lengthen, Path.unlink])
async def test_ls_7_damage_on_disk_is_an_integrity_error_that_names_the_artifact(
    shelf: Shelf, data: bytes, damage: Callable[[Path], None]
) -> None:
    made = await shelf.artifacts.store("a", SPEC, data)
    [file] = shelf.files()
    damage(file)
    with pytest.raises(IntegrityError, match=rf"{made.id} .'data.bin'.*mends"):
        await shelf.artifacts.read_bytes(made)
    with pytest.raises(IntegrityError, match=made.id):
        await shelf.artifacts.read(made, offset=0, limit=10, data_bytes=10)
    again = await shelf.artifacts.store("b", SPEC, data)
    assert await shelf.artifacts.read_bytes(made) == data
    assert again.hash == made.hash


async def test_ls_8_a_megabyte_of_zeros_takes_little_and_comes_back(shelf: Shelf) -> None:
    made = await shelf.artifacts.store("a", SPEC, bytes(MEGABYTE))
    [file] = shelf.files()
    assert file.stat().st_size < 10_000
    assert made.size == MEGABYTE
    assert await content(shelf.artifacts, made.id) == bytes(MEGABYTE)


@pytest.mark.parametrize(
    ("data", "suffix"),
    [(bytes(10_240), ""), (bytes(10_241), ".zst"), (noise(10_241), ""), (b"", "")],
    ids=["at the threshold", "above it", "not smaller", "empty"],
)
async def test_ls_8_what_is_larger_is_compressed_if_that_helps(
    shelf: Shelf, data: bytes, suffix: str
) -> None:
    made = await shelf.artifacts.store("a", SPEC, data)
    [file] = shelf.files()
    assert (file.suffix, file.parent.name) == (suffix, made.hash[:2])
    assert file.name == made.hash + suffix
    assert await content(shelf.artifacts, made.id) == data


async def test_a_large_file_takes_little_memory(shelf: Shelf) -> None:
    code = """
import asyncio, resource, sys
from pathlib import Path
from tests.integration.artifacts.test_artifacts import SPEC, Shelf
async def main():
    shelf = Shelf(Path(sys.argv[1]))
    await shelf.open()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = await shelf.artifacts.store_file("a", SPEC, "large")
    await shelf.artifacts.read(made, offset=90 << 20, limit=10, data_bytes=10)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    await shelf.close()
asyncio.run(main())
"""
    with (shelf.workspace / "large").open("wb") as file:
        for part in range(95):
            file.write(noise(MEGABYTE + part))
    await shelf.close()
    said = subprocess.run(
        [sys.executable, "-c", code, str(shelf.root)], capture_output=True, text=True, timeout=HANG
    )
    assert said.returncode == 0, said.stderr
    assert int(said.stdout) < 24 * 1024  # kilobytes
    await shelf.open()


async def test_many_at_once_lose_nothing(shelf: Shelf) -> None:
    async def life(number: int) -> None:
        spec = ArtifactSpec(name=f"n{number % 3}")
        made = await shelf.artifacts.store("a", spec, b"%d" % (number % 4))
        assert await content(shelf.artifacts, made.id) == b"%d" % (number % 4)
        if number % 2:
            await shelf.artifacts.delete(made.id)

    await asyncio.gather(*(life(number) for number in range(60)))
    found, total = await shelf.artifacts.query(ArtifactQuery(), limit=100)
    assert total == 30
    assert sum((await shelf.references()).values()) == 30
    assert len(shelf.files()) == len({each.hash for each in found}) == 2
    assert len({(each.name, each.version) for each in found}) == 30


async def test_whoever_stops_waiting_leaves_nothing_half_done(shelf: Shelf) -> None:
    storing = asyncio.ensure_future(shelf.artifacts.store("a", SPEC, noise(MEGABYTE)))
    await asyncio.sleep(0)
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    await shelf.artifacts.aclose()
    assert await names(shelf.artifacts) == ["data.bin"]
    assert len(shelf.files()) == 1


# Versions, names, pages


async def test_ls_9_the_same_name_again_is_the_next_version(shelf: Shelf) -> None:
    one = await shelf.artifacts.store("a", SPEC, b"1")
    two = await shelf.artifacts.store("a", SPEC, b"2")
    other = await shelf.artifacts.store("b", SPEC, b"3")
    assert [(v.version, v.previous) for v in (one, two, other)] == [(1, ""), (2, one.id), (1, "")]
    assert (await shelf.artifacts.newest("a", "data.bin")) == two
    assert await content(shelf.artifacts, one.id) == b"1"
    await shelf.artifacts.delete(two.id)
    assert (await shelf.artifacts.newest("a", "data.bin")) == one


async def test_ls_10_get_delete_and_store_a_file(shelf: Shelf) -> None:
    (shelf.workspace / "outputs").mkdir()
    (shelf.workspace / "outputs" / "x.csv").write_text("a\n")
    made = await shelf.artifacts.store_file("a", ArtifactSpec(name="x.csv"), "./outputs//x.csv")
    (shelf.workspace / "outputs" / "x.csv").write_text("changed\n")
    assert await content(shelf.artifacts, made.id) == b"a\n"
    assert await shelf.artifacts.delete(made.id) == made
    for attempt in (
        shelf.artifacts.get(made.id),
        shelf.artifacts.delete(made.id),
        shelf.artifacts.newest("a", "x.csv"),
        shelf.artifacts.read_bytes(made),
    ):
        with pytest.raises(ArtifactNotFoundError, match="query_artifacts"):
            await attempt


async def test_ls_21_a_session_that_is_named_must_be_its_own(shelf: Shelf) -> None:
    made = await shelf.artifacts.store("a", SPEC, b"x")
    assert await shelf.artifacts.get(made.id, "a") == made
    with pytest.raises(ArtifactNotFoundError):
        await shelf.artifacts.get(made.id, "b")


async def test_nothing_outside_of_the_workspace_is_stored(shelf: Shelf) -> None:
    secret = shelf.root / "secret"
    secret.write_text("secret")
    (shelf.workspace / "link").symlink_to(secret)
    os.mkfifo(shelf.workspace / "fifo")
    for path, kind in (
        ("link", NotAFileError),
        ("fifo", NotAFileError),
        ("../secret", InvalidArgumentError),
        (str(secret), InvalidArgumentError),
        ("none", WorkspaceFileNotFoundError),
    ):
        with pytest.raises(kind):
            await shelf.artifacts.store_file("a", SPEC, path)
    assert shelf.files() == []


async def test_a_text_is_read_by_characters_and_data_by_bytes(shelf: Shelf) -> None:
    text, data = "é1\n" * 50_000, noise(200_000)
    written = await shelf.artifacts.store("a", ArtifactSpec(name="t"), text.encode())
    content = await shelf.artifacts.read(written, offset=70_000, limit=5_000, data_bytes=10)
    assert content.page is not None
    assert (content.page.text, content.page.total) == (text[70_000:75_000], len(text))
    assert (content.page.offset, content.page.end) == (70_000, 75_000)
    beyond = await shelf.artifacts.read(written, offset=10**9, limit=5, data_bytes=10)
    assert beyond.page is not None
    assert (beyond.page.text, beyond.page.end) == ("", len(text))
    raw = await shelf.artifacts.store("a", ArtifactSpec(name="d"), data)
    for offset in (0, 65_000, 199_990, 300_000):
        part = await shelf.artifacts.read(raw, offset=offset, limit=5, data_bytes=1000)
        assert (part.page, part.data) == (None, data[offset : offset + 1000])
    image = await shelf.artifacts.store("a", ArtifactSpec(name="d.png"), data)
    whole = await shelf.artifacts.read(image, offset=0, limit=5, data_bytes=10)
    assert whole.data == data


# What dies, and what is left


@pytest.mark.parametrize("keep_history", [False, True])
async def test_ls_14_deleting_a_session_deletes_its_artifacts_and_no_others(
    sessions: Sessions, keep_history: bool
) -> None:
    await sessions.create(SessionSpec(id="s"))
    artifacts = sessions.artifacts
    gone = await artifacts.store("s", ArtifactSpec(name="one"), b"only here")
    both = await artifacts.store("s", ArtifactSpec(name="two"), b"in both")
    kept = await artifacts.store("default", ArtifactSpec(name="two"), b"in both")
    await sessions.delete("s", keep_history=keep_history)
    assert await names(artifacts) == ["two"]
    assert await content(artifacts, kept.id) == b"in both"
    for each in (gone, both):
        with pytest.raises(ArtifactNotFoundError):
            await artifacts.get(each.id)
    files = [path.name for path in (sessions.state_dir / "blobs").rglob("*") if path.is_file()]
    assert files == [kept.hash]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from kernelry import ArtifactSpec
from tests.integration.artifacts.test_artifacts import Shelf, noise

async def main():
    shelf = Shelf(Path(sys.argv[1]))
    artifacts = await shelf.open()
    same = noise(100_000)
    first = await artifacts.store("a", ArtifactSpec(name="one"), same)
    await artifacts.store("b", ArtifactSpec(name="two"), same)
    print(first.id, flush=True)
    if sys.argv[2] == "writing":
        shelf.artifacts._blobs.place = lambda blob: os.kill(os.getpid(), signal.SIGKILL)
    elif sys.argv[2] == "placed":
        place = artifacts._blobs.place
        def place_and_die(blob):
            place(blob)
            os.kill(os.getpid(), signal.SIGKILL)
        artifacts._blobs.place = place_and_die
    elif sys.argv[2] == "deleted":
        artifacts._blobs.remove = lambda address: os.kill(os.getpid(), signal.SIGKILL)
        third = await artifacts.store("a", ArtifactSpec(name="three"), b"third")
        await artifacts.delete(third.id)
    await artifacts.store("a", ArtifactSpec(name="four"), b"fourth")

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["writing", "placed", "deleted"])
async def test_ls_7_a_killed_server_leaves_right_counts_and_nothing_else(
    tmp_path: Path, moment: str
) -> None:
    died = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), moment],
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    shelf = Shelf(tmp_path)
    assert len(shelf.files()) == 2  # the content, and what was left behind
    artifacts = await shelf.open()
    await artifacts.sweep()
    first = await artifacts.get(died.stdout.strip())
    assert await shelf.references() == {first.hash: 2}
    assert sorted(await names(artifacts)) == ["one", "two"]
    assert [path.name for path in shelf.files()] == [first.hash]
    await artifacts.delete(first.id)
    [other], _ = await artifacts.query(ArtifactQuery(), limit=2)
    assert await artifacts.read_bytes(other) == noise(100_000)
    await shelf.close()


async def test_the_contents_of_a_damaged_database_are_moved_aside_with_it(shelf: Shelf) -> None:
    made = await shelf.artifacts.store("a", SPEC, b"precious")
    await shelf.close()
    (shelf.root / "state" / "kernelry.sqlite").write_bytes(b"no database" * 1000)
    artifacts = await shelf.open()
    await artifacts.sweep()
    assert await names(artifacts) == []
    [aside] = (shelf.root / "state").glob("blobs.corrupt-*")
    assert [path.name for path in aside.rglob("*") if path.is_file()] == [made.hash]


# The output of executions


async def execute(sessions: Sessions, code: str, session_id: str = "default") -> Execution:
    run = await sessions.run(sessions.get(session_id), code)
    assert await run.wait(HANG)
    return run.execution


async def kept_of(sessions: Sessions, execution: Execution, count: int) -> list[str]:
    """Return the names of an execution's artifacts as soon as there are so many."""
    async with asyncio.timeout(HANG):
        while True:
            found = await names(sessions.artifacts, execution_id=execution.id)
            if len(found) >= count:
                return sorted(found)
            await asyncio.sleep(0.02)


async def test_what_was_too_long_to_be_sent_is_an_artifact_of_its_execution(
    sessions: Sessions,
) -> None:
    lines = "\n".join(f"line é {i}" for i in range(60_000))
    done = await execute(
        sessions, r"print('begin'); print('\n'.join(f'line é {i}' for i in range(60_000)))"
    )
    [name] = await kept_of(sessions, done, 1)
    assert name == "default-1-output.txt"
    found = await sessions.artifacts.newest("default", name)
    assert (found.type, found.mime_type, found.tags) == (
        "system_generated",
        "text/plain",
        ("output",),
    )
    assert found.execution_id == done.id
    assert (await sessions.artifacts.read_bytes(found)).decode() == f"begin\n{lines}\n"


LAST_WORDS = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from kernelry import Config, Sessions

async def main():
    root = Path(sys.argv[1])
    config = Config(state_dir=root / "state", state_dir_named=True, workspace=root / "workspace")
    async with Sessions(replace(config, warm=0, preloads=())) as sessions:
        run = await sessions.run(sessions.get("default"), "print('x' * 300_000)")
        await run.wait(None)

asyncio.run(main())
"""


async def test_output_of_a_server_that_died_before_it_kept_it_is_kept_by_the_next(
    config: Config, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", LAST_WORDS, str(tmp_path)]
    died = subprocess.run(command, env={**os.environ, "KERNELRY_CRASH_AT": "run.written"})
    assert died.returncode == -signal.SIGKILL
    for _ in range(2):  # and not again by the one after
        async with Sessions(config) as sessions:
            [execution] = [await sessions._store.newest_execution("default")]
            assert execution is not None
            assert await kept_of(sessions, execution, 1) == ["default-1-output.txt"]
            found = await sessions.artifacts.newest("default", "default-1-output.txt")
            assert await sessions.artifacts.read_bytes(found) == b"x" * 300_000 + b"\n"
            assert found.version == 1
        assert await uncaptured(config) == []


async def uncaptured(config: Config) -> list[str]:
    store = Store(config.state_dir / "kernelry.sqlite")
    await store.open()
    try:
        return await store.read(lambda s: [row[0] for row in s.execute("uncaptured")])
    finally:
        await store.aclose()


async def test_images_are_artifacts_of_their_execution(sessions: Sessions) -> None:
    done = await execute(
        sessions,
        "from IPython.display import SVG, display\n"
        "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><g/></svg>'))",
    )
    [_, name] = sorted(await kept_of(sessions, done, 2))  # it is drawn, too
    found = await sessions.artifacts.newest("default", name)
    assert (found.type, found.mime_type, found.tags) == (
        "system_generated",
        "image/svg+xml",
        ("image",),
    )
    saved = sessions.workspace.root / found.metadata["path"]
    assert await sessions.artifacts.read_bytes(found) == saved.read_bytes()


async def test_an_execution_without_much_output_keeps_none(sessions: Sessions) -> None:
    for code in ("print('x')", "1/0", "'x'"):
        done = await execute(sessions, code)
        assert await names(sessions.artifacts, execution_id=done.id) == []


def finished(*outputs: Stream | Display | Spill) -> Execution:
    return Execution(
        id="e1",
        session_id="a",
        index=1,
        generation=1,
        code="",
        status=ExecutionStatus.COMPLETED,
        outputs=outputs,
    )


async def test_output_that_a_cell_forged_fails_nothing_and_leads_nowhere(shelf: Shelf) -> None:
    spill_dir = shelf.root / "private" / "spill"
    spill_dir.mkdir(parents=True)
    (shelf.root / "secret").write_text("secret")
    (spill_dir / "link").symlink_to(shelf.root / "secret")
    forged = [Spill(file) for file in ("link", "../../secret", "none", "", "x\0", "\ud800")]
    paths = ["../secret", "/etc/passwd", "none", "\0", "\ud800", "", "not saved: full"]
    saved = [Display({}, {"kernelry_saved": {"image/png": path}}) for path in paths]
    odd = Display({}, {"kernelry_saved": {"no type": "a", "\ud800": "a", "image/png": 1}})
    (shelf.workspace / "a").write_text("mine")
    outputs: list[Spill | Display] = [*forged, *saved, odd]
    for output in outputs:
        await shelf.keeper.keep(finished(output), spill_dir)
    assert await names(shelf.artifacts) == []
    assert shelf.files() == []


async def test_captured_output_leaves_room_for_what_is_stored_on_purpose(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, ArtifactLimits(count=4))
    artifacts = await shelf.open()
    paths = ["a.png", "b.png", "c.png"]
    for path in paths:
        (shelf.workspace / path).write_bytes(b"png")
    shown = finished(*(Display({}, {"kernelry_saved": {"image/png": path}}) for path in paths))
    for _ in range(2):  # the second time as after a kill: nothing is kept twice
        await shelf.keeper.keep(shown, tmp_path)
    assert await names(artifacts) == ["b.png", "a.png"]
    for _ in range(2):
        await artifacts.store("a", SPEC, b"")
    await shelf.close()


async def test_what_is_spilled_is_kept_as_a_terminal_shows_it(shelf: Shelf) -> None:
    spill_dir = shelf.root / "private" / "spill"
    spill_dir.mkdir(parents=True)
    colours = "\x1b[31mred\x1b[0m é\n" * 200_000
    (spill_dir / "e1.txt").write_text(colours + "10%\r100%")
    spill = Spill("e1.txt", chars=len(colours) + 8, dropped=3, tails={"stdout": "end"})
    await shelf.keeper.keep(finished(Stream("stdout", "head\n"), spill), spill_dir)
    [found], _ = await shelf.artifacts.query(ArtifactQuery(execution_id="e1"), limit=1)
    text = (await shelf.artifacts.read_bytes(found)).decode()
    assert text.startswith("head\nred é\nred é\n")
    assert text.count("red é\n") == 200_000
    assert text.endswith("100%\n[... 0 characters beyond the limit were not kept ...]\nend")
