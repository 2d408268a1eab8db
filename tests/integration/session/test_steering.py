"""Pause, resume and stop at safe points; questions of code; context and events of sessions."""

import asyncio
import time
from dataclasses import replace

import pytest

from kernelry import Config, ExecutionStatus, Session, Sessions, SessionSpec, SessionStatus
from kernelry.errors import ConflictError
from kernelry.models.reports import Activity
from kernelry.output.fold import stream_text
from kernelry.session import steering
from kernelry.session.run import Run
from tests.faults.kernels import HANG, printed, run, started, until, value

TRAINING = """
import time, kernelry_session
n = 0
print("begun", flush=True)
while True:
    n += 1
    kernelry_session.checkpoint(progress=(n, "many"))
    time.sleep(0.001)
"""


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="training"))


async def counter(session: Session) -> int:
    """Read `n` of a session that is busy."""
    variables, _ = await session.variables(100)
    return int(next(v.repr for v in variables if v.name == "n"))


async def pause(session: Session, by: str = "the controller") -> None:
    assert (await steering.steer(session, "pause", by=by, wait=HANG)).state == "paused"


async def test_tv_5_a_paused_loop_stands_still_answers_and_goes_on(
    sessions: Sessions, session: Session
) -> None:
    running = await started(sessions, session, TRAINING)
    await pause(session)
    assert session.record.status is SessionStatus.PAUSED
    before = await counter(session)
    health = await sessions.health(session)
    assert health.activity is Activity.PAUSED
    assert health.responsive
    assert await counter(session) == before
    resumed = await steering.steer(session, "resume", by="the controller", wait=HANG)
    assert resumed.state == "running"
    assert str(session.record.status) == "active"
    async with asyncio.timeout(HANG):
        while await counter(session) == before:
            pass
    await session.interrupt(running)


async def test_tv_4_a_stop_ends_the_execution_at_a_safe_point_and_nothing_else(
    sessions: Sessions, session: Session
) -> None:
    running = await started(sessions, session, TRAINING)
    steered = await steering.steer(session, "stop", by="the controller", wait=HANG)
    assert steered.state == "stopped"
    execution = running.snapshot()
    assert execution.status is ExecutionStatus.INTERRUPTED
    assert execution.error is not None
    assert execution.error.type == "ExecutionStopped"
    assert "the controller" in execution.error.message
    assert execution.progress.endswith("of many")
    assert int(await value(sessions, session, "n")) > 0
    assert session.record.generation == 1


async def test_except_exception_does_not_swallow_a_stop(
    sessions: Sessions, session: Session
) -> None:
    code = TRAINING.replace("    kernelry", "    try: kernelry").replace(
        "    time.sleep", "    except Exception: pass\n    time.sleep"
    )
    running = await started(sessions, session, code)
    assert (await steering.steer(session, "stop", by="x", wait=HANG)).state == "stopped"
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED


async def test_tv_7_requests_take_effect_at_safe_points_only(
    sessions: Sessions, session: Session
) -> None:
    (sessions.workspace.root / "go").unlink(missing_ok=True)
    code = """
import os, time, kernelry_session
print("begun", flush=True)
while not os.path.exists("go"): time.sleep(0.01)
kernelry_session.checkpoint()
print("passed")
"""
    running = await started(sessions, session, code)
    assert (await steering.steer(session, "pause", by="x", wait=0)).state == "requested"
    assert session.record.status is SessionStatus.ACTIVE
    (sessions.workspace.root / "go").touch()
    await until(lambda: running.held_since is not None, "it is held")
    assert "passed" not in stream_text(running.snapshot().outputs, "stdout")
    assert (await steering.steer(session, "resume", by="x", wait=HANG)).state in (
        "running",
        "ended",
    )
    assert await running.wait(HANG)
    assert "passed" in stream_text(running.snapshot().outputs, "stdout")


async def test_tv_4_a_second_request_is_told_who_asked_first_and_when(
    sessions: Sessions, session: Session
) -> None:
    running = await started(sessions, session, "import time\nprint(1, flush=True)\ntime.sleep(600)")
    await steering.steer(session, "pause", by="Ada", wait=0)
    for action in ("pause", "stop"):
        with pytest.raises(ConflictError, match=r"about to pause: Ada asked at 20\d\d-"):
            await steering.steer(session, action, by="Bob", wait=0)
    # TV-6: also before the safe point was reached; it then takes the request back.
    await steering.steer(session, "resume", by="Bob", wait=0)
    await steering.steer(session, "stop", by="Bob", wait=0)
    with pytest.raises(ConflictError, match="about to stop: Bob asked"):
        await steering.steer(session, "stop", by="Ada", wait=0)
    await session.interrupt(running)


