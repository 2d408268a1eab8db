"""Checkpoints through the library: real kernels, real files, and what goes wrong with them."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Checkpoint, CheckpointReason, Config, Run, Session, Sessions, SessionSpec
from kernelry.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointNotFoundError,
    KernelDeadError,
    SessionBusyError,
)
from kernelry.output.fold import stream_text
from tests.faults.kernels import until

HANG = 60  # seconds after which a test is stuck
SCRATCH = Path(__file__).parents[3] / ".scratch"  # filled by scripts/clients


async def run(sessions: Sessions, session: Session, code: str) -> str:
    """Run code to its end and return what it printed."""
    run: Run = await sessions.run(session, code)
    await run.wait(HANG)
    execution = run.snapshot()
    assert execution.error is None, execution.error
    return stream_text(execution.outputs, "stdout").strip()


def left_in(session: Session) -> list[str]:
    """Return what is under way of checkpoints in a session's directory."""
    return [name for name in os.listdir(session.directory) if "checkpoint" in name]


def kept_by(sessions: Sessions) -> set[str]:
    folder = sessions.state_dir / "checkpoints"
    return set(os.listdir(folder)) - {"key"} if folder.exists() else set()


async def test_a_restore_brings_the_variables_back(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, "x = 1\ndef f(): return x")
    saved = await sessions.checkpoints.create(session, name="first")
    await run(sessions, session, "x = 2; y = 3")
    done = await sessions.checkpoints.restore(saved.id, session)
    assert await run(sessions, session, "print(x, f(), y)") == "1 1 3"
    assert done.restored == ("f", "x") and not done.failed and not done.warnings
    assert saved.variables == ("x", "f") and saved.size > 0 and 0 < saved.blocked < HANG
    assert not left_in(session) and kept_by(sessions) == {saved.id}


async def test_a_restore_may_remove_what_came_later(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, "x = 1")
    saved = await sessions.checkpoints.create(session)
    await run(sessions, session, "y = 3")
    await sessions.checkpoints.restore(saved.id, session, clear=True)
    assert await run(sessions, session, "print('y' in globals(), x)") == "False 1"


async def test_a_checkpoint_goes_into_another_session(sessions: Sessions) -> None:
    one = await sessions.create(SessionSpec(id="one"))
    other = await sessions.create(SessionSpec(id="other"))
    await run(sessions, one, "class C:\n    v = 7\nc = C(); a = b = [1]")
    saved = await sessions.checkpoints.create(one)
    await sessions.checkpoints.restore(saved.id, other)
    assert await run(sessions, other, "print(c.v, type(c) is C, a is b)") == "7 True True"


async def test_another_python_saves_and_restores_and_its_code_stays_with_it(
    sessions: Sessions,
) -> None:
    python = SCRATCH / "python3.13" / "bin" / "python"
    if not python.exists():
        pytest.skip("no python3.13 here: run scripts/clients")
    other = await sessions.create(SessionSpec(id="other", python=str(python)))
    same = await sessions.create(SessionSpec(id="same"))
    await run(sessions, other, "x = {'a': [1]}\ndef f(): return x")
    saved = await sessions.checkpoints.create(other)
    assert saved.python.startswith("3.13.")
    await run(sessions, other, "x = 0; del f")
    done = await sessions.checkpoints.restore(saved.id, other)
    assert not done.failed and await run(sessions, other, "print(f())") == "{'a': [1]}"
    done = await sessions.checkpoints.restore(saved.id, same)
    assert done.restored == ("x",) and await run(sessions, same, "print(x)") == "{'a': [1]}"
    assert [item.name for item in done.failed] == ["f"]
    assert "code of Python 3.13" in done.failed[0].reason and "Python 3.13" in done.warnings[0]


async def test_code_runs_while_the_child_still_writes(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, GATED + "x = 1")
    saving = asyncio.ensure_future(sessions.checkpoints.create(session))
    writer = await asyncio.to_thread(os.open, gate_of(session), os.O_WRONLY)
    assert await run(sessions, session, "x = 2; print(x)") == "2"
    assert not saving.done()
    os.close(writer)
    saved = await saving
    await sessions.checkpoints.restore(saved.id, session)
    assert await run(sessions, session, "print(x, gated)") == "1 5"


