"""Deaths around branches: of the server, of the fork server, of the origin; nothing is lost."""

import os
import signal
from typing import TypeAlias

import pytest

from kernelry.crashpoints import BRANCH_POINTS, VARIABLE
from tests.acceptance.harness import Place, RawServer, until

from .matrix import fault
from .test_server_deaths import HANG, gone, kernel_pid, kill

LEVELS = ("guard", "box")
Flags: TypeAlias = tuple[str, ...]


@pytest.fixture(params=LEVELS)
def flags(request: pytest.FixtureRequest) -> Flags:
    return ("--isolation", request.param, "--orphan-timeout", "600")


def value(server: RawServer, code: str, session_id: str) -> str:
    """Return the repr of an expression."""
    done = server.tool("run_python_code", code=code, session_id=session_id)
    assert done["status"] == "completed", done
    found: str = done["results"][0]
    return found


@fault("D2")
def test_branches_outlive_the_server_and_then_their_origin(place: Place, flags: Flags) -> None:
    with RawServer(place, flags) as server:
        assert until(place.has_fork_server, HANG)
        server.tool("create_session", session_id="a")
        server.tool("run_python_code", code="it = iter(range(9)); next(it)", session_id="a")
        server.tool("create_session", session_id="b", branch_of="a")
        server.tool("create_session", session_id="c", branch_of="b")
        pids = [kernel_pid(server, name) for name in "abc"]
        kill(server)
    with RawServer(place, flags) as after:
        assert [kernel_pid(after, name) for name in "abc"] == pids
        os.kill(pids[0], signal.SIGKILL)
        assert until(lambda: gone(pids[0]), HANG)
        assert [value(after, "next(it)", name) for name in "bc"] == ["1", "1"]
        kill(after)
    with RawServer(place, flags) as last:
        assert [value(last, "next(it)", name) for name in "bc"] == ["2", "2"]
        died = last.tool("run_python_code", code="import os; os._exit(5)", session_id="c")
        assert died["status"] == "died" and "exit code 5" in str(died)
        last.tool("delete_session", session_id="c")
        last.tool("delete_session", session_id="b")
        assert until(lambda: gone(pids[1]) and gone(pids[2]), HANG)
    assert not place.survivors(HANG)


@fault("D2")
@pytest.mark.parametrize("point", BRANCH_POINTS)
def test_a_server_killed_while_it_branches_leaves_a_branch_or_none(
    place: Place, flags: Flags, point: str
) -> None:
    with RawServer(place, flags, env={VARIABLE: point}) as victim:
        assert until(place.has_fork_server, HANG)
        victim.tool("run_python_code", code="x = 5")
        victim.start_tool("create_session", session_id="b", branch_of="default")
        assert victim.process.wait(HANG) == -signal.SIGKILL
    with RawServer(place, flags) as after:
        names = set(after.tool("list_sessions")["sessions"])
        assert names == ({"default", "b"} if point == "branch.saved" else {"default"})
        assert [value(after, "x", name) for name in names] == ["5"] * len(names)
        sessions = place.state / "sessions"
        # What is left of the one that was not made goes; there are warm kernels, too.
        assert until(lambda: len(list(sessions.iterdir())) <= len(names) + 2, HANG)
    assert not place.survivors(HANG)


@fault("D2")
def test_a_fork_server_that_dies_takes_no_branch_along(place: Place, flags: Flags) -> None:
    with RawServer(place, flags) as server:
        assert until(place.has_fork_server, HANG)
        server.tool("create_session", session_id="a")
        server.tool("run_python_code", code="x = [1]", session_id="a")
        server.tool("create_session", session_id="b", branch_of="a")
        pids = [kernel_pid(server, name) for name in "ab"]
        for process in place.processes():
            if "forkserver" in process.cmdline() and process.pid not in pids:
                process.kill()
        assert [value(server, "x", name) for name in "ab"] == ["[1]", "[1]"]
        server.tool("create_session", session_id="c", branch_of="b")
        assert value(server, "x", "c") == "[1]"
    assert not place.survivors(HANG)
