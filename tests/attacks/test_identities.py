"""A process that a record names is ours only if that can be told: no innocent one ever ends.

The records are those that a server finds when it starts: kernels in the database, what listens
in the runtime directory, what bears a kernel's mark; and the numbers that it keeps for later.
"""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from kernelry import KernelState, Sessions, SessionSpec
from kernelry.engines.kernel import is_same_process
from kernelry.inside.processes import is_still
from kernelry.models import KernelRecord
from kernelry.paths import process_start
from kernelry.processes import boot_id
from kernelry.programs import run_program
from tests.acceptance.harness import HANG, Place, RawServer

FLAGS = ("--orphan-timeout", "600", "--kernel-start", "fork", "--preload", "none", "--warm", "0")
#: which pid, start time and boot a record has -> whether it names who they were taken of
RECORDS: dict[str, Callable[[int], tuple[int, int, str]]] = {
    "no start time": lambda pid: (pid, 0, boot_id()),
    "another start time": lambda pid: (pid, process_start(pid) + 1, boot_id()),
    "a negative start time": lambda pid: (pid, -process_start(pid), boot_id()),
    "no boot": lambda pid: (pid, process_start(pid), ""),
    "another boot": lambda pid: (pid, process_start(pid), "x"),
    "nothing but a pid": lambda pid: (pid, 0, ""),
    "its group": lambda pid: (-pid, process_start(pid), boot_id()),
    "all of our group": lambda _: (0, 0, boot_id()),
    "all there are": lambda _: (-1, 0, boot_id()),
    "no pid that there can be": lambda _: ((1 << 62), 1, boot_id()),
}
#: starts a server of which it is the parent; the records of two sessions name both
SELF_NAMED = """
import os, sqlite3, sys
from kernelry.processes import boot_id
from kernelry.paths import process_start
def name(session, pid):
    database = sqlite3.connect({database!r})
    with database:
        change = "UPDATE kernels SET pid=?, started=?, boot=? WHERE session_id=?"
        database.execute(change, (pid, process_start(pid), boot_id(), session))
    database.close()
name("parent", os.getpid())
pid = os.fork()
if pid == 0:
    name("itself", os.getpid())
    from kernelry_mcp.command.cli import main
    main(sys.argv[1:])
    os._exit(0)
os.close(0)
os.close(1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture
def innocents() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that have nothing to do with kernels; all live when the test is over."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    ended = [place for place, process in enumerate(started) if process.poll() is not None]
    for process in started:
        process.kill()
        process.wait()
    assert not ended, ended


def innocent(env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start one that leads a group of its own."""
    return subprocess.Popen(["sleep", "600"], start_new_session=True, env=env)


def ended_by_force(place: Place) -> str:
    """Have a server die that has one session, `a`; return what the kernel of that is called."""
    with RawServer(place, FLAGS) as server:
        server.tool("create_session", session_id="a")
        server.process.kill()
        server.process.wait()
    with database_of(place) as database:
        [(path,)] = database.execute("SELECT path FROM kernels WHERE session_id='a'").fetchall()
    return Path(path).name


@contextmanager
def database_of(place: Place) -> Iterator[sqlite3.Connection]:
    """Open what a dead server has left."""
    with closing(sqlite3.connect(place.state / "kernelry.sqlite")) as database, database:
        yield database


def repeat(database: sqlite3.Connection, session_id: str) -> None:
    """Make records of a session and a kernel like those of `a`."""
    for table, own in (("sessions", "id=:id, directory=:id"), ("kernels", "session_id=:id")):
        key = "session_id" if table == "kernels" else "id"
        database.execute(f"CREATE TEMP TABLE copy AS SELECT * FROM {table} WHERE {key}='a'")
        database.execute(f"UPDATE copy SET {own}", {"id": session_id})
        database.execute(f"INSERT INTO {table} SELECT * FROM copy")
        database.execute("DROP TABLE copy")
    change = "UPDATE kernels SET path=path || :id WHERE session_id=:id"
    database.execute(change, {"id": session_id})


def test_a_record_of_a_kernel_that_names_another_process_ends_nothing(
    place: Place, innocents: list[subprocess.Popen[bytes]]
) -> None:
    ids = {f"s{number}": name for number, name in enumerate(RECORDS)}
    kernel = ended_by_force(place)
    with database_of(place) as database:
        for session_id in (*ids, "parent", "itself", "nameless"):
            repeat(database, session_id)
        for session_id, name in ids.items():
            innocents.append(innocent())
            values = RECORDS[name](innocents[-1].pid)
            change = "UPDATE kernels SET pid=?, started=?, boot=? WHERE session_id=?"
            database.execute(change, (*values, session_id))
        database.execute("UPDATE kernels SET pid=0 WHERE session_id='a'")
        database.execute("UPDATE kernels SET pid=0, path='' WHERE session_id='nameless'")
    other = {"A": f"_KERNELRY_KERNEL={kernel}"}, {"A_KERNELRY_KERNEL": kernel}
    bearing = (*other, {"_KERNELRY_KERNEL": ""})
    innocents += [innocent(os.environ | variables) for variables in bearing]
    code = SELF_NAMED.format(database=str(place.state / "kernelry.sqlite"))
    with RawServer(place, FLAGS, command=(sys.executable, "-c", code)) as after:
        listed = after.tool("list_sessions")["sessions"]
        assert {listed[name]["kernel"] for name in [*ids, "parent", "itself"]} == {"dead"}
        assert not [process.pid for process in innocents if process.poll() is not None]


