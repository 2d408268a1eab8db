"""A server whose state directory can't be written, as its client sees it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.harness import Place, RawServer, until

from .matrix import fault
from .records import integrity
from .test_store_faults import fill, mount, unmount

HANG = 60.0
CELL = "print('x' * 2000)"


@pytest.fixture
def state(place: Place) -> Iterator[Path]:
    """The state directory of the place, on a small disk."""
    place.state.mkdir(mode=0o700)
    mount(place.state, "size=16m", "mode=700")
    yield place.state
    unmount(place.state)


def degraded(server: RawServer) -> str:
    """Return what health says of the server itself."""
    said: str = server.tool("get_kernel_health")["degraded"]
    return said


def run_until(server: RawServer, is_degraded: bool) -> list[str]:
    """Run cells until the server says so; return their ids."""
    ids: list[str] = []

    def look() -> bool:
        done = server.tool("run_python_code", code=CELL)
        assert done["status"] == "completed", done
        ids.append(done["execution_id"])
        return bool(degraded(server)) is is_degraded

    assert until(look, HANG)
    return ids


@fault("D4")
def test_health_says_that_the_disk_is_full_and_that_it_is_no_more(
    state: Path, place: Place
) -> None:
    with RawServer(place) as server:
        server.tool("run_python_code", code=CELL)
        assert degraded(server) == ""
        filler = fill(state)
        ids = run_until(server, is_degraded=True)
        said = degraded(server)
        assert str(state) in said and "full" in said
        # A kernel may find no room for its files; then it says so.
        made = [server.call("create_session", session_id=f"made-{n}") for n in range(5)]
        for refused in (answer for answer in made if answer.get("isError")):
            assert "free space" in refused["content"][0]["text"]
        filler.unlink()
        ids += run_until(server, is_degraded=False)
    with RawServer(place) as server:
        for execution_id in ids:
            kept = server.tool("get_execution", execution_id=execution_id)
            assert (kept["status"], kept["stdout"]) == ("completed", "x" * 2000 + "\n")
    assert integrity(state / "kernelry.sqlite") == "ok"


@fault("D5")
def test_health_says_that_the_directory_is_read_only_and_that_it_is_no_more(
    state: Path, place: Place
) -> None:
    with RawServer(place) as server:
        server.tool("run_python_code", code=CELL)
        mount(state, "ro", "mode=700")
        try:
            ids = run_until(server, is_degraded=True)
            assert str(state) in degraded(server)
        finally:
            unmount(state)
        ids += run_until(server, is_degraded=False)
    with RawServer(place) as server:
        for execution_id in ids:
            assert server.tool("get_execution", execution_id=execution_id)["status"] == "completed"