async def test_one_that_is_paused_can_be_stopped_and_not_paused_again(
    sessions: Sessions, session: Session
) -> None:
    running = await started(sessions, session, TRAINING)
    await pause(session, "Ada")
    with pytest.raises(ConflictError, match="paused already: Ada"):
        await steering.steer(session, "pause", by="Bob", wait=0)
    assert (await steering.steer(session, "stop", by="Bob", wait=HANG)).state == "stopped"
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED
    assert session.record.status is SessionStatus.ACTIVE


async def test_tv_6_what_is_not_paused_can_not_be_resumed(
    sessions: Sessions, session: Session
) -> None:
    with pytest.raises(ConflictError, match="nothing runs in session 'training'"):
        await steering.steer(session, "resume", by="x", wait=0)
    running = await started(sessions, session, TRAINING)
    with pytest.raises(ConflictError, match="not paused: its execution runs"):
        await steering.steer(session, "resume", by="x", wait=0)
    await session.interrupt(running)


async def test_a_request_that_came_too_late_is_told_and_leaves_the_next_execution_alone(
    sessions: Sessions, session: Session
) -> None:
    running = await started(sessions, session, "import time\nprint(1, flush=True)\ntime.sleep(0.3)")
    await steering.steer(session, "stop", by="Ada", wait=0)
    assert await running.wait(HANG)
    execution = running.snapshot()
    assert execution.status is ExecutionStatus.COMPLETED
    assert "Ada asked to stop it, but it ended before a safe point" in execution.note
    code = "import kernelry_session\nkernelry_session.checkpoint()\nprint('went on')"
    assert await printed(sessions, session, code) == "went on\n"


async def test_an_interrupt_ends_a_pause(sessions: Sessions, session: Session) -> None:
    running = await started(sessions, session, TRAINING)
    await pause(session)
    await session.interrupt(running)
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED
    assert session.record.status is SessionStatus.ACTIVE
    assert await value(sessions, session, "n > 0") == "True"


async def test_the_time_that_it_is_paused_does_not_count_for_a_timeout(
    sessions: Sessions, session: Session
) -> None:
    running = await sessions.run(session, TRAINING, timeout=1.0)
    await until(lambda: bool(running.fold.outputs), "it runs")
    await pause(session)
    await until(lambda: running.paused_for > 1.5, "it was paused for longer than its timeout")
    assert not running.done.is_set()
    await steering.steer(session, "resume", by="x", wait=HANG)
    assert await running.wait(HANG)
    assert running.snapshot().status is ExecutionStatus.TIMED_OUT


async def test_a_pause_outlives_the_server(config: Config) -> None:
    config = replace(config, keep_kernels=True)
    async with Sessions(config) as first:
        session = await first.create(SessionSpec(id="training"))
        await started(first, session, TRAINING)
        await pause(session, "Ada")
        before = await counter(session)
    async with Sessions(replace(config, keep_kernels=False)) as second:
        session = second.get("training")
        await until(lambda: session.record.status is SessionStatus.PAUSED, "it is known")
        assert await counter(session) == before
        with pytest.raises(ConflictError, match="paused already: Ada"):
            await steering.steer(session, "pause", by="Bob", wait=0)
        assert (await steering.steer(session, "resume", by="Bob", wait=HANG)).state == "running"
        async with asyncio.timeout(HANG):
            while await counter(session) == before:
                pass
        topics = [e.topic for e in await second.events.read(sessions=["training"])]
        assert topics.count("execution.paused") == 1
        assert topics.count("execution.resumed") == 1


async def test_progress_shows_while_it_runs_and_stays(sessions: Sessions, session: Session) -> None:
    code = """
import kernelry_session, os, time
kernelry_session.checkpoint(progress=0.25)
print("a quarter", flush=True)
kernelry_session.checkpoint(progress=0.5)  # too soon after the first to be told at once
while not os.path.exists("on"): time.sleep(0.01)
kernelry_session.checkpoint(progress="nearly")
"""
    running = await started(sessions, session, code)
    await until(lambda: running.snapshot().progress == "50.0%", "the second is told, too")
    (sessions.workspace.root / "on").touch()
    assert await running.wait(HANG)
    assert running.snapshot().progress == "nearly"
    assert (await sessions.execution(running.id)).progress == "nearly"


async def test_progress_of_a_kind_of_its_own_is_described_where_the_code_gives_it(
    sessions: Sessions, session: Session
) -> None:
    code = """
import threading, time, kernelry_session
own = []
class Step:
    def __init__(self, number): self.number = number
    def __str__(self):
        own.append(threading.current_thread() is threading.main_thread())
        return f"step {self.number}"
print(1, flush=True)
kernelry_session.checkpoint(progress=Step(1))
kernelry_session.checkpoint(progress=(Step(2), 3))  # too soon after the first to be told at once
time.sleep(60)
"""
    running = await started(sessions, session, code)
    await until(lambda: running.snapshot().progress == "step 2 of 3", "the second is told, too")
    await session.interrupt(running)
    assert await value(sessions, session, "own") == "[True, True]"


