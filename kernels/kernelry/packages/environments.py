"""The virtual environment of one session, layered over its kernel's interpreter.

Its frame is made by the session's kernel before that runs code (inside/environment.py), or
by the first installation if that comes sooner. It shows what the interpreter has, behind
what the session installed. Installations into it wait for each other; each is all or
nothing (installs.py), and is written to a log of bounded size in the session's directory.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from kernelry.apart import Apart, in_thread
from kernelry.beneath import folder, make_private, remove_tree
from kernelry.engines import Environment
from kernelry.errors import InstallError
from kernelry.models import Isolation
from kernelry.packages.distributions import Package, packages
from kernelry.packages.installs import Installation, Installer
from kernelry.packages.uv import uv_binary
from kernelry.programs import run_program
from kernelry.shielding import to_the_end
from kernelry.walls import Walls

LOG_BYTES = 256 << 10  # of a session's install.log; half of it is kept when it is full
LINE_CHARS = 200  # of the newest line
COPY = "/bin/cp"
COPY_DEADLINE = 300.0  # seconds for the packages of a branch


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallReport:
    """What an installation did to a session."""

    #: uv's part
    installation: Installation
    #: modules that the kernel had loaded before, in another version
    stale_modules: tuple[str, ...] = ()


class SessionEnvironment:
    """The virtual environment of one session.

    Args:
        prefix: Where it is, in the session's private directory.
        python: The interpreter it is layered over.
        installer: That of the service.
    """

    def __init__(self, prefix: Path, python: Path, installer: Installer) -> None:
        self._prefix = prefix
        self._installer = installer
        self._lock = asyncio.Lock()
        self._apart = Apart()
        #: the interpreter that the session's kernels are started with
        self.parent = python
        #: where installations are written down
        self.log = InstallLog(prefix.with_name("install.log"))

    @property
    def exists(self) -> bool:
        """Say whether its frame has been made."""
        return (self._prefix / "pyvenv.cfg").exists()

    @property
    def launch(self) -> Environment:
        """What a kernel must know to make it its own."""
        uv = None
        with suppress(InstallError):
            uv = uv_binary()
        return Environment(prefix=self._prefix, uv=uv)

    @property
    def prefix(self) -> Path:
        """Where it is."""
        return self._prefix

    @property
    def site(self) -> Path:
        """Where the session's own packages are; meaningful once it exists."""
        return next(self._prefix.glob("lib/python*/site-packages"), self._prefix)

    @property
    def python(self) -> Path:
        """The interpreter that runs this session's scripts."""
        return self._prefix / "bin" / "python" if self.exists else self.parent

    def variables(self, env: dict[str, str]) -> dict[str, str]:
        """Return `env` as a subprocess of this session should see it."""
        if not self.exists:
            return env
        path = f"{self._prefix / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
        return {**env, "VIRTUAL_ENV": str(self._prefix), "PATH": path}

    async def install(
        self, requirements: Sequence[str], *, walls: Walls, timeout: float
    ) -> Installation:
        """Install what the interpreter and the session lack.

        A cancelled call leaves the environment as it was, or as it shall be; nothing between.

        Args:
            requirements: PEP 508 strings that have been checked.
            walls: Those of the session; what is built from source has them too.
            timeout: Seconds for uv and builds, without the wait for another installation.

        Returns:
            uv's word on it; a failure (unknown package, conflict) is a returncode.

        Raises:
            InstallError: The environment itself could not be made or changed.
        """
        async with self._lock:
            interpreter = await self._installer.ask(self.parent)
            if not self.exists:
                await self._installer.make_environment(interpreter, self._prefix)
            with self.log.opened(f"install {' '.join(requirements)}") as hear:
                done = await self._installer.install(
                    *(self._prefix, interpreter, requirements),
                    walls=walls,
                    timeout=timeout,
                    hear=hear,
                )
                hear(f"exit code {done.returncode}; new: {done.installed}\n".encode())
            return done

    async def copy_to(self, other: "SessionEnvironment", walls: Walls) -> None:
        """Give another session the packages that this one has now.

        Behind walls the files are copied, and blocks are shared where the disk can do that: a
        session may change its files in place. Without, they are links.

        Args:
            other: Whose environment is to be made; it has none.
            walls: Those of both; what copies is behind them.

        Raises:
            InstallError: They can't be copied.
        """
        await self.copy_files(other.prefix, walls)

    async def copy_files(self, target: Path, walls: Walls) -> None:
        """Copy what is there to a place where nothing is; see `copy_to`."""
        async with self._lock:
            if not self.exists:
                return
            source = self._prefix
            make_private(target.parent)
            if walls.isolation is Isolation.PROCESS:
                await to_the_end(in_thread(link_all, source, target))
                return
            argv = [COPY, "-a", "--reflink=auto", "--", str(source), str(target)]
            argv = walls.confine(argv, cwd=target.parent, reads=[source], writes=[target.parent])
            done = await run_program(argv, timeout=COPY_DEADLINE)
            if done.returncode:
                raise InstallError(f"the session's packages can't be copied: {done.stderr[-500:]}")

    @asynccontextmanager
    async def becoming(self, other: "SessionEnvironment", walls: Walls) -> AsyncIterator[None]:
        """Have the packages that another session has now; if the block fails, again those before.

        Args:
            other: Whose.
            walls: Those of both; what copies is behind them.

        Raises:
            InstallError: They can't be copied; these are as they were.
        """
        fresh, before = self._beside("new"), self._beside("before")
        async with self._lock:
            try:
                await other.copy_files(fresh, walls)
                swap(self._prefix, before, fresh)
                try:
                    yield
                except BaseException:
                    swap(self._prefix, fresh, before)
                    raise
            finally:
                for left in (fresh, before):
                    await to_the_end(in_thread(remove_tree, left))

    def _beside(self, what: str) -> Path:
        """Return a path beside this one that nothing else has."""
        return self._prefix.with_name(f".{self._prefix.name}-{what}-{secrets.token_hex(4)}")

    async def packages(self) -> list[Package]:
        """Return what the session can import, its own and its interpreter's, by name."""
        interpreter = await self._installer.ask(self.parent)
        return await self._apart.run(
            self._prefix.parent.name, self._read_packages, interpreter.folders
        )

    def _read_packages(self, inherited: Sequence[Path]) -> list[Package]:
        return packages(self.site, inherited)


