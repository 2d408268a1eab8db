"""A server dies: what runs goes on, the next server knows how it ended, nothing is left."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

from kernelry.crashpoints import CRASH_POINTS, VARIABLE
from tests.acceptance.harness import KERNELRY, Place, RawServer, http_agent, http_server, until

from .matrix import fault

LINES = 200
LOOP = f"import time\nfor i in range({LINES}):\n    print(i)\n    time.sleep(0.02)"
#: waits until the test lets it go on
UNTIL_GO = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
ALL_LINES = "".join(f"{i}\n" for i in range(LINES))
HANG = 60.0


def kill(server: RawServer) -> None:
    """End a server as nothing else would."""
    server.process.kill()
    server.process.wait()


def started(server: RawServer, code: str, session_id: str = "default") -> str:
    """Start code without waiting for it and return the execution's id."""
    done = server.tool("run_python_code", code=code, session_id=session_id, wait=0)
    execution_id: str = done["execution_id"]
    return execution_id


def outcome(server: RawServer, execution_id: str) -> dict[str, Any]:
    """Wait for an execution's outcome and return it with its text."""
    return server.tool("get_execution", execution_id=execution_id, wait=HANG, offset=0)


def has_printed(server: RawServer, execution_id: str, text: str) -> bool:
    """Say whether an execution has printed `text` by now."""
    return text in server.tool("get_execution", execution_id=execution_id, wait=0)["stdout"]


def kernel_pid(server: RawServer, session_id: str = "default") -> int:
    """Return the process of a session's kernel."""
    pid: int = server.tool("get_kernel_health", session_id=session_id)["pid"]
    return pid


def sleepers_of(place: Place) -> int:
    """Count the processes of this place that run `sleep`."""
    found = 0
    for process in place.processes():
        with suppress(psutil.Error):  # it ended meanwhile
            found += process.name() == "sleep"
    return found


def gone(pid: int) -> bool:
    """Say whether a process has ended."""
    try:
        status: str = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return True
    return bool(status == psutil.STATUS_ZOMBIE)


def has_guardian(place: Place) -> bool:
    """Say whether guardian and fork server are up."""
    return len(list(place.runtime.glob("kernelry/*/*.sock"))) == 2


def guards_of(server: RawServer) -> list[int]:
    """Return guardian and fork server, the first to be started first."""
    found = psutil.Process(server.process.pid).children()
    pids = [process.pid for process in found if "forkserver" in process.cmdline()]
    assert len(pids) == 2
    return sorted(pids)


@pytest.fixture(params=["young", "settled"])
def server(request: pytest.FixtureRequest, place: Place) -> Iterator[RawServer]:
    """A server whose kernels outlive it, before or after its fork server is up."""
    with RawServer(place, ("--orphan-timeout", "600")) as server:
        if request.param == "settled":
            assert until(lambda: has_guardian(place), HANG)
        server.tool("create_session", session_id="other")
        server.tool("run_python_code", code="kept = [1, 2, 3]", session_id="other")
        assert until(lambda: has_guardian(place), HANG)
        yield server


def next_server(place: Place) -> RawServer:
    """Return a new server on the same state directory."""
    return RawServer(place, ("--orphan-timeout", "600"))


@fault("D2")
def test_a_loop_is_read_whole_by_the_next_server(server: RawServer, place: Place) -> None:
    running = started(server, LOOP, "other")
    assert until(lambda: has_printed(server, running, "50\n"), HANG)
    kill(server)
    with next_server(place) as after:
        done = outcome(after, running)
        assert (done["status"], done["text"], done["note"]) == ("completed", ALL_LINES, "")
        assert after.tool("run_python_code", code="kept", session_id="other")["results"] == [
            "[1, 2, 3]"
        ]


@fault("D2")
def test_what_ended_while_no_server_lived_is_known(server: RawServer, place: Place) -> None:
    code = f"print('a')\n{UNTIL_GO}print('b'); open('ended', 'w').close(); 6*7"
    running = started(server, code, "other")
    assert until(lambda: has_printed(server, running, "a\n"), HANG)
    kill(server)
    (place.workspace / "go").touch()
    assert until((place.workspace / "ended").exists, HANG)
    with next_server(place) as after:
        done = outcome(after, running)
        assert (done["status"], done["text"]) == ("completed", "a\nb\n42\n")
        assert done["new_files"] == ["ended"]


