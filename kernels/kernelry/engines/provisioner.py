"""A Jupyter kernel provisioner, which forks kernels from a warm process.

So jupyter_client, Jupyter Server and Kernel Gateway can have that too. It is chosen in a
kernelspec (docs/provisioner.md), under the entry point ``kernelry-fork``::

    "metadata": {"kernel_provisioner": {"provisioner_name": "kernelry-fork"}}

One fork server per process, event loop and interpreter, started with the first kernel, gone some
seconds after that process or loop. Kernels are stock ones to whoever uses them: heartbeat, ports,
unlimited output. What can't be forked (another system, an environment that a fork can't change)
is launched as Jupyter would.
"""

# jupyter_client's annotations are partial.
# pyright: reportPrivateImportUsage=false, reportIncompatibleMethodOverride=false
# pyright: reportOptionalMemberAccess=false

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from jupyter_client.provisioning import LocalProvisioner

from kernelry.engines.forkserver import ForkServer, Profile
from kernelry.engines.guardians import start_fork_server
from kernelry.engines.launch import Launch, OutputLimits
from kernelry.errors import KernelStartError
from kernelry.paths import private_directory, runtime_base
from kernelry.processes import KernelProcess

FORK_DEADLINE = 60.0  # seconds a kernel has to start
ORPHAN_TIMEOUT = 10.0  # seconds after which kernels of a Jupyter that is gone end
POLL_INTERVAL = 0.02  # seconds between looks of the blocking `wait`
UNLIMITED = OutputLimits(head_chars=sys.maxsize, displays=sys.maxsize, rich_bytes=sys.maxsize)
#: what is read when a process starts, and so can't be changed by a fork
FIXED = ("PYTHON", "LD_", "MALLOC_", "CUDA_")
FIXED_SUFFIX = "_NUM_THREADS"
#: what a kernel never gets: it would cost 26 MB of memory, or poll a parent that isn't
DROPPED = ("PYTHONDONTWRITEBYTECODE", "JPY_PARENT_PID")

Key = tuple[int, str]  # of a loop, which another may have when it is gone, and an interpreter

#: a loop holds its fork servers: it listens to them
_servers: WeakValueDictionary[Key, ForkServer] = WeakValueDictionary()
_starting: dict[Key, "asyncio.Task[ForkServer | None]"] = {}


class ForkedPopen:
    """A forked kernel with the face of a `subprocess.Popen`, as LocalProvisioner wants it."""

    stdin = stdout = stderr = None

    def __init__(self, process: KernelProcess) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it lives."""
        ended = self._process.exit
        return None if ended is None else (-1 if ended.code is None else ended.code)

    def poll(self) -> int | None:
        """Return how it ended; None while it lives."""
        return self.returncode

    def wait(self) -> int:
        """Block until it has ended."""
        while self.returncode is None and _lives(self.pid):
            time.sleep(POLL_INTERVAL)
        return self.returncode or 0

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel."""
        self._process.send_signal_to_kernel(signal.Signals(number))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the kernel and its children."""
        self._process.send_signal(signal.SIGKILL)


class ForkProvisioner(LocalProvisioner):  # type: ignore[misc]  # jupyter_client has no types
    """Launches kernels by forking; everything else is as LocalProvisioner does it."""

    directory: Path | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> dict[str, Any]:
        """Fork the kernel that `cmd` would start, or start it if it can't be forked."""
        env = dict(kwargs.get("env") or os.environ)
        python = cmd[0]
        if sys.platform != "linux" or changes_what_is_fixed(env):
            return dict(await super().launch_kernel(cmd, **kwargs))
        server = await fork_server(python)
        if server is None:
            return dict(await super().launch_kernel(cmd, **kwargs))
        scratch = runtime_base() / f"p-{secrets.token_hex(6)}"
        cwd = Path(kwargs.get("cwd") or Path.cwd())
        launch = Launch(
            python=Path(python),
            workspace=cwd,
            directory=scratch,
            env={k: v for k, v in env.items() if k not in DROPPED},
            heartbeat=True,
            output=UNLIMITED,
            journaled=False,
        )
        connection_file = Path(self.parent.connection_file)
        launch_file = launch.write_file(connection_file, read_json(connection_file), -1)
        self.directory = private_directory(scratch)
        begun: list[KernelProcess] = []
        try:
            await server.fork_file(launch, launch_file, deadline=FORK_DEADLINE, began=begun.append)
        except KernelStartError as error:
            if not begun:
                raise
            # As stock: it was started, and whoever waits for it finds it dead.
            self.log.error("%s", error)
        finally:
            launch_file.unlink(missing_ok=True)
        self.process = ForkedPopen(begun[0])
        self.pid = self.pgid = begun[0].pid
        return dict(self.connection_info)

    async def cleanup(self, restart: bool = False) -> None:
        """Remove what the kernel had of its own."""
        await super().cleanup(restart=restart)
        if self.directory is not None:
            # A few small files. A thread's end may go unnoticed: a process that was forked from one
            # with a loop (a pool's) shares what wakes it.
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory = None


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a small file that its user has written."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def changes_what_is_fixed(env: dict[str, str]) -> bool:
    """Say whether `env` differs from ours in what takes effect only at a start."""
    names = {*env, *os.environ}
    fixed = (n for n in names if n.startswith(FIXED) or n.endswith(FIXED_SUFFIX))
    return any(env.get(n) != os.environ.get(n) for n in fixed if n not in DROPPED)


async def fork_server(python: str) -> ForkServer | None:
    """Return this loop's fork server for an interpreter; None if there can't be one."""
    loop = asyncio.get_running_loop()
    key = (id(loop), python)
    server = _servers.get(key)
    if server is not None and server.loop is loop and not server.is_closed:
        return server
    starting = _starting.get(key)
    if starting is None or starting.get_loop() is not loop:
        starting = _starting[key] = loop.create_task(_start(key, python))
    return await asyncio.shield(starting)


async def _start(key: Key, python: str) -> ForkServer | None:
    try:
        directory = private_directory(runtime_base() / f"f-{os.getpid()}")
        env = {k: v for k, v in os.environ.items() if k not in DROPPED}
        profile = Profile(
            python=Path(python),
            env=env,
            directory=directory,
            log_file=directory / "forkserver.log",
            orphan_timeout=ORPHAN_TIMEOUT,
        )
        server, _ = await start_fork_server(profile, "shell")
        if server is not None:
            _servers[key] = server
        return server
    finally:
        _starting.pop(key, None)


def _forsake() -> None:
    """Leave the fork servers to the process that this one was forked from.

    What was asked of them here, over the connection of both, either could be answered.
    """
    for server in list(_servers.values()):
        server.forsake()
    _servers.clear()
    _starting.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forsake)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
