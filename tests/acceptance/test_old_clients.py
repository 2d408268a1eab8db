"""Clients of the years before: fastmcp 2.14 and mcp 1.x, in environments of their own."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from .harness import KERNELRY, SCRATCH, Place, RawServer, needed

SCRIPT = Path(__file__).with_name("old_client.py")
CORE = [
    "check_kernel_responsiveness",
    "create_session",
    "delete_session",
    "get_execution",
    "get_kernel_health",
    "install_dependencies",
    "interrupt_execution",
    "list_packages",
    "list_sessions",
    "list_variables",
    "restart_kernel",
    "run_python_code",
    "run_script",
    "save_script",
    "switch_session",
]


@pytest.mark.parametrize(("environment", "library"), [("fastmcp2", "fastmcp"), ("mcp1", "mcp")])
def test_an_older_client_lists_creates_runs_and_deletes(
    environment: str, library: str, place: Place
) -> None:
    python = needed(SCRATCH / environment / "bin" / "python", f"{library} of an older version")
    server = {
        "command": str(KERNELRY),
        "args": place.arguments(),
        "env": place.environment(),
        "cwd": str(place.root),
    }
    done = subprocess.run(
        [str(python), "-W", "ignore", str(SCRIPT), library, json.dumps(server)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["tools"] == CORE
    assert report["create_session"]["session_id"] == "old"
    assert report["switch_session"]["current_session"] == "old"
    assert report["run_python_code"]["results"] == ["2"]
    assert report["run_python_code"]["session_id"] == "old"
    assert report["get_kernel_health"]["status"] == "healthy"
    assert report["list_sessions"]["total_sessions"] == 2
    assert report["delete_session"]["active_session"] == "default"


@pytest.mark.parametrize("leader", [True, False])
def test_a_server_works_as_session_leader_and_as_a_plain_child(leader: bool, place: Place) -> None:
    with RawServer(place, session_leader=leader) as server:
        assert (os.getsid(server.process.pid) == server.process.pid) is leader
        server.tool("create_session", session_id="a")
        assert server.tool("run_python_code", code="1+1", session_id="a")["results"] == ["2"]
        server.tool("restart_kernel", session_id="a")
        assert server.tool("run_python_code", code="2+2", session_id="a")["results"] == ["4"]
        server.tool("delete_session", session_id="a")
    assert server.process.returncode == 0
