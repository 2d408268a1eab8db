"""What the kernel of a session tells besides outputs: safe points, questions, context, events.

Each note is taken once: the journal repeats to a new server what the one before has heard,
and what that wrote down is known by the note's message id.
"""

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from kernelry import bounds
from kernelry.engines import LocalKernel
from kernelry.errors import InvalidArgumentError, KernelSilentError
from kernelry.events import check_data, check_topic
from kernelry.messaging import UNSOUND, Message
from kernelry.models import Execution, ExecutionStatus, Question, SessionRecord, SessionStatus
from kernelry.output import taking
from kernelry.session.run import Run
from kernelry.session.services import Services

log = logging.getLogger(__name__)

TELL_DEADLINE = 1.0  # seconds a kernel has to take a change of its context
GO_ON = bounds.PENDING_NOTES // 4  # notes not written yet at which more are taken
LEFT_OUT_LOGGED = 20  # notes of one session: there is no end to what code can send
FAR = 1e11  # seconds after the epoch by which nothing happens
REQUESTED = {
    "pause": "execution.pause_requested",
    "resume": "execution.resume_requested",
    "stop": "execution.stop_requested",
}


class Owner(Protocol):
    """The session, as far as its notes change it."""

    #: what is kept of it
    record: SessionRecord
    #: its kernel
    kernel: LocalKernel | None


