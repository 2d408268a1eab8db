"""Promotions: a session becomes what another one is, and keeps its id and its history."""

import asyncio

import pytest

from kernelry import Sessions, SessionSpec
from kernelry.errors import CheckpointError, InvalidArgumentError, KernelDeadError
from kernelry.history import Search
from kernelry.lives import promote
from tests.faults.kernels import printed, run, value

STATE = "items = [1]; alias = items; gen = iter(range(9)); next(gen)"


async def test_the_best_branch_becomes_the_session(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    await printed(live, origin, STATE)
    (made,) = (await live.branching.create(origin, SessionSpec(id="b"))).branches
    branch = made.session
    await printed(live, branch, "items.append(2); import kernelry_session as k; k.context['n'] = 1")
    (branch.environment.site / "brought").mkdir(parents=True, exist_ok=True)
    await printed(live, origin, "items.clear(); mine = 1")
    done = await promote(live.checkpoints, branch, origin, None)
    assert done.is_live
    found = await value(live, origin, "(items, alias is items, next(gen), 'mine' in globals())")
    assert found == "([1, 2], True, 1, False)"
    assert await value(live, origin, "k.session_id") == "'a'"
    assert origin.record.context == {"n": 1}
    assert await value(live, branch, "(items, next(gen))") == "([1, 2], 1)"
    await printed(live, branch, "items.append(9)")
    assert await value(live, origin, "items") == "[1, 2]"
    ran = reversed(await live.history.search(Search(session_ids=["a"])))
    assert [one.undone.value for one in ran][:3] == ["", "rewind", ""]


async def test_packages_come_along(live: Sessions) -> None:
    origin = await live.create(SessionSpec(id="a"))
    other = await live.create(SessionSpec(id="b"))
    for session, name in ((origin, "old"), (other, "new")):
        await printed(live, session, "1")
        (session.environment.site / name).mkdir(parents=True)
        (session.environment.site / name / "__init__.py").write_text(f"name = '{name}'")
    await promote(live.checkpoints, other, origin, None)
    assert await value(live, origin, "__import__('new').name") == "'new'"
    assert (await run(live, origin, "import old")).error is not None
    assert await value(live, other, "__import__('new').name") == "'new'"


async def test_what_can_t_be_promoted_is_refused_and_nothing_changes(live: Sessions) -> None:
    one, other = await live.create(SessionSpec(id="a")), await live.create(SessionSpec(id="b"))
    narrow = await live.create(SessionSpec(id="c", limits={"open_files": 500}))
    await printed(live, one, "x = 1")
    with pytest.raises(InvalidArgumentError, match="into itself"):
        await promote(live.checkpoints, one, one, None)
    with pytest.raises(CheckpointError, match="another walls or limits"):
        await promote(live.checkpoints, narrow, one, None)
    await run(live, other, "import os; os._exit(1)")
    with pytest.raises(KernelDeadError):
        await promote(live.checkpoints, other, one, None)
    assert await value(live, one, "x") == "1"


async def test_where_it_can_t_be_copied_its_variables_come(live: Sessions) -> None:
    one, other = await live.create(SessionSpec(id="a")), await live.create(SessionSpec(id="b"))
    await printed(live, one, "mine = 1")
    await printed(
        live,
        other,
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1); _ = pool.submit(int).result(); x = [2]",
    )
    done = await promote(live.checkpoints, other, one, None)
    assert not done.is_live and "a pool of threads" in done.why
    assert [item.name for item in done.left_out] == ["pool"]
    assert await value(live, one, "(x, 'mine' in globals())") == "([2], False)"
    assert not await live.checkpoints.list()


async def test_two_that_become_each_other_do_not_wait_for_ever(live: Sessions) -> None:
    one, other = await live.create(SessionSpec(id="a")), await live.create(SessionSpec(id="b"))
    await printed(live, one, "x = 1")
    await printed(live, other, "x = 2")
    ways = (
        promote(live.checkpoints, one, other, None),
        promote(live.checkpoints, other, one, None),
    )
    await asyncio.gather(*ways)
    found = {await value(live, session, "x") for session in (one, other)}
    assert len(found) == 1


@pytest.mark.parametrize("turns", [1, 3, 8, 21, 55, 144])
async def test_a_promotion_that_is_cancelled_or_fails_keeps_packages_and_kernel_together(
    live: Sessions, turns: int
) -> None:
    origin, other = await live.create(SessionSpec(id="a")), await live.create(SessionSpec(id="b"))
    for session, name in ((origin, "old"), (other, "new")):
        await printed(live, session, f"mine = '{name}'")
        (session.environment.site / name).mkdir(parents=True)
        (session.environment.site / name / "__init__.py").write_text("")
    promoting = asyncio.create_task(promote(live.checkpoints, other, origin, None))
    for _ in range(turns):
        await asyncio.sleep(0)
    promoting.cancel()
    await asyncio.wait([promoting])
    name = (await value(live, origin, "mine")).strip("'")
    assert (await run(live, origin, f"import {name}")).error is None
    assert [path.name for path in origin.directory.iterdir() if path.name.startswith(".")] == []


async def test_a_dead_session_becomes_another_one_in_both_ways(live: Sessions) -> None:
    origin, other = await live.create(SessionSpec(id="a")), await live.create(SessionSpec(id="b"))
    await printed(live, other, "x = 7")
    for pool in (
        "",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1); _ = pool.submit(int).result()",
    ):
        await printed(live, other, pool or "1")
        await run(live, origin, "import os; os._exit(1)")
        done = await promote(live.checkpoints, other, origin, None)
        assert done.is_live is not bool(pool)
        assert await value(live, origin, "x") == "7"
