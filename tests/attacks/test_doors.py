"""Unix sockets within a session work as they do without walls; who keeps its door may end."""

import asyncio
import os
import select
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kernelry import ExecutionStatus
from kernelry.output import stream_text
from kernelry.scripts import run_script
from tests.acceptance.harness import until
from tests.attacks.world import World

HANG = 60.0
CONNECTED = """
import asyncio, multiprocessing, os, socket, struct, tempfile, threading

def listening(kind=socket.SOCK_STREAM):
    path = os.path.join(tempfile.mkdtemp(), "s")
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(path)
    made.listen(100)
    return made, path
"""
#: what code does with them -> what it prints
USES = {
    "a manager": (
        "with multiprocessing.get_context('fork').Manager() as manager:\n"
        "    shared = manager.list([1, 2]); shared.append(3); print(list(shared))",
        "[1, 2, 3]",
    ),
    "a pool of a fork server": (
        "with multiprocessing.get_context('forkserver').Pool(2) as pool:\n"
        "    print(pool.map(abs, [-1, -2]))",
        "[1, 2]",
    ),
    "descriptors handed on": (
        # As torch's DataLoader does with its workers' tensors.
        "from multiprocessing import reduction\n"
        "def child(pipe):\n"
        "    os.write(pipe.recv().detach(), b'from the child')\n"
        "context = multiprocessing.get_context('fork')\n"
        "ours, theirs = context.Pipe()\n"
        "process = context.Process(target=child, args=(theirs,)); process.start()\n"
        "readable, writable = os.pipe()\n"
        "ours.send(reduction.DupFd(writable)); process.join()\n"
        "print(os.read(readable, 99).decode())",
        "from the child",
    ),
    "descriptors by a connection": (
        "server, path = listening()\n"
        "client = socket.socket(socket.AF_UNIX); client.connect(path)\n"
        "accepted, _ = server.accept()\n"
        "readable, writable = os.pipe()\n"
        "socket.send_fds(client, [b'x'], [writable])\n"
        "os.write(socket.recv_fds(accepted, 9, 1)[1][0], b'passed')\n"
        "print(os.read(readable, 99).decode())",
        "passed",
    ),
    "packets": (
        "server, path = listening(socket.SOCK_SEQPACKET)\n"
        "client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); client.connect(path)\n"
        "client.send(b'one'); client.send(b'two'); print(server.accept()[0].recv(99).decode())",
        "one",
    ),
    "by a relative name": (
        "os.chdir(tempfile.mkdtemp())\n"
        "server = socket.socket(socket.AF_UNIX); server.bind('s'); server.listen()\n"
        "socket.socket(socket.AF_UNIX).connect('s'); print('connected')",
        "connected",
    ),
    "in the working folder": (
        "server = socket.socket(socket.AF_UNIX); server.bind('mine.sock'); server.listen()\n"
        "socket.socket(socket.AF_UNIX).connect(os.path.abspath('mine.sock'))\n"
        "os.unlink('mine.sock'); print('connected')",
        "connected",
    ),
    "many at once": (
        "server, path = listening()\n"
        "def answer():\n"
        "    while True: server.accept()[0].sendall(b'y')\n"
        "threading.Thread(target=answer, daemon=True).start()\n"
        "got = []\n"
        "def ask():\n"
        "    for _ in range(5):\n"
        "        with socket.socket(socket.AF_UNIX) as one:\n"
        "            one.connect(path); got.append(one.recv(1))\n"
        "threads = [threading.Thread(target=ask) for _ in range(40)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print(len(got))",
        "200",
    ),
    "where nothing listens": (
        "server, path = listening(); server.close()\n"
        "for there in (path, path + '.none'):\n"
        "    try: socket.socket(socket.AF_UNIX).connect(there)\n"
        "    except OSError as error: print(type(error).__name__)",
        "ConnectionRefusedError\nFileNotFoundError",
    ),
    "without waiting for a full one": (
        "server, path = listening(); server.listen(0)\n"
        "errors = set()\n"
        "kept = [socket.socket(socket.AF_UNIX) for _ in range(9)]\n"
        "for one in kept:\n"
        "    one.setblocking(False)\n"
        "    try: one.connect(path)\n"
        "    except OSError as error: errors.add(type(error).__name__)\n"
        "print(errors)",
        "{'BlockingIOError'}",
    ),
    "asyncio": (
        "path = os.path.join(tempfile.mkdtemp(), 's')\n"
        "async def main():\n"
        "    async def answer(reader, writer): writer.write(b'hello'); writer.close()\n"
        "    async with await asyncio.start_unix_server(answer, path):\n"
        "        reader, _ = await asyncio.open_unix_connection(path)\n"
        "        print((await reader.read()).decode())\n"
        "thread = threading.Thread(target=lambda: asyncio.run(main())); thread.start()\n"
        "thread.join()",
        "hello",
    ),
}


@pytest.mark.parametrize("use", USES)
def test_what_unix_sockets_are_used_for_works_at_every_level(here: World, use: str) -> None:
    code, said = USES[use]
    done = here.run(CONNECTED + code)
    assert done.status is ExecutionStatus.COMPLETED, done
    assert stream_text(done.outputs, "stdout").strip() == said
    script = here.workspace / "scripts" / "doors.py"
    main = "\n".join(f"    {line}" for line in code.splitlines())
    script.write_text(f"{CONNECTED}\nif __name__ == '__main__':\n{main}\n")
    ran = here.wait(run_script(here.attacker, "doors.py", (), timeout=HANG))
    assert (ran.returncode, ran.stdout.strip()) == (0, said), ran


