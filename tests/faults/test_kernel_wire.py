"""What goes between server and kernel is lost, doubled, forged, or its sockets are removed."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session as Signer

from kernelry import ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.models.reports import InterruptStep
from kernelry.output.fold import stream_text
from tests.acceptance.harness import Place, RawServer, remove_all
from tests.acceptance.harness import until as happens

from .conftest import Bystander
from .kernels import HANG, answered_health, restarted, run, started, until, value
from .matrix import fault

Deliver = Callable[[str, list[bytes]], None]
Change = Callable[[Deliver, str, list[bytes]], None]


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="s"))


# B19: IOPub is not what it should be


@contextmanager
def between(session: Session, change: Change) -> Iterator[None]:
    """Let `change` decide what of a kernel's messages arrives."""
    assert session.kernel is not None
    channels: Any = session.kernel.channels
    deliver = channels._dispatch
    channels._dispatch = lambda channel, frames: change(deliver, channel, frames)
    yield
    channels._dispatch = deliver


def lose_idle(deliver: Deliver, channel: str, frames: list[bytes]) -> None:
    if channel != "iopub" or b'"idle"' not in frames[-1]:
        deliver(channel, frames)


def lose_all(deliver: Deliver, channel: str, frames: list[bytes]) -> None:
    if channel != "iopub":
        deliver(channel, frames)


def repeat(deliver: Deliver, channel: str, frames: list[bytes]) -> None:
    deliver(channel, frames)
    deliver(channel, frames)


@fault("B19")
@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    ("change", "text"), [(lose_idle, "text\n"), (lose_all, ""), (repeat, "text\ntext\n")]
)
async def test_a_cell_ends_by_its_reply_whatever_becomes_of_the_rest(
    sessions: Sessions, session: Session, change: Change, text: str
) -> None:
    with between(session, change):
        done = await run(sessions, session, "print('text')")
    assert done.status is ExecutionStatus.COMPLETED
    assert stream_text(done.outputs, "stdout") == text
    assert done.outputs_complete is (change is repeat)
    assert await value(sessions, session, "1+1") == "2"


@fault("B19")
async def test_messages_in_any_order_end_a_cell(sessions: Sessions, session: Session) -> None:
    dice = random.Random(19)
    held: list[tuple[str, list[bytes]]] = []

    def shuffle(deliver: Deliver, channel: str, frames: list[bytes]) -> None:
        held.append((channel, frames))
        if len(held) >= 5 or channel == "control":  # busy, input, text, idle, reply
            dice.shuffle(held)
            for one in held:
                deliver(*one)
            held.clear()

    with between(session, shuffle):
        for number in range(20):
            # One write is one message; print makes two, of which nobody promised that.
            done = await run(sessions, session, f"import sys; sys.stdout.write('{number}\\n');")
            assert done.status is ExecutionStatus.COMPLETED
            assert stream_text(done.outputs, "stdout") == f"{number}\n"


# B20: messages that are not ours, or not the kernel's


def garbage(key: bytes) -> Iterator[list[bytes]]:
    """Yield what a kernel must not take for a request."""
    stranger, forger = Signer(key=b"another"), Signer(key=key)
    code = {"code": "stolen = 1", "silent": False}
    yield [b""]
    yield [os.urandom(1000) for _ in range(10)]
    yield [b"<IDS|MSG>"]
    yield [b"<IDS|MSG>", b"", b"{}", b"{}", b"{}", b"{}"]
    yield [b"<IDS|MSG>", b"x" * 64, b"{", b"}", b"[]", b"\xff"]
    yield stranger.serialize(stranger.msg("execute_request", code))
    wrong = forger.serialize(forger.msg("execute_request", code))
    yield [*wrong[:1], b"0" * 64, *wrong[2:]]
    yield wrong[:4]
    yield forger.serialize(forger.msg("no_such_request", {}))
    yield forger.serialize(forger.msg("kernelry_request", {"op": "no such"}))
    yield forger.serialize(forger.msg("execute_request", {"no": "code"}))


