"""The acceptance list of the first release, lines 3 to 9, each as written."""

import base64
import io
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from mcp.types import ImageContent
from PIL import Image

from tests.faults.matrix import fault

from .harness import (
    KERNELRY,
    NAMED_SERVER,
    Agent,
    HttpServer,
    Place,
    RawServer,
    accepts_connections,
    http_agent,
    http_server,
    lasting_threads,
    settled,
    stdio_agent,
    until,
)

MEBIBYTE = 1 << 20
HANG = 60  # seconds after which a test is stuck
PAGE = 40_000  # characters of the largest page
#: code that can't end before the test lets it
UNTIL_GO = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\n"


# Line 3: running code


async def test_a_cell_that_is_silent_for_four_seconds_gives_both_lines(agent: Agent) -> None:
    done = await agent.run("from time import sleep\nprint('a'); sleep(4); print('b')")
    assert (done["status"], done["stdout"]) == ("completed", "a\nb\n")
    assert done["execution_time"] >= 4


async def test_an_infinite_loop_times_out_after_one_mark_and_keeps_the_variables(
    agent: Agent, place: Place
) -> None:
    await agent.run("before = 'here'")
    began = time.monotonic()
    with anyio.fail_after(HANG):
        done = await agent.run(
            "with open('marks.txt', 'a') as f: f.write('mark\\n')\nwhile True: pass", timeout=2
        )
    assert done["status"] == "timed_out"
    assert time.monotonic() - began >= 2
    assert await agent.value("before") == "'here'"
    assert (place.workspace / "marks.txt").read_text() == "mark\n"


async def test_a_kernel_that_exits_is_named_dead_and_restarted_on_request(agent: Agent) -> None:
    died = await agent.call_tool("run_python_code", {"code": "import os; os._exit(3)"})
    assert died.data["status"] == "died"
    assert "exit code 3" in died.data["error"]["message"]
    assert "restart_kernel" in died.text
    following = await agent.refused("run_python_code", code="1+1")
    assert "exit code 3" in following
    assert "restart_kernel" in following
    await agent.ask("restart_kernel")
    assert await agent.value("1+1") == "2"


async def test_input_raises_at_once(agent: Agent) -> None:
    with anyio.fail_after(HANG):  # nothing else would end it: it has no timeout
        done = await agent.run("input()", wait=2 * HANG)
    assert done["status"] == "failed"
    assert "variable" in done["error"]["message"]


@fault("B18")
async def test_a_cell_behind_a_failing_one_runs(agent: Agent) -> None:
    failing = await agent.run("import time; time.sleep(0.5); 1/0", wait=0)
    queued = await agent.run("'I ran'", wait=0)
    last = await agent.run("'me too'")
    assert failing["status"] == "running"
    assert queued["status"] == "queued"
    assert last["results"] == ["'me too'"]
    ends = [
        await agent.ask("get_execution", execution_id=item["execution_id"])
        for item in (failing, queued)
    ]
    assert [item["status"] for item in ends] == ["failed", "completed"]
    assert ends[0]["error"]["type"] == "ZeroDivisionError"
    assert ends[1]["results"] == ["'I ran'"]


@fault("B18")
async def test_a_cell_behind_one_that_is_interrupted_or_dies_is_never_silently_dropped(
    agent: Agent,
) -> None:
    spinning = await agent.run("while True: pass", wait=0)
    behind = await agent.run("'after the interrupt'", wait=0)
    await agent.ask("interrupt_execution", execution_id=spinning["execution_id"])
    done = await agent.ask("get_execution", execution_id=behind["execution_id"], wait=HANG)
    assert (done["status"], done["results"]) == ("completed", ["'after the interrupt'"])

    dying = await agent.run("import os, time; time.sleep(0.5); os._exit(3)", wait=0)
    behind = await agent.run("'never'", wait=0)
    dead = await agent.ask("get_execution", execution_id=dying["execution_id"], wait=HANG)
    done = await agent.ask("get_execution", execution_id=behind["execution_id"], wait=HANG)
    assert (dead["status"], done["status"]) == ("died", "cancelled")
    assert "died" in done["error"]["message"]


# Line 4: sessions run side by side


