"""How much the server takes of what kernels send and leave: every number, as data.

A kernel keeps bounds of its own (kernelry/inside/kernel/budget.py), and code in it can go around
them: what it signs is as good as the kernel's word. So the server has these. An honest kernel
never comes near them. docs/bounds.md is this table, written by scripts/docs.
"""

from dataclasses import dataclass

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Bound:
    """How much of one thing is taken."""

    #: where it comes from
    source: str
    #: what is bounded
    what: str
    #: how much is taken
    limit: float
    #: of what: "bytes", "characters", "seconds", ...
    unit: str
    #: what happens beyond
    beyond: str


#: all of them, in the order of this file
TABLE: list[Bound] = []


def _bound(source: str, what: str, limit: float, unit: str, beyond: str) -> int:
    TABLE.append(Bound(source, what, limit, unit, beyond))
    return int(limit)


def _share(source: str, what: str, limit: float, unit: str, beyond: str) -> float:
    TABLE.append(Bound(source, what, limit, unit, beyond))
    return limit


ENDS_KERNEL = "the kernel is ended; what runs has died, with the reason"
ENDS_RUN = "it is stopped, with the reason; nothing more of it is taken"
WAITS = "the rest waits in the kernel"
REJECTED = "the message is left out and counted"
CUT = "cut"

# What arrives on a kernel's sockets

_WIRE = "sockets of a kernel"
IOPUB_BYTES = _bound(_WIRE, "one message on IOPub", 64 * MIB, "bytes", ENDS_KERNEL)
REPLY_BYTES = _bound(_WIRE, "one message on shell or control", 32 * MIB, "bytes", ENDS_KERNEL)
FRAMES = _bound(_WIRE, "frames of one message", 10_000, "frames", ENDS_KERNEL)
READ_BYTES = _bound(_WIRE, "read at once", 128 * KIB, "bytes", WAITS)
SLICE = _share(_WIRE, "time for one kernel before others get their turn", 0.001, "seconds", WAITS)
SHARE = _share(_WIRE, "share of the server's time that one kernel gets for long", 0.2, "", WAITS)
BURST = _share(_WIRE, "time that it gets at once when it was quiet", 0.2, "seconds", WAITS)
LAST_WORDS = _share(_WIRE, "time for what a kernel sent before it ended", 0.5, "seconds", CUT)
OUTBOX = _bound(_WIRE, "requests that wait to be sent", 1000, "requests", "the caller is told")
HEAD_BYTES = _bound(_WIRE, "header and parent header of a message", 64 * KIB, "bytes", REJECTED)

_JSON = "JSON of a message, a reply or a line of a journal"
JSON_ITEMS = _bound(_JSON, "commas and brackets", 1_000_000, "characters", REJECTED)
JSON_DEPTH = _bound(_JSON, "containers in each other", 100, "levels", REJECTED)

# What an execution emits. Twice and more of what the kernel's own budget lets through: its limits
# are the server's to set, so these follow them (`Allowance.of`).

_OUTPUT = "output of one execution"
STREAM_FACTOR = _bound(
    _OUTPUT, "text of its streams", 2, "times the head that a kernel sends (100,000)", ENDS_RUN
)
DISPLAY_FACTOR = _bound(
    _OUTPUT, "displays, updates and errors", 3, "times those that a kernel sends (200)", ENDS_RUN
)
RICH_FACTOR = _bound(
    _OUTPUT, "all that is shown", 2, "times the rich bytes that a kernel sends (32 MiB)", ENDS_RUN
)
DISPLAY_ITEMS = _bound(
    _OUTPUT, "values in its JSON: items of lists and objects", 2_000_000, "values", ENDS_RUN
)
FORMS = _bound(_OUTPUT, "forms of one display", 50, "forms", CUT)
MIME_CHARS = _bound(_OUTPUT, "a MIME type", 200, "characters", "the form is left out")
DISPLAY_ID_CHARS = _bound(_OUTPUT, "a display's id", 1000, "characters", REJECTED)
ENAME_CHARS = _bound(_OUTPUT, "the class of an exception", 500, "characters", CUT)
EVALUE_CHARS = _bound(_OUTPUT, "what an exception says", 200_000, "characters", CUT)
TRACEBACK_CHARS = _bound(_OUTPUT, "a traceback", 400_000, "characters", CUT)
TRACEBACK_LINES = _bound(_OUTPUT, "parts of a traceback", 10_000, "parts", CUT)
FILE_NAME_CHARS = _bound(_OUTPUT, "the name of a spill file", 255, "characters", CUT)
TAIL_CHARS = _bound(_OUTPUT, "the end of a stream that was spilled", 100_000, "characters", CUT)
COUNT = _bound(_OUTPUT, "any number that a kernel tells", 1 << 62, "", "taken for this one")


class PassedError(Exception):
    """A kernel sends more than is taken; says what."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is taken of one execution's output."""

    #: characters of streams
    chars: int
    #: displays, updates and errors
    displays: int
    #: outputs of all kinds: a stream begins anew whenever the other one was written to
    outputs: int
    #: bytes of the messages in which they come
    size: int

    @classmethod
    def of(cls, head_chars: int, displays: int, rich_bytes: int) -> "Allowance":
        """Return what is taken of kernels that have a budget.

        Args:
            head_chars: Characters that they send.
            displays: Displays that they send.
            rich_bytes: Bytes of images and other forms that they send.
        """
        return cls(
            chars=STREAM_FACTOR * head_chars + 10_000,
            displays=DISPLAY_FACTOR * displays + 100,
            outputs=head_chars + DISPLAY_FACTOR * displays + 1000,
            size=RICH_FACTOR * rich_bytes + 40 * head_chars + MIB,
        )


DEFAULT = Allowance.of(100_000, 200, 32 * MIB)

