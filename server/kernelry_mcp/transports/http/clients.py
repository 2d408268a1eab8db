"""Which client asks, among those of one token: a cookie, for clients that keep them.

The 2026-07-28 wire has no connection and no handshake that a default session could hang on.
A cookie is the client's own to keep and to send, as HTTP has it (RFC 6265), and names nothing
but the default that `switch_session` sets; who doesn't keep it has no default.
"""

import re
import secrets
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernelry_mcp.callers import CLIENT

COOKIE = "kernelry-client"
NAME_BYTES = 16
NAME = re.compile(r"[A-Za-z0-9_-]{22}")


class TellClientsApart:
    """Gives clients a name of their own, and knows them by it when they come again."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note who asks, or say with the answer what to be called from now on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[CLIENT] = name_in(Headers(scope=scope))

        async def naming(message: Message) -> None:
            if message["type"] == "http.response.start":
                named = f"{COOKIE}={secrets.token_urlsafe(NAME_BYTES)}; HttpOnly; SameSite=Strict"
                MutableHeaders(scope=message).append("set-cookie", named)
            await send(message)

        await self._app(scope, receive, send if scope[CLIENT] else naming)


def name_in(headers: Headers) -> str:
    """Return the name that a client was given; "" if it sends none."""
    try:
        kept = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    name = kept[COOKIE].value if COOKIE in kept else ""
    return name if NAME.fullmatch(name) else ""
