"""Walls around this process and all that it starts, from the standard library alone.

Landlock says which files it may reach, keeps its signals and abstract sockets to itself and
closes TCP; seccomp closes what Landlock has no rules for; capabilities are given up. None of
it can be taken back, and none needs a privilege. It must be in force before the process has
a second thread: Landlock binds the thread that asks for it, and code could move to another.

What the walls are is decided by the server (kernelry/walls.py); this only builds them
and looks whether they stand. Not covered: mode, owner and times of files of the same user.
"""

import contextlib
import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from ..calls import checked, libc, open_strictly
from . import doors, mounts, seccomp

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on all machines
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
NEEDED_ABI = 6  # Linux 6.12: signals and abstract sockets are scoped

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES = 64

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR, MAKE_REG = (1 << n for n in range(4, 9))
MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, REFER = (1 << n for n in range(9, 14))
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
HANDLED_FILES = (1 << 16) - 1
HANDLED_TCP = 3  # bind and connect
SCOPED = 3  # abstract Unix sockets and signals
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

READ = EXECUTE | READ_FILE | READ_DIR
WRITE = (HANDLED_FILES & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV)) | READ
#: devices and terminals are read, written and controlled, but none can be made
DEVICE = READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE | IOCTL_DEV
#: everybody's shared memory: what is there can be used by whoever knows its name
SHARED = READ_FILE | WRITE_FILE | TRUNCATE | MAKE_REG | REMOVE_FILE | REFER
#: where sockets are: they are made, found and removed, but no file is written there
SOCKETS = READ | MAKE_SOCK | REMOVE_FILE
RIGHTS = {"read": READ, "write": WRITE, "device": DEVICE, "shared": SHARED, "sockets": SOCKETS}

DENIED = (errno.EACCES, errno.EPERM)
CAUSES = 10  # exceptions behind an exception that are looked at


class WallError(Exception):
    """A wall that was asked for could not be built, or does not stand."""


class Walls:
    """The walls of this process.

    Args:
        plan: level, network, and under each name of `RIGHTS` a list of paths; shared_size,
            bytes of its own shared memory; memory_files, whether files in memory may be made;
            shared_folders, those that are mounted in a box around what is its own.
        door: Descriptor of a socket to who keeps its door (doors.py); -1: it has none.
    """

    def __init__(self, plan: dict[str, Any], door: int = -1) -> None:
        self._plan = plan
        #: whether there are any
        self.stand = plan["level"] != "process"
        self._door = door
        self._asking: socket.socket | None = None

    def enter(self) -> None:
        """Build all but what the kernel's own sockets need.

        Raises:
            WallError: One can't be built here.
        """
        if not self.stand:
            return
        if self._door >= 0:
            self._asking = doors.diagnosis()
        shared = "shared"
        level = self._plan["level"]
        if level == "box" or (
            level == "guard" and mounts.own_shared_memory(self._plan["shared_size"])
        ):
            shared = "write"  # it is our own
        with reporting("capabilities"):
            drop_capabilities()
        # In a box the files are the box's; Landlock closes the rest where it can.
        if level == "guard" or self._plan["shared_folders"] or abi() >= NEEDED_ABI:
            with reporting("Landlock"):
                restrict_files(self._plan, shared)
        with reporting("seccomp"):
            rules = seccomp.early_rules(
                network=self._plan["network"],
                sees_all=self._plan["level"] == "guard",
                memory_files=self._plan["memory_files"],
            )
            seccomp.install(rules, all_threads=False)

    def close_sockets(self) -> None:
        """Refuse Unix sockets of others: with one, a process could talk to any of its user's.

        Without a door new ones are refused altogether.

        Raises:
            WallError: It can't be done here.
        """
        if self.stand:
            asking = self._asking
            rules = seccomp.late_rules(has_door=asking is not None)
            with reporting("seccomp"):
                listener = seccomp.install(rules, all_threads=True, listens=asking is not None)
                if asking is not None:
                    doors.hand_over(self._door, listener, asking, self._plan)
        elif self._door >= 0:
            os.close(self._door)

    def check(self) -> None:
        """Look whether the walls stand; takes no trust in what the calls above returned.

        Raises:
            WallError: One does not.
        """
        if not self.stand:
            return
        check_refused("the sockets of others", connect_outside)
        unix = partial(socket.socket, seccomp.AF_UNIX, socket.SOCK_DGRAM)
        check_refused("datagrams to the sockets of others", unix)
        families = [seccomp.AF_VSOCK]
        families += [] if self._plan["network"] else [seccomp.AF_INET, seccomp.AF_INET6]
        for family in families:
            check_refused(f"sockets of family {family}", partial(socket.socket, family))
        if self._plan["level"] == "guard":  # the root of a box is the box's
            check_refused("files", lambda: os.listdir("/"))
        for folder in self._plan["shared_folders"]:
            if os.path.exists(folder):
                check_refused("the folders of others", partial(os.listdir, folder))
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        for name, wanted in (("CapEff", 0), ("CapPrm", 0), ("NoNewPrivs", 1)):
            if int(status[name].strip(), 16) != wanted:
                raise WallError(f"{name} is {status[name].strip()}")

    def explain(self, error: BaseException | None) -> str:
        """Say what an exception of the user's code met, a wall or a limit, and what helps."""
        for _ in range(CAUSES):
            if error is None:
                break
            if isinstance(error, OSError) and str(error) == LONG_SOCKET:
                return LONG_SOCKET_HINT.format(size=len(os.environ.get("TMPDIR", "")))
            if self.stand and (hint := self._explain(error)):
                return hint
            error = error.__cause__ or error.__context__
        return ""

    def _explain(self, error: BaseException) -> str:
        offline = not self._plan["network"]
        if isinstance(error, socket.gaierror) and offline:
            return NETWORK_HINT
        if not isinstance(error, OSError) or error.errno not in DENIED:
            return ""
        if error.filename is None:
            if type(error) is not PermissionError:
                return ""
            return SOCKETS_HINT if error.errno == errno.EACCES else NETWORK_HINT if offline else ""
        with contextlib.suppress(TypeError, ValueError):
            path = os.path.realpath(os.fsdecode(error.filename))
            if self._is_below(path, "write"):
                return ""
            option = "--allow-write" if self._is_below(path, "read") else "--allow-read"
            verb = "write" if option == "--allow-write" else "read"
            more = "" if option == "--allow-write" else " (or --allow-write, to change it too)"
            return (
                f"{path} is outside of what this session may {verb}. "
                f"The server's option {option} {path}{more} opens it; files for sessions "
                "belong into the workspace."
            )
        return ""

    def _is_below(self, path: str, right: str) -> bool:
        return any(path == root or path.startswith(root + "/") for root in self._plan[right])


