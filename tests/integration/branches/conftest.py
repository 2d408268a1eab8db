"""A service whose kernels can be forked as they are, without walls or behind them."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kernelry import Config, Session, Sessions, SessionSpec


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses `live` at each of its module's `LEVELS`; fresh processes at the first only."""
    levels = getattr(metafunc.module, "LEVELS", ("process",))
    if "begun" in metafunc.fixturenames:
        ways = [*((level, "forked") for level in levels), (levels[0], "spawned")]
        metafunc.parametrize(("level", "begun"), ways)
    elif "level" in metafunc.fixturenames:
        metafunc.parametrize("level", levels)


@pytest.fixture
async def live(config: Config, level: str) -> AsyncIterator[Sessions]:
    async with Sessions(replace(config, isolation=level)) as service:  # type: ignore[arg-type]
        yield service


@pytest.fixture
async def origin(live: Sessions, begun: str) -> Session:
    """A session whose kernel was forked, or is a fresh process."""
    fresh = begun == "spawned"
    if not fresh:
        await live.wait_until_warm()
    return await live.create(SessionSpec(id="a"), fresh=fresh)