async def test_two_sessions_sleep_at_the_same_time_and_listing_does_not_wait(
    agent: Agent, place: Place
) -> None:
    for name in ("a", "b"):
        await agent.ask("create_session", session_id=name)
    ended: list[str] = []

    async def sleep(name: str) -> None:
        code = f"open('sleeps-{name}', 'w').close()\n{UNTIL_GO}'slept'"
        done = await agent.run(code, name, wait=2 * HANG)
        assert done["results"] == ["'slept'"]
        ended.append(name)

    with anyio.fail_after(HANG):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sleep, "a")
            tasks.start_soon(sleep, "b")
            # Neither can end before both have begun, and each answer comes while both sleep.
            while len(list(place.workspace.glob("sleeps-*"))) < 2:
                await agent.ask("list_sessions")
            for _ in range(20):
                sessions = (await agent.ask("list_sessions"))["sessions"]
                assert [sessions[name]["kernel"] for name in ("a", "b")] == ["busy", "busy"]
            assert not ended
            (place.workspace / "go").touch()
    assert sorted(ended) == ["a", "b"]


# Line 5: not waiting


async def test_a_call_that_does_not_wait_answers_at_once_and_is_read_later(
    agent: Agent, place: Place
) -> None:
    code = f"print('line', 0)\n{UNTIL_GO}for i in range(1, 5): print('line', i)\n'end'"
    with anyio.fail_after(HANG):  # the cell can't end before it has answered
        started = await agent.run(code, wait=0)
    assert started["status"] == "running"
    execution = {"execution_id": started["execution_id"]}
    with anyio.fail_after(HANG):
        while not (partial := await agent.ask("get_execution", **execution))["stdout"]:
            await anyio.sleep(0.05)
    assert partial["status"] == "running"
    assert partial["stdout"] == "line 0\n"
    (place.workspace / "go").touch()
    full = await agent.ask("get_execution", **execution, wait=HANG)
    assert full["status"] == "completed"
    assert full["stdout"] == "".join(f"line {i}\n" for i in range(5))
    assert full["results"] == ["'end'"]


# Line 6: floods


def memory_of(process: psutil.Process) -> int:
    """Return the bytes a process has in memory."""
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system does not tell")


class Flood:
    """A flood of output, during which another session must answer and the server stay small."""

    def __init__(self, agent: Agent, place: Place) -> None:
        self.agent = agent
        self._server = place.server()

    async def run(self, code: str) -> dict[str, Any]:
        """Run the code and return the execution."""
        agent = self.agent
        await agent.ask("create_session", session_id="free")
        await agent.run("print('warm'); 1", "free")
        await agent.run("print('x' * 200_000)")  # the first spill; what it loads stays
        before = peak = memory_of(self._server)
        started = await agent.run(code, wait=0)
        answers = 0  # of the other session, while the flood went on
        with anyio.fail_after(120):
            while True:
                assert await agent.value(f"{answers} + 1", "free") == str(answers + 1)
                peak = max(peak, memory_of(self._server))
                done = await agent.ask("get_execution", execution_id=started["execution_id"])
                if done["status"] != "running":
                    break
                answers += 1
                await anyio.sleep(0.02)
        assert done["status"] == "completed", done["error"]
        assert answers
        assert peak - before < 20 * MEBIBYTE, f"the server grew by {(peak - before) >> 20} MiB"
        assert done["truncated"] is True
        assert len(str(done)) < 60_000
        return done

    async def page(self, done: dict[str, Any], offset: int, limit: int = PAGE) -> dict[str, Any]:
        """Read one page of the whole text."""
        execution = {"execution_id": done["execution_id"]}
        return await self.agent.ask("get_execution", **execution, offset=offset, limit=limit)

    async def text(self, done: dict[str, Any]) -> str:
        """Read the whole text page by page."""
        pieces, offset = list[str](), 0
        while offset >= 0:
            page = await self.page(done, offset)
            assert page["offset"] == offset
            pieces.append(page["text"])
            offset = page["next_offset"]
        return "".join(pieces)


