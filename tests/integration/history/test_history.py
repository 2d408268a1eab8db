"""What was run is found by its words, also of sessions that are gone."""

from datetime import timedelta

import pytest

from kernelry import Config, ExecutionStatus, Sessions, SessionSpec
from kernelry.errors import InvalidArgumentError
from kernelry.history.search import Search
from tests.faults.kernels import run, until


@pytest.fixture
async def filled(sessions: Sessions) -> Sessions:
    return await fill(sessions)


async def fill(sessions: Sessions) -> Sessions:
    """Have a parent and its child run something."""
    parent = await sessions.create(SessionSpec(id="parent", description="Loads the Iris data"))
    await run(sessions, parent, "import json  # nothing else\nx_total = 1")
    spawning = await run(sessions, parent, "spawn_children = 2")
    child = await sessions.create(
        SessionSpec(
            id="child",
            description="Trains a forest",
            parent_session_id="parent",
            parent_execution_id=spawning.id,
        )
    )
    await run(sessions, child, "forest = {'trees': 10}")
    await run(sessions, child, "1 / 0")
    return sessions


async def codes(sessions: Sessions, **wanted: object) -> list[str]:
    found = await sessions.history.search(Search(**wanted))  # type: ignore[arg-type]
    return [execution.code.split("\n")[0] for execution in found]


async def test_tv_11_all_words_must_be_there_in_any_order_and_case(filled: Sessions) -> None:
    assert await codes(filled, code_text="JSON import") == ["import json  # nothing else"]
    assert await codes(filled, code_text="json pandas") == []
    assert await codes(filled, code_text="spawn") == ["spawn_children = 2"]
    assert await codes(filled, code_text="children") == []  # '_' belongs to a word
    assert await codes(filled, code_text="x_total") == ["import json  # nothing else"]
    assert await codes(filled, code_text='"trees" OR NOT ( *') == []  # words, no syntax


async def test_tv_11_filters_are_anded_and_each_has_what_it_excludes(filled: Sessions) -> None:
    everything = ["1 / 0", "forest = {'trees': 10}", "spawn_children = 2"]
    assert (await codes(filled))[:3] == everything  # the newest first
    assert await codes(filled, session_ids=["child"]) == everything[:2]
    assert await codes(filled, session_ids=["child"], code_text="json") == []
    assert await codes(filled, parent_code_text="spawn_children") == everything[:2]
    assert await codes(filled, parent_code_text="forest") == []
    assert await codes(filled, description_text="iris LOADS", code_text="json") != []
    assert await codes(filled, description_text="iris", code_text="forest") == []
    assert await codes(filled, statuses=[ExecutionStatus.FAILED]) == ["1 / 0"]
    assert await codes(filled, statuses=[ExecutionStatus.DIED]) == []


async def test_tv_12_what_was_raised_is_found_with_the_code_that_raised_it(
    filled: Sessions,
) -> None:
    assert await codes(filled, error_text="division zero") == ["1 / 0"]
    assert await codes(filled, error_text="ZeroDivisionError", code_text="1 0") == ["1 / 0"]
    assert await codes(filled, error_text="KeyError") == []


async def test_times_and_pages_narrow_a_search(filled: Sessions) -> None:
    newest, *others = await filled.history.search(Search())
    assert newest.code == "1 / 0"
    assert await codes(filled, since=newest.created_at) == ["1 / 0"]
    assert await codes(filled, until=newest.created_at) == [
        execution.code.split("\n")[0] for execution in others
    ]
    assert await codes(filled, since=newest.created_at + timedelta(hours=1)) == []
    assert list(await filled.history.search(Search(), limit=2, offset=1)) == others[:2]


async def test_a_filter_without_a_word_is_refused(filled: Sessions) -> None:
    with pytest.raises(InvalidArgumentError, match="no letter or digit"):
        await codes(filled, code_text="***")
    with pytest.raises(InvalidArgumentError, match="at most 32 words"):
        await codes(filled, error_text="word " * 33)


async def test_the_history_of_a_deleted_session_stays_if_that_was_asked_for(
    config: Config,
) -> None:
    async with Sessions(config) as first:
        await fill(first)
        assert await first.delete("child", keep_history=True) == "child~1"
        assert await codes(first, code_text="forest") == ["forest = {'trees': 10}"]
        (found,) = await first.history.search(Search(error_text="zero"))
        assert found.session_id == "child~1"
        assert (await first.execution(found.id)).error == found.error
        again = await first.create(SessionSpec(id="child"))
        await run(first, again, "forest = 'another'")
        assert await first.delete("child", keep_history=True) == "child~2"
        assert await first.delete("parent") == ""
    async with Sessions(config) as second:
        assert await codes(second, code_text="json") == []
        assert [s.id for s in second.list()] == ["default"]
        assert len(await codes(second, code_text="forest")) == 2
        assert (await second.history.session("child~1")).description == "Trains a forest"


async def test_tv_9_what_is_under_way_is_found_too(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    running = await sessions.run(session, "import time; marker = 1; time.sleep(600)")
    await until(lambda: running.begun.is_set(), "it runs")
    (found,) = await sessions.history.search(Search(code_text="marker"))
    assert found.status is ExecutionStatus.RUNNING
    await session.interrupt(running)
    (found,) = await sessions.history.search(Search(code_text="marker"))
    assert found.status is ExecutionStatus.INTERRUPTED
    assert found.error is not None
