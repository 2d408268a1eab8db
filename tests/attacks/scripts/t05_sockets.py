"""T5: reach a Unix socket of somebody else past who keeps the door of one's own."""

import ctypes
import os
import socket
import struct
import tempfile
import threading
import time

from tests.attacks.scripts.common import TARGET, call, libc, step

OUTSIDE, BESIDE = TARGET.get("unix_stream", ""), TARGET.get("unix_workspace", "")
SECONDS = 1.5  # that a race is tried
ENOUGH = 10  # times that a race is won: who listens has not room for many
#: of x86-64
DUP2, CONNECT, SECCOMP = 33, 42, 317
NEW_LISTENER = 8


def reach(path: object, kind: int = socket.SOCK_STREAM) -> object:
    """Connect and say something."""
    with socket.socket(socket.AF_UNIX, kind) as made:
        made.settimeout(5)
        made.connect(path)  # type: ignore[arg-type]
        return made.send(b"attack")


def folder() -> str:
    """Return a new folder of one's own."""
    return tempfile.mkdtemp(prefix="", dir=os.environ.get("TMPDIR"))  # a path is short


def own(path: str) -> socket.socket:
    """Listen at a path."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen(1000)
    return made


def address(path: str) -> bytes:
    """Return a path as an address, of the one length that any has here."""
    return struct.pack("=H", socket.AF_UNIX) + os.fsencode(path).ljust(108, b"\0")


@step
def connects_to_one_in_the_working_folder() -> object:
    return reach(BESIDE)


@step
def connects_by_its_name_in_the_working_folder() -> object:
    os.chdir(os.path.dirname(BESIDE))
    return reach(os.path.basename(BESIDE))


@step
def connects_by_a_relative_path() -> object:
    os.chdir(os.path.dirname(BESIDE))
    return reach(os.path.relpath(OUTSIDE))


@step
def connects_past_its_own_folder() -> object:
    os.chdir(folder())
    return reach(f"{'../' * 12}{OUTSIDE[1:]}")


@step
def connects_by_a_link_to_it() -> object:
    link = f"{folder()}/l"
    os.symlink(OUTSIDE, link)
    return reach(link)


@step
def connects_by_a_link_to_its_folder() -> object:
    os.chdir(folder())
    os.symlink(os.path.dirname(OUTSIDE), "link")
    return reach(f"link/{os.path.basename(OUTSIDE)}")


@step
def connects_by_a_link_of_the_system() -> object:
    return reach(f"/proc/self/root{OUTSIDE}")


@step
def connects_by_a_descriptor_of_its_folder() -> object:
    fd = os.open(os.path.dirname(OUTSIDE), os.O_PATH)
    return reach(f"/proc/self/fd/{fd}/{os.path.basename(OUTSIDE)}")


@step
def connects_to_one_that_it_has_moved_in() -> object:
    moved = f"{folder()}/m"
    os.rename(BESIDE, moved)
    try:
        return reach(moved)
    finally:
        os.rename(moved, BESIDE)


@step
def connects_to_one_that_it_has_linked_in() -> object:
    linked = f"{folder()}/m"
    os.link(BESIDE, linked)
    return reach(linked)


@step
def puts_another_in_the_place_of_its_own() -> object:
    """Its own listens there by name, and another is there when it connects."""
    path = f"{folder()}/s"
    with own(path):
        os.rename(path, path + "0")
        os.link(BESIDE, path)
        return reach(path)


@step
def changes_the_path_meanwhile() -> object:
    """The other is put there and taken away again, as fast as can be."""
    path = f"{folder()}/s"
    links = [f"{path}0", f"{path}1"]
    with own(links[0]) as mine:
        os.link(BESIDE, links[1])
        over = time.monotonic() + SECONDS

        def swap() -> None:
            turn = 0
            while time.monotonic() < over:
                turn = not turn
                os.link(links[turn], path + "2")
                os.rename(path + "2", path)
                if os.path.exists(path + "2"):
                    os.unlink(path + "2")

        return race(swap, lambda: path, mine, over)


@step
def changes_the_address_meanwhile() -> object:
    """The memory that names the path is another thread's to write."""
    path = f"{folder()}/s"
    with own(path) as mine:
        memory = ctypes.create_string_buffer(address(path))
        over = time.monotonic() + SECONDS

        def swap() -> None:
            while time.monotonic() < over:
                ctypes.memmove(memory, address(OUTSIDE), 110)
                ctypes.memmove(memory, address(path), 110)

        return race(swap, lambda: memory, mine, over)


