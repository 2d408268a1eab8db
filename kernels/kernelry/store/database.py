"""The SQLite file behind the store: opened, checked, put back, written by one thread.

A file that is damaged is moved aside, never overwritten, and a new one is begun. A file
that is removed or replaced while it is open is restored from the open connection. What
keeps a file from being used is a StoreError that names it, the reason and the cure.
"""

import errno
import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

from kernelry.errors import StoreError
from kernelry.paths import private_directory
from kernelry.store import files

log = logging.getLogger(__name__)

CHECKED_BYTES = 256 * 2**20  # a larger file is not checked at each start; this takes 0.1 s
LOCK_WAIT = 1000  # milliseconds for another program that has the file open
SCHEMA_LIMIT = 10_000  # no kernelry has so many migrations: the number is damaged

#: error code of SQLite -> what helps; of these nobody but the machine is to blame
CURES = {
    sqlite3.SQLITE_FULL: "Free space on its disk.",
    sqlite3.SQLITE_READONLY: "Make it and its directory writable.",
    sqlite3.SQLITE_PERM: "Make it and its directory writable.",
    sqlite3.SQLITE_CANTOPEN: "Make its directory writable and see that no other thing is there.",
    sqlite3.SQLITE_IOERR: "See that its disk works and has space.",
    sqlite3.SQLITE_BUSY: "End the program that has it open.",
    sqlite3.SQLITE_LOCKED: "End the program that has it open.",
    sqlite3.SQLITE_PROTOCOL: "End the program that has it open.",
}
#: error number of the system -> the code of SQLite that means the same
OS_CODES = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EDQUOT: sqlite3.SQLITE_FULL,
    errno.EROFS: sqlite3.SQLITE_READONLY,
    errno.EACCES: sqlite3.SQLITE_READONLY,
    errno.EPERM: sqlite3.SQLITE_READONLY,
    errno.EIO: sqlite3.SQLITE_IOERR,
}
RESTART = "Restart kernelry: it moves the file aside and begins a new one."
RUNTIME_CURES = CURES | {sqlite3.SQLITE_CORRUPT: RESTART, sqlite3.SQLITE_NOTADB: RESTART}

#: what reading a row that is no record of ours raises
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    OSError,
)


class _DamagedError(Exception):
    """The file is not a sound database of ours."""


