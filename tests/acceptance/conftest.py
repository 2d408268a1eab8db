"""Places, servers and clients of the acceptance tests."""

import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType

import pytest

from .harness import HANG, Agent, HttpServer, Place, http_server, stdio_agent

TEST_DEADLINE = 180  # seconds after which a test hangs


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    """No test hangs for ever."""

    def give_up(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took longer than {TEST_DEADLINE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TEST_DEADLINE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A directory for servers, which must leave no process and no socket when a test is over."""
    with tempfile.TemporaryDirectory(prefix="kernelry-") as runtime:
        place = Place(tmp_path, Path(runtime))
        yield place
        left = place.survivors(HANG)
        for process in left:
            process.kill()
        assert not left, left
        assert not list(place.runtime.glob("kernelry/*/*"))


@pytest.fixture
async def agent(place: Place) -> AsyncIterator[Agent]:
    """The official client, connected over stdio to a server of its own."""
    async with stdio_agent(place) as agent:
        yield agent


@pytest.fixture
def served(place: Place) -> Iterator[HttpServer]:
    """A server over HTTP."""
    with http_server(place) as server:
        yield server
