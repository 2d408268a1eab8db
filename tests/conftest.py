"""What tests share: a service in a scratch directory, and real clients of a real server."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal, cast

import hypothesis
import pytest

from kernelry import Config, Sessions

# How long an example takes is the machine's business, and what else that does.
hypothesis.settings.register_profile("kernelry", deadline=None)
hypothesis.settings.load_profile("kernelry")

REPOSITORY = Path(__file__).parents[1]
KERNELRY = Path(sys.executable).with_name("kernelry")


#: which tests run; scripts/test runs most side by side, then those that must be `alone`
PART = os.environ.get("KERNELRYTEST_PART")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what belongs to the other part."""
    if PART is None:
        return
    kept, left_out = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        is_alone = item.get_closest_marker("alone") is not None
        (kept if is_alone == (PART == "alone") else left_out).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def nothing_fails_in_kernelry(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A task that nobody awaits says in the log only that it failed."""
    yield
    for when in ("setup", "call", "teardown"):
        records = caplog.get_records(when)
        failures = [r.getMessage() for r in records if "failed in kernelry" in r.getMessage()]
        assert not failures, failures


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


#: how the kernels of the tests start; scripts/test runs them once with each
KERNEL_START: Literal["fork", "spawn"] = (
    "spawn" if os.environ.get("KERNELRYTEST_START") == "spawn" else "fork"
)

#: how their sessions are kept apart; scripts/test runs them at the default and in boxes
ISOLATION = cast(
    Literal["auto", "process", "guard", "box"], os.environ.get("KERNELRYTEST_ISOLATION", "auto")
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Settings of a service that touches nothing outside of `tmp_path`."""
    return Config(
        state_dir=tmp_path / "state",
        state_dir_named=True,
        workspace=tmp_path / "workspace",
        kernel_start=KERNEL_START,
        warm=1,
        preloads=(),
        isolation=ISOLATION,
    )


@pytest.fixture
async def sessions(config: Config) -> AsyncIterator[Sessions]:
    async with Sessions(config) as service:
        yield service
