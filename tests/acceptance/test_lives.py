"""Sessions that are suspended, resumed and restarted with their variables, through real clients."""

import signal
from collections.abc import AsyncIterator

import pytest

from kernelry.crashpoints import SUSPEND_POINTS

from .harness import (
    Agent,
    HttpServer,
    Place,
    http_agent,
    http_server,
    killed_at,
    stdio_agent,
)

FLAGS = ("--toolsets", "core,control,checkpoints")


@pytest.fixture
async def agent(place: Place) -> AsyncIterator[Agent]:
    async with stdio_agent(place, *FLAGS) as agent:
        yield agent


async def test_pr_5_a_session_is_suspended_and_comes_back_by_a_call_or_by_running_code(
    agent: Agent,
) -> None:
    await agent.ask("create_session", session_id="s")
    await agent.run("import threading\nx = [1]\ny = x\nlock = threading.Lock()", "s")
    done = await agent.ask("suspend_session", session_id="s", reason="lunch")
    assert {"x", "y"} <= set(done["variables"])
    assert "lock" in done["skipped"]
    assert done["blocked"] < 5  # seconds; docs/performance.md has the number
    listed = (await agent.ask("list_sessions"))["sessions"]["s"]
    assert (listed["status"], listed["kernel"], listed["reason"]) == (
        "suspended",
        "not_started",
        "lunch",
    )
    refused = await agent.refused("suspend_session", session_id="s")
    assert "is suspended and can't be suspended: it can become active" in refused
    resumed = await agent.ask("resume_session", session_id="s")
    assert resumed["before"] == "suspended"
    assert "lock" in resumed["missing"]
    assert await agent.value("x is y", "s") == "True"
    assert "nothing to resume" in await agent.refused("resume_session", session_id="s")
    await agent.ask("suspend_session", session_id="s")
    again = await agent.run("x", "s")
    assert again["results"] == ["[1]"]
    assert "resumed from its checkpoint" in again["note"]
    await agent.ask("suspend_session", session_id="s")
    assert "x" in (await agent.ask("list_variables", session_id="s"))["variables"]
    await agent.ask("suspend_session", session_id="s")
    assert (await agent.ask("restart_kernel", session_id="s"))["variables_kept"] is False
    assert (await agent.run("x", "s"))["status"] == "failed"


async def test_variables_are_there_again_after_the_server_was_stopped_in_order(
    place: Place,
) -> None:
    async with stdio_agent(place) as agent:
        await agent.run("kept = 41")
    async with stdio_agent(place) as agent:
        listed = (await agent.ask("list_sessions"))["sessions"]["default"]
        assert (listed["status"], listed["reason"]) == ("suspended", "the server was shut down")
        assert await agent.value("kept + 1") == "42"
    with http_server(place, "--no-save-on-stop") as server:
        async with http_agent(server) as agent:
            await agent.run("other = 1")
    async with stdio_agent(place) as agent:
        done = await agent.run("other")
        assert done["status"] == "failed"


async def test_pr_15_a_signal_leaves_a_session_that_runs_code_resumable(place: Place) -> None:
    with http_server(place, *FLAGS) as server:
        async with http_agent(server) as agent:
            await agent.run("kept = 1")
            await agent.ask("create_checkpoint")
            running = await agent.run("print('begun', flush=True)\nwhile True: pass", wait=1)
            place.server().send_signal(signal.SIGTERM)
    async with stdio_agent(place, *FLAGS) as agent:
        ended = await agent.ask("get_execution", execution_id=running["execution_id"])
        assert ended["status"] == "died"
        assert ended["stdout"] == "begun\n"
        resumed = await agent.ask("resume_session")
        assert "kept" in resumed["restored"]
        assert await agent.value("kept") == "1"


async def test_a_resume_that_two_clients_want_is_done_once(place: Place) -> None:
    with http_server(place, *FLAGS) as server:
        await resume_at_once(server)


async def resume_at_once(server: HttpServer) -> None:
    import anyio

    async with http_agent(server) as one, http_agent(server, "legacy") as other:
        await one.run("x = 1")
        await one.ask("suspend_session")
        answers = []

        async def resume(agent: Agent) -> None:
            answers.append(await agent.call("resume_session"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(resume, one)
            tasks.start_soon(resume, other)
        assert sorted(answer.is_error for answer in answers) == [False, True]
        (lost,) = [answer.text for answer in answers if answer.is_error]
        assert "being resumed since" in lost or "nothing to resume" in lost
        assert await other.value("x") == "1"


@pytest.mark.parametrize("point", SUSPEND_POINTS)
async def test_a_server_killed_while_it_suspends_loses_no_variables(
    place: Place, point: str
) -> None:
    killed_at(point, place, FLAGS, code="kept = 41", tool="suspend_session")
    async with stdio_agent(place, *FLAGS) as agent:
        listed = (await agent.ask("list_sessions"))["sessions"]["default"]
        expected = ("suspended", "not_started") if point == "suspend.marked" else ("active", "idle")
        assert (listed["status"], listed["kernel"]) == expected
        assert await agent.value("kept + 1") == "42"