@fault("B13")
@pytest.mark.alone
async def test_three_hundred_megabytes_printed_at_once(agent: Agent, place: Place) -> None:
    flood = Flood(agent, place)
    count = 300_000_000
    done = await flood.run(f"s = '0123456789' * {count // 10}; print(s); print('the end')")
    # What did not fit is counted, so head + kept + left out is what was printed.
    first = await flood.page(done, 0)
    assert first["text"] == "0123456789" * (PAGE // 10)
    cap = 64 << 20
    kept = await flood.page(done, cap - PAGE)
    assert set(kept["text"]) == set("0123456789")
    assert kept["text"][:10] == "".join(str((cap - PAGE + i) % 10) for i in range(10))
    last = await flood.page(done, done["total_chars"] - 200)
    assert last["text"].endswith("the end\n")
    assert last["next_offset"] == -1
    beyond = await flood.page(done, done["total_chars"] - 5000, 5000)
    notice = beyond["text"].partition("[... ")[2].partition(" characters beyond")[0]
    gone = int(notice)
    shown = done["total_chars"] - len(
        f"\n[... {gone} characters beyond the limit were not kept ...]\n"
    )
    assert shown + gone == count + 1 + len("the end\n")


@fault("B13")
@pytest.mark.alone
async def test_a_million_lines(agent: Agent, place: Place) -> None:
    flood = Flood(agent, place)
    done = await flood.run("for i in range(1_000_000): print(i)")
    expected = "".join(f"{i}\n" for i in range(1_000_000))
    assert done["total_chars"] == len(expected)
    assert await flood.text(done) == expected
    assert done["stdout"].startswith("0\n1\n2\n")
    assert done["stdout"].endswith("999998\n999999\n")


@fault("B13")
@pytest.mark.alone
async def test_twenty_thousand_displays(agent: Agent, place: Place) -> None:
    flood = Flood(agent, place)
    done = await flood.run("for i in range(20_000): display(i)")
    expected = "".join(f"{i}\n" for i in range(20_000))
    assert await flood.text(done) == expected
    assert done["total_chars"] == len(expected)
    assert "19800" in done["note"]  # 200 were sent, the rest became lines of text
    assert len(done["results"]) < 50


@fault("B13")
@pytest.mark.alone
async def test_a_child_process_that_writes_a_hundred_megabytes(agent: Agent, place: Place) -> None:
    flood = Flood(agent, place)
    count = 100_000_000
    child = f"import sys; [sys.stdout.write('y' * 999 + '\\n') for _ in range({count // 1000})]"
    done = await flood.run(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}]).returncode"
    )
    assert done["results"] == ["0"]
    line = "y" * 999 + "\n"
    assert (await flood.page(done, 0, 5000))["text"] == line * 5
    assert (await flood.page(done, 50_000_000, 5000))["text"] == line * 5
    tail = await flood.page(done, done["total_chars"] - 5000, 5000)
    gone = int(tail["text"].partition("[... ")[2].partition(" characters beyond")[0] or 0)
    notice = f"\n[... {gone} characters beyond the limit were not kept ...]\n"
    assert done["total_chars"] - len(notice) + gone == count + len("0\n")


# Line 7: images


async def test_a_figure_comes_back_as_an_image_and_lies_in_outputs(
    agent: Agent, place: Place
) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.title('shown')\nplt.show()"
    answer = await agent.call_tool("run_python_code", {"code": code})
    assert answer.data["status"] == "completed", answer.data
    [image] = [block for block in answer.content if isinstance(block, ImageContent)]
    assert image.mime_type == "image/png"
    with Image.open(io.BytesIO(base64.b64decode(image.data))) as shown:
        shown.load()
        assert min(shown.size) > 100
    [saved] = answer.data["outputs"]
    assert saved["mime_type"] == "image/png"
    path = place.workspace / saved["path"]
    assert path.parent == place.outputs
    with Image.open(path) as kept:
        kept.load()
    [link] = [block for block in answer.content if block.type == "resource_link"]
    resource = await agent.client.read_resource(str(link.uri))
    [content] = resource.contents
    assert base64.b64decode(content.blob) == path.read_bytes()  # type: ignore[union-attr]


# Line 8: the end


ENDS = ["EOF", "SIGTERM", "SIGINT"]


def end(server: subprocess.Popen[str], how: str) -> None:
    """End a server in one of the ways it may be ended."""
    if how == "EOF":
        assert server.stdin is not None
        server.stdin.close()
    else:
        server.send_signal(signal.Signals[how])


