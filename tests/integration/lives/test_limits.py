"""Limits, each by its effect: what ends, what lives on, and what is said of it."""

import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from kernelry import (
    Config,
    Execution,
    ExecutionStatus,
    KernelState,
    Limits,
    Sessions,
    SessionSpec,
    SessionStatus,
)
from kernelry.errors import ConflictError
from kernelry.lives.supervisor import Action, decide
from kernelry.processes import OWN, hierarchy
from kernelry.session import steering
from kernelry.session.session import Session
from kernelry.usage import Usage, quantity
from tests.faults.kernels import until
from tests.faults.matrix import fault

GIGABYTE = 10**9
HANG = 60  # seconds after which a test is stuck
LIMITS = ("memory.max", "memory.limit_in_bytes")
SHARED_FILE = f"/dev/shm/kernelry-test-limits-{os.getpid()}"
#: what a cell does under a limit of 1 GB -> whether the kernel lives on
MEMORY = {
    "one large object": ("x = bytearray(4 << 30)", True),
    "an array": ("import numpy\nx = numpy.ones(1 << 29)", True),
    "a list that grows": ("x = []\nwhile True: x.append(bytes(100_000))", True),
    "a shared mapping": (
        "import mmap\nm = mmap.mmap(-1, 4 << 30)\nfor i in range(0, 4 << 30, 4096): m[i] = 1",
        False,
    ),
    "a child": (
        "import multiprocessing as mp\n"
        "def f(n): return len(bytearray(n))\n"
        "with mp.get_context('fork').Pool(1) as pool: pool.map(f, [4 << 30])",
        True,
    ),
    "children together": (
        "import multiprocessing as mp, time\n"
        "def f(n):\n    x = bytearray(b'1') * n\n    time.sleep(60)\n"
        "with mp.get_context('fork').Pool(4) as pool: pool.map(f, [700 << 20] * 4)",
        False,
    ),
    "files in shared memory": (
        f"f = open({SHARED_FILE!r}, 'wb')\n"
        "import time\n"
        "for i in range(3000): f.write(b'x' * (1 << 20))\n"
        "time.sleep(60)",
        False,
    ),
}


@pytest.fixture
def limits() -> Limits:
    return Limits(memory=GIGABYTE, processes=100)


@pytest.fixture
def config(config: Config, limits: Limits) -> Config:
    return replace(config, limits=limits, warm=0)


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[Session]:
    yield await sessions.create(SessionSpec(id="limited"))
    Path(SHARED_FILE).unlink(missing_ok=True)


def has_its_own(session: Session) -> bool:
    """Say whether a session has a /dev/shm of its own."""
    assert session.kernel is not None
    seen = Path(f"/proc/{session.kernel.process.leader}/root/dev/shm")
    return seen.stat().st_dev != Path("/dev/shm").stat().st_dev


async def run(sessions: Sessions, session: Session, code: str) -> Execution:
    started = await sessions.run(session, code)
    assert await started.wait(HANG)
    return started.snapshot()


@fault("B4")
@pytest.mark.anyio
@pytest.mark.parametrize("case", MEMORY)
async def test_a_session_that_wants_too_much_memory_ends_as_it_should(
    sessions: Sessions, session: Session, case: str
) -> None:
    code, lives_on = MEMORY[case]
    neighbour = await sessions.create(SessionSpec(id="neighbour"))
    started = await sessions.run(session, code)
    beside = 0
    while not started.done.is_set():
        done = await run(sessions, neighbour, "1+1")
        assert done.status is ExecutionStatus.COMPLETED
        beside += 1
    ended = started.snapshot()
    assert beside
    assert ended.error is not None
    if case == "files in shared memory" and has_its_own(session):
        assert ended.error.message.endswith("No space left on device")  # it has its own
    elif lives_on:
        assert (ended.status, ended.error.type) == (ExecutionStatus.FAILED, "MemoryError")
        assert (await run(sessions, session, "1+1")).status is ExecutionStatus.COMPLETED
    else:
        assert ended.status is ExecutionStatus.DIED
        # Whoever sees it first says so: we, or Linux where control groups can be made.
        said = r"killed(: used \d\.\d+ GB of memory| by Linux: all memory was used), limit 1.00 GB"
        assert re.fullmatch(said, ended.error.message)
        assert (await sessions.health(session)).cause == ended.error.message
        await session.restart()
        assert (await run(sessions, session, "1+1")).status is ExecutionStatus.COMPLETED