@fault("B20")
@pytest.mark.usefixtures("bystander")
async def test_what_is_no_request_of_ours_is_ignored_by_the_kernel(
    sessions: Sessions, session: Session
) -> None:
    assert session.kernel is not None
    record = session.kernel.record
    await run(sessions, session, "kept = 1")
    running = await started(sessions, session, "print(1, flush=True)\nwhile True: pass")
    context: zmq.Context[Any] = zmq.Context()
    try:
        for number in (1, 4, 3):  # shell, control, stdin
            with context.socket(zmq.DEALER) as socket:
                socket.linger = 1000
                socket.connect(f"ipc://{record.path}-{number}")
                for frames in garbage(record.key.encode()):
                    socket.send_multipart(frames)
                socket.send_multipart([b""])
        assert (await session.interrupt()).step is InterruptStep.SIGINT
        assert await running.wait(HANG)
        assert running.snapshot().status is ExecutionStatus.INTERRUPTED
        assert await value(sessions, session, "kept, 'stolen' in globals()") == "(1, False)"
        assert (await answered_health(sessions, session)).responsive
    finally:
        context.destroy(linger=0)


@fault("B20")
@pytest.mark.usefixtures("bystander")
async def test_what_is_not_the_kernels_word_is_ignored_and_counted(
    sessions: Sessions, session: Session
) -> None:
    assert session.kernel is not None
    code = (
        "from jupyter_client.session import Session\n"
        "parent = get_ipython().kernel.get_parent('shell')\n"
        "forger, socket = Session(key=b'another'), get_ipython().kernel.iopub_socket\n"
        "for frames in ([b'x'], [b'<IDS|MSG>', *[b'{}'] * 5],\n"
        "    forger.serialize(forger.msg('stream', {'name': 'stdout', 'text': 'no'}, parent)),\n"
        "    forger.serialize(forger.msg('status', {'execution_state': 'idle'}, parent))):\n"
        "    socket.send_multipart(frames)\n"
        "print('own')"
    )
    done = await run(sessions, session, code)
    assert done.status is ExecutionStatus.COMPLETED, done.error
    assert stream_text(done.outputs, "stdout") == "own\n"
    assert session.kernel.channels.rejected_count == 4


UNSOUND = r"""
import json
kernel = get_ipython().kernel
parent, session = kernel.get_parent("shell"), kernel.session
pack = session.pack = lambda part: json.dumps(part, default=str).encode()
deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
notes = [
    {"kind": "held", "at": 1e300, "by": "me"}, {"kind": "held", "at": 1e17, "by": 1},
    {"kind": "progress", "progress": "x" * 10_000_000}, {"kind": "progress"}, {"kind": {}},
    {"kind": "asked", "question": "1", "prompt": "\ud800", "hidden": 0}, {"kind": "answered"},
    {"kind": "context", "values": {"\ud800": "\udcff"}, "removed": []},
    {"kind": "context", "values": [["a"]], "removed": 1},
    {"kind": "context", "values": {"a": "x" * 100_000}, "removed": []},
    {"kind": "published", "topic": "mine", "data": float("nan")},
    {"kind": "published", "topic": "mine", "data": "x" * 100_000},
    {"kind": "published", "topic": "server.started", "data": 1},
    {"kind": "requested", "action": "\ud800", "by": None}, {"kind": "released"}, 1, None,
]
messages = [("kernelry_note", note) for note in notes]
for kind in ("stream", "error", "display_data", "status", "update_display_data", "clear_output"):
    messages += [(kind, content) for content in ([1], None, "text", {}, {"text": [1]}, deep)]
messages.append(("stream", {"name": "stdout", "text": "\ud800"}))
for kind, content in messages:
    data = content if isinstance(content, bytes) else pack(content)
    session.send(kernel.iopub_socket, kind, data, parent)
print("sent", flush=True)
raise ValueError("\ud800")
"""


@fault("B20")
@pytest.mark.usefixtures("bystander")
async def test_what_a_kernel_signs_and_makes_no_sense_harms_nobody(
    sessions: Sessions, session: Session
) -> None:
    done = await run(sessions, session, UNSOUND)
    assert done.error is not None
    assert (done.status, done.error.type) == (ExecutionStatus.FAILED, "ValueError"), done.error
    assert stream_text(done.outputs, "stdout").endswith("sent\n")
    assert (await sessions.execution(done.id)).error == done.error
    events = await sessions.events.read(topics=["mine"])
    assert [event.data for event in events] == [{}]
    assert await value(sessions, session, "1+1") == "2"


# B21, D19: sockets and files go


