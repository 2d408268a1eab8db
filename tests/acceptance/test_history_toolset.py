"""The toolset `history`, and how sessions are closed, through a real client."""

from datetime import UTC, datetime, timedelta

import nbformat

from .harness import Agent, Place

FLAGS = ("--toolsets", "core,control,history")
SHARES_A_SERVER = True
HANG = 60


async def test_what_was_run_is_found_and_read_also_when_its_session_is_gone(agent: Agent) -> None:
    await agent.ask("create_session", session_id="s", description="Counts words")
    await agent.run("words = 'a b'.split()\nprint(len(words))", "s")
    await agent.run("words.missing", "s")
    found = await agent.ask("search_executions", code_text="words split")
    assert [item["session_id"] for item in found["executions"]] == ["s"]
    found = await agent.ask("search_executions", error_text="missing", session_ids=["s"])
    assert found["executions"][0]["error"].startswith("AttributeError")
    page = await agent.ask("search_executions", session_ids=["s"], limit=1)
    assert page["next_offset"] == 1
    rest = await agent.ask("search_executions", session_ids=["s"], limit=1, offset=1)
    assert rest["executions"][0]["execution_index"] == 1
    later = datetime.now(UTC) + timedelta(hours=1)
    for since in (later.isoformat(), later.timestamp(), str(later.timestamp())):
        assert (await agent.ask("search_executions", since=since))["executions"] == []
    for nonsense in ("yesterday-ish", "nan", 1e300):
        refused = await agent.refused("search_executions", since=nonsense)
        assert refused.startswith("since: not a time; pass epoch seconds or ISO 8601"), refused
    deleted = await agent.ask("delete_session", session_id="s", keep_history=True)
    assert deleted["kept_as"] == "s~1"
    found = await agent.ask("search_executions", description_text="counts", status=["completed"])
    (item,) = found["executions"]
    read = await agent.ask("get_execution", execution_id=item["execution_id"])
    assert (read["session_id"], read["stdout"]) == ("s~1", "2\n")


async def test_a_session_is_exported_and_replayed(agent: Agent, place: Place) -> None:
    await agent.ask("create_session", session_id="s")
    await agent.run("x = 20", "s")
    await agent.run("import time\nprint(time.time_ns())", "s")
    done = await agent.call_tool("export_notebook", {"session_id": "s"})
    nbformat.validate(nbformat.read(place.workspace / done.data["path"], as_version=4))
    assert any(block.type == "resource_link" for block in done.content)
    planned = await agent.ask("replay_session", session_id="s", simulate=True)
    assert [item["code"][:6] for item in planned["executions"]] == ["x = 20", "import"]
    replayed = await agent.ask("replay_session", session_id="s", into="again", wait=HANG)
    assert (replayed["state"], replayed["matched"], replayed["replayed"]) == ("over", 1, 2)
    assert list(replayed["differences"][0]["changes"]) == ["stdout"]
    same = await agent.ask("replay_session", session_id="s", into="again")
    assert same == replayed
    assert await agent.value("x", "again") == "20"
    refused = await agent.refused("replay_session", session_id="s", into="default")
    assert "exists already" in refused


async def test_ls_2_a_closed_session_runs_nothing_and_keeps_its_record(agent: Agent) -> None:
    await agent.ask("create_session", session_id="s")
    await agent.run("x = 1", "s")
    closed = await agent.ask("close_session", session_id="s", reason="all counted")
    assert closed["status"] == "completed"
    refused = await agent.refused("run_python_code", code="x", session_id="s")
    assert "is completed (all counted); create_session with another id makes" in refused
    refused = await agent.refused("close_session", session_id="s", outcome="failed")
    assert "is completed and can't be failed: that is final" in refused
    assert "is completed" in await agent.refused("restart_kernel", session_id="s")
    assert "can't be closed" in await agent.refused("close_session", session_id="default")
    listed = (await agent.ask("list_sessions", status="completed"))["sessions"]
    assert (listed["s"]["reason"], listed["s"]["kernel"]) == ("all counted", "not_started")


async def test_what_is_said_of_a_session_can_be_changed_while_it_runs(agent: Agent) -> None:
    await agent.ask("create_session", session_id="s", tags=["a"], context={"stop": False})
    code = """
import time
from kernelry_session import context
print("begun", flush=True)
while not context["stop"]: time.sleep(0.01)
"""
    running = await agent.run(code, "s", wait=1)
    changed = await agent.ask(
        "update_session", session_id="s", description="new", tags=["b"], context={"stop": True}
    )
    assert (changed["description"], changed["tags"]) == ("new", ["b"])
    done = await agent.ask("get_execution", execution_id=running["execution_id"], wait=HANG)
    assert done["status"] == "completed"
    refused = await agent.refused("update_session", session_id="s", tags=["x" * 100])
    assert "tags of 1 to 64" in refused
    changed = await agent.ask("update_session", session_id="s", context={"stop": None, "n": 1})
    assert changed["context"] == {"n": 1}
    assert changed["tags"] == ["b"]
