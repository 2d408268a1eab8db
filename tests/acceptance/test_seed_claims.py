"""What the seeds promise of sessions beside kernels, where no other test is about it.

docs/claims.md says which claim is held by which test.
"""

from collections.abc import Sequence
from typing import Any

import anyio

from .harness import Agent, Place, stdio_agent

FLAGS = ("--toolsets", "all")
SHARES_A_SERVER = True
HANG = 60
PAUSABLE = """
import kernelry_session
while True: kernelry_session.checkpoint()
"""


async def listed(agent: Agent, **wanted: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await agent.ask("list_sessions", **wanted))["sessions"]
    return found


async def stored(agent: Agent, **wanted: Any) -> list[str]:
    found = await agent.ask("query_artifacts", **wanted)
    return [artifact["name"] for artifact in found["artifacts"]]


async def test_tv_13_a_session_is_found_by_what_is_said_of_it(agent: Agent) -> None:
    await agent.ask("create_session", session_id="s")
    await agent.run("x = 1", "s")
    query = {"description_text": "forest churn"}
    assert (await agent.ask("search_executions", **query))["executions"] == []
    await agent.ask("update_session", session_id="s", description="Churn, by a random forest")
    (found,) = (await agent.ask("search_executions", **query))["executions"]
    assert (found["session_id"], found["code"]) == ("s", "x = 1")
    assert list(await listed(agent, text="FOREST churn")) == ["s"]
    assert await listed(agent, text="forest iris") == {}


async def test_ls_1_what_was_said_of_a_session_stays_with_it(place: Place) -> None:
    said = {
        "description": "Trains",
        "tags": ["a", "b"],
        "metadata": {"rate": 0.1, "layers": [1, 2]},
        "parent_session_id": "parent",
    }
    async with stdio_agent(place) as agent:
        await agent.ask("create_session", session_id="parent")
        made = await agent.ask("create_session", **said)
        before = made["session"]
        assert {name: before[name] for name in said} == said
    async with stdio_agent(place) as agent:
        after = (await listed(agent))[made["session_id"]]
        assert {name: after[name] for name in said} == said
        assert after["created_at"] == before["created_at"]


async def test_ls_4_a_long_list_of_sessions_comes_in_pages(agent: Agent) -> None:
    for name in ("b", "a", "c"):
        await agent.ask("create_session", session_id=name)
    first = await agent.call_tool("list_sessions", {"sort": "id", "limit": 3})
    assert list(first.data["sessions"]) == ["a", "b", "c"]
    assert first.text.endswith("[next: offset=3]")
    rest = await agent.ask("list_sessions", sort="id", limit=3, offset=first.data["next_offset"])
    assert (list(rest["sessions"]), rest["next_offset"]) == (["default"], -1)
    await agent.run("1", "a")
    assert next(iter(await listed(agent, sort="used"))) == "a"


async def test_pr_12_sessions_are_listed_by_their_status(agent: Agent) -> None:
    for name in ("running", "waiting", "saved", "done", "failed"):
        await agent.ask("create_session", session_id=name)
    await agent.run("x = 1", "saved")
    await agent.ask("suspend_session", session_id="saved")
    await agent.ask("close_session", session_id="done")
    await agent.ask("close_session", session_id="failed", outcome="failed")
    await agent.run(PAUSABLE, "waiting", wait=0)
    await agent.ask("pause_execution", session_id="waiting", wait=HANG)
    for status, names in {
        "active": ["default", "running"],
        "paused": ["waiting"],
        "suspended": ["saved"],
        "completed": ["done"],
        "failed": ["failed"],
        "cancelled": [],
    }.items():
        found = await listed(agent, status=status)
        assert list(found) == names
        assert all(item["status"] == status for item in found.values())
    assert "status" in await agent.refused("list_sessions", status="sleeping")


async def test_pr_13_time_progress_variables_and_errors_are_read_later(agent: Agent) -> None:
    await agent.ask("create_session", session_id="s")
    done = await agent.run(
        "import kernelry_session\nrows = [1, 2]\n"
        "kernelry_session.checkpoint(progress=(1, 2))\n1 / 0",
        "s",
    )
    read = await agent.ask("get_execution", execution_id=done["execution_id"])
    assert (read["status"], read["progress"]) == ("failed", "1 of 2")
    assert read["execution_time"] > 0
    assert read["error"]["type"] == "ZeroDivisionError"
    assert "1 / 0" in read["error"]["traceback"]
    variables = (await agent.ask("list_variables", session_id="s"))["variables"]
    assert variables["rows"]["repr"] == "[1, 2]"


