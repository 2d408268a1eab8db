"""What stands against a live copy of this process, and what such a copy would lack or share.

A fork copies one thread. What other threads hold, or would do later, is not there: a library
whose threads are gone may wait for them for ever. Pools that can be ended and made again are
(OpenMP's, by its own call; OpenBLAS ends its own before each fork). Others stand against it.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..processes import children

#: libraries of OpenMP, also those that packages bring with them
OPENMP = re.compile(r"lib(?:gomp|omp|iomp5)\b[^/]*\.so")
PAUSE_HARD = 2  # omp_pause_hard: its threads end
WIRE = "ZMQbg"  # begins the names of ZeroMQ's threads
#: names of threads of multiprocessing's pools and concurrent.futures' processes
POOL = re.compile(r"\((?:_handle_workers|_handle_tasks|_handle_results)\)|ExecutorManager")
MARK = b"_KERNELRY_KERNEL="  # see kernelry/processes: all that a kernel starts carries its name
SOCKETS = "sockets that both share"
FILES = "open files whose position both share"
TRIAL = 2.0  # seconds for a fork that does nothing
ENDING = 0.2  # seconds that threads have to end
PAUSE = 0.001
#: what native threads are called -> whose they are
LIBRARIES = {
    "polars": "polars",
    "tokio": "tokio",
    "jemalloc_bg": "jemalloc",
    "cuda": "CUDA",
    "pt_": "torch",
}
#: tasks that these packages have started are no user's, nor are ours
OWN_PACKAGES = ("IPython", "ipykernel", "tornado", "zmq", "anyio", "jupyter_client")
OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
NAMED = 10  # threads, tasks, files that are named


@dataclass(slots=True)
class Found:
    """What was found."""

    #: why there can be no live copy; empty: nothing stands against it
    against: list[str] = field(default_factory=list)
    #: what a copy lacks, or shares with its origin
    named: list[str] = field(default_factory=list)


def look(
    own_threads: Collection[threading.Thread],
    own_files: Collection[int],
    own_wires: int,
    loop: asyncio.AbstractEventLoop,
    opened: Mapping[int, str],
) -> Found:
    """Pause what can be paused, and look at the rest; on the main thread.

    Args:
        own_threads: Those that the kernel has started itself.
        own_files: Descriptors that it has opened itself.
        own_wires: How many threads of ZeroMQ it has.
        loop: The event loop of cells.
        opened: What this process has open, as `targets` says it.
    """
    found = Found()
    pause_openmp()
    native = list(native_threads())
    if any(map(is_foreign, native)):
        # OpenBLAS, and what else can, ends its threads before a fork: so one is tried.
        if not survives_fork():
            found.against.append("a library that does not come out of a fork")
        elif left := wait_for_ends():
            found.against.append(f"threads of {', '.join(sorted(set(map(library, left))))}")
    if sum(not is_foreign(name) for name in native) > own_wires:
        found.against.append("threads of ZeroMQ")
    if uses_cuda(opened):
        found.against.append("CUDA is in use")
    if pools():
        found.against.append("a pool of threads or processes, which would wait for ever in it")
    users = [thread for thread in threading.enumerate() if thread not in own_threads]
    add(found.named, "threads that are not in it", [thread.name for thread in users])
    add(found.named, "asyncio tasks that are not in it", list(tasks(loop)))
    add(found.named, "child processes, which are the origin's", list(programs()))
    sockets, pipes, files = open_files(opened, own_files)
    if sockets:
        found.named.append(f"{sockets} {SOCKETS}")
    if pipes:
        found.named.append(f"{pipes} ends of pipes, which close when both have closed them")
    add(found.named, FILES, files)
    return found


def survives_fork() -> bool:
    """Say whether a process that is forked from this one gets as far as its end."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    deadline = time.monotonic() + TRIAL
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(PAUSE)
    return True


def pools() -> list[str]:
    """Return the names of threads that work for a pool, which a copy takes for alive.

    Those of an event loop's own pool are left out: a copy has another loop.
    """
    module = sys.modules.get("concurrent.futures.thread")
    queues = getattr(module, "_threads_queues", ())
    working = [thread for thread in list(queues) if thread.is_alive()]
    names = [thread.name for thread in working if not thread.name.startswith("asyncio_")]
    return names + [t.name for t in threading.enumerate() if POOL.search(t.name)]


def programs() -> Iterator[str]:
    """Yield the names of programs that the code has started; copies of us carry other marks."""
    mine = MARK + os.environb.get(MARK.rstrip(b"="), b"")
    for pid in children(os.getpid()):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                is_of_code = mark_in(file.read()) == mine
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
        except OSError:  # it has ended
            continue
        if is_of_code:
            yield name


def mark_in(variables: bytes) -> bytes:
    """Return the mark of a kernel in the variables of a process; empty: it has none."""
    found = [line for line in variables.split(b"\0") if line.startswith(MARK)]
    return found[0] if found else b""


