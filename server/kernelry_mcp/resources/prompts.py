"""Prompts: what people ask of sessions again and again, said well once."""

from typing import Annotated

from mcp.server import MCPServer
from pydantic import Field

from kernelry_mcp.context import App, Ctx, app_of

CODE_CHARS = 4000
ERROR_CHARS = 4000
EXECUTIONS = 30


def add_prompts(server: MCPServer[App]) -> None:
    """Offer the prompts."""

    @server.prompt(title="Analyse a file")
    def analyse_file(
        path: Annotated[str, Field(description="In the workspace, like uploads/sales.csv")],
        question: Annotated[str, Field(description="What you want to know")] = "",
    ) -> str:
        """Look at a data file of the workspace step by step, with figures."""
        goal = question or "what is in it, how good the data is, and what stands out"
        return (
            f"Analyse the file {path} of the workspace with kernelry's tools: {goal}.\n\n"
            "1. Create a session for it (create_session) and use its id in all calls.\n"
            "2. Read the file in code. Print its shape, columns, types, missing values and a few "
            "rows; never print all of it.\n"
            "3. Say what you assume, then answer by short cells. Save figures under outputs/.\n"
            "4. Check the answer once by another way.\n"
            "5. Summarise: the answer, the numbers behind it, the figures' paths, the caveats."
        )

    @server.prompt(title="Debug a failed execution")
    async def debug_execution(
        ctx: Ctx,
        execution_id: Annotated[str, Field(description="The execution that failed")],
    ) -> str:
        """Find out why an execution failed, in its own session, and mend it."""
        execution = await app_of(ctx).sessions.execution(execution_id)
        error = execution.error
        what = f"{error.type}: {error.message}\n{error.traceback}" if error else "no error"
        return (
            f"Execution {execution.id} in session '{execution.session_id}' is "
            f"{execution.status}. Find the cause and mend it.\n\n"
            f"Its code:\n```python\n{execution.code[:CODE_CHARS]}\n```\n\n"
            f"What was raised:\n```\n{what[-ERROR_CHARS:]}\n```\n\n"
            "Look at the variables (list_variables) and at the kernel (get_kernel_health) first. "
            "Reproduce the failure by the smallest cell, say the cause in a sentence, then run "
            "the corrected code. Keep what works in the namespace."
        )

    @server.prompt(title="Summarise a session")
    async def summarise_session(
        ctx: Ctx, session_id: Annotated[str, Field(description="The session")]
    ) -> str:
        """Say what a session did, what it found, and what it left."""
        sessions = app_of(ctx).sessions
        record = await sessions.history.session(session_id)
        ran = (await sessions.history.executions(session_id))[-EXECUTIONS:]
        lines = [
            f"{e.index}. [{e.status}] {' '.join(e.code.split())[:200]}"
            + (f" -> {e.error.type}" if e.error else "")
            for e in ran
        ]
        return (
            f"Summarise the session '{record.id}' ({record.description or 'no description'}) for "
            "somebody who takes it over: its goal, what was done, what came out, which variables "
            "and files are left, what failed, and what to do next. Its newest executions:\n\n"
            + "\n".join(lines or ["(none)"])
            + "\n\nget_execution reads one whole, list_variables tells what is in memory."
        )
