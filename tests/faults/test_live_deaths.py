"""Deaths around live checkpoints: what is written down is there, what is not leaves nothing."""

import os
import signal

import pytest

from kernelry.crashpoints import LIVE_POINTS, UNDO_POINTS, VARIABLE
from tests.acceptance.harness import Place, RawServer, until

from .matrix import fault
from .test_branch_deaths import LEVELS, Flags, value
from .test_server_deaths import HANG, gone, kernel_pid, kill


@pytest.fixture(params=LEVELS)
def flags(request: pytest.FixtureRequest) -> Flags:
    return ("--isolation", request.param, "--orphan-timeout", "600", "--toolsets", "all")


@fault("D2")
def test_live_checkpoints_outlive_the_server_and_their_origin(place: Place, flags: Flags) -> None:
    with RawServer(place, flags) as server:
        assert until(place.has_fork_server, HANG)
        server.tool("create_session", session_id="a")
        server.tool("run_python_code", code="it = iter(range(9)); next(it)", session_id="a")
        kept = server.tool("create_checkpoint", session_id="a", live=True)["checkpoint_id"]
        pid = kernel_pid(server, "a")
        kill(server)
    with RawServer(place, flags) as after:
        assert kernel_pid(after, "a") == pid
        assert after.tool("list_checkpoints")["checkpoints"][kept]["live"]
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: gone(pid), HANG)
        for _ in range(2):
            after.tool("restore_checkpoint", checkpoint_id=kept, session_id="a")
            assert value(after, "next(it)", "a") == "1"
        kill(after)
    with RawServer(place, flags) as last:
        assert value(last, "next(it)", "a") == "2"
        last.tool("restore_checkpoint", checkpoint_id=kept, session_id="a")
        assert value(last, "next(it)", "a") == "1"
    assert not place.survivors(HANG)
    with RawServer(place, flags) as anew:
        assert kept not in anew.tool("list_checkpoints")["checkpoints"]


@fault("D2")
@pytest.mark.parametrize("point", LIVE_POINTS)
def test_a_server_killed_while_it_freezes_leaves_a_checkpoint_or_none(
    place: Place, flags: Flags, point: str
) -> None:
    with RawServer(place, flags, env={VARIABLE: point}) as victim:
        assert until(place.has_fork_server, HANG)
        victim.tool("run_python_code", code="x = 5")
        victim.start_tool("create_checkpoint", session_id="default", live=True)
        assert victim.process.wait(HANG) == -signal.SIGKILL
    with RawServer(place, flags) as after:
        found = list(after.tool("list_checkpoints")["checkpoints"])
        assert len(found) == (1 if point == "live.kept" else 0)
        assert value(after, "x", "default") == "5"
        for checkpoint in found:
            after.tool("run_python_code", code="x = 6", session_id="default")
            after.tool("restore_checkpoint", checkpoint_id=checkpoint, session_id="default")
            assert value(after, "x", "default") == "5"
    assert not place.survivors(HANG)


@fault("D2")
def test_a_server_killed_while_it_restores_finds_the_kernel_dead_and_restores_it(
    place: Place,
    flags: Flags,
) -> None:
    with RawServer(place, flags, env={VARIABLE: "live.ended"}) as victim:
        assert until(place.has_fork_server, HANG)
        victim.tool("run_python_code", code="x = 5")
        kept = victim.tool("create_checkpoint", session_id="default", live=True)["checkpoint_id"]
        victim.start_tool("restore_checkpoint", checkpoint_id=kept, session_id="default")
        assert victim.process.wait(HANG) == -signal.SIGKILL
    with RawServer(place, flags) as after:
        assert "dead" in str(after.call("run_python_code", code="x", session_id="default"))
        after.tool("restore_checkpoint", checkpoint_id=kept, session_id="default")
        assert value(after, "x", "default") == "5"
    assert not place.survivors(HANG)


