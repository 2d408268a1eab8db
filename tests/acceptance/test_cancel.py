"""A call that its client gives up: its cell is interrupted, or goes on, as it should."""

import time

import anyio

from tests.faults.matrix import fault

from .harness import HANG, Agent, HttpServer, Place, RawServer, http_agent, stdio_agent, until

#: ends when the test lets it
SLOW = """
import os, time
i = 0
while not os.path.exists("go"):
    print("line", i, flush=True)
    i += 1
    time.sleep(0.1)
"""


async def give_up(agent: Agent) -> str:
    """Call, cancel the call when its cell runs, and return the execution's id."""
    execution_id = ""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(agent.run, SLOW)
            while not execution_id:
                execution_id = (await agent.ask("get_kernel_health"))["execution_id"]
            tasks.cancel_scope.cancel()
    return str(execution_id)


async def outcome(agent: Agent, execution_id: str) -> str:
    found = await agent.ask("get_execution", execution_id=execution_id, wait=60)
    return str(found["status"])


@fault("C6")
async def test_a_cancelled_call_interrupts_its_cell_and_keeps_the_session(place: Place) -> None:
    for mode in ("auto", "legacy"):
        async with stdio_agent(place, mode=mode) as agent:
            await agent.run("kept = 1")
            assert await outcome(agent, await give_up(agent)) == "interrupted"
            assert await agent.value("kept") == "1"


@fault("C6")
async def test_a_cancelled_call_over_the_older_http_interrupts_too(served: HttpServer) -> None:
    async with http_agent(served, mode="legacy") as agent:
        await agent.run("1")
        assert await outcome(agent, await give_up(agent)) == "interrupted"


@fault("C6")
def test_a_call_that_is_cancelled_at_once_leaves_nothing_running(place: Place) -> None:
    with RawServer(place) as server:
        server.tool("run_python_code", code="kept = 1")
        for delay in range(40):
            number = server.start_tool("run_python_code", code="while True: pass", wait=60)
            time.sleep(delay / 10_000)  # it is being written down, queued, sent, or runs
            params = {"requestId": number}
            server.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

            def is_idle() -> bool:
                listed = server.tool("list_sessions")["sessions"]["default"]
                return bool(listed["kernel"] == "idle")

            assert until(is_idle, HANG), f"cancelled after {delay / 10} ms, it still runs"
        assert server.tool("run_python_code", code="kept")["results"] == ["1"]


async def test_a_response_stream_that_closes_only_detaches(
    served: HttpServer, place: Place
) -> None:
    """On the newer HTTP wire a cancel and a lost connection are the same thing."""
    async with http_agent(served) as agent:
        await agent.run("1")
        execution_id = await give_up(agent)
        (place.workspace / "go").touch()
        assert await outcome(agent, execution_id) == "completed"


async def test_a_cancelled_call_detaches_where_it_was_asked_to(place: Place) -> None:
    async with stdio_agent(place, "--on-cancel", "detach") as agent:
        await agent.run("1")
        execution_id = await give_up(agent)
        (place.workspace / "go").touch()
        assert await outcome(agent, execution_id) == "completed"


async def test_progress_carries_the_newest_line(agent: Agent, place: Place) -> None:
    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")
        (place.workspace / "go").touch()

    await agent.client.call_tool("run_python_code", {"code": SLOW}, progress_callback=hear)
    assert heard
    assert all(message.startswith("line ") for message in heard)


async def test_progress_goes_on_when_output_was_spilled(agent: Agent, place: Place) -> None:
    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")
        if heard[-1].startswith("line "):
            (place.workspace / "go").touch()

    code = f"print('x' * 300_000)\n{SLOW}"
    await agent.client.call_tool("run_python_code", {"code": code}, progress_callback=hear)
    assert any(message.startswith("line ") for message in heard)
