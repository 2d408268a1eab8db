"""Packages of a session."""

import asyncio
import time
from typing import Annotated

import anyio
from mcp.types import CallToolResult
from pydantic import Field

from kernelry import Session
from kernelry.packages import InstallReport
from kernelry_mcp.answers.results import Installed, PackageInfo, PackageList
from kernelry_mcp.callers import caller_of
from kernelry_mcp.context import Ctx, Declaration, app_of, tool
from kernelry_mcp.tools.parameters import SessionId

PROGRESS_INTERVAL = 3.0  # seconds between progress notifications


async def install(ctx: Ctx, session: Session, packages: list[str], timeout: float) -> InstallReport:
    """Install, telling the client each few seconds how far it is; cancelled with its call."""
    began = time.monotonic()
    installing = asyncio.ensure_future(session.install(packages, timeout=timeout))
    try:
        while not (await asyncio.wait([installing], timeout=PROGRESS_INTERVAL))[0]:
            line = session.environment.log.newest or "waiting for its turn"
            await ctx.report_progress(time.monotonic() - began, message=line)
    finally:
        installing.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([installing])
    return installing.result()


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

    Only what is missing is installed, and only wheels. Other sessions don't see it. A failure
    (unknown package, conflict, timeout) is returncode and stderr, and changes nothing.
    """
    app = app_of(ctx)
    session = app.sessions.find(caller_of(ctx), session_id)
    report = await install(ctx, session, packages, timeout)
    done = report.installation
    result = Installed(
        session_id=session.id,
        returncode=done.returncode,
        stdout=done.stdout,
        stderr=done.stderr,
        installed=list(done.installed),
        restart_required=bool(report.stale_modules),
        loaded_modules=list(report.stale_modules),
        log=str(session.environment.log.path),
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


@tool(Declaration(title="List packages", toolset="core", read_only=True, idempotent=True))
async def list_packages(
    ctx: Ctx,
    session_id: SessionId = None,
    name_contains: Annotated[
        str, Field(max_length=100, description="Only packages with this in their name")
    ] = "",
    limit: Annotated[int, Field(ge=1, le=1000, description="At most so many")] = 100,
    offset: Annotated[int, Field(ge=0, le=1_000_000, description="Leave out so many")] = 0,
) -> Annotated[CallToolResult, PackageList]:
    """List the packages that a session can import: its own first, then its interpreter's.

    With versions. Starts no kernel, and works while code runs.
    """
    session = app_of(ctx).sessions.find(caller_of(ctx), session_id)
    wanted = name_contains.lower().replace("_", "-")
    found = [item for item in await session.packages() if wanted in item.name]
    found.sort(key=lambda item: (not item.own, item.name))
    shown = found[offset : offset + limit]
    end = offset + len(shown)
    result = PackageList(
        session_id=session.id,
        packages={item.name: PackageInfo(version=item.version, own=item.own) for item in shown},
        total=len(found),
        own_total=sum(item.own for item in found),
        next_offset=end if shown and end < len(found) else -1,
        python=str(session.environment.parent),
    )
    lines = [
        f"{len(shown)} of {result.total} packages of session '{session.id}', "
        f"{result.own_total} of them its own (*):"
    ]
    lines += [f"{'* ' if item.own else '- '}{item.name} {item.version}" for item in shown]
    if result.next_offset >= 0:
        lines.append(f"More with offset={result.next_offset}.")
    return result.answer("\n".join(lines))
