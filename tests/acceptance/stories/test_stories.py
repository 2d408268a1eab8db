"""Ten tasks as agents did them, now in few calls: each step says what the next one needs."""

import re

from tests.acceptance.harness import HANG, Agent, Place

from .story import told_in

SHARES_A_SERVER = True
FLAGS = ("--toolsets", "all")


async def test_a_table_is_read_described_and_drawn(agent: Agent, place: Place) -> None:
    (place.workspace / "uploads" / "sales.csv").write_text("city,units\nOslo,3\nRome,5\nOslo,4\n")
    with told_in(4, agent) as story:
        await story.tells("uploads/sales.csv", tool="list_files", path="uploads")
        await story.runs(
            "import pandas as pd\nsales = pd.read_csv('uploads/sales.csv')\n"
            "sales.groupby('city').units.sum()",
            "[completed",
            "Oslo    7",
        )
        await story.tells("units int64", "Rome", tool="list_variables", options={"name": "sales"})
        drawn = await story.runs("ax = sales.units.plot()", "Saved: outputs/")
        assert [block.type for block in drawn.content].count("image") == 1


async def test_a_long_computation_is_followed_without_reading_anything_twice(
    agent: Agent, place: Place
) -> None:
    gate = "import os, time\nwhile not os.path.exists('gate'): time.sleep(0.01)\n"
    with told_in(2, agent) as story:
        begun = await story.runs(
            f"print('epoch 1')\n{gate}print('epoch 2')",
            "[running for",
            "epoch 1",
            "waits on and shows what is new",
            wait=0.5,
        )
        named = re.search(r'execution_id="(\w{8})", wait=30, since="([\w.]+)"', begun.text)
        assert named, begun.text
        (place.workspace / "gate").touch()
        ended = await story.tells(
            "[completed",
            "epoch 2",
            tool="get_execution",
            execution_id=named[1],
            since=named[2],
            wait=HANG,
        )
        assert "epoch 1" not in ended.text


async def test_what_a_crash_took_comes_back_from_a_checkpoint(agent: Agent) -> None:
    with told_in(7, agent) as story:
        await story.runs("model = {'weights': [1, 2]}", "[completed")
        saved = await story.tells("model", tool="list_variables")
        assert saved.data["total"] == 1
        await story.tells("Checkpoint", tool="create_checkpoint", name="trained")
        await story.runs(
            "import ctypes; ctypes.string_at(0)",
            "[died",
            "killed by SIGSEGV",
            "All variables (model: those of the last listing) are gone",
            "resume_session gives it one with the variables of its checkpoint",
        )
        await story.tells(
            "dead",
            "All variables (model: those of the last listing) are gone",
            "resume_session",
            tool="get_kernel_health",
        )
        await story.tells("Put back", "model", tool="resume_session")
        await story.runs("model['weights']", "[1, 2]")


async def test_an_error_is_found_and_mended(agent: Agent) -> None:
    with told_in(3, agent) as story:
        await story.runs("def mean(v):\n    return sum(v) / len(v)\nmean([])", "ZeroDivisionError")
        await story.runs(
            "def mean(v):\n    return sum(v) / len(v) if v else 0.0\nmean([])", "[completed", "0.0"
        )
        found = await story.tells(
            "-> ZeroDivisionError: division by zero",
            tool="search_executions",
            status=["failed"],
            session_ids=["default"],
        )
        assert found.data["executions"][0]["execution_index"]


async def test_two_sessions_hand_a_file_on_and_are_seen_at_work(agent: Agent) -> None:
    with told_in(5, agent) as story:
        await story.tells("created", tool="create_session", session_id="clean")
        await story.tells("created", tool="create_session", session_id="model")
        await story.runs(
            "open('outputs/clean.csv', 'w').write('1,2')",
            "Files written: outputs/clean.csv",
            session_id="clean",
        )
        await story.runs("open('outputs/clean.csv').read()", "'1,2'", session_id="model")
        listed = await story.tells("- clean: idle, ", tool="list_sessions")
        assert re.search(r"- model: idle, [\d.]+ MB, up \d+ s, used \d+ s ago, 1 exec", listed.text)


