"""What a kernel may reach: the policy of the isolation levels, and how a box is put together.

The kernel itself builds what is planned here, before any code of the user's runs, and looks
whether it stands (kernelry/inside/walls/guard.py). At level ``guard`` that is Landlock and
seccomp; at level ``box`` it is the same within namespaces of its own, which bubblewrap makes
around it. What is readable is a list of what programs need, not all but a list of secrets.
"""

import functools
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelry.beneath import strict_root
from kernelry.models import Isolation, Limits

INSIDE = Path(__file__).parent / "inside" / "__main__.py"
HELD_BACK = "KERNELRY_HELD_BACK_"  # see inside/walls/confined.py
LINKS = 40  # that Linux follows from one path
BOX_TMP_BYTES = 1 << 30  # size of a box's own /tmp

#: programs and libraries
SYSTEM = ("/usr", "/opt", "/nix/store", "/gnu/store")
#: links into /usr on most systems
ROOT_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
#: what libraries read of /etc; the rest of it is nobody's business (as root, /etc/shadow too)
ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld.so.preload", "localtime", "timezone",
    "passwd", "group", "nsswitch.conf", "hosts", "hostname", "resolv.conf", "host.conf",
    "gai.conf", "protocols", "services", "ssl/certs", "ssl/openssl.cnf", "ssl/cert.pem",
    "pki/tls/certs", "pki/ca-trust/extracted", "ca-certificates", "mime.types", "magic", "fonts",
    "alternatives", "matplotlibrc", "locale.alias", "default/locale", "os-release", "terminfo",
    "inputrc", "bash.bashrc", "profile", "profile.d", "OpenCL", "vulkan", "gitconfig",
    "pip.conf", "uv", "python3", "python3.11", "python3.12", "python3.13", "python3.14",
    "machine-id", "sysconfig/clock", "crypto-policies",
    "debian_version", "lsb-release", "redhat-release",  # pip fails where it can't read them
)  # fmt: skip
#: what libraries ask the system: processors, memory, devices
SYSTEM_STATE = ("/sys/devices", "/sys/bus", "/sys/class", "/sys/fs/cgroup", "/sys/kernel/mm")
OTHER_READS = ("/var/cache/fontconfig", "/var/lib/dpkg/status")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
#: those of a box are its own; elsewhere they are all of the user's, what is typed into them too
TERMINALS = ("/dev/ptmx", "/dev/pts")
#: for computing; there is no isolation between sessions on one of them
GPUS = ("nvidia*", "dri", "kfd")
SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Walls:
    """What stands between a session and the rest."""

    #: how it is kept apart
    isolation: Isolation = Isolation.PROCESS
    #: whether it may use the network
    network: bool = True
    #: what it may read besides the system and its own
    allow_read: tuple[Path, ...] = ()
    #: what it may change besides the workspace and its own
    allow_write: tuple[Path, ...] = ()
    #: how much of the machine it may use
    limits: Limits = field(default_factory=Limits)
    #: the program that makes boxes
    bwrap: Path | None = None
    #: whether control groups count what sessions use, also what no process has mapped
    counts_all: bool = False

    def plan(
        self, *, reads: Iterable[Path], writes: Iterable[Path], sockets: Iterable[Path] = ()
    ) -> dict[str, Any]:
        """Return what the process that enters the walls is told.

        Args:
            reads: What it needs to read beyond the system: its interpreter, our own code.
            writes: What is its own.
            sockets: Where it makes sockets, and nothing else.
        """
        has_walls = self.isolation is not Isolation.PROCESS
        reads, writes = list(reads), list(writes)
        behind = (*reads, *writes) if has_walls else ()
        tops = {top for path in behind if (top := strict_root(Path(path)))}
        unfollowed = sorted({str(path) for top in tops for path in (top, top.resolve())})
        read = [*system_reads(), *real([*reads, *self.allow_read])] if has_walls else []
        written = real([*writes, *self.allow_write]) if has_walls else []
        return {
            "level": self.isolation.value,
            "network": self.network,
            "limits": self.limits.of_a_process,
            "read": read,
            "write": written,
            "unfollowed": unfollowed,
            "shared_folders": sorted(
                {
                    mount
                    for path in (*read, *written)
                    if (mount := mount_of(path, unfollowed)) != path
                }
            ),
            "device": [*DEVICES, *self._terminals, *gpus()],
            "shared": [SHARED_MEMORY],
            "sockets": real(sockets) if has_walls else [],
            "shared_size": self.shared_size,
            "memory_files": self.counts_all or not self.limits.memory,
        }

    @property
    def shared_size(self) -> int:
        """How many bytes a session's own shared memory holds."""
        return self.limits.memory // 2 or BOX_TMP_BYTES  # as Linux has it by default

    @property
    def _terminals(self) -> tuple[str, ...]:
        return TERMINALS if self.isolation is Isolation.BOX else ()

    def command(
        self,
        argv: Sequence[str],
        plan: dict[str, Any],
        cwd: Path,
        *options: str,
    ) -> list[str]:
        """Return how to start a program at this level: in a box, or as it is.

        Args:
            argv: The program and its arguments.
            plan: What it will be told.
            cwd: Where it shall run.
            options: More of bubblewrap's options, for a box.
        """
        if self.isolation is not Isolation.BOX:
            return list(argv)
        return [*self._box(plan), *options, "--chdir", str(cwd), "--", *argv]

    def confine(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        reads: Iterable[Path],
        writes: Iterable[Path],
        alone: bool = False,
    ) -> list[str]:
        """Return how to start a program that does not build walls by itself.

        A box goes when the process that was started does: no signal to that one's group gets in.

        Args:
            argv: The program, by its path, and its arguments.
            cwd: Where it shall run.
            reads: What it needs to read beyond the system.
            writes: What it may change.
            alone: Whether it shall be unable to start any other program, at every level.
        """
        plan = {**self.plan(reads=[*reads, *own_paths()], writes=writes), "alone": alone}
        enter = [sys.executable, "-I", "-S", str(INSIDE), "confined", json.dumps(plan)]
        return self.command([*enter, *argv], plan, cwd, "--die-with-parent")

    def _box(self, plan: dict[str, Any]) -> list[str]:
        """Return the command line of bubblewrap up to the program."""
        argv = [str(self.bwrap or "bwrap"), "--new-session", "--cap-drop", "ALL"]
        argv += ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        argv += ["--unshare-cgroup-try", "--hostname", "kernelry"]
        argv += [] if self.network else ["--unshare-net"]
        argv += ["--proc", "/proc", "--dev", "/dev"]
        argv += ["--size", str(BOX_TMP_BYTES), "--tmpfs", "/tmp"]
        argv += ["--size", str(self.shared_size), "--tmpfs", SHARED_MEMORY]
        linked = [path for path in ROOT_LINKS if Path(path).is_symlink()]
        for path in linked:
            argv += ["--symlink", str(Path(path).readlink()), path]

        def mount(*paths: str) -> list[str]:
            return list(dict.fromkeys(mount_of(path, plan["unfollowed"]) for path in paths))

        written = mount(*plan["write"], *plan["sockets"])
        mounted = ["/proc", *linked, *written]
        for path in sorted(mount(*plan["read"]), key=len):
            if not is_below(path, mounted):
                mounted.append(path)
                argv += ["--ro-bind-try", path, path]
        for path in gpus():
            argv += ["--dev-bind-try", path, path]
        for path in written:
            argv += ["--bind-try", path, path]
        # What bubblewrap itself has put there is in memory that nobody would count.
        return [*argv, "--remount-ro", "/dev", "--remount-ro", "/"]


