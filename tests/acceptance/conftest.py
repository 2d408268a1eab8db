"""Places, servers and clients of the acceptance tests."""

import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from .harness import HANG, Agent, HttpServer, Place, http_server, stdio_agent

TEST_DEADLINE = 600  # seconds after which a test hangs: a hundred boxes can take over 180


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


@contextmanager
def new_place(root: Path) -> Iterator[Place]:
    """A directory for servers, which must leave no process and no socket when it is over."""
    with tempfile.TemporaryDirectory(prefix="kernelry-") as runtime:
        place = Place(root, Path(runtime))
        yield place
        left = place.survivors(HANG)
        for process in left:
            process.kill()
        assert not left, left
        assert not list(place.runtime.glob("kernelry/*/*"))


@pytest.fixture(scope="module")
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Place, Agent]]:
    """One server for the tests of a module that end no server: users' are old and used too."""
    with new_place(tmp_path_factory.mktemp("shared")) as place:
        async with stdio_agent(place, *getattr(request.module, "FLAGS", ())) as agent:
            yield place, agent


def shares(request: pytest.FixtureRequest) -> bool:
    """Say whether a test goes to its module's server: the module says so, and it wants a client."""
    return getattr(request.module, "SHARES_A_SERVER", False) and "agent" in request.fixturenames


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Where the servers of a test keep everything."""
    if shares(request):
        yield request.getfixturevalue("shared")[0]
        return
    with new_place(tmp_path) as place:
        yield place


@pytest.fixture
def shared_agent(request: pytest.FixtureRequest, place: Place) -> Agent | None:
    """The client of a module's server; None: the test gets a server of its own."""
    if not shares(request):
        return None
    agent: Agent = request.getfixturevalue("shared")[1]
    return agent


@pytest.fixture
async def agent(
    request: pytest.FixtureRequest, place: Place, shared_agent: Agent | None
) -> AsyncIterator[Agent]:
    """The official client, connected over stdio to a server as the module's FLAGS want it.

    It is a server of the test's own, or the module's, with no session but an empty default and
    nothing in the workspace.
    """
    if shared_agent is None:
        async with stdio_agent(place, *getattr(request.module, "FLAGS", ())) as agent:
            yield agent
        return
    await start_over(shared_agent, place)
    yield shared_agent


async def start_over(agent: Agent, place: Place) -> None:
    """Leave a server as if no test had used it, but for its age and its log of events."""
    listed = await agent.ask("list_sessions")
    for name in listed["sessions"]:
        if name != "default":
            await agent.ask("delete_session", session_id=name)
    await agent.ask("restart_kernel", session_id="default")
    for path in place.workspace.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
    for path in place.workspace.iterdir():
        if path.name not in ("scripts", "outputs", "uploads"):
            shutil.rmtree(path)


@pytest.fixture
def served(place: Place) -> Iterator[HttpServer]:
    """A server over HTTP."""
    with http_server(place) as server:
        yield server
