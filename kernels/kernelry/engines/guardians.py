"""Start guardian and fork server, and find those that a dead server has left.

The first process of a server is its guardian: a fork server that prepares nothing, so that it
is there in milliseconds. It spawns kernels, and knows all others. The fork server proper comes
in the background. What an earlier server of the same state directory left is found by its
socket in the runtime directory: it goes on as ours if it was started as ours would be, and
else guards its kernels until they are gone.
"""

import asyncio
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kernelry.engines.forkserver import ForkServer, Inventory, Profile
from kernelry.engines.kernel import LocalKernel, handshake, prove, remove_files
from kernelry.engines.launch import Launch, log_tail
from kernelry.errors import KernelStartError
from kernelry.messaging import Channels, Connection
from kernelry.walls import INSIDE

log = logging.getLogger(__name__)

START_DEADLINE = 120.0  # seconds for the imports, also the slow ones on a slow disk
TEST_DEADLINE = 20.0  # seconds a forked kernel has to pass the start-up test
SOCKETS = "*.sock"
GUARDIAN = "none"  # how far it prepares kernels


@dataclass(slots=True)
class Started:
    """What a fork server said while it started."""

    #: "shell" (built before the fork) or "imports"; empty: it never got ready
    level: str = ""
    #: why it never got ready; empty if it did
    why: str = ""
    #: module -> why it is not preloaded
    refused: dict[str, str] = field(default_factory=dict)
    #: modules that the interpreter does not have
    absent: list[str] = field(default_factory=list)
    #: modules that are
    preloaded: list[str] = field(default_factory=list)


async def find_fork_servers(directory: Path) -> list[tuple[ForkServer, Inventory]]:
    """Connect to the fork servers that listen in `directory`; remove sockets of dead ones."""
    found = []
    for path in await asyncio.to_thread(lambda: sorted(directory.glob(SOCKETS))):
        try:
            server = ForkServer(connect(path))
        except OSError:
            path.unlink(missing_ok=True)
            continue
        try:
            found.append((server, await server.inventory()))
        except KernelStartError as error:
            log.warning("%s", error)
            server.leave()
    return found


def connect(path: Path) -> socket.socket:
    """Return a connection to a fork server's socket.

    Raises:
        OSError: Nobody listens there.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    connection.setblocking(False)
    return connection


async def start_guardian(profile: Profile) -> tuple[ForkServer | None, Started]:
    """Start a guardian, in our own interpreter, without its packages.

    Args:
        profile: What the fork server is, or would be, started with.

    Returns:
        The guardian, or None if it can't be had here, and what it said.
    """
    own = replace(profile, python=Path(sys.executable), preloads=())
    started = Started()
    digest = profile.digest((GUARDIAN,))
    server, _ = await _start_once(own, GUARDIAN, [], started, digest)
    return server, started


async def start_fork_server(
    profile: Profile, level: str, digest: str = ""
) -> tuple[ForkServer | None, Started]:
    """Start a fork server; without the preloads that can't be had, if need be.

    Args:
        profile: What it is started with.
        level: "shell" or "imports": how much it prepares.
        digest: By which a later server knows what this one is good for.

    Returns:
        The server, or None if it can't be had here, and what it said.
    """
    started = Started()
    wanted = list(profile.preloads)
    while True:
        wanted = [name for name in wanted if name not in started.refused]
        server, culprit = await _start_once(profile, level, wanted, started, digest)
        if server is not None:
            gone = {*started.refused, *started.absent}
            started.preloaded = [name for name in wanted if name not in gone]
            return server, started
        if culprit is None:
            return None, started
        started.refused.setdefault(culprit, "the process died while importing it")


async def _start_once(
    profile: Profile, level: str, preloads: list[str], started: Started, digest: str
) -> tuple[ForkServer | None, str | None]:
    """Start one; if it dies, name the module it was importing."""
    readable, writable = os.pipe()
    name = secrets.token_hex(4)
    path = profile.directory / f"{name}.sock"
    config = {
        "socket": str(path),
        "report_fd": writable,
        "log_file": str(profile.log_file),
        "preloads": preloads,
        "level": level,
        "optional": profile.optional,
        "orphan_timeout": profile.orphan_timeout,
        "profile": digest,
        "lifeline": str(profile.lifeline or ""),
        "root": str(profile.root or ""),
    }
    try:
        popen = _start_process(profile, level, config, writable)
    except OSError as error:
        started.why = f"can't start {profile.python}: {error.strerror or error}"
        os.close(readable)
        return None, None
    finally:
        os.close(writable)
    try:
        culprit = await _read_report(readable, started)
    except BaseException:
        popen.kill()
        await asyncio.to_thread(popen.wait)
        raise
    if not started.level:
        popen.kill()
        await asyncio.to_thread(popen.wait)
        started.why = f"it ended while it started.{log_tail(profile.log_file)}"
        return None, culprit
    return ForkServer(connect(path), popen), None


def _start_process(
    profile: Profile, level: str, config: dict[str, Any], report_fd: int
) -> subprocess.Popen[bytes]:
    options = ("-I", "-S") if level == GUARDIAN else ("-P", "-s")  # it needs no packages
    if profile.root is not None:
        for name in ("home", "tmp"):
            (profile.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    return subprocess.Popen(
        [str(profile.python), *options, str(INSIDE), "forkserver", json.dumps(config)],
        env=profile.env,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(report_fd,),
        start_new_session=True,
    )


async def _read_report(fd: int, started: Started) -> str | None:
    """Read the report up to "ready" or its end; return what was being imported then."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    importing: str | None = None
    try:
        async with asyncio.timeout(START_DEADLINE):
            while line := await reader.readline():
                said = json.loads(line)
                if said.get("ready"):
                    started.level = said["level"]
                    return None
                if "failed" in said:
                    started.refused[said["failed"]] = said["why"]
                if "absent" in said:
                    started.absent.append(said["absent"])
                importing = said.get("preloading", importing)
    except TimeoutError:
        log.warning("the fork server did not get ready in %g s", START_DEADLINE)
    finally:
        transport.close()
    return importing


async def can_fork(server: ForkServer, probe: Launch, connection: Connection) -> bool:
    """Say whether a kernel that a fork server forks runs code; it is ended.

    Args:
        server: The fork server.
        probe: What is launched.
        connection: Where its sockets shall be.
    """
    try:
        process = await server.fork(probe, connection, deadline=TEST_DEADLINE)
    except KernelStartError as error:
        log.warning("a forked kernel did not start: %s", error)
        remove_files(connection)
        return False
    kernel = LocalKernel(process, Channels(connection), connection, probe.walls)
    try:
        await handshake(kernel, TEST_DEADLINE)
        await prove(kernel, TEST_DEADLINE)
    except KernelStartError as error:
        log.warning("a forked kernel did not run code: %s", error)
        return False
    finally:
        await process.kill()
        kernel.release()
    return True