def test_the_first_process_is_never_a_kernel_and_no_number_is_enough() -> None:
    first = KernelRecord(
        pid=1, started=process_start(1), boot=boot_id(), path="", key="", client_id="", start="fork"
    )
    assert not is_same_process(first)
    assert not is_still(1, process_start(1))
    assert not is_still(os.getpid(), 0)
    assert is_still(os.getpid(), process_start(os.getpid()))


@contextmanager
def listening(path: Path, answers: list[Any]) -> Iterator[None]:
    """Listen where a guardian would, and answer as none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with suppress(OSError):  # nobody came, or who came is gone
                client, _ = listener.accept()
                with client:
                    while client.recv(1 << 16):
                        for answer in answers:
                            raw = isinstance(answer, bytes)
                            client.send(answer if raw else json.dumps(answer).encode())
                        answers.clear()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(HANG)
        assert not thread.is_alive()


def test_what_listens_in_a_guardian_s_place_has_nobody_ended(
    place: Place, innocents: list[subprocess.Popen[bytes]]
) -> None:
    """It tells of kernels that are none, with numbers of others, or of what is no number."""
    ended_by_force(place)
    [runtime] = place.runtime.glob("kernelry/*")
    innocents += [innocent() for _ in range(4)]
    pids = [process.pid for process in innocents]
    [grandchild] = map(int, said_by("sleep 600 </dev/null >/dev/null 2>&1 & echo $!"))
    kernels: list[list[Any]] = [
        [pids[0], "a.launch", True],
        [pids[1], "b.launch", True, 0],
        [pids[2], "c.launch", False, process_start(pids[2]) + 1],
        [-pids[3], "d.launch", False, process_start(pids[3])],
        [grandchild, "e.launch", True, process_start(grandchild)],  # it is no child of who says so
        [os.getpid(), "f.launch", False, process_start(os.getpid())],  # the server's parent
        [1, "g.launch", False, process_start(1)],
        [0, "h.launch", False, 0],
        [-1, "i.launch", False, 0],
        [1 << 62, "j.launch", False, 1],
    ]
    told = {"listed": True, "profile": "", "level": "none"}
    odd: list[list[Any]] = [
        [{"kernels": [[value, "x.launch", False, 1]]}, told]
        for value in (str(pids[0]), [pids[0]], {"pid": pids[0]}, None, True, 1.5)
    ]
    odd += [[b"\xff{"], [7], [[told]], [{"exits": [["x", 1, "0"]]}, told], [{"listed": True}]]
    try:
        with ExitStack() as stack:
            for number, answers in enumerate([[{"kernels": kernels}, told], *odd]):
                stack.enter_context(listening(runtime / f"{number}.sock", answers))
            with RawServer(place, FLAGS) as after:
                done = after.tool("run_python_code", code="6 * 7", session_id="a")
                assert done["results"] == ["42"]
        assert process_start(grandchild)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def said_by(command: str) -> list[str]:
    """Return the lines that a shell writes."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


#: starts a process that has a number and leads a group, and says whether it is there at the end;
#: a program of its own, since such a fork is safe in one thread only
NUMBERED = """
import ctypes, os, signal, sys, time
pid = int(sys.argv[1])
libc = ctypes.PyDLL(None, use_errno=True)
numbers = (ctypes.c_int * 1)(pid)
arguments = (ctypes.c_uint64 * 11)(
    *(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), ctypes.addressof(numbers), 1, 0
)
made = libc.syscall(435, arguments, ctypes.sizeof(arguments))
if made == 0:
    os.setsid()
    os.execv("/bin/sleep", ["sleep", "600"])
if made < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
while os.getpgid(pid) != pid:
    time.sleep(0.01)
print("there", flush=True)
sys.stdin.read()
print("lives" if os.waitpid(pid, os.WNOHANG) == (0, 0) else "was ended", flush=True)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"""


@contextmanager
def reused(pid: int) -> Iterator[None]:
    """Have an innocent process take a number that is free; it must outlive what is done."""
    command = [sys.executable, "-c", NUMBERED, str(pid)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        assert parent.stderr is not None
        if parent.stdout.readline() != "there\n":
            pytest.skip(f"NOT TESTED: {parent.stderr.read()}")
        yield
        parent.stdin.close()
        assert parent.stdout.read() == "lives\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can choose a process's number")
async def test_who_gets_the_number_of_a_kernel_that_ended_is_left_alone(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    await session.ensure_kernel()
    assert session.kernel is not None
    pid = session.kernel.process.pid
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(HANG):
        while session.kernel_state is not KernelState.DEAD or process_start(pid):
            await asyncio.sleep(0.01)
    with reused(pid):
        await session.restart()
    with reused(pid):
        await sessions.delete("s")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can choose a process's number")
async def test_who_gets_the_number_of_a_program_that_ended_is_left_alone() -> None:
    """Something that left its group holds its output open, so it is not over yet."""
    said = bytearray()
    command = ["sh", "-c", "setsid -f sleep 600; echo $$"]
    running = asyncio.create_task(run_program(command, timeout=HANG, hear=said.extend))
    async with asyncio.timeout(HANG):
        while b"\n" not in said or process_start(int(said)):
            await asyncio.sleep(0.01)
    with reused(int(said)):
        running.cancel()
        await asyncio.wait([running])
