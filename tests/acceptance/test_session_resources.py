"""Sessions, executions, events and graphs as resources; updates of them; prompts."""

import json
from typing import Any

import anyio
import pytest
from mcp import MCPDeprecationWarning, MCPError

from .harness import Agent, Place, http_agent, http_server, stdio_agent

FLAGS = ("--toolsets", "all")
SHARES_A_SERVER = True
HANG = 60


async def read(agent: Agent, uri: str) -> Any:
    found = await agent.client.read_resource(uri)
    (content,) = found.contents
    return json.loads(content.text)  # type: ignore[union-attr]


async def test_pr_4_a_session_its_executions_and_events_are_resources(agent: Agent) -> None:
    await agent.ask("create_session", session_id="s", description="d", metadata={"n": 1})
    done = await agent.run("print('x' * 10)", "s")
    record = await read(agent, "session://s")
    assert (record["description"], record["metadata"]) == ("d", {"n": 1})
    assert (record["status"], record["reason"], record["execution_count"]) == ("active", "", 1)
    assert record["created_at"] < record["last_activity_at"]
    ran = await read(agent, "session://s/executions/1")
    assert (ran["code"], ran["stdout"]) == ("print('x' * 10)", "x" * 10 + "\n")
    assert ran["execution_id"] == done["execution_id"]
    topics = [event["topic"] for event in await read(agent, "session://s/events")]
    assert topics == [
        "session.created",
        "kernel.started",
        "execution.started",
        "execution.ended",
    ]
    for uri in ("session://gone", "session://s/executions/2", "session://s/executions/x"):
        with pytest.raises(MCPError):
            await agent.client.read_resource(uri)


async def test_rt_7_the_graph_of_a_session_has_what_descends_from_it_and_nothing_else(
    agent: Agent,
) -> None:
    await agent.ask("create_session", session_id="top")
    done = await agent.run("open('outputs/made.txt', 'w').write('x')", "top")
    await agent.ask(
        "create_session",
        session_id="below",
        parent_session_id="top",
        parent_execution_id=done["execution_id"],
    )
    below = await agent.run("1 / 0", "below")
    stored = await agent.ask("store_artifact", session_id="below", name="note", content="mind")
    graph = await read(agent, "session://top/graph")
    nodes = {node["id"]: node for node in graph["nodes"]}
    ran, failed = f"execution:{done['execution_id']}", f"execution:{below['execution_id']}"
    note = f"artifact:{stored['artifact_id']}"
    shown = {"session:top", "session:below", ran, failed, "file:outputs/made.txt", note}
    assert nodes.keys() == shown
    assert nodes[failed]["error"].startswith("ZeroDivisionError")
    edges = {(edge["source"], edge["kind"], edge["target"]) for edge in graph["edges"]}
    assert edges == {
        ("session:top", "ran", ran),
        (ran, "produced", "file:outputs/made.txt"),
        (ran, "spawned", "session:below"),
        ("session:below", "ran", failed),
        ("session:below", "produced", note),
    }
    assert graph["omitted"] == 0
    part = await read(agent, "session://below/graph")
    assert {node["id"] for node in part["nodes"]} == {"session:below", failed, note}
    with pytest.raises(MCPError):
        await agent.client.read_resource("session://gone/graph")


async def test_ids_in_addresses_and_prompts_are_completed(agent: Agent) -> None:
    from mcp.types import PromptReference, ResourceTemplateReference

    for name in ("alpha", "alpine", "beta"):
        await agent.ask("create_session", session_id=name)
    done = await agent.run("1", "beta")
    await agent.run("2", "beta")

    async def complete(reference: Any, name: str, value: str, **context: str) -> list[str]:
        found = await agent.client.complete(
            reference, {"name": name, "value": value}, context_arguments=context or None
        )
        return list(found.completion.values)

    session = ResourceTemplateReference(uri="session://{session_id}")
    assert await complete(session, "session_id", "al") == ["alpha", "alpine"]
    execution = ResourceTemplateReference(uri="session://{session_id}/executions/{index}")
    assert await complete(execution, "index", "", session_id="beta") == ["1", "2"]
    prompt = PromptReference(name="summarise_session")
    assert await complete(prompt, "session_id", "b") == ["beta"]
    debug = PromptReference(name="debug_execution")
    start = done["execution_id"][:8]
    assert done["execution_id"] in await complete(debug, "execution_id", start)


async def test_prompts_say_what_the_server_knows(agent: Agent) -> None:
    done = await agent.run("1 / 0")
    listed = await agent.client.list_prompts()
    assert {prompt.name for prompt in listed.prompts} == {
        "analyse_file",
        "debug_execution",
        "summarise_session",
    }

    async def text(name: str, **arguments: str) -> str:
        found = await agent.client.get_prompt(name, arguments)
        return str(found.messages[0].content.text)  # type: ignore[union-attr]

    assert "ZeroDivisionError" in await text("debug_execution", execution_id=done["execution_id"])
    assert "1. [failed] 1 / 0 -> ZeroDivisionError" in await text(
        "summarise_session", session_id="default"
    )
    assert "uploads/x.csv" in await text("analyse_file", path="uploads/x.csv")


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_client_of_the_newer_wire_is_told_what_changed(
    place: Place, transport: str
) -> None:
    async def check(agent: Agent) -> None:
        await agent.run("1")
        wanted = ["session://default", "session://default/executions/2"]
        async with agent.client.listen(resource_subscriptions=wanted) as changes:
            await agent.run("2")
            heard: set[str] = set()
            with anyio.fail_after(HANG):
                async for change in changes:
                    heard.add(change.uri)  # type: ignore[union-attr]
                    if heard == set(wanted):
                        return

    if transport == "stdio":
        async with stdio_agent(place, *FLAGS) as agent:
            await check(agent)
    else:
        with http_server(place, *FLAGS) as server:
            async with http_agent(server) as agent:
                await check(agent)


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_client_of_the_older_wire_is_told_too_until_it_unsubscribes(
    place: Place, transport: str
) -> None:
    heard: list[str] = []
    arrived = anyio.Event()

    async def hear(message: Any) -> None:
        if getattr(message, "method", "") == "notifications/resources/updated":
            heard.append(str(message.params.uri))
            arrived.set()

    async def check(agent: Agent) -> None:
        session = agent.client.session
        await agent.run("1")
        with pytest.warns(MCPDeprecationWarning):
            await session.subscribe_resource("session://default/events")
        await agent.run("2")
        with anyio.fail_after(HANG):
            await arrived.wait()
        with pytest.warns(MCPDeprecationWarning):
            await session.unsubscribe_resource("session://default/events")
        await agent.run("3")
        assert set(heard) == {"session://default/events"}

    if transport == "stdio":
        async with stdio_agent(place, *FLAGS, mode="legacy", message_handler=hear) as agent:
            await check(agent)
    else:
        with http_server(place, *FLAGS) as server:
            async with http_agent(server, "legacy", message_handler=hear) as agent:
                await check(agent)
