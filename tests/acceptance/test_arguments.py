"""What an agent means is what a tool takes, however its host spells it."""

import anyio
import pytest

from .harness import Agent

SHARES_A_SERVER = True
FLAGS = ("--toolsets", "all")
NOT_GIVEN: dict[str, dict[str, object]] = {
    "absent": {},
    "null": {"session_id": None, "timeout": None, "wait": None},
    "empty": {"session_id": "", "timeout": "", "wait": ""},
}


@pytest.mark.parametrize("how", NOT_GIVEN)
async def test_a_call_is_answered_alike_however_nothing_is_given(agent: Agent, how: str) -> None:
    done = await agent.call("run_python_code", code="6 * 7", **NOT_GIVEN[how])
    assert (done.data["status"], done.data["session_id"]) == ("completed", "default")
    listed = await agent.call("list_sessions", **dict.fromkeys(("status", "tags", "name"), None))
    assert not listed.is_error


async def test_lists_and_objects_may_be_json(agent: Agent) -> None:
    options = '{"tags": ["x", "y"], "metadata": {"n": 1}, "context": {"k": "v"}}'
    made = await agent.ask("create_session", session_id="json", options=options)
    assert made["session"]["tags"] == ["x", "y"]
    found = await agent.ask("list_sessions", tags='["x"]')
    assert [*found["sessions"]] == ["json"]
    assert await agent.value("kernelry_session.context['k']", "json") == "'v'"
    refused = await agent.refused("install_dependencies", packages='["no such package!"]')
    assert "no such package!" in refused
    await agent.ask("delete_session", session_id="json")


async def test_an_option_that_there_is_not_is_answered_with_those_that_there_are(
    agent: Agent,
) -> None:
    said = await agent.refused("create_session", session_id="o", options={"quick": True})
    assert "there is no option 'quick'" in said
    assert "fresh: A fresh process" in said
    assert "o" not in (await agent.ask("list_sessions"))["sessions"]
    read = await agent.client.read_resource("options://create_session")
    assert '"isolation"' in str(read.contents[0])


async def test_whoever_reuses_a_session_gets_it_also_one_that_comes_or_sleeps(
    agent: Agent,
) -> None:
    made: list[str] = []

    async def create() -> None:
        answer = await agent.ask("create_session", session_id="both", if_exists="reuse")
        made.append(answer["session_id"])

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(create)
    assert made == ["both"] * 5
    await agent.run("kept = 1", "both")
    await agent.ask("create_checkpoint", session_id="both", name="before")
    await agent.ask("suspend_session", session_id="both")
    answer = await agent.ask("create_session", session_id="both", if_exists="reuse")
    assert answer["status"] == "existing"
    assert await agent.value("kept", "both") == "1"
    await agent.run("kept = 2", "both")
    restored = await agent.ask("restore_checkpoint", session_id="both", checkpoint_id="before")
    assert restored["restored"] == ["kept"]
    assert await agent.value("kept", "both") == "1"
    assert "before" in await agent.refused("restore_checkpoint", checkpoint_id="no such")


async def test_names_of_sessions_may_be_globs_and_unknown_ones_are_refused(agent: Agent) -> None:
    for name in ("exp_1", "exp_2"):
        await agent.ask("create_session", session_id=name)
        await agent.run("print('here')", name)
    found = await agent.ask("search_executions", session_ids=["exp_*"])
    assert {one["session_id"] for one in found["executions"]} == {"exp_1", "exp_2"}
    told = await agent.ask("get_events", session_ids=["exp_?"], topics=["session.created"])
    assert len(told["events"]) == 2
    for tool in ("search_executions", "get_events", "cleanup_sessions"):
        assert "no session 'exq_*'" in await agent.refused(tool, session_ids=["exp_1", "exq_*"])
    gone = await agent.ask("cleanup_sessions", session_ids=["exp_*"])
    assert sorted(gone["deleted"]) == ["exp_1", "exp_2"]
    assert await agent.ask("get_events", session_ids=["exp_1"])  # what is gone has events


async def test_after_a_death_what_brings_the_variables_back_is_named(agent: Agent) -> None:
    await agent.ask("create_session", session_id="d")
    await agent.run("kept = [1, 2]", "d")
    died = await agent.call("run_python_code", code="import os; os._exit(1)", session_id="d")
    assert "restart_kernel gives the session a new kernel" in died.text
    assert "resume_session" not in died.text  # there is nothing to bring back
    await agent.ask("restart_kernel", session_id="d")
    await agent.run("kept = [1, 2]", "d")
    saved = await agent.ask("create_checkpoint", session_id="d")
    died = await agent.call("run_python_code", code="import os; os._exit(1)", session_id="d")
    assert f"the variables of its checkpoint {saved['checkpoint_id']}" in died.text
    await agent.ask("resume_session", session_id="d")
    assert await agent.value("kept", "d") == "[1, 2]"
