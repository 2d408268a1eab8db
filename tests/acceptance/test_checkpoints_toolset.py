"""The toolset `checkpoints`, and restarts that keep the variables, as an agent sees them."""

import os

import pytest

from kernelry.crashpoints import CHECKPOINT_POINTS

from .harness import Agent, Place, killed_at, stdio_agent

TOOLSETS = ("--toolsets", "core,checkpoints")
NAMESPACE = """
import threading
import numpy as np
import pandas as pd
array = np.arange(100_000).reshape(1000, 100)
table = pd.DataFrame({"n": range(1000), "s": [str(n) for n in range(1000)]})
scale = 10
def scaled(x): return x * scale
class Point:
    def __init__(self, x): self.x = x
    def scaled(self): return scaled(self.x)
point = Point(4)
one = other = [1, 2]
lock = threading.Lock()
numbers = (n for n in range(3))
opened = open("outputs/notes.txt", "w")
total = int(array.sum()) + int(table.n.sum())
"""
SKIPPED = {"lock", "numbers", "opened"}


async def check_namespace(agent: Agent) -> None:
    """What could be saved is back and equal, and what was one is one."""
    expression = (
        "(total == int(array.sum()) + int(table.n.sum()), table.s[999], scaled(2), "
        "point.scaled(), type(point) is Point, one is other)"
    )
    assert await agent.value(expression) == "(True, '999', 20, 40, True, True)"
    await agent.run("scale = 3")
    assert await agent.value("(scaled(2), point.scaled())") == "(6, 12)"


async def test_pr_8_a_checkpoint_outlives_the_server(place: Place) -> None:
    async with stdio_agent(place, *TOOLSETS) as agent:
        assert (await agent.run(NAMESPACE))["status"] == "completed"
        saved = await agent.call("create_checkpoint", name="before")
        assert not saved.is_error, saved.text
        checkpoint = saved.data["checkpoint_id"]
        assert set(saved.data["skipped"]) == SKIPPED
        assert saved.data["skipped"]["lock"].startswith("_thread.lock: TypeError: cannot pickle")
        assert all(name in saved.text for name in SKIPPED)
        assert saved.data["size"] > 800_000 and saved.data["blocked"] > 0
    async with stdio_agent(place, *TOOLSETS) as agent:
        listed = await agent.ask("list_checkpoints")
        reasons = [item["reason"] for item in listed["checkpoints"].values()]
        assert reasons == ["stop", "manual"]  # the newest first
        assert listed["checkpoints"][checkpoint]["name"] == "before"
        assert listed["checkpoints"][checkpoint]["reason"] == "manual"
        done = await agent.ask("restore_checkpoint", checkpoint_id=checkpoint)
        assert {"array", "table", "scaled", "Point", "np"} <= set(done["restored"])
        assert not done["failed"]
        await check_namespace(agent)
        assert "no checkpoint" in await agent.refused("restore_checkpoint", checkpoint_id="x")


async def test_pr_8_a_changed_checkpoint_is_refused_by_its_name(place: Place) -> None:
    async with stdio_agent(place, *TOOLSETS) as agent:
        await agent.run("x = 1")
        checkpoint = (await agent.ask("create_checkpoint"))["checkpoint_id"]
        await agent.run("x = 2")
        await agent.ask("restore_checkpoint", checkpoint_id=checkpoint)
        assert await agent.value("x") == "1"
        path = place.state / "checkpoints" / checkpoint
        path.write_bytes(path.read_bytes().replace(b"x", b"y"))
        assert str(path) in await agent.refused("restore_checkpoint", checkpoint_id=checkpoint)
        assert await agent.value("x") == "1"


async def test_py_11_a_restart_keeps_the_variables(place: Place) -> None:
    async with stdio_agent(place, *TOOLSETS) as agent:
        await agent.run(NAMESPACE)
        done = await agent.ask("restart_kernel", preserve_state=True)
        assert done["variables_kept"] and done["generation"] == 2
        assert set(done["lost"]) == SKIPPED
        await check_namespace(agent)
        listed = (await agent.ask("list_checkpoints"))["checkpoints"]
        assert listed[done["checkpoint_id"]]["reason"] == "restart"
        done = await agent.ask("restart_kernel")
        assert not done["variables_kept"] and done["generation"] == 3
        assert (await agent.run("x"))["error"]["type"] == "NameError"


async def test_what_can_not_be_kept_is_not_restarted(place: Place) -> None:
    async with stdio_agent(place, *TOOLSETS, "--wait", "0.5") as agent:
        why = await agent.refused("restart_kernel", preserve_state=True)
        assert "nothing to save" in why and "without preserve_state" in why
        busy = await agent.run("x = 1\nwhile True: pass")
        assert busy["status"] == "running"
        why = await agent.refused("restart_kernel", preserve_state=True)
        assert "between cells" in why and "was not restarted" in why
        await agent.ask("interrupt_execution")
        assert await agent.value("x") == "1"


@pytest.mark.parametrize("point", CHECKPOINT_POINTS)
async def test_pr_15_a_server_killed_while_it_saves_leaves_all_or_nothing(
    place: Place, point: str
) -> None:
    killed_at(point, place, TOOLSETS, code="x = 1", tool="create_checkpoint")
    async with stdio_agent(place, *TOOLSETS) as agent:
        assert (await agent.run("x += 1"))["generation"] == 1
        listed = (await agent.ask("list_checkpoints"))["checkpoints"]
        assert len(listed) == (point == "checkpoint.kept")
        folder = place.state / "checkpoints"
        assert not folder.exists() or {*os.listdir(folder)} - {"key"} == set(listed)
        for directory in (place.state / "sessions").iterdir():
            assert not [name for name in os.listdir(directory) if "checkpoint" in name]
        for checkpoint in listed:
            await agent.ask("restore_checkpoint", checkpoint_id=checkpoint)
        assert await agent.value("x") == ("1" if listed else "2")


async def test_a_resume_brings_sources_and_generators_back_and_names_what_it_could_not(
    place: Place,
) -> None:
    code = (
        "import inspect, random, numpy\nrandom.seed(1); numpy.random.seed(2)\n"
        "def plus(n):\n    return n + 1  # one\n"
        "whole = numpy.arange(10)\npart = whole[2:5]\nsame = whole\n"
        "table = numpy.zeros((2, 2))\nrows = {'first': table[0], 'rest': [table[1]]}\n"
        "alone = [numpy.ones(2), numpy.ones(2)]"
    )
    async with stdio_agent(place, "--toolsets", "all") as agent:
        await agent.ask("create_session", session_id="s")
        await agent.run(code, "s")
        await agent.ask("suspend_session", session_id="s")
        resumed = await agent.call("resume_session", session_id="s")
        told = "part, same, whole shared their memory and are separate copies now"
        assert told in resumed.text
        assert "rows, table shared their memory" in resumed.text
        assert "alone shared" not in resumed.text
        assert "in alone" not in resumed.text
        assert await agent.value("inspect.getsource(plus)", "s") == (
            "'def plus(n):\\n    return n + 1  # one\\n'"
        )
        assert await agent.value("random.random()", "s") == "0.13436424411240122"
        assert await agent.value("float(numpy.random.rand())", "s") == "0.43599490214200376"
        assert await agent.value("same is whole", "s") == "True"
