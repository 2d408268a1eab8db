"""What people do in notebooks gives an agent as much; a part of `scripts/workloads`."""

import sys
from pathlib import Path

import pytest
from cells import Workload, read_workloads
from compare import differences, lines
from page import reasons
from sides import OK, Ours, Seen, stock_kernel

from .harness import Agent

SHARES_A_SERVER = True
WORKLOADS = {workload.name: workload for workload in read_workloads()}
CHOSEN = [name for name, workload in WORKLOADS.items() if workload.in_tests]


@pytest.mark.parametrize("name", CHOSEN)
async def test_an_agent_gets_what_a_notebook_shows(agent: Agent, tmp_path: Path, name: str) -> None:
    workload: Workload = WORKLOADS[name]
    await agent.ask("create_session", session_id=name)
    ours = Ours(agent.client, name)
    folder = tmp_path / "stock"
    folder.mkdir()
    found = []
    async with stock_kernel(Path(sys.executable), folder) as stock:
        for number, cell in enumerate(workload.cells, 1):
            expected, seen = await stock.run(cell), await ours.run(cell)
            found += [f"cell {number}: {one}" for one in differences(expected, seen)]
    await agent.ask("delete_session", session_id=name)
    assert bool(found) is (name in reasons("workloads")), found


def test_there_are_enough_of_them() -> None:
    assert len(WORKLOADS) >= 60
    assert len(CHOSEN) >= len(WORKLOADS) / 4
    assert not reasons("workloads").keys() - WORKLOADS.keys()


@pytest.mark.parametrize(
    ("stock", "ours", "said"),
    [
        (Seen(OK, text="shown"), Seen(OK), "is silent"),
        (Seen(OK, text="a\nb"), Seen(OK, text="a"), "1 lines of text differ: b"),
        (Seen(OK), Seen("error", "E"), "ends as error"),
        (Seen("error", "E"), Seen("error", "F"), "raises F, stock E"),
        (Seen(OK, pictures=2), Seen(OK, pictures=1), "shows 1 pictures"),
        (Seen(OK, rich=["text/html"]), Seen(OK), "says nothing of text/html"),
        (Seen(OK), Seen(), "hangs"),
    ],
)
def test_what_an_agent_has_less_is_found(stock: Seen, ours: Seen, said: str) -> None:
    assert said in "; ".join(differences(stock, ours))
    assert not differences(stock, stock)


def test_what_differs_by_chance_is_no_difference() -> None:
    one = "took 1.5 ms at 0x7f01 in /tmp/ipykernel_12/34.py\nold\rnew"
    two = "took 23 µs at 0x9c02 in /home/u/s/tmp/ipykernel_7/8.py\nnew"
    assert lines(one) == lines(two)
