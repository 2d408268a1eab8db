"""Scripts in the workspace."""

import asyncio
from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from kernelry.session import script_runs
from kernelry.workspace import scripts as library
from kernelry_mcp.answers.results import SavedScript, ScriptRun
from kernelry_mcp.callers import caller_of
from kernelry_mcp.context import Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.parameters import SessionId


@tool(Declaration(title="Save a script", toolset="core"))
async def save_script(
    ctx: Ctx,
    name: Annotated[str, Field(description="File name, with or without .py; no folders")],
    content: Annotated[str, Field(description="Python source")],
    overwrite: Annotated[bool, Field(description="Replace a script of that name")] = False,
) -> Annotated[CallToolResult, SavedScript]:
    """Save Python source as scripts/NAME.py; every session can import it by its name."""
    workspace = app_of(ctx).sessions.workspace
    path = await asyncio.to_thread(
        library.save_script, workspace, name, content, overwrite=overwrite
    )
    module = path.stem if path.stem.isidentifier() else ""
    result = SavedScript(script=path.as_posix(), module=module)
    usage = f"; 'import {module}' works in every session" if module else ""
    return result.answer(f"Saved {result.script}{usage}. run_script runs it.")


@tool(Declaration(title="Run a script", toolset="core", destructive=True, open_world=True))
async def run_script(
    ctx: Ctx,
    path: Annotated[str, Field(description="Path in the workspace, or a name of scripts/")],
    args: Annotated[list[str] | None, Field(description="Its command line arguments")] = None,
    timeout: Annotated[
        float, Field(gt=0, le=86400, allow_inf_nan=False, description="Seconds it may take")
    ] = 120,
    session_id: SessionId = None,
) -> Annotated[CallToolResult, ScriptRun]:
    """Run a saved script as a process of its own, with a session's packages.

    It has its own variables; the workspace is its working directory.
    """
    sessions = app_of(ctx).sessions
    session = sessions.find(caller_of(ctx), session_id)
    shown = await asyncio.to_thread(library.script_name, sessions.workspace, path)
    done = await script_runs.run_script(session, path, args or [], timeout=timeout)
    result = ScriptRun(
        session_id=session.id,
        script=shown,
        returncode=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr,
    )
    parts = [f"[{shown} ended with {done.returncode}]", done.stdout.rstrip("\n")]
    if done.stderr:
        parts.append(f"stderr:\n{done.stderr.rstrip()}")
    return result.answer("\n".join(part for part in parts if part))
