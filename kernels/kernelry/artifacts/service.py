"""Stores, finds, reads and deletes the artifacts of all sessions.

A content is written first; then one transaction puts it among the others and writes down the
artifact and the reference. Contents that nothing refers to any more are removed after the
transaction that took the last reference, or by the next server.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from kernelry.apart import Apart
from kernelry.artifacts import records
from kernelry.artifacts.models import Artifact, ArtifactQuery
from kernelry.artifacts.reading import content_of, difference, guess
from kernelry.artifacts.specs import ArtifactSpec, check_spec
from kernelry.beneath import reading
from kernelry.errors import (
    ArtifactNotFoundError,
    ConflictError,
    IntegrityError,
    KernelryError,
    LimitExceededError,
    StoreError,
)
from kernelry.models import ArtifactLimits
from kernelry.output import Source
from kernelry.shielding import Unfinished
from kernelry.store import Blob, Blobs, DamagedError, Statements, Store, chunks_of
from kernelry.workspace import explained, files, known

T = TypeVar("T")

log = logging.getLogger(__name__)
COMPARED_BYTES = 4 << 20  # of an artifact whose lines are compared


class Artifacts:
    """The artifacts of all sessions of one service.

    Args:
        store: Keeps their records; open.
        folder: Holds their contents.
        workspace: Where files are stored from.
        limits: How much a session may keep.
    """

    def __init__(self, store: Store, folder: Path, workspace: Path, limits: ArtifactLimits) -> None:
        self._store = store
        self._blobs = Blobs(folder)
        self._workspace = workspace
        self._limits = limits
        self._unfinished = Unfinished()
        self._apart = Apart()

    async def open(self) -> None:
        """Remove what a server before was writing.

        Contents that belong to a damaged database are moved aside with it.
        """
        aside = self._store.moved_aside
        await asyncio.to_thread(self._blobs.open, aside.suffix if aside else "")

    async def aclose(self) -> None:
        """Finish what goes on."""
        await asyncio.gather(*self._unfinished, return_exceptions=True)

    async def store(self, session_id: str, spec: ArtifactSpec, content: bytes) -> Artifact:
        """Keep data as an artifact; the same name again makes the next version.

        Args:
            session_id: Whose it is.
            spec: What it is.
            content: The data.

        Raises:
            InvalidArgumentError: The spec can't be used.
            SessionNotFoundError: There is no such session.
            LimitExceededError: It is too large, or the session has too much.
            StoreError: It can't be written now.
        """
        return await self.store_chunks(session_id, spec, lambda: [content])

    async def store_file(self, session_id: str, spec: ArtifactSpec, path: str) -> Artifact:
        """Keep a file of the workspace as it is now; raises as `store` and `files.read` do."""

        def chunks() -> Iterator[bytes]:
            where = known(self._workspace, path)
            with explained(where), reading.opened(self._workspace, where) as file:
                yield from chunks_of(file)

        return await self.store_chunks(session_id, spec, chunks)

    async def store_chunks(
        self,
        session_id: str,
        spec: ArtifactSpec,
        chunks: Callable[[], Iterable[bytes]],
        *,
        execution_id: str = "",
        share: float = 1.0,
    ) -> Artifact:
        """Keep what comes piece by piece; raises as `store` does, and what `chunks` raises.

        Args:
            session_id: Whose it is.
            spec: What it is.
            chunks: Gives the data; called in a thread.
            execution_id: The execution that it is output of; empty: of none.
            share: Of the session's limits, how much may be used after that.
        """
        check_spec(spec)
        return await self._unfinished.finish(
            self._add(session_id, spec, chunks, execution_id, share)
        )

    async def get(self, artifact_id: str, session_id: str = "") -> Artifact:
        """Return an artifact; with `session_id` only one of that session.

        Raises:
            ArtifactNotFoundError: There is none of this id.
        """
        row = await self._store.read(
            lambda s: s.execute("artifact", {"id": artifact_id}).fetchone()
        )
        if row is None or session_id not in ("", row["session_id"]):
            raise _unknown(artifact_id, session_id)
        return records.artifact_of(row)

    async def newest(self, session_id: str, name: str) -> Artifact:
        """Return the newest version of a name.

        Raises:
            ArtifactNotFoundError: The session has none of this name.
        """
        values = {"session_id": session_id, "name": name}
        row = await self._store.read(lambda s: s.execute("newest_version", values).fetchone())
        if row is None:
            raise _unknown(name, session_id)
        return records.artifact_of(row)

    async def compare(self, old: Artifact, new: Artifact) -> str:
        """Return what changed between two artifacts: lines as a unified diff, else sizes.

        Raises:
            IntegrityError: A content is damaged.
            ArtifactNotFoundError: One was deleted meanwhile.
        """
        if max(old.size, new.size) > COMPARED_BYTES:
            names = f"v{old.version} ({old.id}, {old.size} bytes) and v{new.version} ({new.id}, "
            how = "have the same content" if old.hash == new.hash else "differ"
            return f"{names}{new.size} bytes) {how}; they are too large for a line by line look."
        before, after = await self.read_bytes(old), await self.read_bytes(new)
        return await self._apart.run(new.session_id, difference, (old, before), (new, after))

    async def version(self, session_id: str, name: str, version: int) -> Artifact:
        """Return a version of a name.

        Raises:
            ArtifactNotFoundError: The session has none of this name and number.
        """
        values = {"session_id": session_id, "name": name, "version": version}
        row = await self._store.read(lambda s: s.execute("artifact_version", values).fetchone())
        if row is None:
            raise _unknown(f"{name} v{version}", session_id)
        return records.artifact_of(row)

    async def query(
        self, query: ArtifactQuery, *, limit: int, offset: int = 0
    ) -> tuple[list[Artifact], int]:
        """Return a page of the artifacts that fit, the newest first, and how many fit."""
        return await self._store.read(
            lambda statements: records.find(statements, query, limit, offset)
        )

    async def ids(self, start: str, limit: int) -> list[str]:
        """Return ids that begin with `start`."""
        values = {"start": start, "limit": limit}
        return await self._store.read(
            lambda s: [row["id"] for row in s.execute("artifact_ids", values)]
        )

    async def read(
        self, artifact: Artifact, *, offset: int, limit: int, data_bytes: int
    ) -> files.Content:
        """Read an artifact: a page of its text, or bytes.

        Args:
            artifact: Which.
            offset: Where the page begins: in characters of a text, else in bytes.
            limit: Characters that the page may have.
            data_bytes: Bytes of a page of what is no text; an image comes whole.

        Raises:
            IntegrityError: The content is damaged.
            ArtifactNotFoundError: It was deleted meanwhile.
        """
        return await self._read(
            artifact,
            lambda source: content_of(source, artifact, offset, limit, data_bytes),
        )

    async def read_bytes(self, artifact: Artifact) -> bytes:
        """Return the whole content; raises as `read` does."""
        return await self._read(artifact, lambda source: b"".join(chunks_of(source)))

    async def delete(self, artifact_id: str) -> Artifact:
        """Delete an artifact, and its content unless another one has the same.

        Raises:
            ArtifactNotFoundError: There is none of this id.
            StoreError: It can't be written down now.
        """

        def work(statements: Statements) -> tuple[Artifact, list[str]]:
            row = statements.execute("artifact", {"id": artifact_id}).fetchone()
            if row is None:
                raise _unknown(artifact_id)
            found = records.artifact_of(row)
            statements.execute("delete_artifact", {"id": artifact_id})
            records.add_event(statements, "artifact.deleted", found)
            return found, records.forget_unused(statements)

        async def finish() -> Artifact:
            found, unused = await self._store.commit(work)
            await self._remove(unused)
            return found

        return await self._unfinished.finish(finish())

    async def remove_unused(self) -> None:
        """Remove the contents that nothing refers to; what can't be, the next start does."""
        try:
            await self._remove(await self._store.commit(records.forget_unused))
        except StoreError as error:
            log.warning("contents of deleted artifacts stay for now: %s", error)

    async def sweep(self) -> None:
        """Remove what a dead server left: contents that no record knows."""
        await self.remove_unused()
        try:
            found = await asyncio.to_thread(self._blobs.addresses)
            recorded = await self._store.read(lambda s: {row["hash"] for row in s.execute("blobs")})
            await self._remove(found - recorded)
        except (StoreError, OSError) as error:
            log.warning("what a dead server left of artifacts stays for now: %s", error)

    async def _add(
        self,
        session_id: str,
        spec: ArtifactSpec,
        chunks: Callable[[], Iterable[bytes]],
        execution_id: str,
        share: float,
    ) -> Artifact:
        def write() -> Blob:
            return self._blobs.write(_bounded(chunks(), self._limits.size))

        blob = await self._apart.run(session_id, write)
        artifact = Artifact(
            id=new_id(),
            session_id=session_id,
            execution_id=execution_id,
            name=spec.name,
            type=spec.type,
            mime_type=spec.mime_type or guess(spec.name, blob.start),
            size=blob.size,
            tags=tuple(dict.fromkeys(spec.tags or ())),
            metadata=spec.metadata,
            hash=blob.hash,
        )

        def record(statements: Statements) -> Artifact:
            records.check_room(statements, artifact, self._limits, share)
            new = records.as_next_version(statements, artifact, keeps_tags=spec.tags is None)
            while statements.execute("artifact", {"id": new.id}).fetchone():
                new = replace(new, id=new_id())
            self._blobs.place(blob)
            statements.execute("save_blob", {"hash": blob.hash, "size": blob.size})
            statements.execute("insert_artifact", records.row_of(new))
            records.add_event(statements, "artifact.stored", new)
            return new

        try:
            return await self._store.commit(record)
        except BaseException:
            await self._remove([blob.hash])
            raise
        finally:
            await asyncio.to_thread(self._blobs.discard, blob)

    async def _read(self, artifact: Artifact, work: Callable[[Source], T]) -> T:
        def read() -> T:
            with self._blobs.opened(artifact.hash, artifact.size) as source:
                return work(source)

        try:
            return await self._apart.run(artifact.session_id, read)
        except DamagedError as error:
            await self.get(artifact.id)  # it may have been deleted meanwhile
            msg = (
                f"the content of artifact {artifact.id} ('{artifact.name}') is damaged: {error}. "
                "Storing the same data again mends it; delete_artifact removes it."
            )
            raise IntegrityError(msg) from error

    async def _remove(self, addresses: Iterable[str]) -> None:
        """Remove contents, except those that something refers to by now."""

        def work(statements: Statements) -> None:
            for address in addresses:
                if statements.execute("blob", {"hash": address}).fetchone() is None:
                    self._blobs.remove(address)

        await self._store.read(work)


def _read(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield `chunks`; that they can't be read is no failure of what we write.

    Raises:
        ConflictError: They can't be read.
    """
    try:
        yield from chunks
    except OSError as error:
        raise ConflictError(f"it can't be read: {error.strerror or error}") from error


def _bounded(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Yield `chunks`.

    Raises:
        LimitExceededError: They are more than `limit` bytes; 0: no limit.
        ConflictError: They can't be read.
    """
    size = 0
    for chunk in _read(chunks):
        size += len(chunk)
        if limit and size > limit:
            msg = f"an artifact may have {limit} bytes (artifact_size_limit), this one has more"
            raise LimitExceededError(f"{msg}. Keep it as a file in the workspace, or in parts.")
        yield chunk


def _unknown(name: str, session_id: str = "") -> KernelryError:
    where = f" in session '{session_id}'" if session_id else ""
    msg = f"no artifact {name[:64]!r}{where}. query_artifacts shows what there is."
    return ArtifactNotFoundError(msg)


def new_id() -> str:
    """Return an id for an artifact; it may be taken."""
    return f"art-{secrets.token_hex(4)}"