async def test_a_safe_point_costs_less_than_a_microsecond_or_so(
    sessions: Sessions, session: Session
) -> None:
    """A bound with room for a loaded machine; docs/performance.md has the number."""
    code = """
import timeit, kernelry_session
print(min(timeit.repeat(kernelry_session.checkpoint, number=100_000, repeat=7)) / 100_000)
"""
    assert float(await printed(sessions, session, code)) < 20e-6


async def asking(sessions: Sessions, session: Session, code: str, timeout: float = 0) -> Run:
    running = await sessions.run(session, code, timeout=timeout or None)
    await until(lambda: running.snapshot().status is ExecutionStatus.WAITING_INPUT, "it asks")
    return running


@pytest.fixture
async def curious(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="curious", stdin=True))


@pytest.mark.parametrize("function", ["input", "__import__('getpass').getpass"])
async def test_a_question_is_answered_by_the_next_call(
    sessions: Sessions, curious: Session, function: str
) -> None:
    running = await asking(sessions, curious, f"print('Hello', {function}('Your name? '))")
    question = running.snapshot().question
    assert question is not None
    assert question.prompt == "Your name? "
    assert question.hidden is ("getpass" in function)
    assert await steering.answer(curious, running, "Ada")
    assert await running.wait(HANG)
    execution = running.snapshot()
    assert execution.status is ExecutionStatus.COMPLETED
    assert execution.question is None
    assert stream_text(execution.outputs, "stdout") == "Hello Ada\n"
    with pytest.raises(ConflictError, match="asks nothing now"):
        await steering.answer(curious, running, "again")


async def test_a_question_ends_with_an_interrupt_and_with_a_timeout(
    sessions: Sessions, curious: Session
) -> None:
    running = await asking(sessions, curious, "name = input()")
    await curious.interrupt(running)
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED
    running = await asking(sessions, curious, "name = input()", timeout=0.5)
    assert await running.wait(HANG)
    assert running.snapshot().status is ExecutionStatus.TIMED_OUT
    assert await printed(sessions, curious, "print(1)") == "1\n"


async def test_a_question_outlives_the_server(config: Config) -> None:
    config = replace(config, keep_kernels=True)
    async with Sessions(config) as first:
        session = await first.create(SessionSpec(id="curious", stdin=True))
        running = await asking(first, session, "print(input('Who? '))")
    async with Sessions(replace(config, keep_kernels=False)) as second:
        session = second.get("curious")
        await until(
            lambda: session.current is not None and session.current.execution.question is not None,
            "the question is known",
        )
        assert session.current is not None
        await steering.answer(session, session.current, "me")
        await until(lambda: session.current is None, "it has ended")
        execution = await second.execution(running.id)
        assert stream_text(execution.outputs, "stdout") == "me\n"


async def test_where_nobody_asked_for_it_input_says_what_to_do(
    sessions: Sessions, session: Session
) -> None:
    done = await run(sessions, session, "input()")
    assert done.status is ExecutionStatus.FAILED
    assert done.error is not None
    assert "Put the value into a variable" in done.error.message


async def test_rt_11_the_context_is_read_and_written_in_code_and_outlives_kernels(
    config: Config,
) -> None:
    async with Sessions(config) as first:
        session = await first.create(SessionSpec(id="s", context={"rate": 0.1}))
        code = (
            "from kernelry_session import context, session_id\nprint(session_id, context['rate'])"
        )
        assert await printed(first, session, code) == "s 0.1\n"
        await run(first, session, "context['best'] = {'epoch': 3}; del context['rate']")
        await until(lambda: session.record.context == {"best": {"epoch": 3}}, "it is told")
        await session.restart()
        code = "from kernelry_session import context\nprint(dict(context))"
        assert await printed(first, session, code) == "{'best': {'epoch': 3}}\n"
    async with Sessions(config) as second:
        session = second.get("s")
        assert await printed(second, session, code) == "{'best': {'epoch': 3}}\n"
        done = await run(second, session, "context['f'] = print")
        assert done.error is not None
        assert done.error.type == "TypeError"


