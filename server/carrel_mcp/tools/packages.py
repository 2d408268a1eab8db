"""Packages of a session."""

from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from carrel_mcp.callers import caller_of
from carrel_mcp.context import Ctx, Declaration, app_of, tool
from carrel_mcp.results import Installed
from carrel_mcp.tools.parameters import SessionId


@tool(Declaration(title="Install packages", toolset="core", open_world=True))
async def install_dependencies(
    ctx: Ctx,
    packages: Annotated[
        list[str], Field(description="PEP 508 strings like 'requests' or 'numpy>=2,<3'")
    ],
    session_id: SessionId = None,
    timeout: Annotated[
        float, Field(gt=0, le=3600, allow_inf_nan=False, description="Seconds it may take")
    ] = 600,
) -> Annotated[CallToolResult, Installed]:
    """Install Python packages into one session; they can be imported at once.

    Other sessions don't see them. A failure (unknown package, conflict) is returncode and
    stderr, and changes nothing.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    report = await session.install(packages, timeout=timeout)
    done = report.installation
    result = Installed(
        session_id=session.id,
        returncode=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr,
        installed=list(done.installed),
        restart_required=bool(report.stale_modules),
        loaded_modules=list(report.stale_modules),
    )
    if done.returncode != 0:
        return result.answer(f"Nothing was installed (uv: {done.returncode}).\n{done.stderr}")
    text = (
        f"Installed into '{session.id}': {', '.join(done.installed) or 'nothing new was needed'}."
    )
    if report.stale_modules:
        text += (
            f" Loaded before in another version: {', '.join(report.stale_modules)}. "
            "Call restart_kernel to use the new one (variables are lost)."
        )
    return result.answer(text)