async def test_who_wrote_a_file_is_found_and_handed_over(agent: Agent, place: Place) -> None:
    with told_in(5, agent) as story:
        await story.tells(tool="create_session", session_id="work")
        await story.runs(
            "best = 0.93\n_ = open('outputs/best.txt', 'w').write(str(best))",
            "Files written: outputs/best.txt",
            session_id="work",
        )
        found = await story.tells(
            "wrote outputs/best.txt", tool="search_executions", wrote="outputs/best.txt"
        )
        named = found.data["executions"][0]["execution_id"]
        await story.tells("> best = 0.93", tool="get_execution", execution_id=named)
        await story.tells(
            "1 executions of work are in outputs/work.ipynb",
            tool="export_notebook",
            session_id="work",
        )


async def test_a_training_is_paused_changed_and_goes_on(agent: Agent) -> None:
    code = "rate = 1.0\nwhile rate > 0.5:\n    kernelry_session.checkpoint()\nprint('rate', rate)"
    with told_in(6, agent) as story:
        begun = await story.runs(code, "[running", wait=0.2)
        await story.tells("is paused", tool="pause_execution", wait=HANG)
        looked = await story.tells(
            "paused at a safe point by",
            "resume_execution(",
            tool="get_execution",
            execution_id=begun.data["execution_id"],
        )
        assert looked.data["paused_by"] and looked.data["paused_since"]
        await story.tells("is changed", tool="update_session", variables={"rate": 0.1})
        await story.tells("is running", tool="resume_execution")
        await story.tells(
            "[completed",
            "rate 0.1",
            tool="get_execution",
            execution_id=begun.data["execution_id"],
            wait=HANG,
        )


async def test_one_line_of_a_long_log_is_found(agent: Agent) -> None:
    code = "for n in range(200_000):\n    print('worker', n, 'failed' if n == 123_456 else 'ok')"
    with told_in(3, agent) as story:
        ran = await story.runs(code, "characters (200000 lines) left out", wait=HANG)
        named = {"execution_id": ran.data["execution_id"]}
        await story.tells(
            "[1 of 200000 lines have 'failed' in them]",
            "123457: worker 123456 failed",
            tool="get_execution",
            search="failed",
            **named,
        )
        await story.tells(
            "from line 123456 of 200000",
            "worker 123455 ok\nworker 123456 failed",
            tool="get_execution",
            options={"line": 123_456, "limit": 60},
            **named,
        )


async def test_versions_of_a_result_are_kept_and_compared(agent: Agent) -> None:
    with told_in(4, agent) as story:
        await story.tells(
            "Stored 'report' as art-",
            tool="store_artifact",
            name="report",
            content="rows: 10\n",
            tags=["final"],
        )
        await story.tells("version 2", tool="store_artifact", name="report", content="rows: 12\n")
        await story.tells("report v2", "#final", tool="query_artifacts", tags=["final"])
        await story.tells(
            "-rows: 10", "+rows: 12", tool="get_artifact", artifact_id="report", compare_with="1"
        )


async def test_what_happened_meanwhile_is_told(agent: Agent) -> None:
    with told_in(5, agent) as story:
        newest = await story.tells("next: since=", tool="get_events", since=-1)
        await story.tells(tool="create_session", session_id="told", description="old words")
        await story.runs("kernelry_session.publish('found', {'n': 3})", session_id="told")
        await story.tells(
            "session.created told",
            "execution.started told",
            "execution.ended told",
            tool="get_events",
            since=newest.data["next_since"],
            session_ids=["told"],
        )
        await story.is_refused("no session 'tolled'", tool="get_events", session_ids=["tolled"])
