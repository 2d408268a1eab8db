"""The protocol's official conformance scenarios and the official Inspector."""

import json
import os
import re
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from .harness import KERNELRY, SCRATCH, HttpServer, Place, needed

NODE = SCRATCH / "node"
CONFORMANCE = NODE / "node_modules" / "@modelcontextprotocol" / "conformance"
INSPECTOR = NODE / "node_modules" / "@modelcontextprotocol" / "inspector"
HEAD_BYTES = 64 << 10

# Those of 0.1.16 that need no tool, resource or prompt made for them.
SCENARIOS = [
    "server-initialize",
    "ping",
    "completion-complete",
    "tools-list",
    "tools-call-error",
    "resources-list",
    "prompts-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
]


class Forward(socketserver.BaseRequestHandler):
    """Passes one request on with the bearer token added; the tool can't send one.

    The body and the answer flow as they come. Host stays what the tool sent, unless it is
    our own address: then it becomes the server's, as if there were nobody between.
    """

    server: "Proxy"  # pyright: ignore[reportIncompatibleVariableOverride]  # always one of ours

    def handle(self) -> None:
        """Serve one connection: one request, as we ask both sides to close."""
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_BYTES:
            if not (data := self.request.recv(4096)):
                return
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        target = self.server.target
        own = b"%s:%d" % (b"(?:127.0.0.1|localhost)", self.server.server_address[1])
        address = f"Host: {target.address[0]}:{target.address[1]}".encode()
        head = re.sub(rb"(?im)^host: " + own + rb"(?=\r|$)", address, head)
        head = re.sub(rb"(?im)^connection:[^\r]*\r\n", b"", head + b"\r\n")
        head += f"Authorization: Bearer {target.token}\r\nConnection: close\r\n\r\n".encode()
        with socket.create_connection(target.address) as upstream:
            upstream.sendall(head + rest)
            threading.Thread(target=pump, args=(self.request, upstream), daemon=True).start()
            pump(upstream, self.request)


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copy until the source ends; then tell the sink."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Proxy(socketserver.ThreadingTCPServer):
    """A loopback proxy in front of one server."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, target: HttpServer) -> None:
        self.target = target
        super().__init__(("127.0.0.1", 0), Forward)


@contextmanager
def proxied(target: HttpServer) -> Iterator[str]:
    """Run a proxy and return the URL to reach the server by."""
    with Proxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}/mcp"
        finally:
            proxy.shutdown()
            thread.join()


def node(script: Path, *arguments: str, place: Place) -> subprocess.CompletedProcess[str]:
    """Run a Node.js program with the Node.js that scripts/clients found."""
    program = needed(NODE / "bin" / "node", "Node.js of version 22 or later")
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(program), str(script), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=place.root,
        env={
            **place.environment(),
            "PATH": path,
            "MCP_CATALOG_PATH": str(place.root / "inspector.json"),
        },
        check=False,
    )


def program_of(package: Path, name: str) -> Path:
    """Return the script that a package's command runs."""
    manifest = json.loads((needed(package, f"{package.name} package") / "package.json").read_text())
    programs = manifest["bin"]
    return package / (programs if isinstance(programs, str) else programs[name])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_official_conformance_scenario_passes(
    scenario: str, served: HttpServer, place: Place
) -> None:
    script = program_of(CONFORMANCE, "conformance")
    with proxied(served) as url:
        done = node(script, "server", "--url", url, "--scenario", scenario, place=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Passed: (\d+)/\1, 0 failed", done.stdout), done.stdout


def inspect(place: Place, *arguments: str) -> dict[str, Any]:
    """Run the Inspector's command line against a server over stdio and return its answer."""
    script = program_of(INSPECTOR, "mcp-inspector")
    serve = [str(KERNELRY), *place.arguments()]
    done = node(script, "--cli", *serve, "--", *arguments, place=place)
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_the_inspector_lists_our_tools(place: Place) -> None:
    tools = inspect(place, "--method", "tools/list")["tools"]
    assert len(tools) == 15
    assert all(tool["description"] and tool["outputSchema"]["allOf"] for tool in tools)


def test_the_inspector_calls_our_tools(place: Place) -> None:
    ran = inspect(
        place, "--method", "tools/call", "--tool-name", "run_python_code", "--tool-arg", "code=1+1"
    )
    assert not ran.get("isError")
    assert ran["structuredContent"]["results"] == ["2"]
    listed = inspect(place, "--method", "tools/call", "--tool-name", "list_sessions")
    assert listed["structuredContent"]["active_session"] == "default"
