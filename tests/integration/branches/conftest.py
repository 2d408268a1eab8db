"""A service whose kernels can be forked as they are: those without walls."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kernelry import Config, Session, Sessions, SessionSpec


@pytest.fixture
async def live(config: Config) -> AsyncIterator[Sessions]:
    async with Sessions(replace(config, isolation="process")) as service:
        yield service


@pytest.fixture(params=["forked", "spawned"])
async def origin(live: Sessions, request: pytest.FixtureRequest) -> Session:
    """A session whose kernel was forked, or is a fresh process."""
    fresh = request.param == "spawned"
    if not fresh:
        await live.wait_until_warm()
    return await live.create(SessionSpec(id="a"), fresh=fresh)
