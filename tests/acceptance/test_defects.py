"""What went wrong in the reference can't go wrong here; D numbers are of its analysis."""

import base64
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp.types import ImageContent
from PIL import Image

from .harness import (
    KERNELRY,
    NAMED_SERVER,
    SCRATCH,
    Agent,
    HttpServer,
    Place,
    RawServer,
    http_agent,
    lasting_threads,
    needed,
    settled,
    stdio_agent,
    until,
)

MEBIBYTE = 1 << 20
HANG = 60  # seconds after which a test is stuck
THREADS = 50  # more than a kernel has without any of a cell


async def test_code_that_is_silent_for_seconds_is_waited_for_and_the_next_call_is_its_own(
    agent: Agent,
) -> None:
    """D1: silence of more than 1 s was taken for the end."""
    first = await agent.run("import time\nprint('a'); time.sleep(4); print('b')")
    assert (first["status"], first["stdout"]) == ("completed", "a\nb\n")
    second = await agent.run("print('c')")
    assert (second["status"], second["stdout"]) == ("completed", "c\n")


async def test_a_cell_that_times_out_has_run_once_and_nothing_of_it_is_left(
    agent: Agent, place: Place
) -> None:
    """D2: a timeout sent the same code again, up to four times."""
    code = "open('marks', 'a').write('x')\nwhile True: pass"
    with anyio.fail_after(HANG):  # nothing but its timeout ends it
        done = await agent.run(code, timeout=1)
    assert done["status"] == "timed_out"
    following = await agent.run("'free'")
    assert following["results"] == ["'free'"]
    assert following["execution_index"] == done["execution_index"] + 1
    assert (place.workspace / "marks").read_text() == "x"


async def test_no_session_waits_for_anothers_cell_installation_or_script(
    agent: Agent, place: Place
) -> None:
    """D3: one busy cell, installation or script stopped the whole server."""
    for name in ("cell", "script", "free"):
        await agent.ask("create_session", session_id=name)
    # Neither can end before the test has had all its answers.
    code = (
        "import os, time\nopen('begun-{}', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.01)"
    )
    await agent.ask("save_script", name="slow", content=code.format("script"))
    ended: list[str] = []

    async def finish(name: str, tool: str, **arguments: object) -> None:
        done = await agent.ask(tool, session_id=name, **arguments)
        assert done.get("status") == "completed" or done.get("returncode") == 0, done
        ended.append(name)

    async def ask() -> None:
        await agent.ask("list_sessions")
        assert await agent.value("40 + 2", "free") == "42"
        health = await agent.health(session_id="cell")
        assert health["status"] == "healthy"

    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                lambda: finish("cell", "run_python_code", code=code.format("cell"), wait=2 * HANG)
            )
            tasks.start_soon(lambda: finish("script", "run_script", path="slow", timeout=2 * HANG))
            while len(list(place.workspace.glob("begun-*"))) < 2:
                await ask()
            for _ in range(10):
                await ask()
            assert not ended
            (place.workspace / "go").touch()
    assert sorted(ended) == ["cell", "script"]


async def test_a_silent_kernel_can_be_asked_thousands_of_times_without_harm_to_others(
    agent: Agent,
) -> None:
    """D3: questions that pile up before a kernel in native code must not stop the server."""
    await agent.ask("create_session", session_id="free")
    await agent.run("sum(range(10**12))", wait=0)  # holds the interpreter
    at_once = anyio.CapacityLimiter(900)  # a server takes a thousand requests

    async def ask() -> None:
        async with at_once:
            await agent.refused("list_variables")

    with anyio.fail_after(2 * HANG):
        async with anyio.create_task_group() as tasks:
            for _ in range(2500):
                tasks.start_soon(ask)

    with anyio.fail_after(HANG):
        assert await agent.value("40 + 2", "free") == "42"
    await agent.ask("restart_kernel")
    assert await agent.value("1+1") == "2"