def test_a_refused_connection_says_what_is_closed_and_what_is_not(here: World) -> None:
    done = here.run("import socket\nsocket.socket(socket.AF_UNIX).connect('/run/none')")
    assert done.error is not None
    if here.level == "process":
        assert done.error.type == "FileNotFoundError"
        return
    assert done.error.type == "PermissionError"
    assert "Unix sockets connect only within this session" in done.note


def test_when_who_keeps_the_door_ends_the_next_one_to_connect_gets_another(here: World) -> None:
    if here.level == "process":
        pytest.skip("there is no door")
    code = CONNECTED + (
        "server, path = listening()\n"
        "socket.socket(socket.AF_UNIX).connect(path); print('connected')"
    )
    here.restart(here.attacker)
    assert stream_text(here.run(code).outputs, "stdout") == "connected\n"
    for _ in range(20):  # the next connects before or after the end of the last is noted
        end(doorkeeper(here))
        assert stream_text(here.run(code).outputs, "stdout") == "connected\n"


def end(pid: int) -> None:
    """Kill a process and wait until all its threads have ended, and it holds nothing open."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([pidfd], [], [])
    os.close(pidfd)


def test_who_waits_for_a_connection_when_its_doorkeeper_ends_is_told(here: World) -> None:
    if here.level == "process":
        pytest.skip("there is no door")
    here.restart(here.attacker)
    code = CONNECTED + (
        "server, path = listening(); server.listen(0)\n"
        "kept = [socket.socket(socket.AF_UNIX) for _ in range(3)]\n"
        "try:\n"
        "    for one in kept: one.connect(path); print('connected', flush=True)\n"
        "except OSError as error: print(type(error).__name__)"
    )
    running = here.begin(code)

    def is_told() -> bool:
        """Kill who connects; the thread of a connection that is made may be seen once more."""
        for pid in doorkeepers(here):
            if threads(pid) > 1:
                end(pid)
        return stream_text(running.snapshot().outputs, "stdout").endswith("Error\n")

    assert until(is_told, HANG)
    done = here.ended(running)
    assert stream_text(done.outputs, "stdout").endswith("ConnectionAbortedError\n")


def threads(pid: int) -> int:
    """Return how many threads a process has; 0: it has ended."""
    try:
        return int(psutil.Process(pid).num_threads())
    except psutil.Error:
        return 0


def test_who_keeps_a_door_ends_with_its_kernel(here: World) -> None:
    here.restart(here.attacker)
    here.run(CONNECTED + "server, path = listening(); socket.socket(socket.AF_UNIX).connect(path)")
    assert bool(doorkeepers(here)) is (here.level != "process")
    here.restart(here.attacker)
    assert until(lambda: not doorkeepers(here), HANG)


def test_who_keeps_a_door_has_no_rights_that_a_session_could_win(here: World) -> None:
    """It handles what sessions say: whoever fooled it would have what it has."""
    if here.level == "process":
        pytest.skip("there is no door")
    code = "server, path = listening(); socket.socket(socket.AF_UNIX).connect(path)"
    here.restart(here.attacker)
    here.run(CONNECTED + code)
    assert {capabilities(pid) for pid in doorkeepers(here)} == {0}
    script = here.workspace / "scripts" / "doors.py"
    script.write_text(f"{CONNECTED}\n{code}\nimport time; time.sleep({HANG})")
    found: set[int] = set()

    def look() -> bool:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "confined" in process.cmdline() and is_doorkeeper(process.pid):
                    found.add(capabilities(process.pid))
        return bool(found)

    work = run_script(here.attacker, "doors.py", (), timeout=HANG)
    running = asyncio.run_coroutine_threadsafe(work, here.loop)
    assert until(look, HANG)
    running.cancel()
    assert found == {0}


def capabilities(pid: int) -> int:
    """Return the capabilities that a process has, as bits."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("CapEff:")[2].split()[0], 16)


def doorkeeper(here: World) -> int:
    """Wait until the attacker's door has one keeper: a fork of a guardian may look like one."""
    assert until(lambda: len(doorkeepers(here)) == 1, HANG)
    return doorkeepers(here)[0]


def doorkeepers(here: World) -> list[int]:
    """Return those who keep the attacker's door: children of its guardian that are no kernels."""
    kernels = {kernel_of(session) for session in (here.attacker, here.neighbour)}
    found = []
    for guardian in psutil.Process().children():
        if "forkserver" in guardian.cmdline():
            children = {child.pid for child in guardian.children()} - kernels
            found += [pid for pid in children if is_doorkeeper(pid)]
    return found


def kernel_of(session: object) -> int:
    kernel = session.kernel  # type: ignore[attr-defined]
    return int(kernel.process.pid) if kernel is not None else 0


def is_doorkeeper(pid: int) -> bool:
    """Say whether a process has the listener of a filter."""
    try:
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any("seccomp" in link for link in links)