def can_narrow(plan: dict[str, Any]) -> bool:
    """Say whether the walls of a plan, which stand, can be narrowed here; see `narrow`."""
    return plan["level"] == "process" or abi() >= NEEDED_ABI


def narrow(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Let this thread, which is in the walls of one plan, reach only what another one says, too.

    For a copy of a kernel: it has its origin's walls, and what its origin may write is not its
    own. Shared memory is the same for both; what is in it is found by who knows its name.

    Raises:
        WallError: It can't be done here, or does not stand.
    """
    with reporting("Landlock"):
        restrict_files(new, "shared")
    for path in filter(os.path.exists, set(old["write"]) - set(new["write"])):
        check_refused(f"what is another session's ({path})", partial(os.listdir, path))


def stay_alone() -> None:
    """See to it that this process can start no other any more, at any level; threads it can.

    Raises:
        WallError: It can't be done here.
    """
    with reporting("seccomp"):
        checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        seccomp.install(seccomp.alone_rules(), all_threads=True)
    check_refused("other processes", start_another)


def connect_outside() -> None:
    """Connect to where no session's socket is."""
    with socket.socket(seccomp.AF_UNIX) as one:
        try:
            one.connect("/")
        except OSError as error:
            if error.errno == errno.ENOSYS:  # so says a door whose keeper is gone: nothing connects
                raise PermissionError(errno.EACCES, "nobody is at the door") from error
            raise


def start_another() -> None:
    """Start a process that ends at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


LONG_SOCKET = "AF_UNIX path too long"
LONG_SOCKET_HINT = (
    "The path of a Unix socket has 107 bytes at most, and this session's $TMPDIR takes {size} of "
    "them. A relative name works (os.chdir to the folder first), and so does a folder with a "
    "shorter path: tempfile.tempdir = os.getcwd()"
)
SOCKETS_HINT = (
    "Unix sockets connect only within this session: to what its own processes listen at, below "
    "its own folders ($TMPDIR, the working folder). Those of other programs (docker, D-Bus, an "
    "ssh-agent, X11) and of other sessions, abstract names and datagrams are closed."
)
NETWORK_HINT = (
    "The network is off in this session. It is on where the server runs with --network and "
    "create_session does not say network=false."
)


def check_refused(wall: str, attempt: Callable[[], object]) -> None:
    """Try something that a wall refuses.

    Raises:
        WallError: It does not.
    """
    try:
        attempt()
    except PermissionError:
        return
    except OSError:  # it got as far as that
        pass
    raise WallError(f"the wall around {wall} does not stand")


@contextlib.contextmanager
def reporting(wall: str) -> Iterator[None]:
    """Turn the system's refusal to build a wall into an error that names the wall."""
    try:
        yield
    except OSError as error:
        raise WallError(f"{wall}: {error.strerror or error}") from error


def abi() -> int:
    """Return the version of Landlock that this system has; 0: it has none."""
    return max(int(libc.syscall(CREATE_RULESET, None, 0, CREATE_RULESET_VERSION)), 0)


def restrict_files(plan: dict[str, Any], shared: str) -> None:
    """Let this thread reach only the files of the plan, and signal only its own kind.

    Args:
        plan: See `Walls`.
        shared: Under which name of `RIGHTS` are those of shared memory.
    """
    version = abi()
    if version < NEEDED_ABI:
        known = f"version {version}" if version else "none"
        raise OSError(errno.ENOSYS, f"it needs version {NEEDED_ABI} (Linux 6.12), here is {known}")
    tcp = 0 if plan["network"] else HANDLED_TCP
    attributes = ctypes.create_string_buffer(struct.pack("QQQ", HANDLED_FILES, tcp, SCOPED), 24)
    ruleset = checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(24), 0))
    try:
        for name in RIGHTS:
            for path in plan[name]:
                rights = RIGHTS[shared] if name == "shared" else RIGHTS[name]
                allow(ruleset, path, rights, plan["unfollowed"])
        checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def allow(ruleset: int, path: str, rights: int, unfollowed: list[str]) -> None:
    """Add a path, and all below it; one that is not there, or behind a link, is left out."""
    try:
        fd = open_strictly(path, unfollowed, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= OF_A_FILE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, fd), 12)
        checked(libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(fd)


def drop_capabilities() -> None:
    """Give up all that root may do, for good, and what set-user-id programs would give."""
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused unless we have CAP_SETPCAP
    header = ctypes.create_string_buffer(struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0))
    checked(libc.capset(header, ctypes.create_string_buffer(24)))
    # Having given something up makes the kernel close /proc/PID to its own user.
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
