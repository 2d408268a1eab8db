"""Sessions that are suspended and resumed, on request, when unused, and by an orderly end."""

import asyncio
import os
import random
import signal
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelry import Config, ExecutionStatus, Session, Sessions, SessionSpec, SessionStatus
from kernelry.errors import (
    CheckpointDamagedError,
    ConflictError,
    LimitExceededError,
    SessionBusyError,
    TransitionError,
)
from kernelry.models.sessions import KernelState, SessionRecord
from kernelry.session import steering
from kernelry.transitions import ALLOWED, changed
from tests.faults.kernels import HANG, pid_of, printed, run, started, until, value

EVERYTHING = """
import threading
import numpy as np, pandas as pd
array = np.arange(12).reshape(3, 4)
frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
scale = 10
def scaled(n): return n * scale
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
point = Point(3)
original = [1, 2]
alias = original
lock = threading.Lock()
generator = (n for n in range(3))
file = open("outputs/open.txt", "w")
"""


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="s"))


async def test_ls_2_a_suspended_session_comes_back_in_another_server_as_it_was(
    config: Config,
) -> None:
    async with Sessions(config) as first:
        session = await first.create(SessionSpec(id="s"))
        assert (await run(first, session, EVERYTHING)).error is None
        suspended = await first.suspension.suspend(session, by="a test", why="lunch")
        assert {item.name: item.type for item in suspended.skipped} == {
            "lock": "_thread.lock",
            "generator": "generator",
            "file": "_io.TextIOWrapper",
        }
        assert all(item.reason for item in suspended.skipped)
        assert session.kernel_state is KernelState.NOT_STARTED
    async with Sessions(config) as second:
        session = second.get("s")
        assert (session.record.status, session.record.reason) == (SessionStatus.SUSPENDED, "lunch")
        resumed = await second.suspension.resume(session, by="a test")
        assert resumed.before is SessionStatus.SUSPENDED
        for expression in (
            "array.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]",
            "frame.to_dict() == {'a': {0: 1, 1: 2}, 'b': {0: 'x', 1: 'y'}}",
            "scaled(2) == 20",
            "point == Point(3) and isinstance(point, Point)",
            "alias is original",
            "not {'lock', 'generator', 'file'} & set(globals())",
        ):
            assert await value(second, session, expression) == "True", expression
        await run(second, session, "scale = 3")
        assert await value(second, session, "scaled(2)") == "6"
        topics = [event.topic for event in await second.events.read(sessions=["s"])]
        assert topics.index("session.suspended") < topics.index("session.resumed")


async def test_whoever_runs_code_in_a_suspended_session_finds_it_as_it_was(
    sessions: Sessions, session: Session
) -> None:
    await run(sessions, session, "x = 41; import threading; lock = threading.Lock()")
    await sessions.suspension.suspend(session, by="a test")
    runs = await asyncio.gather(*(sessions.run(session, f"x + {n}") for n in range(1, 4)))
    for ran in runs:
        assert await ran.wait(HANG)
    assert [ran.snapshot().status for ran in runs] == [ExecutionStatus.COMPLETED] * 3
    first = min((ran.snapshot() for ran in runs), key=lambda execution: execution.index)
    assert "not back: lock (_thread.lock)" in first.note
    assert session.record.status is SessionStatus.ACTIVE


async def test_code_that_comes_while_a_session_is_being_suspended_runs_once(
    sessions: Sessions, session: Session
) -> None:
    await run(sessions, session, "n = 0")
    dice = random.Random(1)
    for _ in range(20):

        async def suspend() -> None:
            with suppress(SessionBusyError):
                await sessions.suspension.suspend(session, by="a test")

        suspending = asyncio.create_task(suspend())
        await asyncio.sleep(dice.random() * 0.05)
        ran = await sessions.run(session, "n += 1")
        assert await ran.wait(HANG)
        assert ran.snapshot().status is ExecutionStatus.COMPLETED, ran.snapshot().error
        await suspending
    assert await value(sessions, session, "n") == "20"


async def test_a_session_that_runs_code_is_not_suspended(
    sessions: Sessions, session: Session
) -> None:
    running = await started(sessions, session, "print(1, flush=True)\nwhile True: pass")
    with pytest.raises(SessionBusyError, match="runs code"):
        await sessions.suspension.suspend(session, by="a test")
    assert session.record.status is SessionStatus.ACTIVE
    await session.interrupt(running)


async def test_what_is_paused_is_stopped_where_it_is_and_suspended(
    sessions: Sessions, session: Session
) -> None:
    code = "import kernelry_session\nn = 0\nprint(1, flush=True)\n"
    code += "while True:\n    n += 1\n    kernelry_session.checkpoint()"
    running = await started(sessions, session, code)
    await steering.steer(session, "pause", by="a test", wait=HANG)
    await sessions.suspension.suspend(session, by="a test")
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED
    assert session.record.status is SessionStatus.SUSPENDED
    assert await value(sessions, session, "n > 0") == "True"


