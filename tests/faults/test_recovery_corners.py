"""Corners of the recovery: what is spoilt, late, moved or killed between two servers."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kernelry.crashpoints import VARIABLE
from tests.acceptance.harness import KERNELRY, Place, RawServer, remove_all, until

from .matrix import fault
from .test_server_deaths import (
    gone,
    has_printed,
    kernel_pid,
    kill,
    outcome,
    started,
)

HANG = 60.0
LINES = 60
LOOP = f"import time\nfor i in range({LINES}):\n    print(i)\n    time.sleep(0.02)"
ALL_LINES = "".join(f"{i}\n" for i in range(LINES))
FLAGS = ("--orphan-timeout", "600", "--kernel-start", "fork", "--preload", "none", "--warm", "0")


def serve(place: Place, *flags: str, **env: str) -> RawServer:
    """Return a server on the one state directory, whose kernels are guarded from the start."""
    return RawServer(place, (*FLAGS, *flags), env=env)


@pytest.fixture
def server(place: Place) -> Iterator[RawServer]:
    """A server with a session whose kernel is forked, and outlives it."""
    with serve(place) as server:
        server.tool("create_session", session_id="other")
        yield server


def journal_of(place: Place) -> Path:
    """Return the journal of the one kernel there is."""
    found = list(place.state.glob("sessions/*/journal.jsonl"))
    assert len(found) == 1, found
    return found[0]


def sockets(place: Place) -> set[str]:
    """Return the names of the fork servers that listen."""
    return {path.name for path in place.runtime.glob("kernelry/*/*.sock")}


def change(place: Place, statement: str, *values: object) -> None:
    """Change the records that a dead server left."""
    connection = sqlite3.connect(place.state / "kernelry.sqlite")
    with connection:
        connection.execute(statement, values)
    connection.close()


def has_noted_the_end(place: Place) -> bool:
    """Say whether the one kernel there is has written down that its newest request ended."""
    return b'"channel":"shell"' in journal_of(place).read_bytes()


@fault("D2")
def test_what_ended_in_time_did_not_time_out(server: RawServer, place: Place) -> None:
    waiting = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
    code = f"print('a')\n{waiting}open('ended', 'w').close()"
    asked = time.monotonic()
    running = server.tool("run_python_code", code=code, session_id="other", wait=0, timeout=3600)
    execution_id = running["execution_id"]
    assert until(lambda: has_printed(server, execution_id, "a\n"), HANG)
    kill(server)
    (place.workspace / "go").touch()
    assert until((place.workspace / "ended").exists, HANG)
    # Its timeout is one that it kept, however slow the machine is, and that is over by now.
    assert until(lambda: has_noted_the_end(place), HANG)
    timeout = time.monotonic() - asked
    change(place, "UPDATE executions SET timeout=? WHERE id=?", timeout, execution_id)
    assert until(lambda: time.monotonic() - asked > 2 * timeout, HANG)
    with serve(place) as after:
        done = outcome(after, execution_id)
        assert done["status"] == "completed", done
        assert done["execution_time"] < timeout, done


@fault("D2")
@pytest.mark.parametrize("is_alive", [True, False])
@pytest.mark.parametrize(
    "junk",
    [
        b'{"seq":Infinity,"channel":"begin","msg_id":"x"}\n',
        b'{"seq":9,"channel":"iopub","header":{"msg_type":"stream"},"parent_header":{"msg_id":"ID"},'
        b'"metadata":{},"content":{}}\n',
        b'{"seq":9,"channel":"shell","msg_id":"ID","content":{"status":"ok","kernelry":7}}\n',
        b'{"seq":9,"channel":"shell","msg_id":"ID","content":{"status":"ok","kernelry":{"overflow":{"x":1}}}}\n',
        b"\xff" * 100,
        b"[" * 100_000,
    ],
)
def test_a_spoilt_journal_stops_no_server(
    server: RawServer, place: Place, junk: bytes, is_alive: bool
) -> None:
    running = started(server, "print('a')\nimport time; time.sleep(0.3)", "other")
    assert until(lambda: has_printed(server, running, "a\n"), HANG)
    pid = kernel_pid(server, "other")
    kill(server)
    if not is_alive:
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: gone(pid), HANG)
    with journal_of(place).open("ab") as file:
        file.write(junk.replace(b"ID", running.encode()))
    with serve(place) as after:
        done = outcome(after, running)
        assert done["status"] in ("completed", "died", "lost"), done
        if not is_alive:
            after.tool("restart_kernel", session_id="other")
        assert after.tool("run_python_code", code="1+1", session_id="other")["results"] == ["2"]


@fault("D2")
@pytest.mark.parametrize("what", ["fifo", "folder", "empty", "garbage", "gone"])
def test_without_a_journal_a_dead_kernels_execution_is_lost(
    server: RawServer, place: Place, what: str
) -> None:
    running = started(server, "print('a')\nimport time; time.sleep(100)", "other")
    assert until(lambda: has_printed(server, running, "a\n"), HANG)
    pid = kernel_pid(server, "other")
    kill(server)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: gone(pid), HANG)
    journal = journal_of(place)
    journal.unlink()
    if what == "fifo":
        os.mkfifo(journal)
    elif what == "folder":
        journal.mkdir()
    elif what == "empty":
        journal.touch()
    elif what == "garbage":
        journal.write_bytes(os.urandom(1000))
    with serve(place) as after:
        assert outcome(after, running)["status"] == "lost"


@fault("D2")
@pytest.mark.parametrize("what", ["fifo", "gone", "session directory gone"])
def test_without_a_journal_a_living_kernel_tells(
    server: RawServer, place: Place, what: str
) -> None:
    running = started(server, LOOP, "other")
    assert until(lambda: has_printed(server, running, "5\n"), HANG)
    kill(server)
    journal = journal_of(place)
    if what == "session directory gone":
        shutil.rmtree(journal.parent)
    else:
        journal.unlink()
        if what == "fifo":
            os.mkfifo(journal)
    with serve(place) as after:
        done = outcome(after, running)
        assert (done["status"], done["text"], done["note"]) == ("completed", ALL_LINES, "")
        assert after.tool("run_python_code", code="1+1", session_id="other")["results"] == ["2"]


@fault("D2")
def test_what_a_halted_kernel_has_not_taken_up_runs_once(server: RawServer, place: Place) -> None:
    """The request lies in the kernel's socket: it must not be called cancelled and then run."""
    pid = kernel_pid(server, "other")
    os.kill(pid, signal.SIGSTOP)
    code = "with open('runs', 'a') as file: print('ran', file=file)"
    running = started(server, code, "other")
    kill(server)
    with serve(place) as after:
        second = started(after, "open('runs').read()", "other")
        os.kill(pid, signal.SIGCONT)
        done = outcome(after, running)
        result = outcome(after, second)
        ran = (place.workspace / "runs").exists() and (place.workspace / "runs").read_text()
        assert (done["status"], ran) in (("completed", "ran\n"), ("cancelled", False)), (done, ran)
        if done["status"] == "completed":
            assert result["text"] == "'ran\\n'\n"
            assert done["note"] == "", done


