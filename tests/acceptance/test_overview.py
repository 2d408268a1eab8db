"""The overview that an agent has: sessions, variables, history, events, all in lines of text."""

import os
import signal

from .harness import HANG, Agent, Place

SHARES_A_SERVER = True
FLAGS = ("--toolsets", "all")
TABLE = (
    "import pandas\n"
    "table = pandas.DataFrame({'city': ['Oslo', 'Rome'] * 500, 'degrees': range(1000)})"
)


async def test_a_list_of_sessions_says_what_each_costs_does_and_when_it_was_used(
    agent: Agent,
) -> None:
    await agent.ask("create_session", session_id="busy", description="trains")
    await agent.ask("create_session", session_id="quiet")
    await agent.run("x = 1", "quiet")
    begun = await agent.run("import time\ntime.sleep(60)", "busy", wait=0.2)
    listed = await agent.call("list_sessions")
    lines = {line.split()[1].rstrip(":"): line for line in listed.text.splitlines()[1:]}
    assert "MB, up " in lines["quiet"]
    assert " used " in lines["quiet"] and " ago, 1 executions" in lines["quiet"]
    assert f"runs {begun['execution_id']} for " in lines["busy"]
    assert ": import time" in lines["busy"] and lines["busy"].endswith("(trains)")
    busy = listed.data["sessions"]["busy"]
    assert busy["memory_usage"] > 1_000_000
    assert busy["execution_id"] == begun["execution_id"]
    await agent.ask("interrupt_execution", session_id="busy")


async def test_a_table_is_listed_with_its_bytes_and_columns_and_seen_in_depth(
    agent: Agent,
) -> None:
    await agent.run(TABLE)
    listed = await agent.call("list_variables")
    line = next(line for line in listed.text.splitlines() if line.startswith("table:"))
    assert "columns: city, degrees" in line and " KB]" in line
    assert listed.data["variables"]["table"]["bytes"] > 8_000
    seen = await agent.call("list_variables", options={"name": "table"})
    assert "degrees int64" in seen.text
    assert "Rome" in seen.text
    assert [*seen.data["variables"]] == ["table"]


async def test_py_14_a_function_is_seen_with_its_signature_and_its_words(agent: Agent) -> None:
    await agent.run('def area(r: float, *, pi=3.14) -> float:\n    """Say how large."""\n')
    seen = await agent.call("list_variables", name="area")
    assert "area(r: float, *, pi=3.14) -> float" in seen.text
    assert "Say how large." in seen.text
    said = await agent.refused("list_variables", name="nothing")
    assert "there is no variable 'nothing'" in said
    said = await agent.refused("list_variables", name="os.system('x')")
    assert "is no variable" in said


async def test_py_14_code_is_completed(agent: Agent) -> None:
    await agent.run("measured_values = [1]")
    seen = await agent.call("list_variables", complete="measured_v")
    assert "measured_values" in seen.data["matches"]
    assert "measured_values" in seen.text


async def test_a_busy_session_says_why_it_shows_nothing_in_depth(agent: Agent) -> None:
    await agent.run("x = 1\nimport time\ntime.sleep(60)", wait=0.3)
    said = await agent.refused("list_variables", name="x")
    assert "runs code" in said
    await agent.ask("interrupt_execution")


async def test_a_value_whose_text_never_ends_is_interrupted(agent: Agent) -> None:
    await agent.run(
        "class Endless:\n    def __repr__(self):\n        while True: pass\nendless = Endless()"
    )
    said = await agent.refused("list_variables", name="endless")
    assert "did not answer" in said
    assert await agent.value("6 * 7") == "42"


async def test_executions_are_found_by_what_they_wrote_and_by_what_they_printed(
    agent: Agent,
) -> None:
    await agent.ask("create_session", session_id="h")
    await agent.run("open('outputs/best.csv', 'w').write('1'); print('accuracy', 0.93)", "h")
    await agent.run("'nothing of that'", "h")
    await agent.run("1 / 0", "h")
    wrote = await agent.call("search_executions", session_ids=["h"], wrote="outputs/best.csv")
    assert len(wrote.data["executions"]) == 1
    line = wrote.text.splitlines()[1]
    assert " h #1 completed: " in line
    assert "-> 1" in line or "accuracy 0.93" in line
    assert "wrote outputs/best.csv" in line
    globbed = await agent.ask("search_executions", wrote="outputs/*.csv", session_ids=["h"])
    assert len(globbed["executions"]) == 1
    printed = await agent.ask("search_executions", session_ids=["h"], output_text="accuracy")
    assert [run["execution_index"] for run in printed["executions"]] == [1]
    failed = await agent.call("search_executions", session_ids=["h"], status=["failed"])
    assert "-> ZeroDivisionError: division by zero" in failed.text