async def test_pr_6_resume_takes_what_can_be_resumed_and_nothing_else(
    sessions: Sessions, session: Session
) -> None:
    suspension = sessions.suspension
    with pytest.raises(ConflictError, match="is active: there is nothing to resume"):
        await suspension.resume(session, by="a test")
    await run(sessions, session, "x = 1")
    # One whose kernel is gone: the newest checkpoint comes back.
    await sessions.checkpoints.create(session)
    await run(sessions, session, "x = 2")
    os.kill(pid_of(session), signal.SIGKILL)
    await until(lambda: session.kernel_state is KernelState.DEAD, "it is dead")
    with pytest.raises(ConflictError, match="is dead"):
        await suspension.suspend(session, by="a test")
    resumed = await suspension.resume(session, by="a test")
    assert resumed.restoration is not None
    assert await value(sessions, session, "x") == "1"
    # A failed one.
    await sessions.close(session, SessionStatus.FAILED, "no luck")
    with pytest.raises(ConflictError, match=r"is failed \(no luck\); resume_session"):
        await sessions.run(session, "x")
    assert (await suspension.resume(session, by="a test")).before is SessionStatus.FAILED
    assert await value(sessions, session, "x") == "1"
    # Final ones.
    await sessions.close(session, SessionStatus.COMPLETED)
    with pytest.raises(TransitionError, match="is completed and can't be active: that is final"):
        await suspension.resume(session, by="a test")


async def test_pr_14_of_many_that_resume_a_session_one_wins_and_the_others_are_told_who(
    sessions: Sessions, session: Session
) -> None:
    for _ in range(5):
        await run(sessions, session, "x = 1")
        await sessions.suspension.suspend(session, by="a test")
        done = await asyncio.gather(
            *(sessions.suspension.resume(session, by=f"client {n}") for n in range(5)),
            return_exceptions=True,
        )
        lost = [error for error in done if isinstance(error, ConflictError)]
        assert len(lost) == 4, done
        assert all("by client 0" in str(error) for error in lost)
        assert await value(sessions, session, "x") == "1"


async def test_a_checkpoint_that_was_changed_leaves_the_session_suspended(
    sessions: Sessions, session: Session
) -> None:
    await run(sessions, session, "x = 1")
    suspended = await sessions.suspension.suspend(session, by="a test")
    (path,) = (sessions.state_dir / "checkpoints").glob(f"*{suspended.checkpoint_id}*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointDamagedError):
        await sessions.suspension.resume(session, by="a test")
    assert session.record.status is SessionStatus.SUSPENDED
    assert session.kernel_state is KernelState.NOT_STARTED
    resumed = await sessions.suspension.resume(session, by="a test", checkpoint_id="none")
    assert resumed.restoration is None
    assert await value(sessions, session, "'x' in globals()") == "False"


async def test_suspended_sessions_make_room_for_others_which_a_resume_may_find_taken(
    config: Config,
) -> None:
    async with Sessions(replace(config, max_sessions=2)) as sessions:
        first = await sessions.create(SessionSpec(id="a"))
        await sessions.suspension.suspend(first, by="a test")
        await sessions.create(SessionSpec(id="b"))
        with pytest.raises(LimitExceededError):
            await sessions.suspension.resume(first, by="a test")
        assert first.record.status is SessionStatus.SUSPENDED
        await sessions.delete("b")
        await sessions.suspension.resume(first, by="a test")


async def test_ls_5_an_orderly_end_saves_what_was_there(config: Config) -> None:
    config = replace(config, save_on_stop=True)
    async with Sessions(config) as first:
        used = await first.create(SessionSpec(id="used"))
        await first.create(SessionSpec(id="unused"))
        await run(first, used, "x = 41")
    async with Sessions(config) as second:
        assert second.get("used").record.status is SessionStatus.SUSPENDED
        assert second.get("unused").record.status is SessionStatus.ACTIVE
        assert await printed(second, second.get("used"), "print(x + 1)") == "42\n"


statuses = st.sampled_from(SessionStatus)


@given(st.lists(statuses, max_size=12))
def test_pr_2_no_way_through_the_statuses_leaves_the_table(ways: list[SessionStatus]) -> None:
    record = SessionRecord(id="s")
    for to in ways:
        before = record
        try:
            record = changed(record, to, "because")
        except TransitionError as error:
            assert to not in ALLOWED[before.status]
            assert f"is {before.status} and can't be {to}" in str(error)
            assert all(str(status) in str(error) for status in ALLOWED[before.status])
        else:
            assert to in ALLOWED[before.status]
            assert (record.status, record.reason) == (to, "because")
            ended = to in (
                SessionStatus.COMPLETED,
                SessionStatus.FAILED,
                SessionStatus.CANCELLED,
            )
            assert (record.ended_at is not None) is ended
    if SessionStatus.COMPLETED in ways[:1]:
        assert record.status is SessionStatus.COMPLETED
