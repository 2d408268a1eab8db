"""Who may ask over HTTP: who has the bearer token, and asks for this machine by its name.

The token is made, kept in a 0600 file, and asked of every request. Both are ASGI layers
around the whole application, so that no route can be outside of them.
"""

import hmac
import os
import re
import secrets
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from kernelry_mcp.callers import PRINCIPAL
from kernelry_mcp.settings import SettingsError

TOKEN_BYTES = 32
SHORTEST_TOKEN = 16  # characters of one that somebody chose
LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)


def new_token(path: Path) -> str:
    """Make a token and write it where only we can read it."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token


def read_token(path: Path) -> str:
    """Return the token that somebody wrote into a file.

    Raises:
        SettingsError: The file can't be read, is readable by others, or holds no token.
    """
    try:
        status = path.stat()
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"can't read the token file {path}: {error}") from error
    if status.st_mode & 0o077:
        raise SettingsError(f"others can read the token file {path}: chmod 600 {path}")
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        msg = f"{path} holds no token: one line of at least {SHORTEST_TOKEN} visible characters"
        raise SettingsError(msg)
    return token


class RequireToken:
    """Answers 401 to whatever does not carry the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(given, self._expected):
                refusal = JSONResponse(
                    {"error": "send the server's token as 'Authorization: Bearer TOKEN'"},
                    status_code=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, send)
                return
            scope[PRINCIPAL] = "token"
        elif scope["type"] != "lifespan":
            return
        await self._app(scope, receive, send)


class OnlyLoopback:
    """Answers 403 to whatever does not ask for this machine, or comes from a web page.

    A page that a browser shows may have its own name resolve to 127.0.0.1 (DNS rebinding);
    the browser still sends that name as Host, and the page's as Origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and (header := foreign_header(Headers(scope=scope))):
            refusal = JSONResponse(
                {"error": f"this {header} is not served, only this machine is"}, status_code=403
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def foreign_header(headers: Headers) -> str:
    """Return the name of the header that names another machine; empty: none does."""
    if any(LOOPBACK.fullmatch(host) is None for host in headers.getlist("host") or [""]):
        return "Host"
    for origin in headers.getlist("origin"):
        scheme, separator, host = origin.partition("://")
        if scheme != "http" or not separator or LOOPBACK.fullmatch(host) is None:
            return "Origin"
    return ""
