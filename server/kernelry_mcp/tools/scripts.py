"""Scripts in the workspace."""

import asyncio
from keyword import iskeyword
from typing import Annotated

from mcp.types import CallToolResult
from pydantic import Field

from kernelry import Session
from kernelry.scripts import Found, look
from kernelry.scripts import reload as reload_in
from kernelry.scripts import run_script as run_in
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
    reload: Annotated[
        bool, Field(description="Load it anew in sessions that have imported it and are idle")
    ] = False,
) -> Annotated[CallToolResult, SavedScript]:
    """Save Python source as scripts/NAME.py; every session can import it by its name.

    Sessions that have imported it before keep the old code, and are named.
    """
    sessions = app_of(ctx).sessions
    workspace = sessions.workspace
    path = await asyncio.to_thread(
        library.save_script, workspace, name, content, overwrite=overwrite
    )
    module = path.stem if path.stem.isidentifier() and not iskeyword(path.stem) else ""
    found, renewed = Found((), ""), list[Session]()
    if module:
        found = await look(sessions.list(), module, workspace.root / path)
        renewed = await reload_in(found.holders, module, sessions.run) if reload else []
    result = SavedScript(
        script=path.as_posix(),
        module=module,
        instead=found.instead,
        held_by=[session.id for session in found.holders if session not in renewed],
        reloaded=[session.id for session in renewed],
    )
    return result.answer(saved_text(result))


def saved_text(saved: SavedScript) -> str:
    """Say what a script can be used for, and where it is not what its name means."""
    lines = [f"Saved {saved.script}. run_script runs it."]
    if saved.instead:
        lines.append(
            f"'import {saved.module}' in a cell means something else: {saved.instead}. And scripts "
            f"import this file instead of that: give it another name."
        )
    elif saved.module:
        lines[0] = f"Saved {saved.script}; 'import {saved.module}' works. run_script runs it."
    if saved.held_by:
        lines.append(
            f"{', '.join(saved.held_by)} imported it before and keep the old code: save with "
            f"reload=true when nothing runs there, or importlib.reload({saved.module})."
        )
    if saved.reloaded:
        lines.append(f"Loaded anew in {', '.join(saved.reloaded)}.")
    return "\n".join(lines)


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
    done = await run_in(session, path, args or [], timeout=timeout)
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
