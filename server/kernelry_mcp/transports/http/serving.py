"""MCP over streamable HTTP on loopback, behind a bearer token, with a bounded end."""

import asyncio
import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from mcp.server import MCPServer

from kernelry.paths import private_directory
from kernelry_mcp.context import App
from kernelry_mcp.links import Links
from kernelry_mcp.process import ending_on_signals, watching_loop
from kernelry_mcp.settings import Settings, SettingsError
from kernelry_mcp.transports import hold_while_called
from kernelry_mcp.transports.http.auth import OnlyLoopback, RequireToken, new_token, read_token
from kernelry_mcp.transports.http.checks import BODY_BYTES, BoundedBody, OneIdOnce, PatientProtocol
from kernelry_mcp.transports.http.clients import TellClientsApart
from kernelry_mcp.transports.http.files import FileLinks

log = logging.getLogger(__name__)

CALL_GRACE = 1.0  # seconds running calls have to end when the server does
CONNECTIONS = 1_000  # at once; more are answered 503
PATH = "/mcp"


async def serve_http(
    server: MCPServer[App], settings: Settings, links: Links, token_dir: Path
) -> None:
    """Serve until a signal asks us to end.

    Args:
        server: What to serve.
        links: Those that it gives to files.
        settings: With `http` set.
        token_dir: Where a token is written if none was given.

    Raises:
        SettingsError: The port is taken, or the token file can't be used.
    """
    host, port = settings.endpoint
    listener = listen(host, port)
    bound = listener.getsockname()[1]
    token = make_token(settings, token_dir, bound)
    shown = f"[{host}]" if ":" in host else host
    print(f"kernelry serves http://{shown}:{bound}{PATH}", file=sys.stderr)  # noqa: T201
    app = server.streamable_http_app(
        streamable_http_path=PATH, host=host, max_request_body_size=BODY_BYTES
    )
    server._lowlevel_server.middleware.append(hold_while_called)
    behind_token = RequireToken(TellClientsApart(BoundedBody(OneIdOnce(app))), token)
    workspace = settings.workspace.expanduser().absolute()
    config = uvicorn.Config(
        OnlyLoopback(FileLinks(behind_token, links, workspace)),
        http=PatientProtocol,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=max(int(CALL_GRACE), 1),
        limit_concurrency=CONNECTIONS,
        lifespan="on",
        ws="none",
    )
    runner = Runner(config)
    with ending_on_signals(runner.end), watching_loop():
        await runner.serve(sockets=[listener])


class Runner(uvicorn.Server):
    """uvicorn without its own signal handlers, which raise the signal again at the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to serve_http."""
        yield

    def end(self) -> None:
        """End in order; running calls have `CALL_GRACE`."""
        self.should_exit = True


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket, so that a taken port is told before anything starts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # before the address is printed: somebody may come at once
    except OSError as error:
        listener.close()
        raise SettingsError(f"can't listen on {host}:{port}: {error.strerror}") from error
    return listener


def make_token(settings: Settings, token_dir: Path, port: int) -> str:
    """Return the token that clients must send, and say on stderr where it is."""
    if settings.token_file is not None:
        return read_token(settings.token_file.expanduser())
    path = private_directory(token_dir) / f"token-{port}"
    token = new_token(path)
    print(f"token: {token} (also in {path})", file=sys.stderr)  # noqa: T201
    return token


def run(server: MCPServer[App], settings: Settings, links: Links, token_dir: Path) -> None:
    """Serve HTTP in a fresh event loop."""
    asyncio.run(serve_http(server, settings, links, token_dir))