async def test_ls_15_steps_and_attempts_are_kept_as_artifacts(place: Place) -> None:
    async with stdio_agent(place, *FLAGS) as agent:
        await agent.ask("create_session", session_id="s")
        for step in (1, 2):
            await agent.ask(
                "store_artifact",
                session_id="s",
                name=f"checkpoint_{step}.json",
                content=f'{{"step": {step}}}',
                tags=["checkpoint"],
            )
        failed = await agent.run("1 / 0", "s")
        await agent.ask(
            "store_artifact",
            session_id="s",
            name="error_attempt_1.txt",
            content=failed["error"]["message"],
            tags=["error"],
        )
    async with stdio_agent(place, *FLAGS) as agent:
        newest, _ = await stored(agent, session_id="s", tags=["checkpoint"])
        read = await agent.ask("get_artifact", session_id="s", artifact_id=newest)
        assert read["text"] == '{"step": 2}'
        assert await stored(agent, session_id="s", name="error_*") == ["error_attempt_1.txt"]


async def test_ls_20_what_happens_to_a_session_is_in_the_log_in_its_order(agent: Agent) -> None:
    await agent.ask("create_session", session_id="s")
    await agent.run("x = 1", "s")
    made = await agent.ask("store_artifact", session_id="s", name="a", content="b")
    await agent.ask("suspend_session", session_id="s")
    await agent.ask("resume_session", session_id="s")
    await agent.ask("update_session", session_id="s", description="d")
    await agent.ask("delete_artifact", session_id="s", artifact_id=made["artifact_id"])
    await agent.ask("close_session", session_id="s", outcome="failed", reason="no luck")
    events = (await agent.ask("get_events", session_ids=["s"], limit=200))["events"]
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    assert in_order(
        [event["topic"] for event in events],
        [
            "session.created",
            "kernel.started",
            "execution.ended",
            "artifact.stored",
            "session.suspended",
            "session.resumed",
            "session.updated",
            "artifact.deleted",
            "session.failed",
        ],
    )
    assert events[-1]["data"]["reason"] == "no luck"


def in_order(found: Sequence[str], wanted: Sequence[str]) -> bool:
    """Say whether all that is wanted is there in that order, whatever is between."""
    rest = iter(found)
    return all(topic in rest for topic in wanted)


async def test_ls_22_each_kind_of_error_is_told_by_its_code(place: Place) -> None:
    limits = ("--max-sessions", "3", "--artifact-size-limit", "10", "--wait", "0.5")
    async with stdio_agent(place, *FLAGS, *limits) as agent:
        await agent.ask("create_session", session_id="s")
        await agent.ask("create_session", session_id="done")
        foreign = await agent.ask("store_artifact", session_id="done", name="a", content="b")
        await agent.ask("close_session", session_id="done")
        calls: list[tuple[str, str, dict[str, Any]]] = [
            ("session_not_found", "run_python_code", {"code": "1", "session_id": "x"}),
            ("session_exists", "create_session", {"session_id": "s"}),
            ("invalid_transition", "resume_session", {"session_id": "done"}),
            ("conflict", "resume_execution", {"session_id": "s"}),
            ("artifact_not_found", "get_artifact", {"artifact_id": "x"}),
            (
                "artifact_not_found",  # of another session
                "get_artifact",
                {"artifact_id": foreign["artifact_id"], "session_id": "s"},
            ),
            ("limit_exceeded", "store_artifact", {"name": "a", "content": "x" * 11}),
            ("checkpoint_not_found", "restore_checkpoint", {"checkpoint_id": "x"}),
            ("invalid_argument", "create_session", {"session_id": "a b"}),
            ("invalid_argument", "list_sessions", {"limit": 0}),
        ]
        for code, tool, arguments in calls:
            answer = await agent.call(tool, **arguments)
            assert answer.is_error, tool
            error = answer.data["error"]
            assert (error["code"], error["message"]) == (code, answer.text), tool
        await agent.run("while True: pass", "s", wait=0)
        with anyio.fail_after(HANG):
            busy = await agent.call("create_checkpoint", session_id="s")
        assert busy.data["error"]["code"] == "session_busy"
        assert busy.data["error"]["retryable"]