# What else an execution tells

_NOTES = "notes and report of one execution"
# More than a kernel sends of its own (10,000, inside/steering/notes.py): each is written by itself.
NOTES = _bound(_NOTES, "events, changes of the context, questions, pauses", 12_000, "", ENDS_RUN)
NOTE_CHARS = _bound(_NOTES, "any words: progress, a prompt, who asked", 2000, "characters", CUT)
NOTE_ID_CHARS = _bound(_NOTES, "the id of a message", 100, "characters", REJECTED)
CONTEXT_KEYS = _bound(_NOTES, "keys in one change of the context", 10_000, "keys", REJECTED)
CONTEXT_BYTES = _bound(_NOTES, "all of a session's context, about", MIB, "bytes", REJECTED)
EVENT_BYTES = _bound(
    _NOTES, "data of one event, a value of the context", 64 * KIB, "bytes", REJECTED
)
PENDING_NOTES = _bound(_NOTES, "notes that wait to be written down", 4, "notes", WAITS)
NEW_FILES = _bound(_NOTES, "files that it wrote", 1000, "files", CUT)
PATH_CHARS = _bound(_NOTES, "the path of one", 4096, "characters", "it is left out")
REST_SECONDS = _bound(_NOTES, "wait for output after its end", 30, "seconds", CUT)
REMEMBERED_BYTES = _bound(
    "one session",
    "output of the newest executions in memory",
    64 * MIB,
    "bytes",
    "the oldest are read from the database",
)

# What a kernel answers

_ANSWERS = "answers of a kernel"
VARIABLE_CHARS = _bound(_ANSWERS, "name, type or description of a variable", 200, "characters", CUT)
COLUMNS = _bound(_ANSWERS, "columns of a table", 50, "names", CUT)
LOOK_CHARS = _bound(_ANSWERS, "a value in depth", 8_000, "characters", CUT)
MATCHES = _bound(_ANSWERS, "completions", 200, "names", CUT)
SHAPE = _bound(_ANSWERS, "dimensions of one", 32, "numbers", CUT)
MODULES = _bound(_ANSWERS, "modules that were loaded before an installation", 1000, "names", CUT)
MODULE_CHARS = _bound(_ANSWERS, "the name of one", 200, "characters", CUT)
ERROR_CHARS = _bound(_ANSWERS, "why it could not do something", 1000, "characters", CUT)
SAVED_NAMES = _bound(_ANSWERS, "names in a checkpoint", 100_000, "names", "it is not kept")
LEFT_OUT = _bound(_ANSWERS, "names that a checkpoint leaves out", 10_000, "names", "it is not kept")
REPLAY_BYTES = _bound(_ANSWERS, "what it kept for the next server", 64 * MIB, "bytes", ENDS_RUN)
REPLAY_LINES = _bound(_ANSWERS, "messages in that", 500_000, "messages", ENDS_RUN)

# What a session leaves in files

_FILES = "files of a session"
WORKERS = _bound(_FILES, "threads that read or remove them", 2, "threads", "the rest waits")
WORK_WAITING = _bound(
    _FILES, "pieces of work that wait while none gets done", 200, "", "refused: session_busy"
)
WORK_STILL = _share(
    _FILES, "no piece of work gets done before what waits is counted", 5, "seconds", "see above"
)
WORK_SECONDS = _share(_FILES, "wait for one piece of work", 120, "seconds", "refused: session_busy")
END_SECONDS = _share(
    _FILES, "wait of an end for what goes on", 2, "seconds", "the next start takes care of it"
)
REMOVE_SECONDS = _share(
    _FILES, "wait for their removal", 2, "seconds", "it goes on, and nobody waits"
)
JOURNAL_BYTES = _bound(_FILES, "its journal", REPLAY_BYTES, "bytes", CUT)
SPILL_BYTES = _bound(_FILES, "one file of spilled output", GIB, "bytes", CUT)
NAMES = _bound(_FILES, "names of one folder", 100_000, "names", "the rest is looked at later")
CHECKPOINT_FACTOR = _bound(
    _FILES, "a checkpoint", 4, "times the memory of the machine", "it is not kept"
)
COMPARED_BYTES = _bound(_FILES, "files that a replay compares", 256 * MIB, "bytes", "left out")
EXPORT_IMAGES = _bound(_FILES, "saved images in one notebook", 256 * MIB, "bytes", "left out")
STACKS_BYTES = _bound(_FILES, "stacks that a stuck kernel wrote", 256 * KIB, "bytes", CUT)
LOG_BYTES = _bound(_FILES, "the end of its log", 64 * KIB, "bytes", CUT)

# What a build from source leaves

_BUILD = "the build of a package"
_REFUSED = "the wheel is refused"
WHEEL_BYTES = _bound(_BUILD, "the wheel", GIB, "bytes", _REFUSED)
WHEEL_UNPACKED = _bound(_BUILD, "all files in it", 4 * GIB, "bytes", _REFUSED)
WHEEL_RATIO = _bound(
    _BUILD, "that, where it is over 64 MiB", 100, "times the wheel itself", _REFUSED
)
WHEEL_SMALL = 64 * MIB  # what a wheel may unpack to however small it is
WHEEL_FILES = _bound(_BUILD, "files in it", 50_000, "files", _REFUSED)
WHEEL_INDEX = _bound(_BUILD, "its list of files", 16 * MIB, "bytes", _REFUSED)
WHEEL_METADATA = _bound(_BUILD, "one file of its metadata", 16 * MIB, "bytes", _REFUSED)
BUILD_SYSTEM = _bound(
    _BUILD, "pyproject.toml, what its backend wants besides", MIB, "bytes", "it is not built"
)
BUILDS = _bound(_BUILD, "builds of one installation", 50, "builds", "it fails")
