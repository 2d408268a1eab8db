"""Who calls: whose default session `switch_session` sets.

Over stdio it is the process. Over HTTP it is the authenticated principal, and among the
clients of one principal the legacy protocol's mcp_session where there is one (the
2026-07-28 wire has none: there, clients of one token share their default). A kernel is
never bound to any of these; an explicit session_id means the same for everybody.
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
    principal = request.scope.get(PRINCIPAL, "anonymous")
    mcp_session = request.headers.get("mcp-session-id")
    return f"{principal}/{mcp_session}" if mcp_session else str(principal)


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
