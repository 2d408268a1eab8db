"""What a session is given and what an agent takes along: packages, notebooks, scripts, replays."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests.package_index import Index, in_use, wheel

from .harness import HANG, KERNELRY, Agent, Place, stdio_agent

FLAGS = ("--toolsets", "all")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    """An index of packages that the server uses."""
    with in_use(wheel("tiny"), monkeypatch, tmp_path) as index:
        yield index


async def test_a_session_has_its_packages_from_the_start_or_is_not_made(
    index: Index, place: Place
) -> None:
    async with stdio_agent(place, *FLAGS) as agent:
        for wrong, said in (("not a name!", "not a name!"), ("unknown-here", "unknown-here")):
            told = await agent.refused("create_session", session_id="p", packages=[wrong])
            assert said in told
            assert "p" not in (await agent.ask("list_sessions"))["sessions"]
        made = await agent.call("create_session", session_id="p", packages=["tiny"])
        assert made.data["status"] == "created"
        assert await agent.value("__import__('tiny').__name__", "p") == "'tiny'"


async def test_a_notebook_brings_packages_and_scripts_and_says_so(
    index: Index, place: Place
) -> None:
    async with stdio_agent(place, *FLAGS) as agent:
        made = await agent.call("create_session", session_id="one", packages=["tiny"])
        assert not made.is_error, made.text
        await agent.ask("create_session", session_id="two")
        await agent.ask("save_script", name="helping", content="def triple(n): return 3 * n")
        await agent.run("import tiny\nfrom helping import triple\ntriple(14)", "one")
        await agent.run("'nothing else'", "two")
        done = await agent.call("export_notebook", session_ids=["one", "two"])
        assert "2 executions of one, two are in outputs/one.ipynb." in done.text
        assert "bring the packages tiny==1.0 and the scripts helping." in done.text
        assert (done.data["packages"], done.data["scripts"]) == (["tiny==1.0"], ["helping"])
        alone = await agent.call("export_notebook", session_id="two")
        assert alone.text.endswith("are in outputs/two.ipynb.")
    notebook = nbformat.read(place.workspace / "outputs" / "one.ipynb", as_version=4)
    assert [cell.source.partition("\n")[0] for cell in notebook.cells] == [
        "# one",
        "%pip install tiny==1.0",
        "import os, sys",
        "%%writefile scripts/helping.py",
        "import tiny",
        "# two",
        "'nothing else'",
    ]


async def test_cells_that_await_are_a_script_that_runs(agent: Agent, place: Place) -> None:
    await agent.run("import asyncio\nasync def double(n):\n    return 2 * n")
    await agent.run("print(await double(21))")
    done = await agent.ask("export_notebook", format="script")
    path = place.workspace / done["path"]
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("42\n", "")


async def test_a_replay_writes_into_a_folder_of_its_own_and_says_which_files_differ(
    agent: Agent, place: Place
) -> None:
    await agent.run("_ = open('outputs/same.txt', 'w').write('same')")
    await agent.run("import time; _ = open('outputs/other.txt', 'w').write(str(time.time_ns()))")
    before = (place.outputs / "other.txt").read_text()
    replayed = await agent.call("replay_session", into="again", wait=HANG)
    assert "Replay of 'default' in 'again' is over: 2 of 2 run, 1 as before." in replayed.text
    assert "Execution 2 differs in files: 'outputs/other.txt' ->" in replayed.text
    assert "Files with the same content: outputs/same.txt." in replayed.text
    assert "It writes below replays/again/." in replayed.text
    assert (place.outputs / "other.txt").read_text() == before
    assert (place.workspace / "replays" / "again" / "outputs" / "same.txt").read_text() == "same"


@pytest.mark.parametrize("isolation", ["process", "guard"])
async def test_a_limit_of_memory_is_named_with_what_was_asked(place: Place, isolation: str) -> None:
    async with stdio_agent(place, *FLAGS, "--isolation", isolation) as agent:
        options = {"limits": {"memory": 300_000_000}}
        made = await agent.call("create_session", session_id="small", options=options)
        assert not made.is_error, made.text
        hold = "import numpy; data = bytearray(b'1') * 150_000_000"
        fits = await agent.run(hold, "small")
        assert fits["status"] == "completed", fits["note"]
        failed = await agent.call(
            "run_python_code", session_id="small", code="numpy.ones(140_000_000, 'u1').sum()"
        )
        assert re.search(r"may use 300.0 MB of memory \(its limit\) and uses 2\d\d", failed.text)
        assert "134. MiB" in failed.text


@pytest.mark.parametrize("held", [20_000_000, 270_000_000])
async def test_a_kernel_that_ends_near_its_limit_of_memory_is_told_with_it(
    agent: Agent, held: int
) -> None:
    await agent.ask("create_session", session_id="s", options={"limits": {"memory": 300_000_000}})
    await agent.run("1", "s")
    await agent.run(f"data = bytearray(b'1') * {held}", "s")
    code = "import os; os._exit(1)"  # as OpenBLAS does when it gets no memory
    died = await agent.call("run_python_code", session_id="s", code=code)
    assert "it ended by itself: exit code 1" in died.text
    told = "of the 300.0 MB that are its limit: a library that gets no more may end its process"
    assert (told in died.text) is (held > 100_000_000)


def test_a_state_directory_in_the_workspace_is_refused_at_the_start(place: Place) -> None:
    for folders in (
        ["--workspace", place.root, "--state-dir", place.root / "state"],
        ["--workspace", place.root / "state" / "work", "--state-dir", place.root / "state"],
    ):
        ran = subprocess.run(
            [str(KERNELRY), "serve", *map(str, folders)],
            env=place.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )
        assert ran.returncode == 1, ran.stderr
        assert "workspace" in ran.stderr
        assert "state" in ran.stderr
        assert "Traceback" not in ran.stderr
    assert not os.path.lexists(place.root / "state" / "work")
