"""Code signs what it likes, or writes on its kernel's sockets: the server has bounds of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from kernelry import ExecutionStatus, KernelState, Session, Sessions, SessionSpec

from .conftest import Bystander
from .kernels import restarted, run, until, value
from .matrix import fault

MEBIBYTE = 1 << 20
GROWTH = 150 * MEBIBYTE  # of the whole process, with what tests and the allocator add

#: what code does that goes around the kernel's own budget
FORGED = """
import socket as sockets, os, stat, threading
kernel = get_ipython().kernel
parent, session, iopub = kernel.get_parent("shell"), kernel.session, kernel.iopub_socket
def send(kind, content):
    session.send(iopub, kind, content, parent)
def shown(kind, text, name="one"):
    send(kind, {"data": {"text/plain": text}, "metadata": {}, "transient": {"display_id": name}})
def own_ends(number):
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            fd = int(name)
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                one = sockets.socket(fileno=os.dup(fd))
                if str(one.getsockname()).endswith(f"-{number}") and one.getpeername() is not None:
                    one.setblocking(True)
                    found.append(one)
        except OSError:
            pass
    return found
"""
FLOODS = {
    "displays of one id, and updates": (
        "for i in range(6000): shown('display_data', str(i))\n"
        "for i in range(6000): shown('update_display_data', str(i))"
    ),
    "updates of one display": (
        "shown('display_data', 'first')\n"
        "for i in range(20_000): shown('update_display_data', str(i))"
    ),
    "text": "for _ in range(200): send('stream', {'name': 'stdout', 'text': 'x' * 1_000_000})",
    "text in pieces": (
        "for i in range(8000):\n"
        "    send('stream', {'name': ('stdout', 'stderr')[i % 2], 'text': 'x' * 50})"
    ),
    "pictures": (
        "for _ in range(40):\n"
        "    send('display_data', {'data': {'image/png': 'A' * 5_000_000}, 'metadata': {}})"
    ),
    "metadata": (
        "for _ in range(40):\n"
        "    send('display_data', {'data': {}, 'metadata': {'a': 'A' * 5_000_000}})"
    ),
    "lists of lists": (
        "for _ in range(20):\n"
        "    send('display_data', {'data': {'application/json': [[]] * 400_000}, 'metadata': {}})"
    ),
    "errors": (
        "for _ in range(5000):\n"
        "    send('error', {'ename': 'E', 'evalue': 'e', 'traceback': ['x' * 10_000]})"
    ),
    "notes": (
        "for i in range(24_000):\n"
        "    send('kernelry_note', {'kind': 'published', 'topic': 'a', 'data': i})"
    ),
}


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="s"))


@asynccontextmanager
async def small() -> AsyncIterator[None]:
    """See that the server does not grow meanwhile."""
    process = psutil.Process()
    before, most = process.memory_info().rss, [0]

    async def watch() -> None:
        while True:
            most[0] = max(most[0], process.memory_info().rss)
            await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    yield
    watching.cancel()
    await asyncio.wait([watching])
    assert most[0] - before < GROWTH, f"it grew by {(most[0] - before) // MEBIBYTE} MiB"


@fault("B23")
@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_that_code_signs_is_stopped_with_the_reason(
    sessions: Sessions, session: Session, bystander: Bystander, flood: str
) -> None:
    await run(sessions, session, "kept = 1")
    seen = len(bystander.latencies)
    # Only being stopped ends the cell, however late a busy machine comes to read all that.
    code = FORGED + FLOODS[flood] + "\nthreading.Event().wait()"
    async with small():
        done = await run(sessions, session, code)
    assert done.status is ExecutionStatus.INTERRUPTED, done
    assert done.error is not None and done.error.type == "OutputLimit"
    assert "its kernel sent more than" in done.note
    assert not done.outputs_complete
    assert (await sessions.execution(done.id)).note == done.note
    await until(lambda: len(bystander.latencies) > seen, "a neighbour's cell ends")
    assert await value(sessions, session, "kept") == "1"


@fault("B23")
async def test_a_flood_that_ignores_interrupts_ends_with_its_kernel(
    sessions: Sessions, session: Session, bystander: Bystander
) -> None:
    code = (
        "while True:\n"
        "    try:\n"
        "        while True: shown('display_data', 'x')\n"
        "    except BaseException: pass"
    )
    done = await run(sessions, session, FORGED + code)
    assert done.status is ExecutionStatus.DIED
    assert done.error is not None and "displays" in done.error.message
    assert "displays" in (await sessions.health(session)).cause
    await restarted(sessions, session)


@fault("B23")
async def test_a_thread_that_floods_after_its_cell_slows_nobody_and_adds_no_more_than_a_cell(
    sessions: Sessions, session: Session, bystander: Bystander
) -> None:
    code = FORGED + (
        "def flood():\n"
        "    for i in range(20_000): shown('display_data', str(i), str(i))\n"
        "    print('flooded')\n"
        "thread = threading.Thread(target=flood); thread.start()"
    )
    async with small():
        done = await run(sessions, session, code)
        await run(sessions, session, "thread.join()")
    found = session.find(done.id)
    assert found is not None
    assert 0 < len(found.snapshot().outputs) <= 1000
    assert await value(sessions, session, "1+1") == "2"


ENDLESS = {
    "a frame of 8 GiB": 'end.sendall(b"\\x02" + (1 << 33).to_bytes(8, "big"))\n    while True:'
    " end.sendall(bytes(1_000_000))",
    "a message without end": 'while True: end.sendall((b"\\x01\\xff" + bytes(255)) * 1000)',
    "frames of nothing": 'while True: end.sendall(b"\\x01\\x00" * 10_000)',
    "a frame before all": 'while True: end.sendall(b"\\x03" + b"\\xff" * 8)',
}


@fault("B24")
@pytest.mark.parametrize("number", [1, 2, 4])  # shell, IOPub, control
@pytest.mark.parametrize("what", ENDLESS)
async def test_what_breaks_the_protocol_ends_the_kernel_with_the_reason(
    sessions: Sessions, session: Session, bystander: Bystander, what: str, number: int
) -> None:
    # When its connection is closed the cell must not end by itself before its kernel does.
    code = (
        f"def attack(end):\n    {ENDLESS[what]}\n"
        f"for end in own_ends({number}):\n"
        "    try: attack(end)\n"
        "    except OSError: threading.Event().wait()"
    )
    async with small():
        done = await run(sessions, session, FORGED + code)
    assert done.status is ExecutionStatus.DIED, done
    assert done.error is not None and "the kernel sent" in done.error.message, done.error
    health = await sessions.health(session)
    assert (health.status, health.cause) == ("dead", done.error.message)
    assert session.kernel_state is KernelState.DEAD
    await restarted(sessions, session)


@fault("B23")
async def test_what_honest_code_shows_without_end_is_as_it_was(
    sessions: Sessions, session: Session
) -> None:
    code = """
from IPython.display import clear_output, display
handle = display("first", display_id=True)
for i in range(20_000): handle.update(i)
for i in range(5_000): clear_output(wait=True)
for i in range(2_000): display(i)
for i in range(300): get_ipython().showtraceback((ValueError, ValueError(i), None))
print("x" * 20_000_000)
for i in range(3000): kernelry_session.checkpoint(i / 3000)
"""
    done = await run(sessions, session, code)
    assert (done.status, done.error, done.note) == (ExecutionStatus.COMPLETED, None, "")
    assert done.outputs_complete


@fault("B23")
async def test_an_exception_without_end_is_cut_and_is_no_flood(
    sessions: Sessions, session: Session
) -> None:
    code = "raise type('E' * 1_500_000, (Exception,), {})('v' * 50_000_000)"
    done = await run(sessions, session, code)
    assert done.status is ExecutionStatus.FAILED
    assert done.error is not None
    sizes = [len(text) for text in (done.error.type, done.error.message, done.error.traceback)]
    assert all(size <= most for size, most in zip(sizes, (200, 101_000, 201_000), strict=True))