@fault("D2")
def test_what_died_while_no_server_lived_died_and_keeps_its_output(
    server: RawServer, place: Place
) -> None:
    running = started(server, LOOP, "other")
    assert until(lambda: has_printed(server, running, "20\n"), HANG)
    pid = kernel_pid(server, "other")
    kill(server)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: gone(pid), HANG)
    with next_server(place) as after:
        done = outcome(after, running)
        assert done["status"] == "died"
        assert done["text"].startswith("".join(f"{i}\n" for i in range(21)))
        assert "while its server was gone" in done["error"]["message"]
        health = after.tool("get_kernel_health", session_id="other")
        assert (health["status"], health["pid"]) == ("dead", 0)
        assert "while its server was gone" in health["cause"]
        after.tool("restart_kernel", session_id="other")
        assert after.tool("run_python_code", code="1+1", session_id="other")["results"] == ["2"]


@fault("D2")
def test_what_was_queued_runs_in_its_order_under_the_next_server(
    server: RawServer, place: Place
) -> None:
    first = started(server, f"order = ['first']\n{UNTIL_GO}", "other")
    queued = [started(server, f"order.append({i})", "other") for i in range(3)]
    kill(server)
    with next_server(place) as after:
        (place.workspace / "go").touch()
        for execution_id in [first, *queued]:
            assert outcome(after, execution_id)["status"] == "completed"
        answer = after.tool("run_python_code", code="order", session_id="other")
        assert answer["results"] == ["['first', 0, 1, 2]"]


@fault("D2")
def test_an_adopted_kernel_can_be_interrupted_restarted_and_deleted(
    server: RawServer, place: Place
) -> None:
    server.tool("create_session", session_id="third")
    looping = started(server, "while True: pass", "other")
    pids = [kernel_pid(server, name) for name in ("other", "third")]
    kill(server)
    with next_server(place) as after:
        health: dict[str, Any] = {"activity": "unknown"}

        def is_busy() -> bool:  # it may get no processor in time to say so
            health.update(after.tool("get_kernel_health", session_id="other"))
            return bool(health["activity"] == "busy")

        assert until(is_busy, HANG), health
        assert health["pid"] == pids[0]
        assert health["execution_id"] == looping
        assert health["execution_count"] == 2
        stopped = after.tool("interrupt_execution", execution_id=looping)
        assert stopped["step"] == "sigint"
        assert outcome(after, looping)["status"] == "interrupted"
        assert after.tool("run_python_code", code="kept", session_id="other")["results"] == [
            "[1, 2, 3]"
        ]
        assert after.tool("restart_kernel", session_id="other")["generation"] == 2
        assert gone(pids[0])
        assert kernel_pid(after, "third") == pids[1]
        after.tool("delete_session", session_id="third")
        assert gone(pids[1])


@fault("D2")
def test_kernels_of_every_kind_are_adopted(server: RawServer, place: Place) -> None:
    cells = {
        "idle": "kept = 1",
        "busy": "while True: pass",
        "native": "import ctypes; kept = 1; ctypes.PyDLL(None).sleep(4)",
        "parent": "import subprocess; p = subprocess.Popen(['sleep', '100']); p.wait()",
    }
    for name in cells:
        server.tool("create_session", session_id=name)
    runs = {name: started(server, code, name) for name, code in cells.items()}
    outcome(server, runs["idle"])
    pids = {name: kernel_pid(server, name) for name in cells}
    kill(server)
    with next_server(place) as after:
        assert {name: kernel_pid(after, name) for name in cells} == pids
        for name in ("busy", "parent"):
            assert after.tool("interrupt_execution", execution_id=runs[name])["interrupted"]
        assert outcome(after, runs["native"])["status"] == "completed"
        for name in ("idle", "native"):
            assert after.tool("run_python_code", code="kept", session_id=name)["results"] == ["1"]


@fault("D2")
def test_a_timeout_goes_on_under_the_next_server(server: RawServer, place: Place) -> None:
    code = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.05)"
    running = server.tool("run_python_code", code=code, session_id="other", wait=0, timeout=3)[
        "execution_id"
    ]
    assert until(lambda: has_printed(server, running, "begun"), HANG)  # else it is cancelled
    kill(server)
    with next_server(place) as after:
        assert outcome(after, running)["status"] == "timed_out"


@fault("D2")
def test_what_threads_print_while_no_server_lives_is_kept(server: RawServer, place: Place) -> None:
    code = (
        "import os, threading, time\n"
        "def tell():\n"
        "    while not os.path.exists('go'): time.sleep(0.01)\n"
        "    print('later')\n"
        "    open('told', 'w').close()\n"
        "threading.Thread(target=tell).start(); print('now')"
    )
    running = started(server, code, "other")
    assert outcome(server, running)["text"] == "now\n"
    kill(server)
    (place.workspace / "go").touch()
    assert until((place.workspace / "told").exists, HANG)
    with next_server(place) as after:
        assert until(lambda: has_printed(after, running, "now\nlater\n"), HANG)