@fault("C8")
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize(
    "cell",
    [
        "",
        "import time\nwhile True: time.sleep(0.01)",
        "while True:\n    try:\n        while True: pass\n    except KeyboardInterrupt: pass",
        "sum(range(10**12))",
        "import subprocess; subprocess.run(['sleep', '1000'], start_new_session=True)",
    ],
    ids=["idle", "busy", "stubborn", "native", "child"],
)
def test_a_server_over_stdio_ends_in_order_and_leaves_no_process(
    place: Place, cell: str, how: str
) -> None:
    with RawServer(place) as server:
        server.tool("create_session", session_id="a")
        server.tool("run_python_code", code="1+1", session_id="a")
        server.tool("run_python_code", code="1+1")
        if cell:
            running = server.tool("run_python_code", code=cell, session_id="a", wait=0.5)
            assert running["status"] == "running"
        alive = place.processes()
        assert len(alive) >= 3
        end(server.process, how)
        # No cell ends by itself, so none was waited for.
        assert server.process.wait(HANG) == 0
        assert not place.survivors(HANG)


@fault("C8")
@pytest.mark.parametrize("how", ENDS)
def test_a_server_over_stdio_ends_with_a_call_that_waits_for_its_cell(
    place: Place, how: str
) -> None:
    with RawServer(place) as server:
        server.tool("run_python_code", code="1")
        server.start_tool("run_python_code", code="print('begun', flush=True)\nwhile True: pass")
        listed: dict[str, Any] = {}
        while listed.get("kernel") != "busy":
            listed = server.tool("list_sessions")["sessions"]["default"]
        end(server.process, how)
        assert server.process.wait(HANG) == 0  # neither the cell nor the call ends by itself


def test_a_server_that_can_read_nothing_ends_at_once(place: Place) -> None:
    for source in ("/dev/null", os.devnull, str(place.root / "empty")):
        Path(place.root / "empty").touch()
        with Path(source).open() as nothing:
            done = subprocess.run(
                [str(KERNELRY), *place.arguments()],
                stdin=nothing,
                capture_output=True,
                text=True,
                timeout=HANG,
                env=place.environment(),
                check=False,
            )
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_server_over_http_ends_in_order_and_leaves_no_process(
    place: Place, how: str, busy: bool
) -> None:
    with http_server(place) as server:
        async with http_agent(server) as agent:
            await agent.run("1+1")
            if busy:
                await agent.run("while True: pass", wait=0)
        server.process.send_signal(signal.Signals[how])
        assert await anyio.to_thread.run_sync(server.process.wait, HANG) == 0
    assert not place.survivors(HANG)


def test_the_address_is_told_when_connections_are_accepted(place: Place) -> None:
    with http_server(place, wait=False) as server:
        assert accepts_connections(server.address)


async def test_http_without_the_token_is_refused(served: HttpServer) -> None:
    import httpx2

    async with httpx2.AsyncClient() as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": served.token}):
            for method in ("GET", "POST", "DELETE"):
                answer = await http.request(method, served.url, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"


# Line 9: nothing is left behind


async def test_a_hundred_sessions_created_used_and_deleted_leave_nothing(place: Place) -> None:
    def held() -> dict[str, int]:
        files = [path for path in place.root.rglob("*") if "server.log" not in path.name]
        return {
            "fds": server.num_fds(),
            "threads": len(lasting_threads(server)),
            "processes": len(place.processes()),
            "files": len(files),
            "runtime files": len(list(place.runtime.rglob("*"))),
        }

    async def cycle(number: int) -> None:
        name = f"cycle_{number}"
        await agent.ask("create_session", session_id=name)
        done = await agent.run(f"print('x' * 200_000); {number}", name)
        assert done["results"] == [str(number)]
        await agent.ask("delete_session", session_id=name)

    async with stdio_agent(place, command=NAMED_SERVER) as agent:
        server = place.server()
        await agent.run("1")
        assert until(place.has_fork_server, HANG)
        for number in range(5):
            await cycle(number)
        before = settled(place, held)
        for number in range(5, 105):
            await cycle(number)
        after = settled(place, held)
        assert all(after[name] <= before[name] for name in before), (before, after)
        listed = await agent.ask("list_sessions")
        assert list(listed["sessions"]) == ["default"]