@fault("D2")
def test_what_ran_without_a_record_of_it_does_not_run_again(
    server: RawServer, place: Place
) -> None:
    """A full disk keeps the records in memory, which die with the server."""
    code = "with open('runs', 'a') as file: print('ran', file=file)"
    first = started(server, code, "other")
    outcome(server, first)
    waiting = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"
    second = started(server, f"{code}\n{waiting}", "other")
    assert until(lambda: (place.workspace / "runs").read_text() == "ran\n" * 2, HANG)
    kill(server)
    unsaved = "UPDATE executions SET status='queued', started_at=NULL, ended_at=NULL WHERE id=?"
    change(place, unsaved, first)
    change(place, unsaved, second)
    with serve(place) as after:
        (place.workspace / "go").touch()
        assert outcome(after, second)["status"] == "completed"
        assert outcome(after, first)["status"] == "lost"
        after.tool("run_python_code", code="1", session_id="other")
    assert (place.workspace / "runs").read_text() == "ran\n" * 2


@fault("D2")
def test_a_request_that_is_read_after_the_next_server_came_is_answered(
    server: RawServer, place: Place
) -> None:
    """The kernel's reply goes to who sent the request: nobody hears it."""
    holding = (
        "import ctypes, threading\n"
        "def hold():\n"
        "    open('holding', 'w').close()\n"
        "    ctypes.PyDLL(None).sleep(3)  # keeps the GIL\n"
        "threading.Timer(0.2, hold).start()"
    )
    outcome(server, started(server, holding, "other"))
    assert until((place.workspace / "holding").exists, HANG)
    code = "with open('runs', 'a') as file: print('ran', file=file)\n6*7"
    running = started(server, code, "other")
    kill(server)
    with serve(place) as after:
        done = outcome(after, running)
        runs = place.workspace / "runs"
        ran = runs.read_text() if runs.exists() else ""
        # A kernel may also take it from a connection that is gone, or never see it.
        assert (done["status"], done["text"], ran) in (
            ("completed", "42\n", "ran\n"),
            ("cancelled", "", ""),
        )
        assert after.tool("run_python_code", code="1+1", session_id="other")["results"] == ["2"]


