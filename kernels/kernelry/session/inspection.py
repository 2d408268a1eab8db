"""Look into a kernel beside the cell it runs: its variables, its modules, where it is stuck."""

import asyncio
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from kernelry import bounds
from kernelry.beneath import reading
from kernelry.engines import LocalKernel
from kernelry.messaging import understood
from kernelry.models import Variable
from kernelry.output import OutputFold, plain, readable, spill_of, taking
from kernelry.processes import Exit, Group
from kernelry.usage import oom_kills, quantity

REQUEST_DEADLINE = 2.0  # seconds a kernel has for a question of ours
STACK_FILE = "stacks.txt"  # in a session's directory; its fault handler writes it
STACK_BYTES = 4000  # longest stack that is reported
NEAR = 0.8  # of a limit of memory, from where want of it may have ended a kernel
NEWEST_BYTES = 2000  # read from the end of a spill file for its last line
STACK_DEADLINE = 0.3  # seconds the fault handler has to write the stacks
STACK_PAUSE = 0.05  # seconds in which it writes nothing when it is done
#: what Python's fault handler writes before the stacks of a crash, and above that of its thread
FATAL, CURRENT = "Fatal Python error: ", "Current thread"
OUTSIDE = re.compile(r"[/\\]IPython[/\\]core[/\\]interactiveshell\.py\", line \d+ in run_code")
CELL = re.compile(r'File "[^"]*[/\\]ipykernel_\d+[/\\]\d+\.py"')


async def variables(kernel: LocalKernel, limit: int) -> tuple[list[Variable], int]:
    """Return up to `limit` variables of the namespace and how many there are.

    Raises:
        KernelSilentError: The kernel is in native code and can't answer now.
    """
    answer = await kernel.request("variables", deadline=REQUEST_DEADLINE, limit=limit)
    with understood("variables"):
        found = [variable(item) for item in answer["variables"][:limit]]
        return found, taking.number(answer["total"])


def variable(item: dict[str, Any]) -> Variable:
    """Return the variable that a kernel describes.

    Raises:
        KeyError, TypeError, ValueError: It does not.
    """
    name, kind, text = (
        taking.line(item[key], bounds.VARIABLE_CHARS) for key in ("name", "type", "repr")
    )
    size = item.get("size")
    shape = tuple(taking.number(n) for n in item.get("shape", ())[: bounds.SHAPE])
    return Variable(
        name=name,
        type=kind,
        repr=text,
        size=None if size is None else taking.number(size),
        shape=shape,
        bytes=taking.number(item["bytes"]) if "bytes" in item else None,
        columns=tuple(
            taking.line(name, bounds.VARIABLE_CHARS)
            for name in item.get("columns", ())[: bounds.COLUMNS]
        ),
    )


async def adopt_environment(
    kernel: LocalKernel, prefix: Path, site: Path, distributions: list[str]
) -> list[str]:
    """Make a running kernel see its environment; name modules that it had loaded before.

    Args:
        kernel: The kernel.
        prefix: Where the environment is.
        site: Its folder for packages.
        distributions: What was just installed, by name.

    Raises:
        KernelSilentError: The kernel is in native code and can't be told now.
    """
    loaded = await kernel.request(
        "loaded", deadline=REQUEST_DEADLINE, distributions=distributions, site=str(site)
    )
    where = {"prefix": str(prefix), "site": str(site)}
    await kernel.request("adopt_environment", deadline=REQUEST_DEADLINE, **where)
    with understood("loaded"):
        names = loaded["modules"][: bounds.MODULES]
        return [taking.line(name, bounds.MODULE_CHARS) for name in names]


async def stack(kernel: LocalKernel, directory: Path) -> str:
    """Return the stacks of all threads of a kernel, also while it is in native code.

    That of the thread that runs cells comes first: what is too long is cut at the end.

    Args:
        kernel: The kernel.
        directory: The session's, in which its fault handler writes them.
    """
    path = directory / STACK_FILE
    before = last = size_of(path)
    kernel.process.send_signal_to_kernel(signal.SIGUSR1)
    with suppress(TimeoutError):
        async with asyncio.timeout(STACK_DEADLINE):
            # Another process writes, piece by piece: it is done when there is no more.
            while (size := size_of(path)) == before or size != last:
                last = size
                await asyncio.sleep(0.01 if size == before else STACK_PAUSE)
    return main_first(read_from(path, before))


