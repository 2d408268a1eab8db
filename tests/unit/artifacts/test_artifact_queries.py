"""A query finds what fits all of it, and nothing else."""

import fnmatch
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelry import Artifact, ArtifactQuery
from kernelry.artifacts import records
from kernelry.store.statements import Statements, migrations

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ["a.csv", "b.csv", "A.csv", "a.png", "a", "[x].csv", "ab*.txt"]
GLOBS = ["", "*", "*.csv", "a*", "?.csv", "[ab].csv", "[!a].csv", "[[]x].csv", "a", "none"]
TAGS = ["raw", "clean", "Clean", "x y", "%"]
TYPES = ["user_input", "agent_output", "own"]
SESSIONS = ["default", "other"]
EXECUTIONS = ["", "e1", "e2"]


def at(second: int) -> datetime:
    return EPOCH + timedelta(seconds=second)


def artifact(number: int) -> Artifact:
    return Artifact(
        id=f"art-{number:016x}",
        session_id="default",
        name="a.csv",
        version=number + 1,
        type="agent_output",
        mime_type="text/csv",
        size=10,
        hash="0" * 64,
        created_at=at(0),
    )


@contextmanager
def stored(artifacts: list[Artifact]) -> Iterator[Statements]:
    """Give the statements of a database that holds artifacts, stored in this order."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        for script in migrations():
            connection.executescript(script)
        statements = Statements(lambda: connection)
        statements.execute("save_blob", {"hash": "0" * 64, "size": 10})
        for each in artifacts:
            statements.execute("insert_artifact", records.row_of(each))
        yield statements


def fits(each: Artifact, query: ArtifactQuery) -> bool:
    """Say the same in plain Python."""
    return (
        query.session_id in ("", each.session_id)
        and query.execution_id in ("", each.execution_id)
        and query.type in ("", each.type)
        and all(tag in each.tags for tag in query.tags)
        and (not query.name or fnmatch.fnmatchcase(each.name, query.name))
        and not (query.since and each.created_at < query.since)
        and not (query.until and each.created_at > query.until)
        and not (query.min_size is not None and each.size < query.min_size)
        and not (query.max_size is not None and each.size > query.max_size)
    )


some_artifacts = st.lists(
    st.builds(
        lambda **values: replace(artifact(0), **values),
        session_id=st.sampled_from(SESSIONS),
        execution_id=st.sampled_from(EXECUTIONS),
        type=st.sampled_from(TYPES),
        tags=st.lists(st.sampled_from(TAGS), unique=True).map(tuple),
        name=st.sampled_from(NAMES),
        size=st.integers(0, 4),
        created_at=st.integers(0, 4).map(at),
    ),
    max_size=12,
).map(lambda found: [replace(e, id=f"art-{i:016x}", version=i + 1) for i, e in enumerate(found)])
some_query = st.builds(
    ArtifactQuery,
    session_id=st.sampled_from(["", *SESSIONS, "none"]),
    execution_id=st.sampled_from(["", "e1", "none"]),
    type=st.sampled_from(["", *TYPES, "none"]),
    tags=st.lists(st.sampled_from([*TAGS, "none"]), max_size=2).map(tuple),
    name=st.sampled_from(GLOBS),
    since=st.none() | st.integers(0, 4).map(at),
    until=st.none() | st.integers(0, 4).map(at),
    min_size=st.none() | st.integers(0, 5) | st.just(1 << 70),
    max_size=st.none() | st.integers(0, 5) | st.just(1 << 70),
)


@given(some_artifacts, some_query, st.integers(1, 5), st.integers(0, 5))
def test_a_query_finds_what_fits_the_newest_first_by_pages(
    artifacts: list[Artifact], query: ArtifactQuery, limit: int, offset: int
) -> None:
    newest_first = sorted(artifacts, key=lambda each: (each.created_at, each.id), reverse=True)
    expected = [each for each in newest_first if fits(each, query)]
    with stored(artifacts) as statements:
        found, total = records.find(statements, query, limit, offset)
    assert (found, total) == (expected[offset : offset + limit], len(expected))


@pytest.mark.parametrize(
    ("query", "there", "missing"),
    [
        (ArtifactQuery(session_id="default"), {}, {"session_id": "other"}),
        (ArtifactQuery(execution_id="e1"), {"execution_id": "e1"}, {"execution_id": "e2"}),
        (ArtifactQuery(execution_id="e1"), {"execution_id": "e1"}, {"execution_id": ""}),
        (ArtifactQuery(type="own"), {"type": "own"}, {"type": "owner"}),
        (ArtifactQuery(tags=("raw",)), {"tags": ("x", "raw")}, {"tags": ("rawer",)}),
        (ArtifactQuery(tags=("raw",)), {"tags": ("raw",)}, {"tags": ()}),
        (ArtifactQuery(tags=("raw", "x")), {"tags": ("x", "raw")}, {"tags": ("raw",)}),
        (ArtifactQuery(tags=("raw",)), {"tags": ("raw",)}, {"tags": ("Raw",)}),
        (ArtifactQuery(name="*.csv"), {"name": "b.csv"}, {"name": "b.csv.gz"}),
        (ArtifactQuery(name="*.csv"), {"name": "b.csv"}, {"name": "b.CSV"}),
        (ArtifactQuery(name="a?"), {"name": "ab"}, {"name": "abc"}),
        (ArtifactQuery(since=at(1)), {"created_at": at(1)}, {"created_at": at(0)}),
        (ArtifactQuery(until=at(1)), {"created_at": at(1)}, {"created_at": at(2)}),
        (ArtifactQuery(min_size=5), {"size": 5}, {"size": 4}),
        (ArtifactQuery(max_size=5), {"size": 5}, {"size": 6}),
    ],
)
def test_ls_11_each_filter_lets_through_what_fits_and_only_that(
    query: ArtifactQuery, there: dict[str, object], missing: dict[str, object]
) -> None:
    right = replace(artifact(0), **there)  # type: ignore[arg-type]
    wrong = replace(right, id=artifact(1).id, version=2, **missing)  # type: ignore[arg-type]
    with stored([right, wrong]) as statements:
        assert records.find(statements, query, 9, 0) == ([right], 1)
        assert records.find(statements, ArtifactQuery(), 9, 0)[1] == 2
