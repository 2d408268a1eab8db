"""The service: what it keeps, what it refuses, what it leaves behind."""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from kernelry import Config, KernelState, Order, Selection, Sessions, SessionSpec, SessionStatus
from kernelry.errors import (
    ConflictError,
    ExecutionNotFoundError,
    InvalidArgumentError,
    KernelStartError,
    LimitExceededError,
    SessionExistsError,
    SessionNotFoundError,
    StateDirHeldError,
)
from tests.faults.matrix import fault

HANG = 60  # seconds after which a test is stuck


@pytest.mark.parametrize(
    "session_id", ["x" * 65, "x" * 10_000, "../x", "a b", "a\0b", "\U0001f600", ".x", "-x", "a/b"]
)
async def test_an_id_that_can_not_be_used_is_refused(sessions: Sessions, session_id: str) -> None:
    with pytest.raises(InvalidArgumentError, match="session id"):
        await sessions.create(SessionSpec(id=session_id))
    assert [s.id for s in sessions.list()] == ["default"]


async def test_tv_1_a_taken_id_is_refused_unless_it_may_be_reused(sessions: Sessions) -> None:
    first = await sessions.create(SessionSpec(id="a", description="first"))
    with pytest.raises(SessionExistsError):
        await sessions.create(SessionSpec(id="a", description="second"))
    assert await sessions.create(SessionSpec(id="a"), reuse=True) is first
    assert first.record.description == "first"


async def test_of_two_creations_at_once_one_wins(sessions: Sessions) -> None:
    results = await asyncio.gather(
        *(sessions.create(SessionSpec(id="a")) for _ in range(5)), return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(r, SessionExistsError) for r in results if isinstance(r, Exception))


async def test_ls_12_the_limit_leaves_the_others_alone(config: Config) -> None:
    async with Sessions(replace(config, max_sessions=2)) as sessions:
        kept = await sessions.create(SessionSpec(id="a"))
        with pytest.raises(LimitExceededError, match="delete_session"):
            await sessions.create(SessionSpec(id="b"))
        run = await sessions.run(kept, "1")
        assert await run.wait(HANG)


async def test_the_default_session_is_there_and_stays(sessions: Sessions) -> None:
    assert sessions.get("default").kernel_state is KernelState.NOT_STARTED
    with pytest.raises(ConflictError):
        await sessions.delete("default")
    assert sessions.current_id("anybody") == "default"


async def test_ls_3_each_caller_has_a_default_of_its_own(sessions: Sessions) -> None:
    await sessions.create(SessionSpec(id="a"))
    assert await sessions.switch("one", "a") == "default"
    assert sessions.current_id("one") == "a"
    assert sessions.current_id("two") == "default"
    await sessions.delete("a")
    with pytest.raises(SessionNotFoundError, match="your default session 'a' is gone"):
        sessions.find("one", None)
    sessions.leave("two", "a")
    assert sessions.current_id("one") == "a"
    sessions.leave("one", "a")
    assert sessions.find("one", None).id == "default"


async def test_a_deleted_session_leaves_nothing(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    assert session.kernel is not None
    code = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"
    run = await sessions.run(session, code)
    assert await run.wait(HANG)
    kernel = psutil.Process(session.kernel.process.pid)
    family = [kernel, *kernel.children(recursive=True)]
    assert "sleep" in [process.name() for process in family]
    await sessions.delete("a")
    assert not kernel.is_running()
    assert all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in family)
    assert not session.directory.exists()
    with pytest.raises(SessionNotFoundError):
        sessions.get("a")
    with pytest.raises(ExecutionNotFoundError):
        await sessions.execution(run.id)


async def test_ls_4_sessions_are_listed_in_order_and_each_filter_excludes_some(
    sessions: Sessions,
) -> None:
    for name, text in (("zeta", "Trains a forest"), ("alpha", "Plots"), ("exp_1", "Plots FORESTS")):
        spec = SessionSpec(id=name, description=text, tags=("t", name), parent_session_id="default")
        await sessions.create(spec)

    def ids(**wanted: Any) -> list[str]:
        return [session.id for session in sessions.list(Selection(**wanted))]

    assert ids() == ["default", "zeta", "alpha", "exp_1"]
    assert ids(name="exp_*") == ["exp_1"]
    assert ids(tags=("t", "alpha")) == ["alpha"]
    assert ids(parent="default") == ["zeta", "alpha", "exp_1"]
    assert ids(parent="zeta") == []
    assert ids(text="forest") == ["zeta", "exp_1"]
    assert ids(text="Forest plots") == ["exp_1"]
    assert ids(text="ALPHA") == ["alpha"]
    assert ids(text="plots", tags=("zeta",)) == []
    assert ids(status=SessionStatus.SUSPENDED) == []
    with pytest.raises(InvalidArgumentError, match="no letter or digit"):
        ids(text="*")
    assert ids(order=Order.ID) == ["alpha", "default", "exp_1", "zeta"]
    run = await sessions.run(sessions.get("alpha"), "1")
    assert await run.wait(HANG)
    assert ids(order=Order.USED)[0] == "alpha"


async def test_pr_3_records_outlive_the_service(config: Config) -> None:
    async with Sessions(config) as sessions:
        session = await sessions.create(SessionSpec(id="a", description="d", tags=("t",)))
        run = await sessions.run(session, "print('kept')")
        assert await run.wait(HANG)
    async with Sessions(config) as sessions:
        session = sessions.get("a")
        assert session.record.description == "d"
        assert session.kernel_state is KernelState.NOT_STARTED
        assert (await sessions.execution(run.id)).outputs == run.snapshot().outputs
        again = await sessions.run(session, "1")
        assert await again.wait(HANG)
        assert session.record.generation == 2
        assert again.execution.index == 2