@fault("B21")
@pytest.mark.usefixtures("bystander")
async def test_a_session_goes_on_without_its_sockets_and_files(
    sessions: Sessions, session: Session
) -> None:
    assert session.kernel is not None
    for path in Path(session.kernel.record.path).parent.glob(
        Path(session.kernel.record.path).name + "*"
    ):
        path.unlink()
    await run(sessions, session, "kept = 1")
    assert await value(sessions, session, "kept") == "1"
    stopped = await run(sessions, session, "while True: pass", timeout=0.1)
    assert stopped.status is ExecutionStatus.TIMED_OUT
    assert (await answered_health(sessions, session)).responsive
    await restarted(sessions, session)


@fault("B21", "D19")
async def test_sessions_go_on_without_the_runtime_directory_and_new_ones_start(
    sessions: Sessions, session: Session, bystander: Bystander
) -> None:
    assert session.kernel is not None
    running = await started(sessions, session, "print(1, flush=True)\nwhile True: pass")
    shutil.rmtree(Path(session.kernel.record.path).parent)
    assert (await session.interrupt()).step is InterruptStep.SIGINT
    assert running.snapshot().status is ExecutionStatus.INTERRUPTED
    for number in range(3):  # the first may be given the warm one
        new = await sessions.create(SessionSpec(id=f"new{number}"))
        assert await value(sessions, new, "1+1") == "2"
    fresh = await sessions.create(SessionSpec(id="fresh"), fresh=True)
    assert await value(sessions, fresh, "1+1") == "2"
    await restarted(sessions, session)
    seen = len(bystander.latencies)
    await until(lambda: len(bystander.latencies) > seen + 3, "a neighbour goes on")


@fault("D19")
def test_the_next_server_ends_what_it_can_not_reach_and_does_not_hang(place: Place) -> None:
    with RawServer(place, ("--orphan-timeout", "1")) as server:
        server.tool("create_session", session_id="old")
        server.tool("run_python_code", code="import time; time.sleep(100)", wait=0)
        assert happens(lambda: bool(list(place.runtime.glob("kernelry/*/*.sock"))), HANG)
        [runtime] = place.runtime.glob("kernelry/*")
        remove_all(runtime)
        server.tool("create_session", session_id="new")
        pids = [
            server.tool("get_kernel_health", session_id=name)["pid"]
            for name in ("default", "old", "new")
        ]
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with RawServer(place) as after:
        listed = after.tool("list_sessions")["sessions"]
        assert set(listed) == {"default", "old", "new"}
        for name in listed:
            after.tool("restart_kernel", session_id=name)
            done = after.tool("run_python_code", code="1+1", session_id=name)
            assert done["results"] == ["2"]
        assert happens(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), HANG)
    assert not place.survivors(HANG)


# B22: somebody else attaches

#: runs code, up to 20 cells ahead of their answers, and reads what comes until its stdin ends
CLIENT = """
import select, sys
from jupyter_client.blocking.client import BlockingKernelClient
client = BlockingKernelClient(connection_file=sys.argv[1])
client.load_connection_file()
client.start_channels(hb=False)
ahead = 0
while not select.select([sys.stdin], [], [], 0.005)[0]:
    if ahead < 20:
        client.execute("theirs.append(1); print('theirs')", stop_on_error=False)
        ahead += 1
    while client.shell_channel.msg_ready():
        client.get_shell_msg()
        ahead -= 1
    while client.iopub_channel.msg_ready():
        client.get_iopub_msg()
"""


@fault("B22")
@pytest.mark.usefixtures("bystander")
async def test_a_second_client_does_not_disturb_ours(sessions: Sessions, session: Session) -> None:
    assert session.kernel is not None
    record = session.kernel.record
    await run(sessions, session, "theirs = []")
    argv = [sys.executable, "-c", CLIENT, f"{record.path}.json"]
    client = subprocess.Popen(argv, stdin=subprocess.PIPE)
    try:
        async with asyncio.timeout(HANG):
            while await value(sessions, session, "len(theirs) > 3") != "True":
                assert client.poll() is None
        running = await started(sessions, session, "print(1, flush=True)\nwhile True: pass")
        assert (await session.interrupt()).step is InterruptStep.SIGINT
        assert running.snapshot().status is ExecutionStatus.INTERRUPTED
        for number in range(50):
            done = await run(sessions, session, f"print('ours', {number})")
            assert stream_text(done.outputs, "stdout") == f"ours {number}\n"
    finally:
        client.communicate()
    assert client.returncode == 0
    assert await value(sessions, session, "1+1") == "2"
    assert (await answered_health(sessions, session)).responsive
