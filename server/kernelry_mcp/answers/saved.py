"""How checkpoints are shown: as results, and as text for the model."""

from collections.abc import Iterable, Sequence

from kernelry import Checkpoint
from kernelry.models import LeftOut, Restoration
from kernelry_mcp.answers.results import CheckpointInfo

NAMED = 20  # variables that an answer's text names


def left_out(items: Iterable[LeftOut]) -> dict[str, str]:
    """Return what is published of variables that were left out."""
    return {item.name: f"{item.type}: {item.reason}" for item in items}


def checkpoint_info(item: Checkpoint) -> CheckpointInfo:
    """Return what is published of a checkpoint."""
    return CheckpointInfo(
        saved_from=item.session_id,
        name=item.name,
        reason=item.reason.value,
        created_at=item.created_at.isoformat(timespec="seconds"),
        size=item.size,
        variables=list(item.variables),
        live=item.is_live,
    )


def restored_text(done: Restoration) -> str:
    """Say what became of a restore."""
    warnings = "".join(f"\nNote: {warning}" for warning in done.warnings)
    if done.checkpoint.is_live:
        return f"everything as it was in live checkpoint {done.checkpoint.id}.{warnings}"
    names = ", ".join(done.restored[:NAMED]) or "none"
    more = ", ..." if len(done.restored) > NAMED else ""
    return (
        f"{len(done.restored)} variables ({names}{more})."
        + left_out_text("Could not be restored", done.failed)
        + left_out_text("Not in the checkpoint", done.checkpoint.skipped)
        + warnings
    )


def left_out_text(title: str, items: Sequence[LeftOut]) -> str:
    """Return a paragraph on what was left out; nothing if nothing was."""
    lines = [f"- {item.name} ({item.type}): {item.reason}" for item in items[:NAMED]]
    lines += [f"- and {len(items) - NAMED} more"] if len(items) > NAMED else []
    return "\n".join(["", f"{title}:", *lines]) if lines else ""
