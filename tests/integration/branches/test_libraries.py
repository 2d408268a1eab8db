"""Branches of sessions that use libraries with threads of their own, which are large."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Config, Sessions, SessionSpec
from tests.faults.kernels import printed, value

LEVELS = ("process", "guard", "box")
SCRATCH = Path(__file__).parents[3] / ".scratch"  # filled by scripts/clients
PYTHON = SCRATCH / "libraries" / "bin" / "python"
#: what a session does, and what a branch of it and itself do then, with the result
TORCH = (
    "import torch\n"
    "torch.manual_seed(0); model = torch.nn.Linear(512, 512)\n"
    "x = torch.randn(2048, 512); optimizer = torch.optim.SGD(model.parameters(), lr=0.01)\n"
    "def step():\n"
    "    optimizer.zero_grad(); loss = model(x).square().mean(); loss.backward()\n"
    "    optimizer.step(); return round(loss.item(), 4)\n"
    "before = [step() for _ in range(3)]"
)
POLARS = (
    "import polars as pl\n"
    "frame = pl.DataFrame({'a': range(100_000), 'b': [n % 7 for n in range(100_000)]})\n"
    "def total(): return frame.lazy().group_by('b').agg(pl.col('a').sum()).collect()['a'].sum()\n"
    "before = total()"
)


def need(library: str) -> None:
    """Skip where a library could not be had."""
    if list(PYTHON.parents[1].glob(f"lib/python3*/site-packages/{library}")):
        return
    listed = (SCRATCH / f"{library}.missing").exists()
    if os.environ.get("KERNELRYTEST_REQUIRE_ALL") and not listed:
        pytest.fail(f"{PYTHON} has no {library}: run scripts/clients")
    pytest.skip(f"no {library} here: scripts/clients could not install it")


@pytest.fixture
def torch() -> None:
    need("torch")


@pytest.fixture
def polars() -> None:
    need("polars")


@pytest.fixture
async def service(config: Config, level: str) -> AsyncIterator[Sessions]:
    given = replace(config, python=PYTHON, isolation=level)  # type: ignore[arg-type]
    async with Sessions(given) as service:
        yield service


@pytest.mark.usefixtures("torch")
async def test_torch_trains_on_in_origin_and_branch(service: Sessions) -> None:
    session = await service.create(SessionSpec(id="a"))
    await printed(service, session, TORCH)
    (made,) = (await service.branching.create(session, SessionSpec())).branches
    assert made.is_live, made.why
    there = await value(service, made.session, "[step() for _ in range(3)]")
    assert there == await value(service, session, "[step() for _ in range(3)]")
    assert await value(service, made.session, "torch.get_num_threads() >= 1") == "True"


@pytest.mark.usefixtures("polars")
async def test_polars_comes_by_a_checkpoint_which_says_so(service: Sessions) -> None:
    session = await service.create(SessionSpec(id="a"))
    await printed(service, session, POLARS)
    (made,) = (await service.branching.create(session, SessionSpec())).branches
    assert not made.is_live and "polars" in made.why
    assert await value(service, made.session, "(total() == before, frame.shape)") == (
        "(True, (100000, 2))"
    )
    assert await value(service, session, "total() == before") == "True"
