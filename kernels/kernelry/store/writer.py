"""Writes changes in the order they come; what can't be written waits and is tried again.

A disk that is full or broken is not the fault of whoever runs code: nothing is raised for
it, the store is `degraded` instead and says how much is only in memory (`unsaved`).
"""

import logging

from kernelry.errors import StoreError
from kernelry.store.backlog import Backlog, Change, Step
from kernelry.store.database import LOCK_WAIT, Database

LOG_LENGTH = 20  # changes that are caught up on before the log is written back

log = logging.getLogger(__name__)


class Writer:
    """What stands between the changes and the file; one thread uses it."""

    def __init__(self, database: Database) -> None:
        #: what waits
        self.backlog = Backlog()
        self._database = database
        self._trouble = ""

    @property
    def degraded(self) -> str:
        """Path, reason and cure in one line while the file can't be written; else empty."""
        waiting = len(self.backlog)
        if not waiting:
            return ""
        changes = "1 change waits" if waiting == 1 else f"{waiting} changes wait"
        return f"{self._trouble} {changes} in memory and would be lost with this server."

    def write(self, change: Change) -> None:
        """Write a change, or keep it if it can't be written now.

        Raises:
            StoreError: It is an intent and too much waits already (retryable), or the
                database refuses it for what it is.
        """
        self._catch_up()
        if not self.backlog:
            try:
                self._database.commit(change.steps)
            except StoreError as trouble:
                self._enter(trouble)
            except Exception as error:  # whatever it is, it concerns this change only
                raise StoreError(f"can't write down that {change}: {error}") from error
            else:
                return
        if change.intent and self.backlog.full:
            refusal = StoreError(f"no new work is taken: {self.degraded} Then try again.")
            refusal.retryable = True
            raise refusal
        self.backlog.add(change)

    def commit(self, step: Step) -> None:
        """Write a change of one step now, or not at all.

        Raises:
            StoreError: It can't be written now, or others wait to be.
        """
        self._catch_up()
        if self.backlog:
            raise StoreError(f"nothing can be changed: {self.degraded}")
        self._database.commit([step])

    def retry(self) -> None:
        """Try again to write what waits."""
        if self.backlog:
            self._database.make_room()
            self._catch_up()

    def give_up(self) -> None:
        """Try a last time, then say what is lost."""
        self.retry()
        if not self.backlog:
            return
        log.error("%d changes are lost: %s", len(self.backlog), self._trouble)
        for change in self.backlog:
            log.error("lost: %s", change)

    def _catch_up(self) -> None:
        """Write what waits, the oldest first, until something can't be written."""
        waited = len(self.backlog)
        while self.backlog:
            change = self.backlog.first()
            try:
                self._database.commit(change.steps)
            except StoreError as trouble:
                self._trouble = str(trouble)
                return
            except Exception as error:  # it would never go through, and all else waits for it
                log.error("lost: %s (%s)", change, error)
            self.backlog.drop_first()
            if len(self.backlog) % LOG_LENGTH == 0:
                self._database.make_room()  # or the log itself fills what little has come free
        if waited:
            self._database.wait_for_locks(LOCK_WAIT)
            log.warning("the store can be written again; all %d changes are saved", waited)

    def _enter(self, trouble: StoreError) -> None:
        self._trouble = str(trouble)
        # Each attempt from now on is one of many: none shall hold up the reads behind it.
        self._database.wait_for_locks(0)
        log.error("the store is degraded: %s What can't be written is kept in memory.", trouble)