async def test_events_tell_when_and_of_which_execution_and_pass_over_none(agent: Agent) -> None:
    await agent.ask("create_session", session_id="e")
    done = await agent.run("1", "e")
    read = await agent.call("get_events", session_ids=["e"])
    topics = [event["topic"] for event in read.data["events"]]
    assert topics == ["session.created", "kernel.started", "execution.started", "execution.ended"]
    last = read.text.splitlines()[-1].split()
    assert last[3:6] == ["execution.ended", "e", done["execution_id"] + ":"]
    assert (last[1].count("-"), last[2].count(":")) == (2, 2)  # a date, a time
    for _ in range(300):
        await agent.ask("publish_event", topic="long", data="x" * 150, session_id="e")
    seen, since = 0, read.data["next_since"]
    while True:
        page = await agent.call("get_events", session_ids=["e"], since=since, limit=1000)
        shown = [line for line in page.text.splitlines() if " long " in line]
        assert len(shown) == len(page.data["events"])
        if not shown:
            break
        seen, since = seen + len(shown), page.data["next_since"]
    assert seen == 300


async def test_each_death_of_a_kernel_is_an_event(agent: Agent, place: Place) -> None:
    await agent.ask("create_session", session_id="d")
    pid = (await agent.health(session_id="d"))["pid"]
    os.kill(pid, signal.SIGKILL)
    told = await agent.call("get_events", session_ids=["d"], topics=["kernel.died"], wait=HANG)
    assert "killed by SIGKILL" in told.text


async def test_a_death_names_the_variables_that_were_seen(agent: Agent) -> None:
    await agent.run("model = 1; data = 2")
    await agent.ask("list_variables")
    died = await agent.call("run_python_code", code="import os; os._exit(3)")
    assert "data, model: those of the last listing" in died.text
    assert "packages, files and history stay" in died.text


async def test_variables_of_paused_code_can_be_set(agent: Agent, place: Place) -> None:
    code = (
        "rate = 1\nfor n in range(10**6):\n    kernelry_session.checkpoint()\n"
        "    if rate == 2: break\n    import time; time.sleep(0.01)\nprint('rate', rate)"
    )
    begun = await agent.run(code, wait=0.3)
    said = await agent.refused("update_session", variables={"rate": 2})
    assert "pause_execution" in said
    paused = await agent.ask("pause_execution", wait=HANG)
    assert paused["state"] == "paused"
    await agent.ask("update_session", variables={"rate": 2})
    await agent.ask("resume_execution")
    ended = await agent.call("get_execution", execution_id=begun["execution_id"], wait=HANG)
    assert "rate 2" in ended.text


async def test_a_description_can_be_made_empty(agent: Agent) -> None:
    await agent.ask("create_session", session_id="c", description="old", options={"tags": ["x"]})
    made = await agent.ask("update_session", session_id="c", clear=["description", "tags"])
    assert (made["description"], made["tags"]) == ("", [])


async def test_artifacts_keep_what_they_were_given_and_are_compared(agent: Agent) -> None:
    await agent.ask("store_artifact", name="notes", content="a\nb\n", type="report", tags=["x"])
    await agent.ask("store_artifact", name="notes", content="a\nc\n")
    [new, old] = (await agent.ask("query_artifacts", name="notes"))["artifacts"]
    assert (new["version"], new["type"], new["tags"]) == (2, "report", ["x"])
    diff = await agent.call("get_artifact", artifact_id="notes", compare_with="1")
    assert "-b" in diff.text.splitlines() and "+c" in diff.text.splitlines()
    same = await agent.call(
        "get_artifact", artifact_id=new["artifact_id"], compare_with=new["artifact_id"]
    )
    assert "the same content" in same.text
    await agent.ask("create_session", session_id="other")
    none = await agent.call("query_artifacts", session_id="other")
    assert "None in session 'other'; session_id='*' looks in all: " in none.text
    assert old["version"] == 1


async def test_whoever_finds_a_session_dead_is_told_what_is_left_of_it(agent: Agent) -> None:
    """Nothing ran when it died, so that no answer about an execution could say it."""
    await agent.ask("create_session", session_id="idle")
    await agent.run("model = 1", "idle")
    await agent.ask("list_variables", session_id="idle")
    named = (await agent.ask("create_checkpoint", session_id="idle"))["checkpoint_id"]
    os.kill((await agent.health(session_id="idle"))["pid"], signal.SIGKILL)
    await agent.ask("get_events", session_ids=["idle"], topics=["kernel.died"], wait=HANG)
    said = await agent.refused("run_python_code", code="model", session_id="idle")
    assert "is dead (it ended by itself: killed by SIGKILL" in said
    assert "All variables (model: those of the last listing) are gone" in said
    assert f"resume_session gives it one with the variables of its checkpoint {named}" in said
    health = await agent.call("get_kernel_health", session_id="idle")
    assert "resume_session" in health.text


async def test_data_that_is_text_stays_text_and_a_long_one_says_how_it_is_read(
    agent: Agent,
) -> None:
    for data in ("123", "true", "x" * 5_000):
        await agent.ask("publish_event", topic="said", data=data)
    read = await agent.call("get_events", topics=["said"], limit=2, since=0)
    assert [event["data"] for event in read.data["events"]] == ["123", "true"]
    long = await agent.call("get_events", topics=["said"])
    [line] = [line for line in long.text.splitlines() if "xxx" in line]
    seq = int(line.split()[0])
    assert f"... (5000 characters; get_events(since={seq - 1}, limit=1) shows it)" in line
    alone = await agent.call("get_events", since=seq - 1, limit=1)
    assert "x" * 5_000 in alone.text