@fault("D2")
@pytest.mark.parametrize("dies", [False, True])
def test_a_rollback_outlives_the_server(place: Place, flags: Flags, dies: bool) -> None:
    with RawServer(place, flags) as victim:
        assert until(place.has_fork_server, HANG)
        victim.tool("run_python_code", code="x = [5]", session_id="default")
        pid = kernel_pid(victim, "default")
        started = victim.tool(
            "run_python_code",
            code="import pathlib, time\nx.clear()\n"
            "while not pathlib.Path('go').exists(): time.sleep(0.01)\n1/0",
            session_id="default",
            on_error="rollback",
            wait=0.5,
        )
        assert started["status"] == "running"
        kill(victim)
    if dies:
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: gone(pid), HANG)
    with RawServer(place, flags) as after:
        (place.workspace / "go").touch()
        found = after.tool("get_execution", execution_id=started["execution_id"], wait=HANG)
        assert found["status"] == ("died" if dies else "failed")
        assert found["undone"] == "rollback", found
        assert "Rolled back" in found["note"]
        assert value(after, "x", "default") == "[5]"
        assert not after.tool("list_checkpoints")["checkpoints"]
    assert not place.survivors(HANG)


@fault("D2")
@pytest.mark.parametrize("point", UNDO_POINTS)
def test_a_rollback_that_a_server_did_not_end_the_next_one_ends(
    place: Place, flags: Flags, point: str
) -> None:
    with RawServer(place, flags, env={VARIABLE: point}) as victim:
        assert until(place.has_fork_server, HANG)
        victim.tool("run_python_code", code="x = [5]", session_id="default")
        code = "print('said'); x.clear(); 1/0"
        victim.start_tool("run_python_code", code=code, session_id="default", on_error="rollback")
        assert victim.process.wait(HANG) == -signal.SIGKILL
    with RawServer(place, flags) as after:
        (found,) = after.tool("search_executions", code_text="said")["executions"]
        assert (found["status"], found["undone"], found["error"][:17]) == (
            *("failed", "rollback", "ZeroDivisionError"),
        )
        assert value(after, "x", "default") == "[5]"
        assert not after.tool("list_checkpoints")["checkpoints"]
    assert not place.survivors(HANG)


@fault("D2")
def test_one_that_was_queued_when_the_server_was_killed_is_rolled_back_too(
    place: Place, flags: Flags
) -> None:
    with RawServer(place, flags, env={VARIABLE: "live.frozen"}) as victim:
        assert until(place.has_fork_server, HANG)
        victim.tool("run_python_code", code="x = [5]", session_id="default")
        code = "import time; time.sleep(1); x.clear(); 1/0"
        for _ in range(2):
            victim.start_tool(
                "run_python_code", code=code, session_id="default", on_error="rollback", wait=0
            )
        assert victim.process.wait(HANG) == -signal.SIGKILL
    with RawServer(place, flags) as after:
        ran = after.tool("search_executions", code_text="clear")["executions"]
        for one in ran:
            after.tool("get_execution", execution_id=one["execution_id"], wait=HANG)
        found = after.tool("search_executions", code_text="clear")["executions"]
        assert found[0]["undone"] == "rollback"  # the first was sent before its copy was kept
    assert not place.survivors(HANG)


@fault("D2")
def test_a_fork_server_that_dies_takes_no_live_checkpoint_along(place: Place, flags: Flags) -> None:
    with RawServer(place, flags) as server:
        assert until(place.has_fork_server, HANG)
        server.tool("create_session", session_id="a")
        server.tool("run_python_code", code="x = [1]", session_id="a")
        kept = server.tool("create_checkpoint", session_id="a", live=True)["checkpoint_id"]
        server.tool("run_python_code", code="x.append(2)", session_id="a")
        kernel = kernel_pid(server, "a")
        servers = [
            process
            for process in place.processes()
            if "forkserver" in process.cmdline() and process.ppid() == server.process.pid
        ]
        assert servers
        for process in servers:
            process.kill()
        assert value(server, "x", "a") == "[1, 2]"
        server.tool("restore_checkpoint", checkpoint_id=kept, session_id="a")
        assert value(server, "x", "a") == "[1]"
        assert until(lambda: gone(kernel), HANG)
    assert not place.survivors(HANG)