class Database:
    """The open file; every method is called by one and the same thread."""

    def __init__(
        self,
        path: Path,
        *,
        migrations: list[str],
        queries: Iterable[str],
        read: Callable[[], object],
        claim: Callable[[], object] | None = None,
    ) -> None:
        """Keep what `open` needs.

        Args:
            path: The file.
            migrations: Scripts that make the schema, the oldest first.
            queries: All that will be asked; the file must understand each.
            read: Reads the records that a start needs; raises what a bad row raises.
            claim: Makes sure that the directory is there and ours, before the file is put
                back into it; raises StoreError if it is not.
        """
        self.connection: sqlite3.Connection
        #: where a damaged file was moved when this one was opened
        self.moved_aside: Path | None = None
        self._path = path
        self._migrations = migrations
        self._queries = queries
        self._read = read
        self._claim = claim or (lambda: private_directory(path.parent))
        self._identity: files.Identity = (None, None)

    def open(self) -> None:
        """Open the file, begin a new one, or bring an older one up to date.

        Raises:
            StoreError: It can't be used, or a newer kernelry wrote it.
        """
        try:
            try:
                self._open()
            except _DamagedError:  # it is out of the way now
                self._open()
        except (OSError, sqlite3.Error, _DamagedError) as error:
            cure = _cure(error) or "Move it away."
            msg = f"can't open {self._path}: {_reason(error)}. {cure} Or name another --state-dir."
            raise StoreError(msg) from error

    def commit(self, steps: Iterable[Callable[[], object]]) -> None:
        """Run `steps` in one transaction; nothing of it is there if this raises.

        Raises:
            StoreError: The file can't be written now; the same may work later.
        """
        try:
            if files.identify(self._path) != self._identity:
                self._restore()
            self._transact(steps)
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and _code(error) not in RUNTIME_CURES:
                raise
            cure = _cure(error) or RUNTIME_CURES.get(_code(error), "See that its directory works.")
            raise StoreError(f"can't write {self._path}: {_reason(error)}. {cure}") from error

    def wait_for_locks(self, milliseconds: int = LOCK_WAIT) -> None:
        """Set how long another program's lock is waited for."""
        self.connection.execute(f"PRAGMA busy_timeout = {milliseconds}")

    def make_room(self) -> None:
        """Give back what the write-ahead log takes on a full disk, as far as that works."""
        with suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the file; what was committed stays, also if this fails."""
        try:
            self.connection.close()
        except sqlite3.Error as error:
            log.warning("closing %s failed: %s", self._path, error)

    def _open(self) -> None:
        if not files.has_sound_header(self._path):
            self._give_up_on("it is not a database")
        size = self._path.stat().st_size if self._path.exists() else 0
        self._connect()
        try:
            self._prepare(size)
        except StoreError:
            self.connection.close()
            raise
        except (sqlite3.Error, _DamagedError, *UNREADABLE) as error:
            # SQLite would write the log into the file and delete it, so it is moved first.
            with closing(self.connection):
                if _code(error) in CURES:
                    raise
                self._give_up_on(_reason(error))

    def _give_up_on(self, damage: str) -> NoReturn:
        """Move the file aside, saying why."""
        self.moved_aside = files.move_aside(self._path, "corrupt")
        log.warning(
            "the database %s is damaged (%s); it was moved to %s and a new one is begun",
            *(self._path, damage, self.moved_aside),
        )
        raise _DamagedError(damage)

    def _connect(self) -> None:
        self.connection = sqlite3.connect(self._path, isolation_level=None)
        self.connection.row_factory = sqlite3.Row
        self.wait_for_locks()

    def _configure(self) -> None:
        for setting in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
            self.connection.execute(f"PRAGMA {setting}")

    def _prepare(self, size: int) -> None:
        run = self.connection.execute
        self._configure()
        if 0 < size <= CHECKED_BYTES:
            verdict = run("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise _DamagedError(verdict)
        self._migrate()
        for query in self._queries:
            run(f"EXPLAIN {query}", _Nulls())
        self._read()
        # A write that changes nothing: it shows now what would else be found out later.
        self._transact([lambda: run(f"PRAGMA user_version = {len(self._migrations)}")])
        self._identity = files.identify(self._path)

    def _migrate(self) -> None:
        known = len(self._migrations)
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version <= SCHEMA_LIMIT:
            raise _DamagedError(f"schema {version}")
        if version > known:
            msg = (
                f"{self._path} was written by a newer kernelry (schema {version}, this one knows "
                f"{known}). Upgrade kernelry or name another --state-dir."
            )
            raise StoreError(msg)
        for number, script in enumerate(self._migrations[version:], version + 1):
            script = f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            try:
                self.connection.executescript(script)
            except sqlite3.Error as error:
                if _code(error) in CURES:
                    raise
                # Not taken for damage: what is in it shall wait for a kernelry that can read it.
                msg = (
                    f"can't bring {self._path} from schema {version} to {known}: {error}. "
                    "Move it away or name another --state-dir."
                )
                raise StoreError(msg) from error

    def _transact(self, steps: Iterable[Callable[[], object]]) -> None:
        run = self.connection.execute
        if self.connection.in_transaction:  # an earlier ROLLBACK failed too
            run("ROLLBACK")
        run("BEGIN IMMEDIATE")
        try:
            for step in steps:
                step()
            run("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                with suppress(sqlite3.Error):  # the first error says why
                    run("ROLLBACK")
            raise

    def _restore(self) -> None:
        """Put the file back; the open connection still reads the one that is gone."""
        self._claim()
        copy = files.beside(self._path, ".restored")
        try:
            files.remove(copy)
            with closing(sqlite3.connect(copy)) as target:
                self.connection.backup(target)
            other = files.clear(self._path, self._identity)
            copy.rename(self._path)
        except BaseException:
            with suppress(OSError):
                files.remove(copy)
            raise
        # When it is closed SQLite sees that its file was moved, and leaves the new log alone.
        with closing(self.connection):
            self._connect()
            self._configure()
            self.connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        self._identity = files.identify(self._path)
        log.warning(
            "the database %s was removed or replaced; it is restored%s",
            *(self._path, f", what was there is {other}" if other else ""),
        )


class _Nulls(dict[str, None]):
    """Values for every name."""

    def __missing__(self, name: str) -> None:
        return None


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _cure(error: BaseException) -> str:
    code = _code(error)
    if isinstance(error, OSError):
        code = OS_CODES.get(error.errno or 0, code)
    return CURES.get(code, "")


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return " ".join(str(error).split()) or type(error).__name__