def outside(env: dict[str, str]) -> dict[str, str]:
    """Return a program's variables for the process that enters its walls; it changes them back.

    What the loader reads may name a session's libraries: for the program, not for us.
    """
    return {f"{HELD_BACK}{k}" if k.startswith("LD_") else k: v for k, v in env.items()}


@functools.cache
def system_reads() -> tuple[str, ...]:
    """Return what every program may read of the system."""
    etc = (f"/etc/{name}" for name in ETC)
    return tuple(real((*SYSTEM, *ROOT_LINKS, *etc, *SYSTEM_STATE, *OTHER_READS, "/proc")))


def gpus() -> list[str]:
    """Return the devices for computing that are here."""
    return [str(path) for pattern in GPUS for path in Path("/dev").glob(pattern)]


def real(paths: Iterable[Path | str]) -> list[str]:
    """Return where paths lead, and themselves if that is elsewhere; each once, if it is there.

    Where others can change the way (`follow_none_below`) nothing below is looked at.
    """
    found: dict[str, None] = {}
    for path in map(Path, paths):
        if top := strict_root(path):
            below = os.path.relpath(path, top)
            found[str(top / below)] = None
            found[str(top.resolve() / below)] = None
        elif path.exists() or path.is_symlink():
            found[str(path.absolute())] = None
            found[str(path.resolve())] = None
    return list(found)


def mount_of(path: str, unfollowed: Iterable[str]) -> str:
    """Return what is mounted for a path: itself, or what its way leads through.

    Below some folders others can change the way, but for its first step. So all is mounted that is
    behind that, and Landlock opens what is meant.

    Args:
        path: Where it is.
        unfollowed: The folders.
    """
    for top in unfollowed:
        if path.startswith(top + os.sep):
            return str(Path(top, path[len(top) + 1 :].partition(os.sep)[0]))
    return path


def is_below(path: str, roots: Iterable[str]) -> bool:
    """Say whether a path is one of `roots` or in it."""
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def own_paths() -> tuple[Path, ...]:
    """Return what has to be readable for our own interpreter and code to run."""
    # The first is where the program that was started is: a script's folder is none of ours.
    own = sys.path if sys.flags.safe_path else sys.path[1:]
    return paths_of(INSIDE.parent, tuple(path for path in own if path))


@functools.lru_cache(maxsize=16)
def paths_of(inside: Path, own: tuple[str, ...]) -> tuple[Path, ...]:
    """Return what our interpreter reads to run, besides what we import and what runs in kernels."""
    paths = [sys.prefix, sys.base_prefix, sys.exec_prefix, *links(Path(sys.executable))]
    paths += [sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib")]
    paths += [path for path in own if Path(path).is_dir()]
    return tuple({Path(path): None for path in [*paths, str(inside)]})


def links(path: Path) -> list[str]:
    """Return the links that lead from a path to its file, and the file."""
    found = [path]
    while len(found) < LINKS and found[-1].is_symlink():
        found.append(found[-1].parent / found[-1].readlink())
    return [str(Path(os.path.normpath(path))) for path in found]
