"""For each tool and each of its optional parameters, null, "" and absent are answered alike.

Tools and parameters are those that the server lists: a new one is tested without being named
here, but for a value of what it needs.
"""

import re
from typing import Any

import pytest

import kernelry_mcp.tools  # noqa: F401  # declares the tools
from kernelry_mcp.context import published_tools
from kernelry_mcp.settings import Settings

from .harness import Agent, Answer, Place

SHARES_A_SERVER = True
FLAGS = ("--toolsets", "all")
TOOLS = {tool.name: tool for tool in published_tools(Settings(toolsets=["all"]))}
#: what tools need, by parameter; what is to be found there is made by `prepare`
NEEDED: dict[str, Any] = {
    "session_id": "other",
    "code": "6 * 7",
    "execution_id": "EXECUTION",
    "packages": ["numpy"],
    "name": "one",
    "content": "1 + 1",
    "path": "scripts/one.py",
    "text": "a line",
    "artifact_id": "one",
    "checkpoint_id": "one",
    "topic": "tested",
}
#: what is another with every call: versions, ids, numbers and times
CHANGING = re.compile(r"\b[0-9a-z]{8}\b|\bv?\d[\d.:+T-]*|\b[0-9a-f-]{32,36}\b")


async def prepare(agent: Agent, place: Place) -> str:
    """Make what a call is about, if a call before has ended it; return an execution's id."""
    for made in place.outputs.glob("*.ipynb"):
        made.unlink()
    if (await agent.call("create_session", session_id="other", if_exists="reuse")).is_error:
        await agent.ask("delete_session", session_id="other")  # it was closed
        await agent.ask("create_session", session_id="other")
    await agent.ask("switch_session", session_id="default")
    await agent.ask("save_script", name="one", content="print('one')", overwrite=True)
    await agent.call("resume_session")
    done = await agent.run("kept = 1")
    if (await agent.call("get_artifact", artifact_id="one")).is_error:
        await agent.ask("store_artifact", name="one", content="text")
    saved = (await agent.ask("list_checkpoints"))["checkpoints"].values()
    if "one" not in [checkpoint["name"] for checkpoint in saved]:
        await agent.ask("create_checkpoint", name="one")
    return str(done["execution_id"])


def told(answer: Answer) -> tuple[bool, set[str]]:
    """Return whether it worked, and the lines of an answer as far as they can be compared."""
    return answer.is_error, {CHANGING.sub("#", line) for line in answer.text.splitlines()}


@pytest.mark.parametrize("name", TOOLS)
async def test_null_and_nothing_are_answered_as_if_left_out(
    agent: Agent, place: Place, name: str
) -> None:
    fields = TOOLS[name].fn_metadata.arg_model.model_fields
    inner = getattr(TOOLS[name], "options", {})
    optional = [n for n, field in fields.items() if not field.is_required() and n not in inner]
    answers = {}
    for how, nothing in (("absent", ...), ("null", None), ("empty", "")):
        execution = await prepare(agent, place)
        given = {n: NEEDED[n] for n, field in fields.items() if field.is_required()}
        given |= {"execution_id": execution} if "execution_id" in given else {}
        if nothing is not ...:
            given |= dict.fromkeys(optional, nothing)
            given |= {"options": dict.fromkeys(inner, nothing)} if inner else {}
        answers[how] = told(await agent.call(name, **given))
    assert answers["null"] == answers["absent"]
    assert answers["empty"] == answers["absent"]
