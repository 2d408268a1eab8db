"""A service whose kernels can be forked as they are: those without walls."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from kernelry import Config, Sessions


@pytest.fixture
async def live(config: Config) -> AsyncIterator[Sessions]:
    async with Sessions(replace(config, isolation="process")) as service:
        yield service
