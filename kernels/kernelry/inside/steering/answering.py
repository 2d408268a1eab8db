"""Handlers on the shell channel: what the server asks for between two cells."""

from collections.abc import Callable
from typing import Any


def answering(
    kernel: Any, work: Callable[..., dict[str, Any]], reason: Callable[[BaseException], str]
) -> Any:
    """Return a handler that answers with what `work` returns of a message's content.

    Args:
        kernel: The kernel.
        work: Does it, in the main thread.
        reason: Says why it failed; whatever it is, the asker must hear of it.
    """

    async def handle(stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        try:
            reply = {"status": "ok", "answer": work(**parent["content"])}
        except (Exception, KeyboardInterrupt) as error:
            reply = {"status": "error", "error": reason(error)}
        kernel.session.send(stream, "kernelry_reply", reply, parent, ident)

    return handle
