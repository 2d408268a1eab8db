"""What tests share: a service in a scratch directory, and real clients of a real server."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from carrel import Config, Sessions

REPOSITORY = Path(__file__).parents[1]
CARREL = Path(sys.executable).with_name("carrel")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of a service that touches nothing outside of `tmp_path`."""
    return Config(
        state_dir=tmp_path / "state", state_dir_named=True, workspace=tmp_path / "workspace"
    )


@pytest.fixture
async def sessions(config: Config) -> AsyncIterator[Sessions]:
    async with Sessions(config) as service:
        yield service
