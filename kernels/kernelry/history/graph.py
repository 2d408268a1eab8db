"""Sessions and executions as a graph: who ran what, for whom a session was made, what came out.

Nodes are sessions, executions, artifacts, and the workspace files that executions made. Edges
are `ran` (session to execution), `spawned` (execution, or session where none was named, to the
session made for it) and `produced` (execution to file or artifact, session to an artifact that
somebody stored). The graph below an id has only what descends from it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernelry.artifacts import Artifact, ArtifactQuery, Artifacts
from kernelry.history.search import History, Search
from kernelry.models import Execution, SessionRecord

NEWEST = 200  # executions, and artifacts, of one session; older ones are counted, not shown

Node = dict[str, Any]


async def draw_graph(
    history: History,
    artifacts: Artifacts,
    records: Mapping[str, SessionRecord],
    roots: Iterable[str],
) -> dict[str, Any]:
    """Return the graph below some sessions.

    Args:
        history: What was run.
        artifacts: What was kept.
        records: The sessions that there are, by id.
        roots: Ids of those to begin with.

    Returns:
        `nodes`, `edges`, and `omitted`: how many executions and artifacts are not shown.
    """
    nodes: dict[str, Node] = {}
    edges: list[dict[str, str]] = []
    omitted = 0
    children = _children(records)
    waiting = list(dict.fromkeys(roots))
    while waiting:
        name = waiting.pop()
        if name not in records or session_node(name) in nodes:
            continue
        record = records[name]
        nodes[session_node(name)] = about_session(record)
        found = await history.search(Search(session_ids=[name]), limit=NEWEST)
        omitted += max(record.execution_count - len(found), 0)
        shown = {execution.id for execution in found}
        for execution in reversed(found):
            nodes[execution_node(execution.id)] = about_execution(execution)
            edges.append(edge(session_node(name), "ran", execution_node(execution.id)))
            for path in execution.new_files:
                nodes.setdefault(f"file:{path}", {"kind": "file", "path": path})
                edges.append(edge(execution_node(execution.id), "produced", f"file:{path}"))
        kept, total = await artifacts.query(ArtifactQuery(session_id=name), limit=NEWEST)
        omitted += total - len(kept)
        for artifact in reversed(kept):
            node = f"artifact:{artifact.id}"
            nodes[node] = about_artifact(artifact)
            by = artifact.execution_id
            source = execution_node(by) if by in shown else session_node(name)
            edges.append(edge(source, "produced", node))
        for child in children.get(name, ()):
            by = records[child].parent_execution_id
            source = execution_node(by) if by in shown else session_node(name)
            edges.append(edge(source, "spawned", session_node(child)))
            waiting.append(child)
    return {
        "nodes": [{"id": name, **node} for name, node in nodes.items()],
        "edges": edges,
        "omitted": omitted,
    }


def session_node(session_id: str) -> str:
    """Return the name of a session's node."""
    return f"session:{session_id}"


def execution_node(execution_id: str) -> str:
    """Return the name of an execution's node."""
    return f"execution:{execution_id}"


def edge(source: str, kind: str, target: str) -> dict[str, str]:
    """Return an edge."""
    return {"source": source, "kind": kind, "target": target}


def about_session(record: SessionRecord) -> Node:
    """Return what a session's node says."""
    return {
        "kind": "session",
        "session_id": record.id,
        "description": record.description,
        "status": record.status.value,
        "created_at": record.created_at.isoformat(),
    }


def about_execution(execution: Execution) -> Node:
    """Return what an execution's node says."""
    return {
        "kind": "execution",
        "execution_id": execution.id,
        "session_id": execution.session_id,
        "index": execution.index,
        "status": execution.status.value,
        "created_at": execution.created_at.isoformat(),
        "duration": execution.duration,
        "undone": execution.undone.value,
        "error": f"{execution.error.type}: {execution.error.message}" if execution.error else "",
    }


def about_artifact(artifact: Artifact) -> Node:
    """Return what an artifact's node says."""
    return {
        "kind": "artifact",
        "artifact_id": artifact.id,
        "name": artifact.name,
        "version": artifact.version,
        "type": artifact.type,
        "size": artifact.size,
    }


def _children(records: Mapping[str, SessionRecord]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for record in records.values():
        if record.parent_session_id:
            found.setdefault(record.parent_session_id, []).append(record.id)
    return found
