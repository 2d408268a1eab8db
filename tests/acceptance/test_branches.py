"""Branches, as an agent sees them: what the answer says, and what is so afterwards."""

import json

import pytest

from .harness import Agent, Answer, Place, stdio_agent

PROCESS = ("--isolation", "process")
at_each_level = pytest.mark.parametrize("level", ["process", "guard", "box"])
SETUP = "import threading\nrows = list(range(1000)); same = rows\ngate = threading.Lock()"


@at_each_level
async def test_five_ways_from_one_state_and_the_best_is_kept(place: Place, level: str) -> None:
    async with stdio_agent(place, "--isolation", level) as agent:
        await agent.run(SETUP)
        made = await agent.call("create_session", session_id="try", branch_of="default", count=5)
        names = [item["session_id"] for item in made.data["sessions"]]
        assert names == [f"try.{n}" for n in range(1, 6)]
        assert all(item["how"] == "live" for item in made.data["sessions"])
        assert "'try.1', 'try.2'" in made.text and "branched from 'default'" in made.text
        scores = []
        for number, name in enumerate(names):
            done = await agent.run(f"rows.append({number}); score = {number} % 4; score", name)
            scores.append(int(done["results"][0]))
        best = names[scores.index(max(scores))]
        assert best == "try.4"
        assert await agent.value("(len(rows), rows[-1], same is rows, gate.locked())", best) == (
            "(1001, 3, True, False)"
        )
        assert await agent.value("len(rows)") == "1000"
        listed = await agent.ask("list_sessions", parent="default")
        assert sorted(listed["sessions"]) == names


async def test_history_and_events_say_where_a_branch_began(place: Place) -> None:
    async with stdio_agent(place, *PROCESS, "--toolsets", "all") as agent:
        ran = await agent.run("x = 1")
        made = await agent.ask("create_session", branch_of="default")
        name, origin = made["session_id"], ran["execution_id"]
        assert name == "default.1"
        assert made["session"]["parent_session_id"] == "default"
        assert made["session"]["parent_execution_id"] == origin
        events = await agent.ask("get_events", session_ids=[name])
        (branched,) = [item for item in events["events"] if item["topic"] == "session.branched"]
        assert branched["data"]["of"] == "default" and branched["data"]["after"] == origin
        assert branched["data"]["how"] == "live"


async def test_by_a_checkpoint_the_answer_says_why_and_what_is_missing(place: Place) -> None:
    async with stdio_agent(place) as agent:
        await agent.run(SETUP + "\nfrom concurrent.futures import ThreadPoolExecutor")
        await agent.run("pool = ThreadPoolExecutor(); pool.submit(int).result()")
        made = await agent.call("create_session", session_id="b", branch_of="default")
        (told,) = made.data["sessions"]
        assert told["how"] == "checkpoint" and "a pool of threads" in told["why"]
        assert sorted(told["left_out"]) == ["gate", "pool"]
        assert "By a checkpoint" in made.text and "- gate (_thread.lock)" in made.text
        assert await agent.value("(len(rows), same is rows)", "b") == "(1000, True)"


async def test_a_branch_at_a_safe_point_says_where_it_began(place: Place) -> None:
    async with stdio_agent(place) as agent:
        loop = "import os, time\nn = 0\nwhile not os.path.exists('go'):\n"
        loop += "    n += 1; time.sleep(0.001); kernelry_session.checkpoint()"
        ran = await agent.ask("run_python_code", code=loop, wait=0)
        made = await agent.call(
            "create_session", session_id="b", branch_of="default", options={"at": "safe_point"}
        )
        where = (
            f"'b' branched from 'default' at a safe point of its execution {ran['execution_id']}"
        )
        assert where in made.text, made.text
        assert "Mind: the execution that runs, which is not gone on with in it" in made.text
        assert await agent.value("n > 0", "b") == "True"
        await agent.run("open('go', 'w').close()", "b")
        assert await agent.value("os.path.exists('go')") == "True"
        refused = await agent.refused("create_session", options={"at": "safe_point"})
        assert "pass branch_of too" in refused


