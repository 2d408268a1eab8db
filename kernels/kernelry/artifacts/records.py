"""Artifacts in the database; all of this is done in the store's thread."""

import fnmatch
import json
import sqlite3
from dataclasses import asdict, replace
from datetime import UTC, datetime

from kernelry.artifacts.models import Artifact, ArtifactQuery
from kernelry.errors import ConflictError, LimitExceededError, SessionNotFoundError
from kernelry.models import ArtifactLimits, SessionStatus
from kernelry.store import Row, Statements, seconds
from kernelry.transitions import ALLOWED

USUAL_TYPE = "agent_output"  # of what nobody gave a type
LARGEST = (1 << 63) - 1  # number that SQLite takes
HOW_TO_MAKE_ROOM = "Delete some with delete_artifact, or raise the limit."


def check_room(
    statements: Statements, artifact: Artifact, limits: ArtifactLimits, share: float
) -> None:
    """Refuse an artifact of no session or a final one, or that its limits have no room for.

    What an execution printed is kept also if its session was closed meanwhile.
    """
    values = {"session_id": artifact.session_id}
    session = statements.execute("session_status", values).fetchone()
    if session is None:
        raise SessionNotFoundError(f"there is no session '{artifact.session_id}' any more")
    if not artifact.execution_id and not ALLOWED[SessionStatus(session["status"])]:
        msg = f"session '{artifact.session_id}' is {session['status']}, that is final: nothing is"
        raise ConflictError(f"{msg} added to it. Store it in another session.")
    there = statements.execute("artifact_totals", values).fetchone()
    if limits.count and there["count"] + 1 > limits.count * share:
        msg = f"the session has {there['count']} artifacts, the limit is {limits.count}"
        raise LimitExceededError(f"{msg} (artifact_count_limit). {HOW_TO_MAKE_ROOM}")
    if limits.total and there["size"] + artifact.size > limits.total * share:
        msg = (
            f"the session's artifacts have {there['size']} bytes, this one {artifact.size}, the "
            f"limit is {limits.total} together (artifact_total_limit)"
        )
        raise LimitExceededError(f"{msg}. {HOW_TO_MAKE_ROOM}")


def as_next_version(statements: Statements, artifact: Artifact, *, keeps_tags: bool) -> Artifact:
    """Return an artifact as it is stored now: at what time, and after which of its name.

    Args:
        statements: Of the store.
        artifact: As it was given; without a type it has that of the version before.
        keeps_tags: Whether it has the tags of that version, too.
    """
    at = datetime.fromtimestamp(statements.at, UTC)
    values = {"session_id": artifact.session_id, "name": artifact.name}
    row = statements.execute("newest_version", values).fetchone()
    if row is None:
        return replace(artifact, created_at=at, type=artifact.type or USUAL_TYPE)
    before = artifact_of(row)
    return replace(
        artifact,
        created_at=at,
        version=before.version + 1,
        previous=before.id,
        type=artifact.type or before.type,
        tags=before.tags if keeps_tags else artifact.tags,
    )


def find(
    statements: Statements, query: ArtifactQuery, limit: int, offset: int
) -> tuple[list[Artifact], int]:
    """Return a page of the artifacts that fit, and how many fit."""
    values = {
        "session_id": query.session_id,
        "execution_id": query.execution_id,
        "type": query.type,
        "tags": json.dumps(query.tags),
        "since": seconds(query.since),
        "until": seconds(query.until),
        "min_size": None if query.min_size is None else min(query.min_size, LARGEST),
        "max_size": None if query.max_size is None else min(query.max_size, LARGEST),
    }
    found = [
        row["id"]
        for row in statements.execute("matching_artifacts", values)
        # Python's glob, as in list_files: SQLite's own differs, and can take for ever.
        if not query.name or fnmatch.fnmatchcase(row["name"], query.name)
    ]
    shown = found[offset : offset + limit]
    artifacts = [
        artifact_of(statements.execute("artifact", {"id": each}).fetchone()) for each in shown
    ]
    return artifacts, len(found)


def forget_unused(statements: Statements) -> list[str]:
    """Forget the contents that nothing refers to; return their addresses."""
    return [row["hash"] for row in statements.execute("forget_unused_blobs").fetchall()]


def add_event(statements: Statements, event: str, artifact: Artifact) -> None:
    """Write down what happened to an artifact."""
    data: dict[str, object] = {"id": artifact.id, "name": artifact.name}
    data |= {"version": artifact.version, "type": artifact.type, "size": artifact.size}
    statements.event(event, artifact.session_id, artifact.execution_id, data)


def row_of(artifact: Artifact) -> Row:
    """Return the row of an artifact."""
    return asdict(artifact) | {
        "tags": json.dumps(artifact.tags),
        "metadata": json.dumps(artifact.metadata),
        "created_at": seconds(artifact.created_at),
    }


def artifact_of(row: sqlite3.Row) -> Artifact:
    """Return the artifact in a row."""
    values = {key: row[key] for key in row.keys() if key != "seq"}  # noqa: SIM118  # no dict
    values["tags"] = tuple(json.loads(row["tags"]))
    values["metadata"] = json.loads(row["metadata"])
    values["created_at"] = datetime.fromtimestamp(row["created_at"], UTC)
    return Artifact(**values)