class Notes:
    """Takes the notes of one session's kernel.

    Args:
        owner: The session.
        services: What it uses.
    """

    def __init__(self, owner: Owner, services: Services) -> None:
        self._owner = owner
        self._services = services
        self._kinds: dict[str, Callable[[Run, Any, str], None]] = {
            "requested": self._requested,
            "held": self._held,
            "released": self._released,
            "progress": self._progress,
            "asked": self._asked,
            "answered": self._answered,
            "context": self._context,
            "published": self._published,
        }
        self._left_out = 0
        self._pending = 0  # notes that are not written down yet
        self._held_up: LocalKernel | None = None  # the kernel that waits for them
        self._informed: LocalKernel | None = None  # the kernel that has the context
        #: message ids of notes that a server before has written down
        self.known: set[str] = set()

    def about(self) -> Message:
        """Return what the kernel shall know of the session with its next execution."""
        record = self._owner.record
        about: Message = {
            "session_id": record.id,
            "parent_session_id": record.parent_session_id,
            "may_ask": record.stdin,
        }
        # Once: what its threads change meanwhile is on the way to us.
        if self._informed is not self._owner.kernel:
            about["context"] = record.context
            self._informed = self._owner.kernel
        return about

    async def tell_context(self, values: dict[str, Any], removed: list[str]) -> None:
        """Tell a kernel that knows the context what a tool has changed in it."""
        kernel = self._owner.kernel
        if kernel is not None and self._informed is kernel:
            told: Message = {"values": values, "removed": removed}
            with suppress(KernelSilentError):  # in native code: it learns it when that ends
                await kernel.request("change_context", deadline=TELL_DEADLINE, **told)

    def hear(self, run: Run, message: Message) -> None:
        """Take a note of an execution; never blocks. What makes no sense is left out."""
        content = message["content"]
        try:
            take = self._kinds[content["kind"]]
            take(run, content, str(message["header"]["msg_id"]))
        except (InvalidArgumentError, *UNSOUND) as error:
            # The kernel's own module makes sound ones: code sent this past it.
            self._left_out += 1
            if self._left_out <= LEFT_OUT_LOGGED:
                log.warning("session %s: a note is left out: %s", self._owner.record.id, error)

    def end(self, run: Run) -> None:
        """Note that an execution has ended, however: it holds nothing any more."""
        if run.held_since is not None:
            self._released(run, {}, "")

    def _requested(self, run: Run, content: Any, key: str) -> None:
        topic = REQUESTED[str(content["action"])]
        self._write(topic, {"by": short(content["by"])}, run, key)

    def _held(self, run: Run, content: Any, key: str) -> None:
        at = float(content["at"])
        if not 0 <= at < FAR:
            raise ValueError(f"no time: {at}")
        run.hold(datetime.fromtimestamp(at, UTC), short(content["by"]))
        self._owner.record = replace(self._owner.record, status=SessionStatus.PAUSED)
        self._write("execution.paused", {"by": short(content["by"])}, run, key)

    def _released(self, run: Run, content: Any, key: str) -> None:
        run.release()
        if self._owner.record.status is SessionStatus.PAUSED:
            self._owner.record = replace(self._owner.record, status=SessionStatus.ACTIVE)
        self._write("execution.resumed", {}, run, key)

    def _progress(self, run: Run, content: Any, key: str) -> None:
        run.execution = replace(run.execution, progress=short(content["progress"]))

    def _asked(self, run: Run, content: Any, key: str) -> None:
        question = Question(
            id=short(content["question"]),
            prompt=short(content["prompt"]),
            hidden=bool(content["hidden"]),
        )
        run.ask(question)
        self._write("execution.waiting_input", {"prompt": question.prompt}, run, key)

    def _answered(self, run: Run, content: Any, key: str) -> None:
        run.ask(None)
        self._write("execution.input_taken", {}, run, key)

    def _context(self, run: Run, content: Any, key: str) -> None:
        if key in self.known:
            return  # a tool may have changed it since
        values, removed = dict(content["values"]), [short(name) for name in content["removed"]]
        if len(values) + len(removed) > bounds.CONTEXT_KEYS:
            raise ValueError(f"a change of more than {bounds.CONTEXT_KEYS} keys")
        for value in values.values():
            check_data(value)
        context = with_changes(self._owner.record.context, values, removed)
        self._owner.record = replace(self._owner.record, context=context)
        self._write("context.changed", {"values": values, "removed": removed}, run, key)

    def _published(self, run: Run, content: Any, key: str) -> None:
        topic, data = check_topic(str(content["topic"])), content["data"]
        check_data(data)
        self._write(topic, data, run, key)

    def _write(self, type: str, data: object, run: Run, key: str) -> None:
        if key in self.known:
            return
        work = self._services.store.note(
            self._owner.record, type, data, execution_id=run.id, key=key or None
        )
        self._services.spawn(
            self._write_down(work), name=f"event {type} of {self._owner.record.id}"
        )
        self._pending += 1
        is_much = self._pending >= bounds.PENDING_NOTES and self._held_up is None
        if is_much and self._owner.kernel is not None:
            self._held_up = self._owner.kernel
            self._held_up.channels.hold()

    async def _write_down(self, work: Coroutine[Any, Any, None]) -> None:
        """Write something down; a kernel that told more meanwhile than was written waits."""
        try:
            await work
        finally:
            self._pending -= 1
            if self._pending <= GO_ON and self._held_up is not None:
                self._held_up.channels.go_on()
                self._held_up = None


def short(words: object) -> str:
    """Return what a note says in words, no longer than those of the kernel's own module."""
    return taking.line(words, bounds.NOTE_CHARS)


def with_changes(
    context: dict[str, Any], values: dict[str, Any], removed: list[str]
) -> dict[str, Any]:
    """Return a context with some values changed and some removed.

    Raises:
        InvalidArgumentError: It would be too large.
    """
    gone = set(removed)
    merged = {key: value for key, value in {**context, **values}.items() if key not in gone}
    if len(repr(merged)) > bounds.CONTEXT_BYTES:
        msg = f"the context of a session may have about {bounds.CONTEXT_BYTES} bytes, not more"
        raise InvalidArgumentError(msg)
    return merged


def is_open(execution: Execution) -> bool:
    """Say whether an execution may still be told something."""
    return execution.status in (ExecutionStatus.RUNNING, ExecutionStatus.WAITING_INPUT)
