"""Branches, as an agent sees them: what the answer says, and what is so afterwards."""

import pytest

from .harness import Agent, Place, stdio_agent

PROCESS = ("--isolation", "process")
SETUP = "import threading\nrows = list(range(1000)); same = rows\ngate = threading.Lock()"


async def test_five_ways_from_one_state_and_the_best_is_kept(place: Place) -> None:
    async with stdio_agent(place, *PROCESS) as agent:
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


async def test_behind_walls_the_answer_says_how_and_what_is_missing(place: Place) -> None:
    async with stdio_agent(place, "--isolation", "guard") as agent:
        await agent.run(SETUP)
        made = await agent.call("create_session", session_id="b", branch_of="default")
        (told,) = made.data["sessions"]
        assert told["how"] == "checkpoint" and "guard" in told["why"]
        assert list(told["left_out"]) == ["gate"]
        assert "By a checkpoint" in made.text and "- gate (_thread.lock)" in made.text
        assert await agent.value("(len(rows), same is rows)", "b") == "(1000, True)"


async def test_what_a_branch_shares_or_lacks_is_in_the_answer(place: Place) -> None:
    async with stdio_agent(place, *PROCESS) as agent:
        await agent.run(
            "import threading\nstop = threading.Event()\n"
            "threading.Thread(target=stop.wait, name='poller', daemon=True).start()"
        )
        made = await agent.call("create_session", branch_of="default")
        assert "threads that are not in it: poller" in made.text


async def test_openmp_works_in_origin_and_branch(place: Place) -> None:
    """GNU's pool of threads hangs in a copy, unless it was paused before."""
    code = (
        "import numpy as np\n"
        "from sklearn.ensemble import HistGradientBoostingRegressor as Model\n"
        "x = np.random.default_rng(0).normal(size=(2000, 8)); y = x[:, 0] * 2\n"
        "model = Model(max_iter=5).fit(x, y); before = model.predict(x); (x @ x.T).sum()"
    )
    check = "bool((model.predict(x) == before).all() and Model(max_iter=2).fit(x, y) is not None)"
    async with stdio_agent(place, *PROCESS) as agent:
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


async def test_a_live_checkpoint_brings_everything_back_and_says_so(place: Place) -> None:
    async with stdio_agent(place, *PROCESS, "--toolsets", "all") as agent:
        await agent.run(SETUP + "\nnumbers = iter(range(9)); next(numbers)")
        kept = await agent.call("create_checkpoint", name="before", live=True)
        assert "everything as it is, in memory until the machine ends" in kept.text
        await agent.run("rows.clear(); later = 1; next(numbers)")
        for _ in range(2):
            back = await agent.call("restore_checkpoint", checkpoint_id="before")
            assert "What was made since is gone; files stay." in back.text
            found = "(len(rows), same is rows, next(numbers), 'later' in globals())"
            assert await agent.value(found) == "(1000, True, 1, False)"
        listed = await agent.call("list_checkpoints")
        assert "live: everything, in memory until the machine ends" in listed.text


async def test_where_none_can_be_made_the_answer_says_what_can(place: Place) -> None:
    async with stdio_agent(place, "--isolation", "guard", "--toolsets", "all") as agent:
        await agent.run("x = 1")
        error = await agent.refused("create_checkpoint", live=True)
        assert "level 'guard'" in error and "without live=true" in error
