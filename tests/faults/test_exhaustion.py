"""The system has no more descriptors, or no more processes."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil

from tests.acceptance.harness import Place, RawServer, unavailable, until

from .matrix import fault

HANG = 60.0


@contextmanager
def forks_fail(pid: int) -> Iterator[None]:
    """Let a process's attempts to make another one fail."""
    strace = shutil.which("strace")
    if strace is None:
        unavailable("there is no strace")
    calls = "inject=clone,clone3,fork,vfork:error=EAGAIN"
    tracing = subprocess.Popen(
        [strace, "-qq", "-e", calls, "-o", "/dev/null", "-p", str(pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        is_traced = until(lambda: tracer_of(pid) == tracing.pid or tracing.poll() is not None, HANG)
        if not is_traced or tracing.poll() is not None:
            unavailable("strace may not trace here")
        yield
    finally:
        tracing.terminate()
        tracing.communicate()


def tracer_of(pid: int) -> int:
    """Return the process that traces another one; 0: none."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("TracerPid:"))


@fault("D9")
def test_a_session_is_refused_before_no_descriptor_is_left(place: Place) -> None:
    with RawServer(place, ("--warm", "0")) as server:
        server.tool("create_session", session_id="kept")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (90, 90))
        made = []
        while not (answer := server.call("create_session")).get("isError"):
            made.append(answer["structuredContent"]["session_id"])
            assert len(made) < 20
        text = answer["content"][0]["text"]
        assert "of at most 90 file descriptors" in text and "ulimit -n" in text
        for name in ("kept", *made):
            assert server.tool("run_python_code", code="1+1", session_id=name)["results"] == ["2"]
        total = server.tool("list_sessions")["total_sessions"]
        assert total == len(made) + 2
        for name in made:
            server.tool("delete_session", session_id=name)
        assert server.tool("create_session", session_id="again")["status"] == "created"


@fault("D10")
def test_a_session_is_refused_when_no_process_can_be_made(place: Place) -> None:
    with RawServer(place, ("--warm", "0", "--kernel-start", "fork")) as server:
        server.tool("create_session", session_id="kept")
        guards = psutil.Process(server.process.pid).children()  # guardian and fork server
        assert len(guards) == 2
        with ExitStack() as stack:
            for guard in guards:
                stack.enter_context(forks_fail(guard.pid))
            for fresh in (False, True):
                refused = server.call("create_session", session_id="none", fresh=fresh)
                assert refused["isError"]
                assert "no process could be made" in refused["content"][0]["text"], refused
            done = server.tool("run_python_code", code="1+1", session_id="kept")
            assert done["results"] == ["2"]
            assert set(server.tool("list_sessions")["sessions"]) == {"default", "kept"}
        assert server.tool("create_session", session_id="none")["status"] == "created"