async def test_ls_17_what_one_session_publishes_others_read_by_a_cursor(
    sessions: Sessions, session: Session
) -> None:
    since = await sessions.events.newest()
    code = "import kernelry_session\nfor i in range(3): kernelry_session.publish('epoch', {'n': i})"
    await run(sessions, session, code)
    found = await sessions.events.read(since=since, topics=["epo*"], wait=HANG)
    while len(found) < 3:
        found += await sessions.events.read(since=found[-1].seq, topics=["epoch"], wait=HANG)
    assert [event.data["n"] for event in found] == [0, 1, 2]
    assert {event.session_id for event in found} == {"training"}
    assert [e.seq for e in found] == sorted({e.seq for e in found})
    assert await sessions.events.read(since=found[-1].seq, topics=["epoch"]) == []
    done = await run(sessions, session, "kernelry_session.publish('session.created')")
    assert done.error is not None
    assert "the server's own" in done.error.message


async def test_rt_10_a_follower_that_goes_or_comes_late_costs_nobody_anything(
    sessions: Sessions,
) -> None:
    since = await sessions.events.newest()
    gone, there = (
        asyncio.create_task(sessions.events.read(since=since, topics=["news"], wait=HANG))
        for _ in range(2)
    )
    await asyncio.sleep(0)
    gone.cancel()
    numbers = [await sessions.events.publish("news", n) for n in range(3)]
    first, *_ = await there
    assert (first.seq, first.data) == (numbers[0], 0)
    late = await sessions.events.read(since=since, topics=["news"])
    assert [event.seq for event in late] == numbers
    assert await sessions.events.read(since=-1, topics=["news"]) == []
    assert gone.cancelled()


async def test_who_waits_for_an_event_is_woken_by_it(sessions: Sessions, session: Session) -> None:
    waiting = asyncio.create_task(
        sessions.events.read(since=-1, topics=["news"], sessions=["training"], wait=HANG)
    )
    began = time.monotonic()
    await sessions.events.publish("news", "from nobody")
    await run(
        sessions, session, "import kernelry_session\nkernelry_session.publish('news', 'ours')"
    )
    (event,) = await waiting
    assert event.data == "ours"
    assert time.monotonic() - began < HANG


async def test_ls_18_an_execution_says_how_long_it_took_and_what_memory_it_left(
    sessions: Sessions, session: Session
) -> None:
    done = await run(sessions, session, "kept = bytearray(50 << 20)")
    assert done.memory_after - done.memory_before > 40 << 20
    assert done.duration > 0
    assert (await sessions.execution(done.id)).memory_after == done.memory_after


async def test_the_session_is_there_without_an_import_and_a_users_own_name_shadows_it(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    await run(sessions, session, "kernelry_session.context['a'] = 1")
    assert session.record.context == {"a": 1}
    code = "import kernelry_session as imported\nprint(imported is kernelry_session)"
    assert await printed(sessions, session, code) == "True\n"
    assert (
        await printed(sessions, session, "kernelry_session = 5\nprint(kernelry_session)") == "5\n"
    )
    await run(sessions, session, "from kernelry_session import publish\npublish('news', 1)")
    assert session.record.status.has_kernel
    code = "del kernelry_session\nprint(kernelry_session.session_id)"
    assert await printed(sessions, session, code) == "s\n"


async def test_help_names_all_that_the_session_offers(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    code = "import pydoc\nprint(pydoc.plain(pydoc.render_doc(kernelry_session)))"
    shown = await printed(sessions, session, code)
    for name in ("ExecutionStopped", "checkpoint", "context", "execution_id", "publish"):
        assert name in shown
    assert "Write an event into the server's log" in shown
    assert "parent_session_id" in shown
    listed = await printed(sessions, session, "print(*dir(kernelry_session))")
    assert {"publish", "session_id", "parent_session_id"} <= set(listed.split())


async def test_a_cell_that_the_kernel_has_not_come_to_yet_can_be_paused_and_resumed(
    sessions: Sessions, session: Session
) -> None:
    """A busy machine: what was sent has not begun when somebody asks."""
    folder = sessions.workspace.root
    held_up = """
import asyncio, os, time
def hold_up():
    open("held", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
asyncio.get_running_loop().call_later(0.1, hold_up)
"""
    await run(sessions, session, held_up)
    await until(lambda: (folder / "held").exists(), "the kernel is held up")
    running = await sessions.run(session, "kernelry_session.checkpoint()")
    await until(lambda: session.current is running, "it was sent")
    assert (await steering.steer(session, "pause", by="a", wait=0)).state == "requested"
    with pytest.raises(ConflictError, match="a asked at"):
        await steering.steer(session, "pause", by="b", wait=0)
    await steering.steer(session, "resume", by="b", wait=0)
    await steering.steer(session, "pause", by="c", wait=0)
    (folder / "go").touch()
    await until(lambda: session.record.status is SessionStatus.PAUSED, "it is paused")
    await steering.steer(session, "resume", by="c", wait=HANG)
    assert await running.wait(HANG)
    assert running.snapshot().status is ExecutionStatus.COMPLETED
