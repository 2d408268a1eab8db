"""Clean up: decide which sessions nobody needs, then delete them and what belongs to none."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kernelry.beneath import ASIDE
from kernelry.errors import SessionNotFoundError
from kernelry.lives.recovery import entries, remove
from kernelry.session import DEFAULT, Session

BUSY = "it runs code or is about to"
DEFAULT_STAYS = "it is the default session"


@dataclass(slots=True)
class CleanUpReport:
    """What a clean-up did, or would do."""

    #: sessions that went
    deleted: list[str]
    #: session -> why it stays though it was named, or is old enough
    kept: dict[str, str]
    #: private directories of no session that went
    removed: list[str]
    #: whether it only said so
    dry_run: bool = False


def choose(
    named: Iterable[Session] | None, all_of_them: Iterable[Session], *, older_than: float | None
) -> tuple[list[Session], dict[str, str]]:
    """Return the sessions to delete, and why some of those that were meant stay.

    Args:
        named: Those that somebody named; None: nobody did.
        all_of_them: Those that come into question then.
        older_than: Seconds that a session must have been idle; None: age does not matter, but
            then only named sessions are chosen.
    """
    chosen: list[Session] = []
    kept: dict[str, str] = {}
    if named is None and older_than is None:
        return chosen, kept
    for session in all_of_them if named is None else named:
        is_young = older_than is not None and session.idle_seconds < older_than
        if named is not None and session.id == DEFAULT:
            kept[session.id] = DEFAULT_STAYS
        elif named is not None and is_young:
            kept[session.id] = f"it was used {session.idle_seconds:.0f} s ago"
        elif is_young or session.id == DEFAULT:
            continue
        elif session.is_busy:
            kept[session.id] = BUSY
        else:
            chosen.append(session)
    return chosen, kept


def find_stray(folder: Path, known: Collection[str]) -> list[Path]:
    """Return the private directories of no session, but those that are being removed already.

    Args:
        folder: Where they are.
        known: Names of those that are somebody's.
    """
    return [
        path
        for path in entries(folder)
        if path.name not in known and not path.name.startswith(ASIDE)
    ]


async def carry_out(
    report: CleanUpReport,
    chosen: Iterable[Session],
    stray: Iterable[Path],
    delete: Callable[[str], Awaitable[object]],
) -> None:
    """Delete what was chosen; a session that is in use by now stays, and the report says so."""
    for session in chosen:
        if session.is_busy:  # a call came meanwhile, and wins
            report.deleted.remove(session.id)
            report.kept[session.id] = BUSY
        else:
            with suppress(SessionNotFoundError):  # another deletion did what we wanted
                await delete(session.id)
    for path in stray:
        await remove(path)
