"""Makes artifacts of the output of executions: beside what they do, and never in its way.

That it is to be done is written down with the outcome, so the next server does what this one
does not come to.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from kernelry.artifacts.captures import Capture, captures_of
from kernelry.artifacts.service import Artifacts
from kernelry.errors import KernelryError, StoreError
from kernelry.models import Execution
from kernelry.store import Store

log = logging.getLogger(__name__)

OUTPUT_SHARE = 0.5  # of a session's limits; the rest is for what is stored on purpose


class Keeper:
    """Keeps the output of executions that was too much for an answer.

    Args:
        artifacts: Where it is kept.
        store: Knows what is still to be kept; open.
        workspace: Holds saved images.
    """

    def __init__(self, artifacts: Artifacts, store: Store, workspace: Path) -> None:
        self._artifacts = artifacts
        self._store = store
        self._workspace = workspace
        self._uncaptured: list[str] = []

    async def open(self) -> None:
        """Find what a server before did not come to keep; before executions end in this one.

        Raises:
            StoreError: The records can't be read.
        """
        self._uncaptured = await self._store.read(
            lambda s: [row["execution_id"] for row in s.execute("uncaptured")]
        )

    async def keep(self, execution: Execution, spill_dir: Path) -> None:
        """Keep the output of an execution that was too much for an answer; never fails."""
        of_it = {"id": execution.id}
        try:
            there = await self._store.read(
                lambda s: {row["name"] for row in s.execute("captured_names", of_it)}
            )
            for capture in captures_of(execution, spill_dir, self._workspace):
                if capture.spec.name not in there:
                    await self._keep(execution, capture)
            await self._store.commit(lambda s: s.execute("forget_uncaptured", of_it))
        except StoreError as error:
            log.warning("output of %s is no artifact before the next start: %s", of_it, error)
        except Exception:  # of whatever a cell left; it must not end the service
            log.exception("output of %s could not be kept as artifacts", of_it)

    async def catch_up(self, spill_dir_of: Callable[[str], Path | None]) -> None:
        """Keep the output that a server before did not come to keep.

        Args:
            spill_dir_of: Returns the folder of a session's spilled output, by its id.
        """
        for execution_id in self._uncaptured:
            try:
                execution = await self._store.execution(execution_id)
            except StoreError as error:
                log.warning("output of %s can't be kept: %s", execution_id, error)
                continue
            if execution and (folder := spill_dir_of(execution.session_id)):
                await self.keep(execution, folder)

    async def _keep(self, execution: Execution, capture: Capture) -> None:
        """Keep a part of an execution's output, unless that can't be kept at all."""
        try:
            await self._artifacts.store_chunks(
                *(execution.session_id, capture.spec, capture.chunks),
                execution_id=execution.id,
                share=OUTPUT_SHARE,
            )
        except StoreError:
            raise
        except (KernelryError, OSError, ValueError) as error:  # a cell may have named it
            log.info("%r is not kept as an artifact: %s", capture.spec.name, error)
