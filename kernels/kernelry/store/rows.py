"""Rows of the database as models, and back."""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from kernelry.models import (
    Checkpoint,
    CheckpointReason,
    Execution,
    ExecutionError,
    ExecutionStatus,
    Isolation,
    KernelRecord,
    LeftOut,
    OnError,
    SessionRecord,
    SessionStatus,
    Undone,
)
from kernelry.output import Display, Output, Spill, Stream, clip, readable

Row = dict[str, Any]

LINE_CHARS = 500  # of the last line of an output
FOUND_CHARS = 4_000  # of an execution's output, by which it is found
SMALL = 50_000  # characters of all forms of a display from which text is made
ERROR_CHARS = 200  # of what was raised, in an event


def seconds(at: datetime | None) -> float | None:
    """Return a time as seconds since the epoch."""
    return None if at is None else at.timestamp()


def moment(at: float | None) -> datetime | None:
    """Return seconds since the epoch as a time."""
    return None if at is None else datetime.fromtimestamp(at, UTC)


def session_row(record: SessionRecord) -> Row:
    """Return the row of a session."""
    return {
        "id": record.id,
        "description": record.description,
        "tags": json.dumps(record.tags),
        "metadata": json.dumps(record.metadata),
        "status": record.status.value,
        "created_at": seconds(record.created_at),
        "last_activity_at": seconds(record.last_activity_at),
        "generation": record.generation,
        "execution_count": record.execution_count,
        "directory": record.directory,
        "fresh": int(record.fresh),
        "isolation": record.isolation or "",
        "network": record.network,
        "limits": json.dumps(record.limits),
        "python": record.python,
        "parent_session_id": record.parent_session_id,
        "parent_execution_id": record.parent_execution_id,
        "context": json.dumps(record.context),
        "stdin": int(record.stdin),
        "template": record.template,
        "startup": record.startup,
        "rewind": record.rewind,
        "reason": record.reason,
        "ended_at": seconds(record.ended_at),
    }


def kernel_row(session_id: str, record: KernelRecord) -> Row:
    """Return the row of a session's kernel."""
    return {"session_id": session_id, **asdict(record)}


def kernel_record(row: sqlite3.Row | dict[str, Any]) -> KernelRecord:
    """Return the kernel in a row."""
    values = {name: row[name] for name in KernelRecord.__slots__}
    values |= {"isolation": Isolation(row["isolation"]), "network": bool(row["network"])}
    return KernelRecord(**values)


def session_record(row: sqlite3.Row) -> SessionRecord:
    """Return the session in a row."""
    created, active = moment(row["created_at"]), moment(row["last_activity_at"])
    assert created is not None and active is not None
    return SessionRecord(
        id=row["id"],
        description=row["description"],
        tags=tuple(json.loads(row["tags"])),
        metadata=json.loads(row["metadata"]),
        status=SessionStatus(row["status"]),
        created_at=created,
        last_activity_at=active,
        generation=row["generation"],
        execution_count=row["execution_count"],
        directory=row["directory"],
        fresh=bool(row["fresh"]),
        isolation=Isolation(row["isolation"]) if row["isolation"] else None,
        network=None if row["network"] is None else bool(row["network"]),
        limits=json.loads(row["limits"]),
        python=row["python"],
        parent_session_id=row["parent_session_id"],
        parent_execution_id=row["parent_execution_id"],
        context=json.loads(row["context"]),
        stdin=bool(row["stdin"]),
        template=row["template"],
        startup=row["startup"],
        rewind=row["rewind"],
        reason=row["reason"],
        ended_at=moment(row["ended_at"]),
    )


def execution_row(execution: Execution) -> Row:
    """Return the row of an execution, without its outputs."""
    return {
        "id": execution.id,
        "session_id": execution.session_id,
        "index": execution.index,
        "generation": execution.generation,
        "code": execution.code,
        "status": execution.status.value,
        "timeout": execution.timeout,
        "created_at": seconds(execution.created_at),
        "started_at": seconds(execution.started_at),
        "ended_at": seconds(execution.ended_at),
        "duration": execution.duration,
        "error": json.dumps(asdict(execution.error)) if execution.error else None,
        "new_files": json.dumps(execution.new_files),
        "outputs_complete": int(execution.outputs_complete),
        "note": execution.note,
        "progress": execution.progress,
        "memory_before": execution.memory_before,
        "memory_after": execution.memory_after,
        "on_error": execution.on_error.value,
        "undone": execution.undone.value,
    }