@fault("D2")
@pytest.mark.parametrize("settled", [False, True])
def test_after_the_orphan_timeout_nothing_is_left(place: Place, settled: bool) -> None:
    with RawServer(place, ("--orphan-timeout", "1")) as server:
        if settled:
            assert until(lambda: has_guardian(place), HANG)
        server.tool("create_session", session_id="other")
        assert until(lambda: has_guardian(place), HANG)
        daemon = (
            "import os, subprocess\n"
            "subprocess.Popen(['sleep', '100'])\n"
            "if os.fork() == 0:\n"
            "    os.setsid()\n"
            "    if os.fork() == 0:\n"
            "        os.execvp('sleep', ['sleep', '100'])\n"
            "    os._exit(0)\n"
            "os.wait()\n"
            "import ctypes; ctypes.PyDLL(None).sleep(100)"
        )
        started(server, daemon, "other")
        assert until(lambda: sleepers_of(place) == 2, HANG)
        kill(server)
        assert not place.survivors(HANG)
        # What is left of its sockets the next server removes.
    with next_server(place):
        pass


@fault("D2")
def test_a_fork_server_that_is_ready_when_its_server_is_gone_waits_for_nobody(
    place: Place,
) -> None:
    """Nobody knows that it is there; with a next server, nobody would look for it again."""
    with RawServer(place, ("--warm", "0", "--preload", "pandas")) as server:
        assert until(lambda: any('"level": "shell"' in c[-1] for c in place.commands()), HANG)
        kill(server)
        assert not place.survivors(HANG)
    shutil.rmtree(place.runtime / "kernelry")  # sockets are the next server's to remove


@fault("D2")
def test_server_guardian_and_fork_server_killed_together_leave_nothing(
    server: RawServer, place: Place
) -> None:
    server.tool("run_python_code", code="import subprocess; subprocess.Popen(['sleep', '99'])")
    started(server, "import ctypes; ctypes.PyDLL(None).sleep(100)", "other")
    for pid in (server.process.pid, *guards_of(server)):
        os.kill(pid, signal.SIGKILL)
    server.process.wait()
    assert not place.survivors(HANG)
    with next_server(place) as after:
        assert after.tool("get_kernel_health", session_id="other")["status"] == "dead"


@fault("D2")
def test_server_and_fork_server_killed_together_leave_kernels_to_the_guardian(
    server: RawServer, place: Place
) -> None:
    code = "import os; os.getpid()"
    pid = int(server.tool("run_python_code", code=code, session_id="other")["results"][0])
    kept, fork_server = guards_of(server)
    assert kept < fork_server  # the guardian is the first process that a server starts
    for number in (server.process.pid, fork_server):
        os.kill(number, signal.SIGKILL)
    server.process.wait()
    with next_server(place) as after:
        done = after.tool("run_python_code", code="os.getpid(), kept", session_id="other")
        assert done["results"] == [f"({pid}, [1, 2, 3])"]


@fault("D2")
def test_a_daemon_that_outlived_server_and_fork_server_is_ended_by_the_next(
    server: RawServer, place: Place
) -> None:
    code = "import subprocess; p = subprocess.Popen(['sleep', '99'], start_new_session=True); p.pid"
    daemon = int(server.tool("run_python_code", code=code, session_id="other")["results"][0])
    for pid in guards_of(server):
        os.kill(pid, signal.SIGKILL)
    kill(server)
    with next_server(place):
        assert until(lambda: gone(daemon), HANG)


@fault("B12")
@pytest.mark.parametrize("settled", [False, True])
def test_the_processes_of_a_session_end_with_it(place: Place, settled: bool) -> None:
    daemon = (
        "import os, subprocess, sys\n"
        "for _ in range(3):\n"
        "    subprocess.Popen(['sleep', '100'], start_new_session=True)\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execvp('sleep', ['sleep', '100'])\n"
        "    os._exit(0)\n"
        "os.wait(); None"
    )
    with RawServer(place) as server:
        if settled:
            assert until(lambda: has_guardian(place), HANG)

        def sleepers() -> int:
            return sleepers_of(place)

        for end in ("delete_session", "restart_kernel", "kill"):
            server.tool("create_session", session_id=end)
            server.tool("run_python_code", code=daemon, session_id=end)
            assert until(lambda: sleepers() == 4, HANG)
            if end == "kill":
                os.kill(kernel_pid(server, end), signal.SIGKILL)
            else:
                server.tool(end, session_id=end)
            assert until(lambda: sleepers() == 0, HANG), end