async def test_variables_are_listed_with_type_size_and_value_and_none_of_ours(agent: Agent) -> None:
    """D4: list_variables was always empty."""
    code = (
        "import math\nimport numpy as np\nx = 1\nwords = ['a', 'b']\nblock = np.zeros((3, 4))\n"
        "def double(n): return 2 * n\n"
        "class Slow:\n    def __repr__(self):\n        while True: pass\n"
        "slow = Slow()"
    )
    await agent.run(code)
    with anyio.fail_after(HANG):  # the repr of `slow` never ends, so it was not called
        listed = await agent.ask("list_variables")
    found = listed["variables"]
    assert {"x", "words", "block", "double", "slow"} <= set(found)
    assert set(found) <= {"x", "words", "block", "double", "slow", "Slow", "math", "np"}
    assert (found["x"]["type"], found["x"]["repr"]) == ("int", "1")
    assert (found["words"]["type"], found["words"]["size"]) == ("list", 2)
    assert found["block"]["shape"] == [3, 4]
    assert listed["total"] == len(found)


WIRES = pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])


@WIRES
async def test_no_client_over_http_moves_the_default_of_another(
    served: HttpServer, mode: str
) -> None:
    """D6: the active session was one variable of the whole process, then of all of one token."""
    async with http_agent(served, mode=mode) as one, http_agent(served, mode=mode) as other:
        await one.ask("create_session", session_id="mine")
        await one.ask("switch_session", session_id="mine")
        assert (await one.run("secret = 42"))["session_id"] == "mine"
        assert (await one.ask("list_sessions"))["active_session"] == "mine"
        there = await other.run("'secret' in globals()")
        assert (there["session_id"], there["results"]) == ("default", ["False"])
        assert (await other.ask("list_sessions"))["active_session"] == "default"
        await other.ask("create_session", session_id="others")
        await other.ask("switch_session", session_id="others")
        assert await one.value("secret") == "42"


@WIRES
async def test_no_client_over_stdio_moves_the_default_of_another(place: Place, mode: str) -> None:
    two = Place(place.root / "two", place.runtime)
    two.root.mkdir()
    async with stdio_agent(place, mode=mode) as one, stdio_agent(two, mode=mode) as other:
        await one.ask("create_session", session_id="mine")
        await one.ask("switch_session", session_id="mine")
        assert (await one.run("1"))["session_id"] == "mine"
        assert (await other.run("1"))["session_id"] == "default"


async def test_a_default_session_that_somebody_deletes_is_gone_and_not_another_one(
    served: HttpServer,
) -> None:
    async with (
        http_agent(served, mode="legacy") as one,
        http_agent(served, mode="legacy") as other,
    ):
        await one.ask("create_session", session_id="mine")
        await one.ask("switch_session", session_id="mine")
        await other.ask("delete_session", session_id="mine")
        why = await one.refused("run_python_code", code="1")
        assert "your default session 'mine' is gone" in why
        assert (await one.ask("list_sessions"))["active_session"] == "mine"
        await one.ask("switch_session", session_id="default")
        assert await one.value("1") == "1"
        # Whoever deletes its own knows.
        await one.ask("create_session", session_id="brief")
        await one.ask("switch_session", session_id="brief")
        gone = await one.ask("delete_session", session_id="brief")
        assert gone["active_session"] == "default"
        assert await one.value("1") == "1"