async def test_a_session_can_begin_with_a_checkpoint(place: Place) -> None:
    async with stdio_agent(place, "--toolsets", "all") as agent:
        await agent.run("it = iter(range(9)); next(it)")
        kept = await agent.ask("create_checkpoint", name="start", live=True)
        await agent.run("next(it)")
        made = await agent.call("create_session", session_id="b", branch_of="start")
        assert f"'b' branched from checkpoint {kept['checkpoint_id']} of 'default'" in made.text
        assert await agent.value("next(it)", "b") == "1"
        refused = await agent.refused("create_session", branch_of="no such")
        assert "no such" in refused


@at_each_level
async def test_what_a_branch_shares_or_lacks_is_in_the_answer(place: Place, level: str) -> None:
    async with stdio_agent(place, "--isolation", level) as agent:
        await agent.run(
            "import threading\nstop = threading.Event()\n"
            "threading.Thread(target=stop.wait, name='poller', daemon=True).start()"
        )
        made = await agent.call("create_session", branch_of="default")
        assert "threads that are not in it: poller" in made.text


@at_each_level
async def test_openmp_works_in_origin_and_branch(place: Place, level: str) -> None:
    """GNU's pool of threads hangs in a copy, unless it was paused before."""
    code = (
        "import numpy as np\n"
        "from sklearn.ensemble import HistGradientBoostingRegressor as Model\n"
        "x = np.random.default_rng(0).normal(size=(2000, 8)); y = x[:, 0] * 2\n"
        "model = Model(max_iter=5).fit(x, y); before = model.predict(x); (x @ x.T).sum()"
    )
    check = "bool((model.predict(x) == before).all() and Model(max_iter=2).fit(x, y) is not None)"
    async with stdio_agent(place, "--isolation", level) as agent:
        done = await agent.run(code)
        assert done["status"] == "completed", done
        made = await agent.ask("create_session", branch_of="default")
        assert made["sessions"][0]["how"] == "live", made["sessions"]
        assert await agent.value(check, made["session_id"]) == "True"
        assert await agent.value(check) == "True"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"branch_of": "nobody"}, "'nobody'"),
        ({"branch_of": "default", "count": 0}, "1 to 100"),
        ({"branch_of": "default", "count": 10_000}, "1 to 100"),
        ({"count": 2}, "branch_of"),
        ({"branch_of": "default", "if_exists": "reuse"}, "leave one of them out"),
        ({"branch_of": "default", "fresh": True}, "leave one of them out"),
        ({"branch_of": "default", "session_id": "default"}, "exists already"),
        ({"branch_of": "default", "network": False}, "from its origin"),
    ],
)
async def test_what_can_not_be_is_refused_and_makes_nothing(
    agent: Agent, arguments: dict[str, object], words: str
) -> None:
    refused = await agent.call("create_session", **arguments)
    assert refused.is_error and words in refused.text
    assert (await agent.ask("list_sessions"))["total_sessions"] == 1


@at_each_level
async def test_a_live_checkpoint_brings_everything_back_and_says_so(
    place: Place, level: str
) -> None:
    async with stdio_agent(place, "--isolation", level, "--toolsets", "all") as agent:
        await agent.run(SETUP + "\nnumbers = iter(range(9)); next(numbers)")
        kept = await agent.call("create_checkpoint", name="before", live=True)
        assert "everything as it is, in memory" in kept.text
        await agent.run("rows.clear(); later = 1; next(numbers)")
        found = "(len(rows), same is rows, next(numbers), 'later' in globals())"
        for _ in range(2):
            back = await agent.call("restore_checkpoint", checkpoint_id="before")
            assert "What was made since is gone; files stay." in back.text
            assert await agent.value(found) == "(1000, True, 1, False)"
        await agent.run("import os; os._exit(1)")
        back = await agent.call("resume_session")
        assert "Put back: everything as it was in live checkpoint" in back.text
        assert await agent.value(found) == "(1000, True, 1, False)"
        listed = await agent.call("list_checkpoints")
        assert "live: everything, in memory while the server runs" in listed.text