async def test_both_wait_for_their_turn_among_executions(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, "x = 0")
    first = await sessions.run(session, "import time; time.sleep(0.3); x += 1")
    second = await sessions.run(session, "x += 1")
    saving = asyncio.ensure_future(sessions.checkpoints.create(session))
    await asyncio.sleep(0)
    third = await sessions.run(session, "x += 1; seen = x")
    saved = await saving
    restoring = asyncio.ensure_future(sessions.checkpoints.restore(saved.id, session))
    await asyncio.gather(first.wait(HANG), second.wait(HANG), third.wait(HANG), restoring)
    assert await run(sessions, session, "print(x, seen)") == "2 3"


async def test_a_busy_session_is_not_waited_for_longer_than_asked(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    busy = await sessions.run(session, "import time; time.sleep(600)")
    with pytest.raises(SessionBusyError, match="between cells"):
        await sessions.checkpoints.create(session, patience=0.1)
    await sessions.interrupt(busy.id)
    assert await run(sessions, session, "print(1)") == "1"
    assert not kept_by(sessions)


async def test_a_changed_file_is_refused_by_its_name(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, "x = 1")
    saved = await sessions.checkpoints.create(session)
    path = sessions.state_dir / "checkpoints" / saved.id
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    await run(sessions, session, "x = 2")
    with pytest.raises(CheckpointDamagedError, match=str(path)):
        await sessions.checkpoints.restore(saved.id, session)
    assert await run(sessions, session, "print(x)") == "2"
    assert not left_in(session)
    path.unlink()
    with pytest.raises(CheckpointDamagedError, match="gone"):
        await sessions.checkpoints.restore(saved.id, session)


async def test_a_checkpoint_of_another_key_or_name_is_refused(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    one = await sessions.checkpoints.create(session)
    await run(sessions, session, "x = 1")
    other = await sessions.checkpoints.create(session)
    folder = sessions.state_dir / "checkpoints"
    data = (folder / one.id).read_bytes()
    (folder / one.id).write_bytes((folder / other.id).read_bytes())
    with pytest.raises(CheckpointDamagedError):
        await sessions.checkpoints.restore(one.id, session)
    (folder / one.id).write_bytes(data)
    await sessions.checkpoints.restore(one.id, session)
    assert (folder / "key").stat().st_mode & 0o777 == 0o600
    (folder / "key").write_bytes(b"k" * 32)
    with pytest.raises(CheckpointDamagedError, match="another key"):
        await sessions.checkpoints.restore(one.id, session)


async def test_automatic_ones_are_replaced_and_manual_ones_stay(config: Config) -> None:
    async with Sessions(replace(config, keep_checkpoints=2)) as sessions:
        session = await sessions.create(SessionSpec(id="a"))
        manual = await sessions.checkpoints.create(session)
        made = [
            await sessions.checkpoints.create(session, reason=reason)
            for reason in (CheckpointReason.SUSPEND, CheckpointReason.STOP, CheckpointReason.STOP)
        ]
        expected = [made[2].id, made[1].id, manual.id]
        assert [item.id for item in await sessions.checkpoints.list("a")] == expected
        assert kept_by(sessions) == set(expected)
        await sessions.checkpoints.delete(manual.id)
        assert kept_by(sessions) == set(expected[:2])
        with pytest.raises(CheckpointNotFoundError, match=made[2].id):
            await sessions.checkpoints.get(manual.id)
        await sessions.delete("a")
        assert not await sessions.checkpoints.list() and not kept_by(sessions)


async def test_a_deleted_session_whose_history_stays_has_no_checkpoints(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, "x = 1")
    await sessions.checkpoints.create(session)
    assert await sessions.delete("a", keep_history=True)
    assert not await sessions.checkpoints.list() and not kept_by(sessions)


async def test_a_restart_may_keep_the_variables(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    code = """
import threading, kernelry_session
from kernelry_session import checkpoint, context
x = 1; items = [x]; lock = threading.Lock()
def f(): return x + 1
"""
    await run(sessions, session, code)
    done = await sessions.checkpoints.restart(session, "for the test", 5)
    assert session.record.generation == 2
    assert done.restored == (
        "checkpoint",
        "context",
        "f",
        "items",
        "kernelry_session",
        "threading",
        "x",
    )
    assert [(item.name, item.type) for item in done.checkpoint.skipped] == [
        ("lock", "_thread.lock")
    ]
    assert "lock" in done.checkpoint.skipped[0].reason
    await run(sessions, session, "x = 5")
    code = "print(f(), items, 'lock' in globals(), context is kernelry_session.context)"
    assert await run(sessions, session, "checkpoint();" + code) == "6 [1] False True"


async def test_a_kernel_that_can_not_be_saved_is_not_restarted(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    code = """
import os
class Deadly:
    def __reduce__(self):
        os._exit(3)
deadly = Deadly()
"""
    await run(sessions, session, code)
    with pytest.raises(CheckpointError, match="exit code 3"):
        await sessions.checkpoints.restart(session, "for the test", 5)
    assert session.record.generation == 1
    assert await run(sessions, session, "print(type(deadly).__name__)") == "Deadly"
    assert not left_in(session) and not kept_by(sessions)


async def test_a_kernel_that_dies_meanwhile_leaves_nothing(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, STUCK)
    saving = asyncio.ensure_future(sessions.checkpoints.create(session))
    await reading(session)
    await session.kill("for the test")
    with pytest.raises(KernelDeadError):
        await saving
    assert not left_in(session) and not kept_by(sessions)
    with pytest.raises(KernelDeadError, match="nothing to save"):
        await sessions.checkpoints.create(session)


async def test_a_cancelled_save_ends_its_child_and_leaves_nothing(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, STUCK)
    saving = asyncio.ensure_future(sessions.checkpoints.create(session))
    child = await reading(session)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert not left_in(session) and not kept_by(sessions)
    # In a box only those inside know the pid.
    gone = f"""
while os.path.exists('/proc/{child}'):
    time.sleep(0.05)
"""
    await run(sessions, session, gone)


async def test_a_cancelled_restore_changes_nothing(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    code = """
import time
def nap():
    open('naps', 'w').close()
    time.sleep(600)
class Slow:
    def __reduce__(self):
        return (nap, ())
slow, x = Slow(), 1
"""
    await run(sessions, session, code)
    saved = await sessions.checkpoints.create(session)
    await run(sessions, session, "x = 2")
    restoring = asyncio.ensure_future(sessions.checkpoints.restore(saved.id, session))
    await until((sessions.workspace.root / "naps").exists, "it is being restored")
    restoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    # The nap would not be over by then.
    assert await asyncio.wait_for(run(sessions, session, "print(x)"), HANG) == "2"
    assert not left_in(session)


async def test_a_full_file_system_is_an_error_without_a_half_file(config: Config) -> None:
    limits = replace(config.limits, file_size=1 << 20)
    async with Sessions(replace(config, limits=limits)) as sessions:
        session = await sessions.create(SessionSpec(id="a"))
        await run(sessions, session, "x = 'a' * (2 << 20)")
        with pytest.raises(CheckpointError, match="can't be written: File too large"):
            await sessions.checkpoints.create(session)
        assert not left_in(session) and not kept_by(sessions)
        assert await run(sessions, session, "print(len(x))") == str(2 << 20)


async def test_a_restore_that_does_not_fit_changes_nothing(config: Config) -> None:
    limits = replace(config.limits, memory=400 << 20)
    async with Sessions(replace(config, limits=limits)) as sessions:
        session = await sessions.create(SessionSpec(id="a"))
        await run(sessions, session, "x = bytearray(150 << 20); y = 1")
        saved = await sessions.checkpoints.create(session)
        await run(sessions, session, "more = bytearray(200 << 20); y = 2")
        with pytest.raises(CheckpointError, match="MemoryError"):
            await sessions.checkpoints.restore(saved.id, session)
        assert await run(sessions, session, "print(y, len(x) >> 20)") == "2 150"
        await run(sessions, session, "del x, more")
        await sessions.checkpoints.restore(saved.id, session)
        assert await run(sessions, session, "print(y, len(x) >> 20)") == "1 150"


async def test_threads_of_a_session_do_not_stop_its_saves(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    code = """
import logging, threading
stop = False
def noise():
    while not stop:
        print('x' * 100)
        logging.getLogger('noise').warning('noise')
        sum(n for n in range(1000))
for _ in range(3):
    threading.Thread(target=noise, daemon=True).start()
"""
    await run(sessions, session, code)
    for _ in range(5):
        saved = await asyncio.wait_for(sessions.checkpoints.create(session), HANG)
        assert {"noise", "stop"} <= set(saved.variables)
    await run(sessions, session, "stop = True")


async def test_a_cell_that_waits_for_all_children_does_not_hide_how_a_save_ended(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, "import os, time\nx = 1\n" + GATED)
    saving = asyncio.ensure_future(sessions.checkpoints.create(session))
    writer = await asyncio.to_thread(os.open, gate_of(session), os.O_WRONLY)
    waiting = await sessions.run(session, "print(os.waitstatus_to_exitcode(os.wait()[1]))")
    os.close(writer)
    assert (await saving).variables == ("os", "time", "x", "Gated", "gated")
    await waiting.wait(HANG)


async def test_a_session_that_is_deleted_meanwhile_keeps_nothing(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    await run(sessions, session, GATED)
    saving = asyncio.ensure_future(sessions.checkpoints.create(session))
    writer = await asyncio.to_thread(os.open, gate_of(session), os.O_WRONLY)
    await sessions.delete("a")
    os.close(writer)
    with pytest.raises((KernelDeadError, CheckpointError)):  # the kernel's end reaches the child
        await saving
    assert not kept_by(sessions) and not await sessions.checkpoints.list()
    gone = Checkpoint(id="f" * 16, session_id="a")
    session.directory.mkdir()
    (session.directory / f".checkpoint-{gone.id}").write_text("x")
    with pytest.raises(CheckpointError, match="was deleted before"):
        await sessions.checkpoints._keep_it(gone, session)
    assert not kept_by(sessions)


async def test_what_a_session_puts_in_the_file_s_place_is_refused(
    sessions: Sessions, tmp_path: Path
) -> None:
    session = await sessions.create(SessionSpec(id="a"))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for place in (secret.symlink_to, os.mkfifo, os.mkdir, secret.hardlink_to):
        checkpoint = Checkpoint(id="f" * 16, session_id="a")
        path = session.directory / f".checkpoint-{checkpoint.id}"
        if place in (os.mkfifo, os.mkdir):
            place(path)
        elif place == secret.symlink_to:
            path.symlink_to(secret)
        else:
            os.link(secret, path)
        with pytest.raises(CheckpointError, match="can't be kept"):
            sessions.checkpoints._files.take(session.directory, checkpoint.id)
        assert not kept_by(sessions) and secret.read_text() == "secret"


async def test_checkpoints_outlive_the_server_and_its_leftovers_do_not(config: Config) -> None:
    async with Sessions(config) as sessions:
        session = await sessions.create(SessionSpec(id="a"))
        await run(sessions, session, "x = 1")
        saved = await sessions.checkpoints.create(session, name="kept")
        (session.directory / ".checkpoint-0123").write_text("half")
        (sessions.state_dir / "checkpoints" / "4567").write_text("not written down")
    async with Sessions(config) as sessions:
        session = sessions.get("a")
        assert not left_in(session) and kept_by(sessions) == {saved.id}
        assert await sessions.checkpoints.list() == [saved]
        await sessions.checkpoints.restore(saved.id, session)
        assert await run(sessions, session, "print(x)") == "1"


#: a variable whose saving ends when somebody has opened its gate, and closed it again
GATED = """
import os
class Gated:
    def __reduce__(self):
        open(os.environ['TMPDIR'] + '/gate').read()
        return (int, (5,))
os.mkfifo(os.environ['TMPDIR'] + '/gate')
gated = Gated()
"""


def gate_of(session: Session) -> Path:
    return session.directory / "tmp" / "gate"


#: a variable whose saving does not end, and says in a file which process it is
STUCK = """
import os, time
class Stuck:
    def __reduce__(self):
        with open(os.environ['TMPDIR'] + '/pid.new', 'w') as file:
            file.write(str(os.getpid()))
        os.rename(os.environ['TMPDIR'] + '/pid.new', os.environ['TMPDIR'] + '/pid')
        time.sleep(600)
stuck = Stuck()
"""


async def reading(session: Session) -> int:
    """Wait until the child is at `STUCK`, and return its pid."""
    path = session.directory / "tmp" / "pid"
    await until(path.exists, "a child comes to it")
    return int(path.read_text())