@fault("D2")
def test_what_ran_before_another_is_not_called_cancelled(server: RawServer, place: Place) -> None:
    first = started(server, "1", "other")
    outcome(server, first)
    outcome(server, started(server, "2", "other"))
    kill(server)
    change(place, "UPDATE executions SET status='running', ended_at=NULL WHERE id=?", first)
    change(place, "DELETE FROM executions WHERE id != ?", first)
    with serve(place) as after:
        assert outcome(after, first)["status"] == "lost"


@fault("D2")
def test_a_kernel_without_sockets_is_no_kernel(server: RawServer, place: Place) -> None:
    running = started(server, "print('a')\nimport time; time.sleep(100)", "other")
    assert until(lambda: has_printed(server, running, "a\n"), HANG)
    pid = kernel_pid(server, "other")
    kill(server)
    for path in place.runtime.glob("kernelry/*/*/*-[1-5]"):
        path.unlink()
    with serve(place) as after:
        done = outcome(after, running)
        assert (done["status"], done["text"]) == ("died", "a\n")
        assert gone(pid)
        after.tool("restart_kernel", session_id="other")
        assert after.tool("run_python_code", code="1+1", session_id="other")["results"] == ["2"]


@fault("D2")
@pytest.mark.parametrize("boot", ["same", "other"])
def test_a_foreign_process_of_that_pid_is_left_alone(
    server: RawServer, place: Place, boot: str
) -> None:
    pid = kernel_pid(server, "other")
    kill(server)
    stranger = subprocess.Popen(["sleep", "100"])
    try:
        if boot == "other":
            start = int(Path(f"/proc/{stranger.pid}/stat").read_text().split()[21])
            change(place, "UPDATE kernels SET pid=?, started=?, boot='x'", stranger.pid, start)
        else:
            change(place, "UPDATE kernels SET pid=?", stranger.pid)
        with serve(place) as after:
            health = after.tool("get_kernel_health", session_id="other")
            assert health["status"] == "dead", health
            assert stranger.poll() is None
            assert gone(pid)
    finally:
        stranger.kill()
        stranger.wait()


@fault("D2")
def test_an_old_fork_server_ends_with_its_last_kernel(server: RawServer, place: Place) -> None:
    kill(server)

    before = sockets(place)
    with serve(place, "--preload", "json") as after:
        done = after.tool("run_python_code", code="1+1", session_id="other")
        assert done["results"] == ["2"]
        assert before < sockets(place)
        after.tool("restart_kernel", session_id="other")
        # The guardian is of the same kind, and goes on.
        assert until(lambda: len(before & sockets(place)) == 1, HANG)


@fault("D2")
def test_the_newest_orphan_timeout_counts(server: RawServer, place: Place) -> None:
    kill(server)
    with serve(place, "--orphan-timeout", "1") as after:
        after.tool("run_python_code", code="1", session_id="other")
        kill(after)
    assert not place.survivors(HANG)
    with serve(place):
        pass


@fault("D2")
def test_guardian_and_fork_server_that_die_are_replaced(server: RawServer, place: Place) -> None:
    pid = kernel_pid(server, "other")
    old = sockets(place)
    roots = [
        p for p in psutil.Process(server.process.pid).children() if "forkserver" in p.cmdline()
    ]
    assert len(roots) == 2
    for process in roots:
        process.kill()
    server.tool("run_python_code", code="x = 1", session_id="other")
    assert until(lambda: bool(sockets(place) - old), HANG)
    assert until(lambda: is_guarded(server, pid), HANG)
    kill(server)
    with serve(place) as after:
        assert kernel_pid(after, "other") == pid
        assert after.tool("run_python_code", code="x", session_id="other")["results"] == ["1"]


def is_guarded(server: RawServer, pid: int) -> bool:
    """Say whether a fork server watches a kernel."""
    for process in psutil.Process(server.process.pid).children():
        for info in Path(f"/proc/{process.pid}/fdinfo").glob("*"):
            with suppress(OSError):  # closed meanwhile
                if f"Pid:\t{pid}\n" in info.read_text():
                    return True
    return False


