"""Start a kernel as a fresh process of the launcher in kernelry/inside."""

import json
import os
import subprocess
from collections.abc import Callable

from kernelry.beneath import folder
from kernelry.engines.launch import Launch, await_ready, ready_pipe
from kernelry.errors import KernelStartError
from kernelry.messaging import Connection
from kernelry.models import Isolation
from kernelry.processes import KernelProcess, SpawnedProcess

#: a link is no file of the session's, and a FIFO without a reader would block
LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
LOG_FLAGS |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


async def spawn(
    launch: Launch,
    connection: Connection,
    *,
    deadline: float,
    began: Callable[[KernelProcess], None] = lambda _: None,
) -> KernelProcess:
    """Start the launcher and return its process when its sockets are bound.

    Args:
        launch: What to start.
        connection: Where its sockets shall be.
        deadline: Seconds it may take.
        began: Called when there is a process.

    Raises:
        KernelStartError: It ended or took too long; the message quotes its log.
    """
    with ready_pipe() as (readable, writable):
        process = _start(launch, connection, writable)
    began(process)
    await await_ready(launch, process, readable, deadline=deadline)
    return process


def _start(launch: Launch, connection: Connection, ready_fd: int) -> KernelProcess:
    """Write the files and start the process."""
    launch_file = launch.write_files(connection, ready_fd)
    with folder(launch.directory, "") as fd:
        log_fd = os.open("kernel.log", LOG_FLAGS, 0o600, dir_fd=fd)
    try:
        popen = subprocess.Popen(
            json.loads(launch_file.read_text(encoding="utf-8"))["command"],
            cwd=launch.workspace,
            env=launch.spawn_environment(launch_file),
            stdin=subprocess.DEVNULL,
            stdout=log_fd,
            stderr=log_fd,
            pass_fds=(ready_fd,),
            start_new_session=True,
        )
    except OSError as error:
        msg = f"can't start {launch.python}: {error.strerror or error}"
        raise KernelStartError(msg) from error
    finally:
        os.close(log_fd)
    process = SpawnedProcess(popen)
    process.start = "box" if launch.walls.isolation is Isolation.BOX else "spawn"
    return process
