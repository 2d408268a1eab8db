"""The toolsets `control` and `events`, through real clients: one steers what another runs."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp.types import ElicitResult, ErrorData

from .harness import KERNELRY, Agent, HttpServer, Place, http_agent, http_server, stdio_agent

FLAGS = ("--toolsets", "core,control,events")
HANG = 60

TRAINING = """
import time, kernelry_session
step = 0
while True:
    step += 1
    kernelry_session.checkpoint(progress=f"step {step}")
    time.sleep(0.002)
"""


@pytest.fixture
def served(place: Place) -> Any:
    with http_server(place, *FLAGS) as server:
        yield server


@asynccontextmanager
async def controllers(place: Place, other: str) -> AsyncIterator[tuple[Agent, Agent]]:
    """Yield who trains and who controls: one client over stdio, or two over HTTP."""
    if other == "stdio":
        async with stdio_agent(place, *FLAGS) as agent:
            yield agent, agent
    else:
        with http_server(place, *FLAGS) as server:
            async with http_agent(server) as trainer, http_agent(server) as controller:
                yield trainer, controller


async def step(agent: Agent) -> int:
    found = await agent.ask("list_variables", session_id="training")
    return int(found["variables"]["step"]["repr"])


async def test_what_is_paused_is_told_as_paused_with_who_and_what_goes_on(place: Place) -> None:
    async with stdio_agent(place, *FLAGS) as agent:
        await agent.ask("create_session", session_id="training")
        running = await agent.run(TRAINING, "training", wait=0)
        await agent.ask("pause_execution", session_id="training", wait=HANG)
        told = await agent.call("get_execution", execution_id=running["execution_id"])
        first, last = told.text.splitlines()[0], told.text.splitlines()[-1]
        assert re.match(r"\[paused at a safe point by .+ since \d\d:\d\d:\d\d UTC; session", first)
        assert 'resume_execution(session_id="training") lets it go on' in last
        assert "interrupt_execution" not in told.text
        behind = await agent.call("run_python_code", code="1", session_id="training", wait=0)
        assert "queued behind a cell that is paused at a safe point by" in behind.text
        assert "resume_execution" in behind.text
        await agent.ask("resume_execution", session_id="training", wait=HANG)
        told = await agent.call("get_execution", execution_id=running["execution_id"])
        assert told.text.startswith("[running for")
        await agent.ask("stop_execution", session_id="training", wait=HANG)


@pytest.mark.parametrize("other", ["stdio", "http"])
async def test_a_controller_pauses_resumes_and_stops_the_training_of_another_session(
    place: Place, other: str
) -> None:
    async with controllers(place, other) as (trainer, controller):
        await trainer.ask("create_session", session_id="training")
        await controller.ask("create_session", session_id="controller")
        running = await trainer.run(TRAINING, "training", wait=0)
        await controller.run("print('waits')", "controller")
        paused = await controller.ask("pause_execution", session_id="training", wait=HANG)
        assert paused["state"] == "paused"
        assert paused["execution_id"] == running["execution_id"]
        before = await step(controller)
        health = await controller.health(session_id="training")
        assert health["activity"] == "paused"
        assert health["status"] == "healthy"
        asked = await controller.health("check_kernel_responsiveness", session_id="training")
        assert asked["responsive"]
        assert asked["verdict"] == "paused"
        listed = (await controller.ask("list_sessions"))["sessions"]["training"]
        assert listed["status"] == "paused"
        assert await step(controller) == before
        again = await trainer.refused("pause_execution", session_id="training")
        assert "paused already" in again
        assert paused["requested_by"] in again
        resumed = await controller.ask("resume_execution", session_id="training", wait=HANG)
        assert resumed["state"] == "running"
        with anyio.fail_after(HANG):
            while await step(controller) == before:
                pass
        assert "is not paused" in await controller.refused(
            "resume_execution", session_id="training"
        )
        stopped = await controller.ask("stop_execution", session_id="training", wait=HANG)
        assert stopped["state"] == "stopped"
        ended = await trainer.ask("get_execution", execution_id=running["execution_id"])
        assert ended["status"] == "interrupted"
        assert ended["error"]["type"] == "ExecutionStopped"
        assert ended["progress"].startswith("step ")
        assert int(await trainer.value("step", "training")) >= before
        events = await controller.ask(
            "get_events", session_ids=["training"], topics=["execution.*"]
        )
        topics = [event["topic"] for event in events["events"]]
        assert [topic for topic in topics if topic != "execution.started"] == [
            "execution.pause_requested",
            "execution.paused",
            "execution.resume_requested",
            "execution.resumed",
            "execution.stop_requested",
            "execution.ended",
            "execution.ended",
        ]


async def test_progress_of_code_is_in_the_progress_notifications(place: Place) -> None:
    heard = anyio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        if message and message.startswith("step "):
            heard.set()

    async def train(agent: Agent) -> None:
        arguments = {"code": TRAINING, "wait": 2 * HANG}
        result = await agent.client.call_tool("run_python_code", arguments, progress_callback=hear)
        assert result.structured_content
        assert result.structured_content["status"] == "interrupted"

    async with stdio_agent(place, *FLAGS) as agent:
        with anyio.fail_after(HANG):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(train, agent)
                await heard.wait()  # the training has no end of its own
                await agent.ask("interrupt_execution")


async def test_a_question_is_answered_by_the_next_call(place: Place) -> None:
    async with stdio_agent(place, *FLAGS) as agent:
        await agent.ask("create_session", session_id="s", stdin=True)
        asked = await agent.call_tool(
            "run_python_code", {"code": "print('Hi', input('Who? '))", "session_id": "s"}
        )
        assert asked.data["status"] == "waiting_input"
        assert asked.data["prompt"] == "Who? "
        assert "send_input" in asked.text
        execution_id = asked.data["execution_id"]
        sent = await agent.ask("send_input", execution_id=execution_id, text="Ada")
        assert sent["taken"]
        done = await agent.ask("get_execution", execution_id=execution_id, wait=HANG)
        assert (done["status"], done["stdout"]) == ("completed", "Hi Ada\n")
        refused = await agent.refused("send_input", execution_id=execution_id, text="Ada")
        assert "asks nothing" in refused


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_client_that_can_ask_its_user_is_asked(
    place: Place, transport: str, mode: str
) -> None:
    asked: list[str] = []

    async def elicit(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        if "secret" in params.message:
            return ElicitResult(action="decline")
        return ElicitResult(action="accept", content={"answer": f"answer {len(asked)}"})

    @asynccontextmanager
    async def connected() -> AsyncIterator[Agent]:
        if transport == "stdio":
            async with stdio_agent(place, *FLAGS, mode=mode, elicitation_callback=elicit) as agent:
                yield agent
        else:
            with http_server(place, *FLAGS) as server:
                async with http_agent(server, mode, elicitation_callback=elicit) as agent:
                    yield agent

    async with connected() as agent:
        await agent.ask("create_session", session_id="s", stdin=True)
        done = await agent.run("print(input('First? '), input('Second? '))", "s")
        assert (done["status"], done["stdout"]) == ("completed", "answer 1 answer 2\n")
        assert asked == ["First?", "Second?"]
        assert done["execution_index"] == 1
        declined = await agent.run("input('a secret')", "s")
        assert declined["status"] == "waiting_input"
        await agent.ask("interrupt_execution", session_id="s")
        asked.clear()
        hidden = await agent.run("import getpass; getpass.getpass('Password: ')", "s")
        assert (hidden["status"], asked) == ("waiting_input", [])


async def test_rt_10_messages_go_from_client_to_client(served: HttpServer) -> None:
    async with http_agent(served) as one, http_agent(served, "legacy") as other:
        since = (await other.ask("get_events"))["next_since"]
        found: dict[str, Any] = {}

        async def wait() -> None:
            found.update(await other.ask("get_events", since=since, topics=["news.*"], wait=HANG))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await one.ask("publish_event", topic="news.one", data={"x": [1, 2]})
        (event,) = found["events"]
        assert event["data"] == {"x": [1, 2]}
        assert (await other.ask("get_events", since=found["next_since"]))["events"] == []
        refused = await one.refused("publish_event", topic="session.created")
        assert "the server's own" in refused


async def test_tv_8_a_session_has_a_parent_and_children(place: Place) -> None:
    async with stdio_agent(place, *FLAGS) as agent:
        done = await agent.run("1")
        created = await agent.ask(
            "create_session",
            session_id="child",
            parent_session_id="default",
            parent_execution_id=done["execution_id"],
        )
        assert created["session"]["parent_execution_id"] == done["execution_id"]
        await agent.ask("create_session", session_id="other")
        listed = await agent.ask("list_sessions", parent="default")
        assert list(listed["sessions"]) == ["child"]
        everything = (await agent.ask("list_sessions"))["sessions"]
        assert everything["default"]["children"] == ["child"]
        code = "import kernelry_session; kernelry_session.parent_session_id"
        assert await agent.value(code, "child") == "'default'"
        refused = await agent.refused("create_session", session_id="x", parent_session_id="gone")
        assert "no session 'gone'" in refused
        refused = await agent.refused(
            "create_session",
            session_id="x",
            parent_session_id="other",
            parent_execution_id=done["execution_id"],
        )
        assert "not one of its parent" in refused
        await agent.ask("create_session", session_id="grand", parent_session_id="child")
        await agent.ask("delete_session", session_id="child")
        refused = await agent.refused(
            "create_session", session_id="child", parent_session_id="grand"
        )
        assert "that was made for it" in refused


async def test_rt_14_the_log_is_printed_and_followed_beside_the_server(place: Place) -> None:
    def command(*more: str) -> list[str]:
        return [str(KERNELRY), "events", "--state-dir", str(place.state), *more]

    async with stdio_agent(place, *FLAGS) as agent:
        await agent.ask("create_session", session_id="s")
        await agent.run("1", "s")
        await agent.run("raise ValueError('\\x1b[31mred\\x1b[0m')", "s")
        printed = await anyio.run_process(command("--session", "s"), env=place.environment())
        lines = [json.loads(line) for line in printed.stdout.splitlines()]
        assert [line["topic"] for line in lines] == [
            "session.created",
            "kernel.started",
            *("execution.started", "execution.ended") * 2,
        ]
        completed, failed = (lines[at]["data"] for at in (3, 5))
        assert (completed["status"], completed["error"]) == ("completed", "")
        assert completed["duration"] > 0
        assert (failed["status"], failed["error"]) == ("failed", "ValueError: red")
        assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
        since = str(lines[-1]["seq"])
        following = command("--follow", "--since", since, "--topic", "news.*")
        async with await anyio.open_process(following, env=place.environment()) as process:
            await agent.ask("publish_event", topic="other")
            await agent.ask("publish_event", topic="news.one", data=1)
            assert process.stdout is not None
            with anyio.fail_after(HANG):
                line = await process.stdout.receive()
            assert json.loads(line)["topic"] == "news.one"
            process.terminate()
    missing = [*command()[:3], str(place.root / "nowhere")]
    refused = await anyio.run_process(missing, check=False, env=place.environment())
    assert refused.returncode == 1
    assert b"no server has used this state directory" in refused.stderr


async def test_a_client_that_can_not_ask_after_all_leaves_the_question_to_the_next_call(
    place: Place,
) -> None:
    async def elicit(context: Any, params: Any) -> ErrorData:
        return ErrorData(code=-32603, message="nobody is here")

    async with stdio_agent(place, *FLAGS, mode="legacy", elicitation_callback=elicit) as agent:
        await agent.ask("create_session", session_id="s", stdin=True)
        asked = await agent.run("print(input())", "s")
        assert asked["status"] == "waiting_input"
        await agent.ask("send_input", execution_id=asked["execution_id"], text="x")
        done = await agent.ask("get_execution", execution_id=asked["execution_id"], wait=HANG)
        assert done["stdout"] == "x\n"


async def test_a_call_that_is_cancelled_while_its_user_is_asked_interrupts_the_cell(
    place: Place,
) -> None:
    being_asked = anyio.Event()

    async def elicit(context: Any, params: Any) -> ElicitResult:
        being_asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with stdio_agent(place, *FLAGS, mode="legacy", elicitation_callback=elicit) as agent:
        await agent.ask("create_session", session_id="s", stdin=True)
        execution_id, status = "", ""
        with anyio.fail_after(HANG):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(agent.run, "input()", "s")
                await being_asked.wait()
                health = await agent.ask("get_kernel_health", session_id="s")
                execution_id = str(health["execution_id"])
                tasks.cancel_scope.cancel()
        with anyio.fail_after(HANG):
            while status in ("", "waiting_input", "running"):
                found = await agent.ask("get_execution", execution_id=execution_id)
                status = found["status"]
        assert status == "interrupted"