@fault("D19")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_the_runtime_directory_of_live_sessions_is_deleted(place: Place, start: str) -> None:
    with serve(place, "--kernel-start", start) as server:
        server.tool("create_session", session_id="other")
        server.tool("run_python_code", code="x = 1", session_id="other")
        remove_all(next(place.runtime.glob("kernelry/*")))
        assert server.tool("run_python_code", code="x", session_id="other")["results"] == ["1"]
        server.tool("create_session", session_id="new")
        assert server.tool("run_python_code", code="2", session_id="new")["results"] == ["2"]
        kill(server)
    with serve(place) as after:
        after.tool("restart_kernel", session_id="other")
        assert after.tool("run_python_code", code="2", session_id="other")["results"] == ["2"]
    assert not place.survivors(HANG)


@fault("D2")
@pytest.mark.parametrize("point", ["recover.adopted", "recover.swept", "store.opened"])
def test_a_server_may_be_killed_while_it_recovers(
    server: RawServer, place: Place, point: str
) -> None:
    server.tool("create_session", session_id="dying")
    dying = started(server, "print('a')\nimport time; time.sleep(100)", "dying")
    running = started(server, LOOP, "other")
    assert until(lambda: has_printed(server, running, "5\n"), HANG)
    assert until(lambda: has_printed(server, dying, "a\n"), HANG)
    pid = kernel_pid(server, "dying")
    kill(server)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: gone(pid), HANG)
    second = subprocess.run(
        [str(KERNELRY), *place.arguments(*FLAGS)],
        env=place.environment() | {VARIABLE: point},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=HANG,
        check=False,
    )
    assert second.returncode == -signal.SIGKILL
    with serve(place) as after:
        done = outcome(after, running)
        assert (done["status"], done["text"], done["note"]) == ("completed", ALL_LINES, "")
        died = outcome(after, dying)
        assert (died["status"], died["text"]) == ("died", "a\n")
        assert "SIGKILL" in died["error"]["message"], died
        assert after.tool("get_kernel_health", session_id="dying")["status"] == "dead"


@fault("D2")
def test_a_loop_outlives_five_servers(server: RawServer, place: Place) -> None:
    running = started(server, LOOP, "other")
    assert until(lambda: has_printed(server, running, "5\n"), HANG)
    kill(server)
    for _ in range(3):
        with serve(place) as after:
            assert after.tool("get_execution", execution_id=running, wait=0)["stdout"].startswith(
                "0\n"
            )
            kill(after)
    with serve(place) as after:
        done = outcome(after, running)
        assert (done["status"], done["text"], done["note"]) == ("completed", ALL_LINES, "")


@fault("D2")
def test_a_script_ends_with_its_server(server: RawServer, place: Place) -> None:
    (place.workspace / "scripts" / "slow.py").write_text(
        "import subprocess\nsubprocess.Popen(['sleep', '99'])\n"
        "open('began', 'w').close()\nimport time\nwhile True: time.sleep(0.1)\n"
    )
    server.start_tool("run_script", path="slow.py", session_id="other")
    assert until((place.workspace / "began").exists, HANG)
    kill(server)

    def left() -> list[list[str]]:
        found = place.commands()
        return [c for c in found if "sleep" in c or any("slow.py" in word for word in c)]

    assert until(lambda: not left(), HANG), left()
    with serve(place):
        pass


@fault("B11")
def test_the_journal_never_goes_into_a_file_of_the_cells(server: RawServer, place: Place) -> None:
    """A cell closes descriptors and opens a file, which gets the journal's number."""
    code = (
        "import os\n"
        "links = {fd: os.path.realpath(f'/proc/self/fd/{fd}') for fd in range(100)}\n"
        "fd = next(fd for fd, path in links.items() if path.endswith('journal.jsonl'))\n"
        "os.close(fd)\n"
        "os.dup2(os.open('mine', os.O_RDWR | os.O_CREAT), fd)\n"
        "os.write(fd, b'mine')\n"
        "print('a')"
    )
    server.tool("run_python_code", code=code, session_id="other")
    running = started(server, "print('b')\nimport time; time.sleep(100)", "other")
    assert until(lambda: has_printed(server, running, "b\n"), HANG)
    pid = kernel_pid(server, "other")
    kill(server)
    os.kill(pid, signal.SIGKILL)
    assert (place.workspace / "mine").read_text() == "mine"
    with serve(place) as after:
        done = outcome(after, running)
        assert (done["status"], done["text"]) == ("died", "b\n")