def add(lines: list[str], what: str, names: list[str]) -> None:
    """Add a line about things that have names, if there are any."""
    if names:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"{what}: {', '.join(names[:NAMED])}{more}")


def pause_openmp() -> None:
    """End the pools of OpenMP that are loaded; the next parallel region makes new ones.

    This is their own call for that (OpenMP 5.0, ``omp_pause_resource_all``); without it GNU's
    waits in a copy for ever.
    """
    for path in filter(OPENMP.search, libraries()):
        try:
            library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
            library.omp_pause_resource_all(PAUSE_HARD)
        except (OSError, AttributeError):  # an older one has no such call: its threads are seen
            continue


class LibraryInfo(ctypes.Structure):
    """What Linux's loader says of a library; see dl_iterate_phdr(3)."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.c_void_p),
        ("count", ctypes.c_uint16),
        ("loaded", ctypes.c_ulonglong),  # how many were, ever: changes when another one is
    )


#: holds Python's lock meanwhile: a thread that imports has it, and waits for the loader's
LOADER = ctypes.PyDLL(None)
LIBRARY_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(LibraryInfo), ctypes.c_size_t, ctypes.c_void_p
)
#: how many libraries had been loaded -> the paths of those that were there then
known_libraries: dict[int, list[str]] = {}


def libraries() -> list[str]:
    """Return the paths of the libraries that are loaded; looked for when another one is."""
    found: list[str] = []
    count = 0

    def note(info: Any, size: int, data: Any) -> int:
        nonlocal count
        count = info.contents.loaded
        if count in known_libraries:
            return 1  # that is enough
        found.append(os.fsdecode(info.contents.name or b""))
        return 0

    LOADER.dl_iterate_phdr(LIBRARY_CALLBACK(note), None)
    if count not in known_libraries:
        known_libraries.clear()
        known_libraries[count] = found
    return known_libraries[count]


def is_foreign(comm: str) -> bool:
    """Say whether a native thread is not ZeroMQ's, by its name."""
    return not comm.startswith(WIRE)


def native_threads() -> Iterator[str]:
    """Yield the names of threads that are not Python's."""
    # Python up to 3.12 does not look for the main thread's number anew after a fork.
    python = {os.getpid(), *(thread.native_id for thread in threading.enumerate())}
    for number in os.listdir("/proc/self/task"):
        if int(number) in python:
            continue
        try:
            with open(f"/proc/self/task/{number}/comm", encoding="utf-8", errors="replace") as file:
                yield file.read().strip()
        except OSError:  # it has ended
            continue


def wait_for_ends() -> list[str]:
    """Give threads that were told to end a moment; return the names of those that did not."""
    deadline = time.monotonic() + ENDING
    while (left := [*filter(is_foreign, native_threads())]) and time.monotonic() < deadline:
        time.sleep(PAUSE)
    return left


def library(comm: str) -> str:
    """Return whose a native thread is, as far as its name tells."""
    for beginning, name in LIBRARIES.items():
        if comm.startswith(beginning):
            return name
    known = [name for name in ("duckdb", "pyarrow", "polars", "torch") if name in sys.modules]
    return f"a library ({', '.join(known)}?)" if known else f"a library ({comm})"


def uses_cuda(opened: Mapping[int, str]) -> bool:
    """Say whether a context of CUDA was made: it does not survive a fork."""
    torch = sys.modules.get("torch")
    try:
        if torch is not None and torch.cuda.is_initialized():
            return True
    except Exception:  # a module that only has its name
        return False
    return any("/dev/nvidia" in target for target in opened.values())


def tasks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    """Yield what the user's tasks of an event loop run."""
    own = tuple(package_folders())
    for task in asyncio.all_tasks(loop):
        code = getattr(task.get_coro(), "cr_code", None)
        if code is not None and not os.path.realpath(code.co_filename).startswith(own):
            yield getattr(code, "co_qualname", code.co_name)


def package_folders() -> Iterator[str]:
    """Yield the folders of what runs tasks in each kernel."""
    yield os.path.realpath(OURS) + os.sep
    for name in OWN_PACKAGES:
        if file := getattr(sys.modules.get(name), "__file__", None):
            yield os.path.dirname(os.path.realpath(file)) + os.sep


def targets() -> dict[int, str]:
    """Return the descriptors of this process, and what they are of."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # that of the folder itself
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found


def open_files(opened: Mapping[int, str], own: Collection[int]) -> tuple[int, int, list[str]]:
    """Return how many sockets and pipes the user's code has open, and the names of its files."""
    sockets, pipes, files = 0, 0, []
    for fd, target in opened.items():
        if fd <= 2 or fd in own:
            continue
        if target.startswith("socket:"):
            sockets += 1
        elif target.startswith("pipe:"):
            pipes += 1
        elif target.startswith("/") and is_file(fd):
            files.append(os.path.basename(target))
    return sockets, pipes, files


def is_file(fd: int) -> bool:
    """Say whether a descriptor is of a file, which has a position."""
    try:
        return stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:
        return False