def race(swap: object, where: object, mine: socket.socket, over: float) -> object:
    """Connect as often as can be, and return how often it was not to oneself."""
    mine.setblocking(False)
    thread = threading.Thread(target=swap)  # type: ignore[arg-type]
    thread.start()
    got = 0
    while got < ENOUGH and time.monotonic() < over:
        with socket.socket(socket.AF_UNIX) as made:
            made.setblocking(False)
            place = where()  # type: ignore[operator]
            memory = place if not isinstance(place, str) else address(place)
            if libc.connect(made.fileno(), memory, 110) != 0:
                continue
            try:
                mine.accept()[0].close()
            except BlockingIOError:
                made.send(b"attack")
                got += 1
    thread.join()
    return got


@step
def changes_the_socket_meanwhile() -> object:
    """The number is that of another socket, of another kind, when it is looked at."""
    path = f"{folder()}/s"
    with own(path), socket.socket(socket.AF_UNIX) as made:
        made.setblocking(False)
        spare, _ = socket.socketpair()
        spare.setblocking(False)
        over = time.monotonic() + SECONDS
        kept = os.dup(made.fileno())

        def swap() -> None:
            while time.monotonic() < over:
                call(DUP2, spare.fileno(), made.fileno())
                call(DUP2, kept, made.fileno())

        thread = threading.Thread(target=swap)
        thread.start()
        got = 0
        while got < ENOUGH and time.monotonic() < over:
            got += libc.connect(made.fileno(), address(OUTSIDE), 110) == 0
        thread.join()
        return got


@step
def connects_by_an_address_with_something_behind_it() -> object:
    with socket.socket(socket.AF_UNIX) as made:
        padded = address(f"{folder()}/s\0{OUTSIDE}") + bytes(10)
        if libc.connect(made.fileno(), padded, 120) == 0:
            return True
        call(CONNECT, made.fileno(), address(OUTSIDE), 110)
        return made.send(b"attack")


@step
def connects_by_packets() -> object:
    return reach(OUTSIDE, socket.SOCK_SEQPACKET)


@step
def makes_datagrams_with_flags() -> object:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


@step
def connects_to_the_neighbours_own() -> object:
    return reach(TARGET["neighbour_own"])


@step
def finds_who_answers() -> object:
    """Whoever has the listener could answer itself."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [link for link in links if os.path.exists(link) and "seccomp" in os.readlink(link)]


@step
def has_itself_asked() -> object:
    """A filter of its own, with a listener of its own, that lets connections go on."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, CONNECT), (6, 0, 0, 0x7FC00000), (6, 0, 0, 0x7FFF0000)]
    program = b"".join(struct.pack("HBBI", c, t, f, k) for c, t, f, k in code)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer)))
    pid = os.fork()
    if pid == 0:
        libc.prctl(38, 1, 0, 0, 0)
        os._exit(0 if libc.syscall(SECCOMP, 1, NEW_LISTENER, head) >= 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


@step
def takes_a_socket_of_who_keeps_the_door() -> object:
    keepers = family_of_the_fork_server()
    for pid in keepers:
        for name in os.listdir(f"/proc/{pid}/fd"):
            pidfd = call(434, pid, 0)
            if call(438, pidfd, int(name), 0) >= 0:
                return True
    return False


def family_of_the_fork_server() -> list[int]:
    """Return what the fork server has started, as far as it can be seen."""
    pid = TARGET["fork_server"]
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [pid, *map(int, file.read().split())]