def swap(place: Path, away: Path, coming: Path) -> None:
    """Put a folder in the place of another, which goes to where nothing is; each may be missing.

    All three are in one folder.
    """
    with folder(place.parent, "") as fd:
        for before, after in ((place, away), (coming, place)):
            with suppress(FileNotFoundError):
                os.rename(before.name, after.name, src_dir_fd=fd, dst_dir_fd=fd)


def link_all(source: Path, target: Path) -> None:
    """Make a folder with the files of another, as links to the same.

    Raises:
        InstallError: It can't be made.
    """
    try:
        shutil.copytree(source, target, symlinks=True, copy_function=link_or_copy)
    except OSError as error:
        raise InstallError(f"the session's packages can't be copied: {error}") from error


def link_or_copy(source: str, target: str) -> None:
    """Make a file that is the same as another, or like it where the disk knows no links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


class InstallLog:
    """What installations into one session said; a file of bounded size.

    The session can write there too: a log that can't be written is no reason to fail.
    """

    def __init__(self, path: Path) -> None:
        #: where it is
        self.path = path
        #: the newest line of the installation that runs; empty: it is silent, or none runs
        self.newest = ""

    @contextmanager
    def opened(self, title: str) -> Iterator[Callable[[bytes], None]]:
        """Write down one installation; gives the function that is to be called with its words."""
        left = LOG_BYTES // 2
        fd = open_log(self.path)

        def hear(data: bytes) -> None:
            nonlocal left
            if lines := data.decode("utf-8", "replace").strip().splitlines():
                self.newest = lines[-1].strip()[:LINE_CHARS]
            if fd >= 0 and left > 0:
                with suppress(OSError):
                    os.write(fd, data[:left])
                left -= len(data)

        try:
            hear(f"== {datetime.now(UTC).isoformat(timespec='seconds')} {title}\n".encode())
            yield hear
        finally:
            self.newest = ""
            if fd >= 0:
                os.close(fd)


def open_log(path: Path) -> int:
    """Open a log to be added to, cutting off its first half if it is full; -1: it can't be."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        make_private(path.parent)
        with folder(path.parent, "") as above:
            fd = os.open(path.name, flags, 0o600, dir_fd=above)
    except OSError:
        return -1
    with suppress(OSError):
        size = os.lseek(fd, 0, os.SEEK_END)
        if size > LOG_BYTES // 2:
            kept = os.pread(fd, LOG_BYTES // 2, size - LOG_BYTES // 2)
            os.ftruncate(fd, 0)
            os.pwrite(fd, kept, 0)
            os.lseek(fd, 0, os.SEEK_END)
    return fd