def crash_round(place: Place, point: str) -> None:
    """Kill a server at a named point while it works with four kernels, and look at the next."""
    victim = RawServer(place, ("--orphan-timeout", "2"), env={VARIABLE: point})
    with suppress(AssertionError, BrokenPipeError), victim:  # it dies within a call
        work(victim)
    assert victim.process.returncode == -signal.SIGKILL, f"it never came to {point}"
    with next_server(place) as after:
        listed = after.tool("list_sessions")["sessions"]
        for name, session in listed.items():
            if session["kernel"] == "dead":
                after.tool("restart_kernel", session_id=name)
            after.tool("interrupt_execution", session_id=name, force=True)
            done = after.tool("run_python_code", code="1+1", session_id=name)
            assert done["results"] == ["2"], (point, name, done)
            if name != "default":
                after.tool("delete_session", session_id=name)
        after.tool("restart_kernel", session_id="default")
        left = [path.name for path in (place.state / "sessions").iterdir()]
        # The default session's, and those of warm kernels.
        assert until(lambda: len(list((place.state / "sessions").iterdir())) <= 3, HANG), left
    assert not place.survivors(HANG), point
    database = sqlite3.connect(place.state / "kernelry.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    opened = "SELECT count(*) FROM executions WHERE ended_at IS NULL"
    assert database.execute(opened).fetchone() == (0,)
    database.close()


def work(server: RawServer) -> None:
    """Come by every named point, with kernels idle, busy, in native code, with children."""
    cells = {
        "idle": "1",
        "busy": "import time\nwhile True: print('busy'); time.sleep(0.01)",
        "native": "import ctypes; ctypes.PyDLL(None).sleep(3)",
        "parent": "import subprocess; p = subprocess.Popen(['sleep', '100']); p.wait()",
    }
    for name, code in cells.items():
        server.tool("create_session", session_id=name)
        started(server, code, name)
    server.tool("run_python_code", code="2", session_id="idle")
    server.tool("restart_kernel", session_id="idle")
    server.tool("delete_session", session_id="idle")


@fault("D1")
@pytest.mark.parametrize("point", random.Random(4).sample(CRASH_POINTS, len(CRASH_POINTS)))
def test_a_server_killed_at_a_named_point_leaves_nothing_half_done(
    place: Place, point: str
) -> None:
    crash_round(place, point)


@fault("D2")
def test_kernels_that_are_kept_go_on_after_an_orderly_end(place: Place) -> None:
    async def first() -> tuple[str, int]:
        with http_server(place, "--keep-kernels") as server:
            async with http_agent(server) as agent:
                await agent.ask("create_session", session_id="a")
                await agent.run("kept = 5", "a")
                running = await agent.ask("run_python_code", code=LOOP, session_id="a", wait=0)
                health = await agent.ask("get_kernel_health", session_id="a")
                return running["execution_id"], health["pid"]

    async def second(running: str, pid: int) -> None:
        with http_server(place) as server:
            async with http_agent(server) as agent:
                assert (await agent.ask("get_kernel_health", session_id="a"))["pid"] == pid
                done = await agent.ask("get_execution", execution_id=running, wait=HANG, offset=0)
                assert (done["status"], done["text"]) == ("completed", ALL_LINES)
                assert await agent.value("kept", "a") == "5"

    running, pid = asyncio.run(first())
    assert psutil.pid_exists(pid)
    asyncio.run(second(running, pid))
    assert gone(pid)


def test_the_doctor_tells_what_was_found_after_a_death(server: RawServer, place: Place) -> None:
    running = started(server, LOOP, "other")
    kill(server)
    with next_server(place) as after:
        assert outcome(after, running)["status"] == "completed"
        folders = ["--state-dir", str(place.state), "--workspace", str(place.workspace)]
        said = subprocess.run(
            [str(KERNELRY), "doctor", *folders],
            capture_output=True,
            text=True,
            env=place.environment(),
            check=False,
        ).stdout
        line = next(line for line in said.splitlines() if str(place.state) in line)
        assert f"process {after.process.pid} " in line
        assert "did not end in order" in line and "kernels adopted: other" in line


def test_tv_10_a_clean_up_deletes_what_is_old_or_named_and_says_so_first(place: Place) -> None:
    with RawServer(place, ("--toolsets", "all")) as server:
        for name in ("a", "b", "c"):
            server.tool("create_session", session_id=name)
        started(server, "while True: pass", "c")
        stray = place.state / "sessions" / "of-nobody"
        stray.mkdir()
        would = server.tool("cleanup_sessions", older_than=0, dry_run=True)
        assert (sorted(would["deleted"]), list(would["kept"])) == (["a", "b"], ["c"])
        assert would["removed"] == ["of-nobody"]
        assert set(server.tool("list_sessions")["sessions"]) == {"default", "a", "b", "c"}
        assert stray.exists()
        assert server.tool("cleanup_sessions", older_than=3600)["deleted"] == []
        assert not stray.exists()
        assert server.tool("cleanup_sessions", session_ids=["a"])["deleted"] == ["a"]
        assert server.tool("cleanup_sessions", older_than=0)["deleted"] == ["b"]
        assert set(server.tool("list_sessions")["sessions"]) == {"default", "c"}