async def test_where_none_can_be_made_the_answer_says_what_can(place: Place) -> None:
    async with stdio_agent(place, "--toolsets", "all") as agent:
        await agent.run("from multiprocessing.pool import ThreadPool; pool = ThreadPool(1)")
        error = await agent.refused("create_checkpoint", live=True)
        assert "a pool of threads" in error and "without live=true" in error


@at_each_level
async def test_a_cell_that_fails_is_rolled_back_and_the_answer_says_so(
    place: Place, level: str
) -> None:
    async with stdio_agent(place, "--isolation", level) as agent:
        await agent.run(SETUP)
        code = "rows.clear(); open('kept.txt', 'w').write('1'); 1/0"
        done = await agent.call("run_python_code", code=code, on_error="rollback")
        assert "Rolled back: variables are as before it" in done.text and "kept.txt" in done.text
        assert "[failed after" in done.text and ", undone; session" in done.text
        assert await agent.value("(len(rows), same is rows)") == "(1000, True)"
        done = await agent.call("run_python_code", code="rows.append(1)", on_error="rollback")
        assert "oll" not in done.text
        died = await agent.call(
            "run_python_code", code="import os; os.abort()", on_error="rollback"
        )
        assert "Rolled back: variables are as before it" in died.text
        assert "are gone" not in died.text


@at_each_level
async def test_an_execution_is_undone_with_what_ran_since(place: Place, level: str) -> None:
    async with stdio_agent(place, "--isolation", level, "--toolsets", "all") as agent:
        await agent.ask("create_session", session_id="a", rewind=5)
        await agent.run(SETUP, "a")
        first = await agent.run("rows.clear()", "a")
        await agent.run("later = 1", "a")
        back = await agent.call("restore_checkpoint", before=first["execution_id"])
        assert f"is as it was before execution {first['execution_id']}" in back.text
        found = await agent.value("(len(rows), same is rows, 'later' in globals())", "a")
        assert found == "(1000, True, False)"
        listed = await agent.call("search_executions", session_ids=["a"])
        assert listed.text.count(", undone: ") == 2
        unknown = await agent.refused("restore_checkpoint", before="nothing1")
        assert "no execution 'nothing1'" in unknown
        both = await agent.refused("restore_checkpoint", checkpoint_id="x", before="y")
        assert "either checkpoint_id or before" in both
        made = await agent.ask("export_notebook", session_id="a", path="outputs/a.ipynb")
        cells = json.loads((place.workspace / made["path"]).read_text())["cells"]
        tags = [cell["metadata"].get("tags") for cell in cells if cell["cell_type"] == "code"]
        assert tags.count(["undone"]) == 2


async def test_five_models_from_one_state_and_the_best_one_stays(place: Place) -> None:
    """The agent's story of the issue: eight calls."""
    async with stdio_agent(place, *PROCESS, "--toolsets", "all") as agent:
        calls = 0

        async def call(tool: str, **arguments: object) -> Answer:
            nonlocal calls
            calls += 1
            return await agent.call(tool, **arguments)

        await call("run_python_code", code="data = bytearray(300 << 20); best = 0")
        made = await call("create_session", branch_of="default", count=5, session_id="model")
        names = [item["session_id"] for item in made.data["sessions"]]
        for number, name in enumerate(names):
            code = f"data[0] = {number}; best = {number * 7 % 5}; best"
            await call("run_python_code", code=code, session_id=name)
        kept = await call("restore_checkpoint", checkpoint_id="model.3", session_id="default")
        assert "'default' has all that 'model.3' has" in kept.text
        assert calls == 8
        assert await agent.value("(len(data), data[0], best)") == f"({300 << 20}, 2, 4)"