def main_first(stacks: str) -> str:
    """Return the stacks of threads, those of the main one first, as much as is reported.

    The fault handler writes the oldest thread's last.
    """
    *others, main = stacks.strip().split("\n\n")
    return "\n\n".join([main, *others])[:STACK_BYTES]


def crash_stack(directory: Path) -> str:
    """Return where a kernel was when native code crashed it; "" if nothing says so.

    Only the thread that crashed, from the innermost call out to the cell.

    Args:
        directory: The session's, in which its fault handler wrote it.
    """
    path = directory / STACK_FILE
    text = read_from(path, max(size_of(path) - bounds.STACKS_BYTES, 0))
    _, found, dump = text.rpartition(FATAL)
    if not found:
        return ""
    told, *threads = plain(dump).strip().split("\n\n")
    crashed = next((thread for thread in threads if thread.startswith(CURRENT)), "")
    lines = [told]
    for line in crashed.splitlines()[1:]:
        if OUTSIDE.search(line):
            break
        lines.append(CELL.sub("Cell", line))
    return "\n".join(lines)[:STACK_BYTES]


def killed_by_linux(group: Group | None, limit: int, peak: int) -> str:
    """Say why Linux ended something of a session for want of memory; empty: it did not.

    Args:
        group: The session's control group; None: it has none, and nobody knows.
        limit: Bytes that the session may use; 0: no limit.
        peak: Bytes that it was seen to use at most.
    """
    if group is None or not group.has_killed:
        return ""
    most = quantity(group.peak or peak)
    if limit and group.was_full:
        return f"killed by Linux: all memory was used, limit {quantity(limit)}"
    return f"killed by Linux: the machine ran out of memory; this session's peak was {most}"


def lack_of_memory(memory: tuple[int, int], limit: int) -> str:
    """Say that a kernel that has ended was near its limit of memory; empty: it was not.

    Args:
        memory: Bytes that it had before its first execution and after its newest; 0: not known.
        limit: Bytes that its code might add to that; 0: no limit.
    """
    before, after = memory
    if not before or not limit or after - before <= NEAR * limit:
        return ""
    return (
        f"; its variables took {quantity(after - before)} of the {quantity(limit)} that are its "
        "limit: a library that gets no more may end its process"
    )


def how_ended(ended: Exit, kills: int, peak: int, lack: str = "") -> str:
    """Say how a kernel ended that nobody ended.

    Args:
        ended: Its exit status or signal.
        kills: Processes that Linux had ended for want of memory when the kernel started.
        peak: Bytes that the session was seen to use at most; 0: nobody looked.
        lack: What is said of its own limit of memory; see `lack_of_memory`.
    """
    said = f"it ended by itself: {ended}"
    if ended.code == -signal.SIGKILL and oom_kills() > kills:
        said += "; Linux ended processes meanwhile because the machine ran out of memory"
        said += f" (this session's peak was {quantity(peak)})" if peak else ""
    elif ended.code:  # as OpenBLAS does, which exits with 1 when it gets no memory
        said += lack
    return said


def newest_line(fold: OutputFold, directory: Path, spill_folder: str) -> str:
    """Return the last line that an execution has printed, also from its spill file.

    Args:
        fold: Its outputs.
        directory: The session's.
        spill_folder: Name of the one in it that has spill files.
    """
    spill = spill_of(fold.outputs)
    if spill is None:
        return fold.last_line()
    data = reading.tail(directory, f"{spill_folder}/{spill.file}", NEWEST_BYTES)
    lines = readable(data.decode("utf-8", "replace")).strip().splitlines()
    return lines[-1] if lines else ""


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; 0 if there is none."""
    return reading.size(path.parent, path.name)


def read_from(path: Path, offset: int) -> str:
    """Return the text of a file from an offset in bytes, as much as is read."""
    data = reading.head(path.parent, path.name, bounds.STACKS_BYTES, start=offset) or b""
    return data.decode("utf-8", "replace")