def result_row(execution: Execution) -> Row | None:
    """Return what an execution is found by, and its last line; None: it put nothing out."""
    whole = "\n".join(filter(None, (ends_of(o).strip() for o in execution.outputs)))
    if not whole:
        return None
    return {
        "id": execution.id,
        "line": whole.rpartition("\n")[2][-LINE_CHARS:],
        "words": clip(whole, FOUND_CHARS).joined("\n").lower(),
    }


def ends_of(output: Output) -> str:
    """Return the ends of an output's text; what is costly to tell of one counts for nothing."""
    match output:
        case Stream(_, text):
            return readable(clip(text, FOUND_CHARS).joined("\n"))
        case Display(data):
            is_small = sum(len(form) for form in data.values() if isinstance(form, str)) < SMALL
            plain = data.get("text/plain")
            return output.text if is_small else plain if isinstance(plain, str) else ""
        case Spill(tails=tails):
            return readable("\n".join(tails.values()))
        case _:
            return output.text


def outcome(execution: Execution) -> Row:
    """Return what the log says of an execution that has ended."""
    error = execution.error
    return {
        "status": execution.status.value,
        "duration": round(execution.duration, 6),
        "error": f"{error.type}: {error.message[:ERROR_CHARS]}" if error else "",
    }


def execution(row: sqlite3.Row, outputs: tuple[Output, ...]) -> Execution:
    """Return the execution in a row, with its outputs."""
    created = moment(row["created_at"])
    assert created is not None
    return Execution(
        id=row["id"],
        session_id=row["session_id"],
        index=row["index"],
        generation=row["generation"],
        code=row["code"],
        status=ExecutionStatus(row["status"]),
        timeout=row["timeout"],
        created_at=created,
        started_at=moment(row["started_at"]),
        ended_at=moment(row["ended_at"]),
        duration=row["duration"],
        error=ExecutionError(**json.loads(row["error"])) if row["error"] else None,
        new_files=tuple(json.loads(row["new_files"])),
        outputs=outputs,
        outputs_complete=bool(row["outputs_complete"]),
        note=row["note"],
        progress=row["progress"],
        memory_before=row["memory_before"],
        memory_after=row["memory_after"],
        on_error=OnError(row["on_error"]),
        undone=Undone(row["undone"]),
    )


def checkpoint_row(checkpoint: Checkpoint) -> Row:
    """Return the row of a checkpoint."""
    return {
        **asdict(checkpoint),
        "created_at": seconds(checkpoint.created_at),
        "reason": checkpoint.reason.value,
        "variables": json.dumps(checkpoint.variables),
        "skipped": json.dumps([asdict(item) for item in checkpoint.skipped]),
        "process": json.dumps(asdict(checkpoint.process)) if checkpoint.process else "",
        "named": json.dumps(checkpoint.named),
        "undone": numbers(checkpoint.undone),
    }


def numbers(found: Iterable[int]) -> str:
    """Return numbers as a column has them."""
    return json.dumps(list(found))


def checkpoint(row: sqlite3.Row) -> Checkpoint:
    """Return the checkpoint in a row."""
    created = moment(row["created_at"])
    assert created is not None
    return Checkpoint(
        id=row["id"],
        session_id=row["session_id"],
        name=row["name"],
        reason=CheckpointReason(row["reason"]),
        created_at=created,
        size=row["size"],
        digest=row["digest"],
        python=row["python"],
        blocked=row["blocked"],
        variables=tuple(json.loads(row["variables"])),
        skipped=tuple(LeftOut(**item) for item in json.loads(row["skipped"])),
        process=kernel_record(json.loads(row["process"])) if row["process"] else None,
        named=tuple(json.loads(row["named"])),
        execution_id=row["execution_id"],
        count=row["count"],
        undone=tuple(json.loads(row["undone"])),
    )
