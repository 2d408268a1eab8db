"""Complete ids and paths, in the addresses of resources and the arguments of prompts."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

from mcp.server import MCPServer
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    PromptReference,
    ResourceTemplateReference,
)

from kernelry import Sessions
from kernelry.errors import KernelryError
from kernelry.history import Search
from kernelry.workspace import list_folder
from kernelry_mcp.context import App

COMPLETIONS = 100  # the protocol's limit for one answer
LOOKED_AT = 1000  # newest executions whose ids are completed


class Completer:
    """Completes by the name of the argument, which means the same everywhere.

    Args:
        root: The workspace.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        #: the service, while it lives
        self.sessions: Sessions | None = None

    def serve(self, server: MCPServer[App]) -> None:
        """Answer a server's requests for completion."""
        server.completion()(self.complete)  # type: ignore[no-untyped-call]  # the SDK's

    async def complete(
        self,
        reference: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion | None:
        """Complete the path of a file, or an id of a session, an execution, an artifact."""
        known = (context.arguments or {}) if context else {}
        found = await self._find(argument.name, argument.value, known.get("session_id", ""))
        return Completion(values=found[:COMPLETIONS], has_more=len(found) > COMPLETIONS)

    async def _find(self, name: str, start: str, session_id: str) -> list[str]:
        if name == "path":
            return await asyncio.to_thread(matching_paths, self._root, start)
        if self.sessions is None:
            return []
        if name == "artifact_id":
            return await self.sessions.artifacts.ids(start, COMPLETIONS + 1)
        if name == "session_id":
            return beginning_with(start, (session.id for session in self.sessions.list()))
        within = [session_id] if session_id else []
        ran = await self.sessions.history.search(Search(session_ids=within), limit=LOOKED_AT)
        if name == "execution_id":
            return beginning_with(start, (execution.id for execution in ran))
        numbers = (str(execution.index) for execution in reversed(ran)) if session_id else ()
        return beginning_with(start, numbers)


def beginning_with(start: str, names: Iterable[str]) -> list[str]:
    """Return those names that begin with `start`, in their order."""
    return [name for name in names if name.startswith(start)]


def matching_paths(root: Path, start: str) -> list[str]:
    """Return paths below `root` that begin with `start`; folders end with a slash."""
    above, _, _ = start.rpartition("/")
    try:
        found = list_folder(root, above or ".").entries
    except KernelryError:
        return []
    names = (entry.path + ("/" if entry.type == "folder" else "") for entry in found)
    return [name for name in names if name.startswith(start)]