@pytest.mark.anyio
async def test_what_linux_kills_for_memory_is_named_where_control_groups_can_be_made(
    sessions: Sessions, session: Session
) -> None:
    kernel = session.kernel
    assert kernel is not None
    if kernel.group is None:
        pytest.skip("NOT TESTED: no control groups for memory can be made here")
    limit = next(path for path in kernel.group.folder.glob("memory.*") if path.name in LIMITS)
    # As if it had grown within one look of ours: what it has is more than the group may have.
    assert limit.read_text().strip() == str(round((GIGABYTE + OWN) * 1.2) // 4096 * 4096)
    limit.write_text(str(200 << 20))
    ended = await run(sessions, session, "x = bytearray(b'1') * (500 << 20)")
    assert ended.error is not None
    assert ended.error.message == "killed by Linux: all memory was used, limit 1.00 GB"
    await session.restart()
    assert (await run(sessions, session, "1+1")).status is ExecutionStatus.COMPLETED
    assert not kernel.group.folder.exists()


#: runs in a group of its own that is smaller than what its session may use
CROWDED = """
import asyncio, os, sys
from pathlib import Path
from kernelry import Config, Limits, Sessions, SessionSpec

async def main(folder, group):
    Path(group, "cgroup.procs").write_text(str(os.getpid()))
    config = Config(
        state_dir=Path(folder, "state"), state_dir_named=True, workspace=Path(folder, "workspace"),
        warm=0, preloads=(), limits=Limits(memory=1 << 30), isolation="process",
    )
    async with Sessions(config) as sessions:
        session = await sessions.create(SessionSpec(id="s"))
        run = await sessions.run(session, "x = bytearray(b'1') * (600 << 20)")
        await run.wait(60)
        print(run.snapshot().error.message)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.anyio
async def test_that_the_machine_has_no_memory_left_is_not_told_as_the_session_s_limit(
    tmp_path: Path,
) -> None:
    above = hierarchy()
    if above is None or above.limit != "memory.limit_in_bytes":
        pytest.skip("NOT TESTED: no control groups of version 1 can be made here")
    group = (
        above.folder / f"crowded-{os.getpid()}"
    )  # not as ours: servers remove those without members
    group.mkdir()
    try:
        (group / above.limit).write_text(str(500 << 20))
        done = await anyio.run_process(
            [sys.executable, "-c", CROWDED, str(tmp_path), str(group)], check=False
        )
        said = r"killed by Linux: the machine ran out of memory; this session's peak was \d+\.\d MB"
        assert re.fullmatch(said, done.stdout.decode().strip()), done
    finally:
        for left in group.glob("kernelry-*"):
            left.rmdir()
        group.rmdir()


@pytest.mark.anyio
async def test_files_in_shared_memory_go_with_the_kernel_that_made_them(
    sessions: Sessions, session: Session
) -> None:
    ended = await run(sessions, session, MEMORY["files in shared memory"][0])
    is_its_own = has_its_own(session)
    assert ended.status is (ExecutionStatus.FAILED if is_its_own else ExecutionStatus.DIED)
    neighbour = await sessions.create(SessionSpec(id="neighbour"))
    waiting = f"import os, time\nwhile os.path.exists({SHARED_FILE!r}): time.sleep(0.01)"
    if is_its_own:
        assert not Path(SHARED_FILE).exists()
    else:
        assert (await run(sessions, neighbour, waiting)).status is ExecutionStatus.COMPLETED


@pytest.mark.anyio
async def test_too_many_processes_are_killed_and_counted(
    sessions: Sessions, session: Session
) -> None:
    # It does not end before it is looked at.
    code = "import os, time\nfor i in range(500):\n    if not os.fork(): break\ntime.sleep(600)"
    ended = await run(sessions, session, code)
    assert ended.error is not None
    assert ended.error.message.startswith("killed: ")
    assert ended.error.message.endswith(" processes, limit 100")


@pytest.mark.anyio
async def test_an_execution_that_uses_too_much_processor_time_is_stopped(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="cpu", limits={"cpu_seconds": 0.5}))
    assert (await run(sessions, session, "kept = 1")).status is ExecutionStatus.COMPLETED
    ended = await run(sessions, session, "while True: pass")
    assert ended.status is ExecutionStatus.TIMED_OUT
    assert ended.note.startswith("stopped: used ")
    assert ended.note.endswith(" s of processor time, limit 0.5 s")
    assert (await run(sessions, session, "kept")).status is ExecutionStatus.COMPLETED


@pytest.mark.anyio
async def test_ls_13_a_session_that_is_not_used_is_suspended_and_comes_back_when_it_is(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="idle", limits={"idle_seconds": 0.01}))
    await run(sessions, session, "kept = 1")
    kernel = session.kernel
    assert kernel is not None
    assert await kernel.process.wait(HANG)
    (event,) = await sessions.events.read(topics=["session.suspended"], wait=HANG)
    assert "it was not used for" in event.data["why"]
    assert session.record.status is SessionStatus.SUSPENDED
    again = await run(sessions, session, "kept")
    assert again.status is ExecutionStatus.COMPLETED
    assert "resumed from its checkpoint" in again.note
    assert again.generation == 2


@pytest.mark.anyio
async def test_a_session_that_is_busy_or_paused_is_never_suspended_for_being_unused(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="busy", limits={"idle_seconds": 0.01}))
    code = (
        "import kernelry_session, os, time\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "while not os.path.exists('end'): kernelry_session.checkpoint()\n"
        "kept = 1"
    )
    running = await sessions.run(session, code)
    assert await running.begun.wait()

    async def check(status: SessionStatus) -> None:
        """Check the status once the policy was at work: another session is suspended by it."""
        other = await sessions.create(SessionSpec(limits={"idle_seconds": 0.01}))
        await until(lambda: other.record.status is SessionStatus.SUSPENDED, "it is suspended")
        assert session.record.status is status

    await check(SessionStatus.ACTIVE)
    (sessions.workspace.root / "go").touch()
    await steering.steer(session, "pause", by="a test", wait=HANG)
    await check(SessionStatus.PAUSED)
    await steering.steer(session, "resume", by="a test", wait=HANG)
    (sessions.workspace.root / "end").touch()
    assert await running.wait(HANG)
    assert running.snapshot().status is ExecutionStatus.COMPLETED


@pytest.mark.anyio
async def test_a_file_can_not_grow_beyond_its_limit(config: Config) -> None:
    async with Sessions(replace(config, limits=Limits(file_size=1 << 20))) as sessions:
        session = await sessions.create(SessionSpec(id="files"))
        ended = await run(sessions, session, "open('big', 'wb').write(bytes(2 << 20))")
        assert ended.error is not None
        assert (ended.error.type, os.path.getsize(config.workspace / "big")) == ("OSError", 1 << 20)
        assert (await run(sessions, session, "1+1")).status is ExecutionStatus.COMPLETED


@pytest.mark.anyio
async def test_what_runs_while_the_workspace_is_too_large_is_interrupted(config: Config) -> None:
    async with Sessions(replace(config, limits=Limits(workspace=1 << 20))) as sessions:
        session = await sessions.create(SessionSpec(id="files"))
        code = "import time\nopen('big', 'wb').write(bytes(2 << 20))\ntime.sleep(60)"
        ended = await run(sessions, session, code)
        assert ended.status is ExecutionStatus.TIMED_OUT
        assert "the workspace holds 2.1 MB, limit 1.0 MB" in ended.note


@pytest.mark.anyio
async def test_when_memory_is_short_who_uses_most_goes_first_and_the_server_last(
    sessions: Sessions, session: Session
) -> None:
    large = await sessions.create(SessionSpec(id="large"))
    await run(sessions, large, "data = bytearray(b'1') * 800_000_000")
    await run(sessions, session, "1")

    def score(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score").read_text())

    assert session.kernel is not None and large.kernel is not None
    idle, used = session.kernel.process.leader, large.kernel.process.leader
    assert score(os.getpid()) < score(idle) < score(used)


@pytest.mark.anyio
async def test_a_kernel_leaves_no_core(sessions: Sessions, session: Session) -> None:
    code = "import resource; assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)"
    assert (await run(sessions, session, code)).status is ExecutionStatus.COMPLETED


@pytest.mark.anyio
@pytest.mark.parametrize("fresh", [False, True], ids=["forked", "spawned"])
async def test_all_of_a_limit_is_the_user_s_and_what_does_not_fit_is_told_with_it(
    sessions: Sessions, fresh: bool
) -> None:
    spec = SessionSpec(id="small", limits={"memory": 300_000_000})
    session = await sessions.create(spec, fresh=fresh)
    done = await run(sessions, session, "data = bytearray(b'1') * 280_000_000; len(data)")
    assert done.status is ExecutionStatus.COMPLETED, done.error
    done = await run(sessions, session, "more = bytearray(60_000_000)")
    assert (done.status, done.error and done.error.type) == (ExecutionStatus.FAILED, "MemoryError")
    assert "may use 300.0 MB of memory (its limit) and uses 28" in done.note
    done = await run(sessions, session, "del data; more = bytearray(60_000_000); len(more)")
    assert done.status is ExecutionStatus.COMPLETED, done.error


@pytest.mark.anyio
async def test_a_session_can_ask_for_less_but_not_for_more(sessions: Sessions) -> None:
    with pytest.raises(ConflictError, match="memory can be lowered only"):
        await sessions.create(SessionSpec(id="greedy", limits={"memory": 2 * GIGABYTE}))
    assert [session.id for session in sessions.list()] == ["default"]
    modest = await sessions.create(SessionSpec(id="modest", limits={"memory": 500_000_000}))
    assert (await sessions.health(modest)).limits.memory == 500_000_000
    ended = await run(sessions, modest, "x = bytearray(700_000_000)")
    assert ended.error is not None
    assert ended.error.type == "MemoryError"


def test_the_worst_breach_is_decided_first() -> None:
    limits = Limits(memory=100, processes=5, cpu_seconds=1, workspace=10)
    every = Usage(memory=OWN + 101, processes=6)
    found = decide(limits, every, cpu=2, workspace=11)
    assert found is not None
    assert (found.action, found.why) == (
        Action.KILL,
        f"killed: used {quantity(OWN + 101)} of memory, limit 100 bytes",
    )
    assert decide(limits, Usage(memory=OWN + 100, processes=5), cpu=1, workspace=10) is None
    assert decide(Limits(), every, cpu=9, workspace=9) is None


def test_quantities_are_written_as_people_do() -> None:
    assert [quantity(n) for n in (999, 1000, 1_234_567, 1_200_000_000)] == [
        "999 bytes",
        "1.0 KB",
        "1.2 MB",
        "1.20 GB",
    ]


@pytest.mark.anyio
async def test_when_all_sessions_use_too_much_the_one_that_uses_most_goes(config: Config) -> None:
    limits = Limits(memory=4 << 30)
    async with Sessions(replace(config, limits=limits, total_memory=700 << 20)) as sessions:
        small = await sessions.create(SessionSpec(id="small"))
        large = await sessions.create(SessionSpec(id="large"))
        assert (await run(sessions, small, "kept = b'x' * (60 << 20)")).error is None
        assert (await run(sessions, large, "kept = b'x' * (420 << 20)")).error is None
        # The small one takes what is too much, and uses less than the other even so.
        done = await run(sessions, small, "more = b'x' * (220 << 20)")
        await until(lambda: large.kernel_state is KernelState.DEAD, "the large one is ended")
        assert "all sessions together used" in large.death and "this one used most" in large.death
        assert done.status is ExecutionStatus.COMPLETED
        assert (await run(sessions, small, "assert len(kept) < len(more)")).error is None
