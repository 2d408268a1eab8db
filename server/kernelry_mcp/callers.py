"""Who calls: whose default session `switch_session` sets.

Over stdio it is the process. Over HTTP it is the authenticated principal, and among the
clients of one principal the legacy protocol's mcp_session. The 2026-07-28 wire has nothing
that tells two clients of one token apart, and what one switched to would move all others: so
there it is a cookie (transports/http/clients.py), and a client that keeps none has no default
to set. A kernel is never bound to any of these; an explicit session_id means the same for
everybody.
"""

from typing import Any

from mcp.server.mcpserver import Context

PROCESS = "process"
CLIENT_CHARS = 60  # of what a client calls itself
PRINCIPAL = "kernelry_principal"  # key in an HTTP request's scope, set by auth.py
CLIENT = "kernelry_client"  # another, set by clients.py


def caller_of(ctx: Context[Any, Any]) -> str:
    """Return a name for the caller, stable for as long as its default should be."""
    request = ctx.request_context.request
    if request is None:
        return PROCESS
    return f"{request.scope.get(PRINCIPAL, 'anonymous')}/{client_of(ctx)}"


def has_default(ctx: Context[Any, Any]) -> bool:
    """Say whether a caller can be told from others, so that it has a default session to set."""
    return ctx.request_context.request is None or bool(client_of(ctx))


def client_of(ctx: Context[Any, Any]) -> str:
    """Return what tells a client over HTTP from others of its principal; "" if nothing does."""
    request = ctx.request_context.request
    if request is None:
        return ""
    if is_modern(ctx):
        return str(request.scope.get(CLIENT, ""))
    return str(request.headers.get("mcp-session-id", ""))


def is_modern(ctx: Context[Any, Any]) -> bool:
    """Say whether a call came over the 2026-07-28 wire."""
    return (ctx.protocol_version or "") >= "2026"


def name_of(ctx: Context[Any, Any]) -> str:
    """Return what others are told who did something: the client's own word and the principal."""
    params = ctx.session.client_params
    client = params.client_info.name if params and params.client_info else "a client"
    request = ctx.request_context.request
    where = "stdio" if request is None else request.scope.get(PRINCIPAL, "http")
    return f"{client[:CLIENT_CHARS]} ({where})"


def may_only_have_dropped(ctx: Context[Any, Any]) -> bool:
    """Say whether a cancelled call can be a lost connection as well as a wish.

    On HTTP's 2026-07-28 wire both look the same: the response stream was closed.
    """
    return ctx.request_context.request is not None and is_modern(ctx)
