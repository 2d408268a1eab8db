"""Who calls: whose default session `switch_session` sets.

Over stdio it is the process. Over HTTP it is the authenticated principal, and among the
clients of one principal the legacy protocol's mcp_session. The 2026-07-28 wire has nothing
that tells two clients of one token apart, so nobody has a default of its own there: what
one client switched to would move all others. A kernel is never bound to any of these; an
explicit session_id means the same for everybody.
"""

from typing import Any

from mcp.server.mcpserver import Context

PROCESS = "process"
CLIENT_CHARS = 60  # of what a client calls itself
PRINCIPAL = "kernelry_principal"  # key in an HTTP request's scope, set by auth.py


def caller_of(ctx: Context[Any, Any]) -> str:
    """Return a name for the caller, stable for as long as its default should be."""
    request = ctx.request_context.request
    if request is None:
        return PROCESS
    principal = str(request.scope.get(PRINCIPAL, "anonymous"))
    return f"{principal}/{request.headers['mcp-session-id']}" if has_default(ctx) else principal


def has_default(ctx: Context[Any, Any]) -> bool:
    """Say whether a caller can be told from others, so that it has a default session to set."""
    request = ctx.request_context.request
    return request is None or (not is_modern(ctx) and "mcp-session-id" in request.headers)


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