async def test_an_explicit_session_means_the_same_whoever_switches_meanwhile(
    served: HttpServer,
) -> None:
    """D6: a switch redirected workflows and executions that were under way."""
    async with http_agent(served) as one, http_agent(served) as other:
        await one.ask("create_session", session_id="a")
        await one.ask("create_session", session_id="b")
        done = dict[str, object]()

        async def run() -> None:
            done.update(await one.run("import time; time.sleep(1); where = 'a'", "a"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await other.ask("switch_session", session_id="b")
            await other.run("where = 'b'")
        assert done["session_id"] == "a"
        assert await one.value("where", "a") == "'a'"
        assert await one.value("where", "b") == "'b'"
        sessions = (await one.ask("list_sessions"))["sessions"]
        assert [sessions[name]["execution_count"] for name in ("a", "b", "default")] == [2, 2, 0]


async def test_health_reports_memory_cpu_threads_and_the_kernels_real_process(agent: Agent) -> None:
    """D7: health knew no memory, no CPU, no threads, and no kernel was ever healthy."""
    pid = int(await agent.value("import os; os.getpid()"))
    before = await agent.health()
    assert (before["status"], before["activity"]) == ("healthy", "idle")
    status = Path(f"/proc/{before['pid']}/status").read_text(encoding="utf-8")
    names = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    assert int(names.split()[-1]) == pid  # a box counts its own processes
    assert before["num_threads"] > 0
    assert before["uptime"] > 0
    code = (
        f"import threading\nblock = bytearray(b'x') * (200 * {MEBIBYTE})\n"
        f"for _ in range({THREADS}):\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    await agent.run(code)
    after = await agent.ask("get_kernel_health")
    assert after["num_threads"] > THREADS  # what else it has of them may come and go
    assert after["memory_usage"] - before["memory_usage"] >= 150 * MEBIBYTE
    assert after["peak_memory"] >= after["memory_usage"]
    spinning = await agent.run("while True: pass", wait=0)
    busy: dict[str, Any] = {"cpu_percent": 0}
    with anyio.fail_after(HANG):  # it may get no processor while it is looked at
        while busy["cpu_percent"] <= 20:
            busy = await agent.ask("get_kernel_health")
            assert busy["execution_id"] == spinning["execution_id"]
    assert busy["status"] == "healthy"
    await agent.ask("interrupt_execution")


async def test_a_kernels_death_is_noticed_named_and_cured_by_a_restart(agent: Agent) -> None:
    """D8: a dead kernel answered with an empty result, and stayed."""
    await agent.run("kept = 1")
    died = await agent.run("import os; print('last words', flush=True); os._exit(3)")
    assert died["status"] == "died"
    assert "3" in died["error"]["message"]
    health = await agent.ask("get_kernel_health")
    assert health["status"] == "dead"
    assert "3" in health["cause"]
    assert "restart_kernel" in health["advice"]
    listed = await agent.ask("list_sessions")
    assert listed["sessions"]["default"]["kernel"] == "dead"
    assert "restart_kernel" in await agent.refused("run_python_code", code="1+1")
    restarted = await agent.ask("restart_kernel")
    assert restarted["generation"] == 2
    assert await agent.value("'kept' in globals()") == "False"


async def test_a_kernel_that_dies_while_idle_is_noticed_too(agent: Agent) -> None:
    """D8: nobody looked between two calls."""
    await agent.run("1")
    pid = (await agent.ask("get_kernel_health"))["pid"]
    psutil.Process(pid).kill()
    with anyio.fail_after(HANG):
        while (health := await agent.ask("get_kernel_health"))["status"] != "dead":
            pass
    assert "SIGKILL" in health["cause"] or "9" in health["cause"]
    assert "restart_kernel" in await agent.refused("run_python_code", code="1+1")
    await agent.ask("restart_kernel")
    assert await agent.value("1+1") == "2"


async def test_answers_under_concurrency_are_each_calls_own(agent: Agent) -> None:
    """D9: a reply that came was taken for the answer to whatever was asked last."""
    await agent.ask("create_session", session_id="other")
    answers = dict[tuple[str, int], tuple[str, list[str]]]()

    async def run(session: str, number: int) -> None:
        code = f"print('{session} {number}'); {number} * 1000"
        done = await agent.run(code, session)
        assert done["session_id"] == session
        answers[session, number] = (done["stdout"], done["results"])

    async def look(session: str) -> None:
        assert "variables" in await agent.ask("list_variables", session_id=session)
        checked = await agent.health("check_kernel_responsiveness", session_id=session)
        assert (checked["session_id"], checked["responsive"]) == (session, True)

    async with anyio.create_task_group() as tasks:
        for number in range(25):
            for session in ("default", "other"):
                tasks.start_soon(run, session, number)
                if number % 5 == 0:
                    tasks.start_soon(look, session)
    assert answers == {
        (session, number): (f"{session} {number}\n", [str(number * 1000)])
        for session in ("default", "other")
        for number in range(25)
    }


@pytest.mark.parametrize("asking", ["input('name? ')", "import getpass; getpass.getpass()"])
async def test_code_that_asks_for_input_raises_at_once(agent: Agent, asking: str) -> None:
    """D10: input() blocked a kernel for good."""
    with anyio.fail_after(HANG):  # nothing else would end it: it has no timeout
        done = await agent.run(f"x = 1\n{asking}", wait=2 * HANG)
    assert done["status"] == "failed"
    assert done["error"]["type"] == "StdinNotImplementedError"
    assert "input()" in done["error"]["message"]
    assert await agent.value("x") == "1"


def test_an_interpreter_that_does_not_exist_is_an_error_at_the_start(place: Place) -> None:
    """D12: `--python /nonexistent/python` started normally, on the server's own."""
    with subprocess.Popen(
        [str(KERNELRY), *place.arguments("--python", "/nonexistent/python")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=place.environment(),
    ) as server:
        try:
            server.wait(HANG)
        except subprocess.TimeoutExpired:
            pytest.fail("the server started and serves")
        finally:
            server.kill()
        assert server.stdout is not None
        assert server.stderr is not None
        said = server.stderr.read()
        assert server.returncode != 0
        assert "/nonexistent/python" in said
        assert "Traceback" not in said
        assert server.stdout.read() == ""


async def test_kernels_and_scripts_run_on_the_interpreter_that_was_named(place: Place) -> None:
    """D12: --python had no effect on kernels."""
    python = needed(SCRATCH / "other-python" / "bin" / "python", "other Python with ipykernel")
    # sys.prefix is that of the session's own environment, which is layered over it.
    shown = "import os, sys; print(sys.version_info[:3], os.path.realpath(sys.executable))"
    version = subprocess.run(
        [str(python), "-c", shown], capture_output=True, text=True, check=True
    ).stdout
    async with stdio_agent(place, "--python", str(python)) as agent:
        done = await agent.run(shown)
        assert done["stdout"] == version
        assert os.path.realpath(sys.executable) not in done["stdout"]
        await agent.ask("save_script", name="which", content=shown)
        assert (await agent.ask("run_script", path="which"))["stdout"] == version


async def test_the_workspace_is_every_kernels_directory_and_its_new_files_are_named(
    agent: Agent, place: Place
) -> None:
    """D13: kernels ran in the server's directory, and new files were missed."""
    assert await agent.value("import os; os.getcwd()") == repr(str(place.workspace))
    made = await agent.run("f = open('mod.txt', 'w'); f.write('1'); f.close()")
    assert made["new_files"] == ["mod.txt"]
    assert (place.workspace / "mod.txt").read_text() == "1"
    changed = await agent.run("with open('outputs/../mod.txt', 'a') as f: f.write('2')")
    assert changed["new_files"] == ["mod.txt"]
    assert (await agent.run("open('mod.txt').read()"))["new_files"] == []


async def test_new_files_are_those_of_the_session_that_wrote_them(agent: Agent) -> None:
    """D13, D17: sessions that ran at the same time were given each other's files."""
    for name in ("a", "b"):
        await agent.ask("create_session", session_id=name)
    found = dict[str, list[str]]()

    async def write(name: str) -> None:
        code = (
            "import time\nfor i in range(5):\n    time.sleep(0.1)\n"
            f"    open(f'outputs/{name}_{{i}}.txt', 'w').close()"
        )
        found[name] = (await agent.run(code, name))["new_files"]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, "a")
        tasks.start_soon(write, "b")
    assert {name: sorted(files) for name, files in found.items()} == {
        name: [f"outputs/{name}_{i}.txt" for i in range(5)] for name in ("a", "b")
    }


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "sum(range(10**12))",  # in C, and never gives the interpreter away
    ],
    ids=["python", "sleep", "native"],
)
async def test_a_busy_kernel_is_healthy_and_told_from_a_dead_one_at_once(
    agent: Agent, code: str
) -> None:
    """D16: a merely busy kernel was 'not responsive', and the advice was to restart it."""
    await agent.run("1")
    running = await agent.run(code, wait=0)
    for tool in ("check_kernel_responsiveness", "get_kernel_health"):
        if "sum" in code:
            with anyio.fail_after(HANG):
                said = await agent.ask(tool)
            verdict = said.get("verdict", said.get("activity"))
            assert str(verdict).startswith("busy") or verdict == "blocked", said
        else:
            said = await agent.health(tool)
            assert said.get("verdict", said.get("activity")) == "busy", said
            assert said.get("responsive", True) is True
            assert said.get("status", "healthy") == "healthy"
    # No answer had to wait for the cell: it does not end by itself.
    read = await agent.ask("get_execution", execution_id=running["execution_id"])
    assert read["status"] == "running"
    await agent.ask("interrupt_execution", force=True)
    assert await agent.value("1+1") == "2"


async def test_asking_how_a_blocked_kernel_is_does_not_disturb_the_call_it_is_in(
    agent: Agent, place: Place
) -> None:
    """D16: a look from outside changes nothing, also when the kernel can't answer for itself."""
    code = (
        "import ctypes, os, subprocess, sys\nr, w = os.pipe()\n"
        "wait = 'import os, time\\nwhile not os.path.exists(\"seen\"): time.sleep(0.05)\\n'\n"
        "late = wait + f'os.write({w}, bytes(1))'\n"
        "p = subprocess.Popen([sys.executable, '-c', late], pass_fds=[w])\n"
        "ctypes.PyDLL(None).read(r, ctypes.create_string_buffer(1), 1)"  # holds the interpreter
    )
    started = await agent.run(code, wait=0)
    with anyio.fail_after(HANG):
        while (await agent.ask("check_kernel_responsiveness"))["verdict"] != "blocked":
            pass
    (place.workspace / "seen").touch()
    done = await agent.ask("get_execution", execution_id=started["execution_id"], wait=HANG)
    assert done["status"] == "completed", done
    assert done["results"] == ["1"]  # bytes read; -1 if something interrupted it


async def test_a_stopped_kernel_is_not_responsive_and_comes_back(agent: Agent) -> None:
    """D16: the opposite of busy; what does not run at all must not be called healthy."""
    await agent.run("x = 1")
    kernel = psutil.Process((await agent.ask("get_kernel_health"))["pid"])
    kernel.suspend()
    assert until(lambda: kernel.status() == psutil.STATUS_STOPPED, HANG)
    stopped = await agent.ask("check_kernel_responsiveness")
    assert (stopped["responsive"], stopped["verdict"]) == (False, "stopped")
    assert (await agent.ask("get_kernel_health"))["status"] == "stopped"
    kernel.resume()
    assert await agent.value("x") == "1"
    assert (await agent.health("check_kernel_responsiveness"))["responsive"] is True


async def test_the_first_output_after_a_start_or_a_restart_is_never_lost(agent: Agent) -> None:
    """D18: nobody waited until a kernel was ready."""
    for number in range(5):
        await agent.ask("create_session", session_id=f"s{number}")
        done = await agent.run(f"print('first of {number}')", f"s{number}")
        assert done["stdout"] == f"first of {number}\n"
        await agent.ask("restart_kernel", session_id=f"s{number}")
        done = await agent.run(f"print('again {number}'); {number}", f"s{number}")
        assert (done["stdout"], done["results"]) == (f"again {number}\n", [str(number)])


async def test_a_deleted_sessions_kernel_may_run_its_exit_handlers(
    agent: Agent, place: Place
) -> None:
    """D19: kernels were always killed."""
    await agent.ask("create_session", session_id="a")
    code = "import atexit; atexit.register(lambda: open('bye', 'w').write('orderly'))"
    await agent.run(code, "a")
    pid = (await agent.ask("get_kernel_health", session_id="a"))["pid"]
    await agent.ask("delete_session", session_id="a")
    assert not psutil.pid_exists(pid)
    assert (place.workspace / "bye").read_text() == "orderly"


async def test_restarts_leave_no_threads_sockets_or_processes_behind(place: Place) -> None:
    """D19: channels were never stopped; each restart leaked threads and sockets."""

    def held() -> tuple[int, int, int]:
        server = place.server()
        return server.num_fds(), len(lasting_threads(server)), len(place.processes())

    # Kernels that are kept ready come and go at any time.
    async with stdio_agent(place, "--warm", "0", command=NAMED_SERVER) as agent:
        await agent.run("1")
        assert until(place.has_fork_server, HANG)
        await agent.ask("restart_kernel")
        await agent.run("1")
        before = settled(place, held)
        for _ in range(10):
            await agent.ask("restart_kernel")
            await agent.run("1")
        after = settled(place, held)
    assert all(now <= then for now, then in zip(after, before, strict=True)), (before, after)


def test_nothing_but_the_protocol_reaches_stdout(place: Place) -> None:
    """D21: a print at session start went into the wire."""
    noise = (
        "import os, subprocess, sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n"
        "os.write(1, b'to fd 1\\n')\nos.write(2, b'to fd 2\\n')\n"
        "sys.__stdout__.write('to the first stdout\\n')\nsys.__stdout__.flush()\n"
        "subprocess.run(['sh', '-c', 'echo from a child; echo to its stderr >&2'])\n"
        "os.system('echo from a shell; cat')"  # cat: the wire can't be read either
    )
    with RawServer(place) as server:
        server.tool("create_session", session_id="noisy")
        done = server.tool("run_python_code", code=noise, session_id="noisy")
        assert done["status"] == "completed", done
        for line in ("to stdout", "to fd 1", "from a child", "from a shell"):
            assert line in done["stdout"]
        server.tool("save_script", name="noisy", content="print('script'); input()")
        script = server.tool("run_script", path="noisy")
        assert (script["returncode"], script["stdout"]) == (1, "script\n")
        server.tool("restart_kernel", session_id="noisy")
        server.tool("delete_session", session_id="noisy")
        # `answer` reads every line as JSON-RPC, so getting here is the proof.
        assert server.tool("run_python_code", code="1+1")["results"] == ["2"]


async def test_a_created_session_has_a_valid_new_id_a_live_kernel_and_counts_against_a_limit(
    place: Place,
) -> None:
    """D22: ids were not checked, duplicates 'succeeded', and nothing was started."""
    async with stdio_agent(place, "--max-sessions", "3") as agent:
        created = await agent.ask("create_session", session_id="a")
        assert (created["status"], created["session"]["kernel"]) == ("created", "idle")
        health = await agent.health(session_id="a")
        assert (health["status"], psutil.pid_exists(health["pid"])) == ("healthy", True)
        await agent.run("x = 1", "a")
        taken = await agent.refused("create_session", session_id="a")
        assert "exists" in taken
        assert "reuse" in taken
        reused = await agent.ask("create_session", session_id="a", if_exists="reuse")
        assert reused["status"] == "existing"
        assert await agent.value("x", "a") == "1"
        await agent.refused("create_session", session_id="a b/../c")
        made = await agent.ask("create_session")
        over = await agent.refused("create_session", session_id="one-too-many")
        assert "3" in over
        assert "delete_session" in over
        listed = await agent.ask("list_sessions")
        assert list(listed["sessions"]) == ["default", "a", made["session_id"]]
        await agent.ask("delete_session", session_id=made["session_id"])
        await agent.ask("create_session", session_id="fits-again")


async def test_text_is_bounded_and_tracebacks_are_plain(agent: Agent) -> None:
    """D23: no sizes were limited; ANSI codes stayed in tracebacks."""
    flood = await agent.call_tool(
        "run_python_code", {"code": "print('x' * 1_000_000)\n'y' * 10**6"}
    )
    assert len(flood.text) < 20_000
    assert flood.data["truncated"] is True
    assert len(str(flood.data)) < 40_000
    failed = await agent.call_tool("run_python_code", {"code": "def f(): 1/0\nf()"})
    error = failed.data["error"]
    assert failed.data["status"] == "failed"
    assert error["type"] == "ZeroDivisionError"
    assert "line 1" in error["traceback"] or "f()" in error["traceback"]
    assert "\x1b" not in failed.text + str(error)
    long = await agent.call_tool("run_python_code", {"code": "raise ValueError('z' * 1_000_000)"})
    assert len(long.text) + len(str(long.data)) < 60_000


async def test_rich_displays_arrive_images_whole_and_updates_in_place(
    agent: Agent, place: Place
) -> None:
    """D23: HTML and JPEG were dropped, images never sent, display updates ignored."""
    code = (
        "import io\nfrom IPython.display import HTML, Image, display\nfrom PIL import Image as P\n"
        "b = io.BytesIO(); P.new('RGB', (8, 4), 'red').save(b, 'JPEG')\n"
        "display(Image(b.getvalue()))\n"
        "h = display('first', display_id=True); h.update('second')\n"
        "display(HTML('<b>bold</b>'))"
    )
    answer = await agent.call_tool("run_python_code", {"code": code})
    [image] = [block for block in answer.content if isinstance(block, ImageContent)]
    assert image.mime_type == "image/jpeg"
    with Image.open(io.BytesIO(base64.b64decode(image.data))) as shown:
        assert shown.size == (8, 4)
    [saved] = [item for item in answer.data["outputs"] if item["mime_type"] == "image/jpeg"]
    assert (place.workspace / saved["path"]).read_bytes() == base64.b64decode(image.data)
    assert "'second'" in answer.data["results"]
    assert "'first'" not in answer.data["results"]
    assert any("HTML" in text or "bold" in text for text in answer.data["results"])


def test_the_servers_own_packages_are_not_touched_by_installing(place: Place) -> None:
    """D11: packages went into the server's own interpreter."""
    before = sorted(Path(sys.prefix).glob("lib/python*/site-packages/*"))
    with RawServer(place) as server:
        done = server.tool("install_dependencies", packages=["packaging>=20"])
        assert (done["returncode"], done["installed"]) == (0, []), done
    assert sorted(Path(sys.prefix).glob("lib/python*/site-packages/*")) == before