async def test_a_state_directory_has_one_owner(config: Config) -> None:
    async with Sessions(config) as first:
        with pytest.raises(StateDirHeldError, match=f"process {os.getpid()}"):
            await Sessions(config).__aenter__()
        async with Sessions(replace(config, state_dir_named=False)) as second:
            assert second.state_dir == first.state_dir.with_name("state-2")
    async with Sessions(config):
        pass


async def test_a_python_that_does_not_exist_is_an_error_at_the_start(config: Config) -> None:
    with pytest.raises(KernelStartError, match="/nonexistent/python"):
        await Sessions(replace(config, python=Path("/nonexistent/python"))).__aenter__()


async def test_a_kernel_that_can_not_start_is_quoted(config: Config, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    config = replace(config, python=bare / "bin" / "python", kernel_start="auto")
    async with Sessions(config) as sessions:
        with pytest.raises(KernelStartError, match="ipykernel"):
            await sessions.create(SessionSpec(id="a"))
        await sessions.wait_until_warm()
        # All there is, is the process that would look after kernels.
        assert {p.pid for p in psutil.Process().children()} <= {sessions.fork_server_pid}


async def test_a_fork_that_was_asked_for_and_can_not_be_had_is_an_error_at_the_start(
    config: Config, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    without = replace(config, python=bare / "bin" / "python", kernel_start="fork")
    with pytest.raises(KernelStartError, match="ipykernel"):
        await Sessions(without).__aenter__()
    async with Sessions(replace(config, kernel_start="spawn")):
        pass  # the state directory was given back


async def test_code_that_is_no_text_or_too_much_is_refused(sessions: Sessions) -> None:
    session = sessions.get("default")
    with pytest.raises(InvalidArgumentError, match="surrogate"):
        await sessions.run(session, "'\ud800'")
    with pytest.raises(InvalidArgumentError, match="limit"):
        await sessions.run(session, "#" * (10 << 20))
    assert session.record.execution_count == 0


async def test_a_task_of_one_session_that_fails_harms_no_other(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = [await sessions.create(SessionSpec(id=name)) for name in "ab"]

    async def fail(*args: object, **more: object) -> None:
        raise RuntimeError("nobody has thought of that")

    monkeypatch.setattr(first.services.store, "note", fail)
    run = await sessions.run(first, "import kernelry_session; kernelry_session.publish('mine')")
    assert await run.wait(HANG)
    monkeypatch.undo()
    assert "failed in kernelry" in caplog.text
    caplog.clear()
    for session in (first, second):
        run = await sessions.run(session, "1+1")
        assert await run.wait(HANG)
        assert run.snapshot().status == "completed"


async def test_words_about_a_session_that_are_no_text_are_refused(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="s", description="mine"))
    half = "\ud800"
    for refused in (
        sessions.create(SessionSpec(id="t", description=half)),
        sessions.update(session, tags=(half,)),
        sessions.update(session, description=half, context={"a": 1}),
        sessions.checkpoints.create(session, name=half),
        sessions.suspension.suspend(session, by="me", why=half),
        sessions.close(session, reason=half),
    ):
        with pytest.raises(InvalidArgumentError, match="surrogate"):
            await refused
    assert session.record.description == "mine"
    assert session.record.status == "active"
    assert session.record.context == {}


async def test_fifty_sessions_leave_no_descriptor_thread_or_process(config: Config) -> None:
    async with Sessions(replace(config, warm=0)) as sessions:

        async def cycle(number: int) -> None:
            session = await sessions.create(SessionSpec(id=f"c{number}"))
            run = await sessions.run(session, "1")
            assert await run.wait(HANG)
            await sessions.delete(session.id)

        me = psutil.Process()

        def held() -> tuple[int, int, int]:
            # The event loop's own pool of threads grows to its bound, whenever it is used.
            pooled = sum(thread.name.startswith("asyncio_") for thread in threading.enumerate())
            return me.num_fds(), me.num_threads() - pooled, len(me.children(recursive=True))

        await cycle(0)
        before = held()
        for number in range(1, 51, 2):
            await asyncio.gather(cycle(number), cycle(number + 1))
        async with asyncio.timeout(HANG):  # what has been told to end may still be ending
            while any(now > then for now, then in zip(held(), before, strict=True)):
                await asyncio.sleep(0.05)


def _process(pid: int) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


async def test_a_start_that_is_cancelled_leaves_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="kernelry-") as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
        for step in range(25):
            directory = config.state_dir.with_name(f"s{step}")
            sessions = Sessions(replace(config, state_dir=directory))
            starting = asyncio.create_task(sessions.__aenter__())
            await asyncio.wait([starting], timeout=0.01 * step)
            if starting.done():
                await sessions.__aexit__(None, None, None)
            starting.cancel()
            await asyncio.wait([starting])
            assert not list(Path(runtime).glob("kernelry/*")), step
            left = psutil.Process().children()
            await asyncio.to_thread(psutil.wait_procs, left, timeout=HANG)
            assert not psutil.Process().children(), step


@fault("A3")
async def test_tv_3_the_record_holds_the_code_as_it_was_given(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    for code in ("x = 1\r\n\ty", "\ufeff'bom'", "'a\0b'", "'\U0001f600\u2028'", "#" + "x" * 10**6):
        run = await sessions.run(session, code)
        assert await run.wait(HANG)
        kept = await sessions._store.execution(run.id)
        assert kept is not None and kept.code == code
