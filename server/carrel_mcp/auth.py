"""The bearer token of HTTP: made, kept in a 0600 file, and asked of every request.

One ASGI layer around the whole application, so that no route can be outside of it.
"""

import hmac
import os
import secrets
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from carrel_mcp.callers import PRINCIPAL
from carrel_mcp.settings import SettingsError

TOKEN_BYTES = 32
SHORTEST_TOKEN = 16  # characters of one that somebody chose


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
