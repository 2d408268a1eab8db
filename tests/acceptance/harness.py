"""How the tests start `kernelry serve` and talk to it: real servers, real clients, real pipes."""

import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self, TypeVar

import anyio
import httpx2
import psutil
import pytest
from mcp import Client, StdioServerParameters
from mcp.client import stdio as sdk_stdio
from mcp.client.streamable_http import streamable_http_client

from kernelry.crashpoints import VARIABLE

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[2]
SCRATCH = REPOSITORY / ".scratch"
KERNELRY = Path(sys.executable).with_name("kernelry")
MARK = "ACCEPTANCE_PLACE"  # variable by which the processes of one test are found
LEGACY = "2025-11-25"
MODERN = "2026-07-28"
ANSWER_DEADLINE = 60.0  # seconds after which a raw answer counts as missing
HANG = 60.0  # seconds after which something is stuck
SILENT = ("busy_native", "blocked")  # what is said of a kernel that has not answered in time
REQUIRE_ALL = os.environ.get("KERNELRYTEST_REQUIRE_ALL") == "1" or os.environ.get("CI") == "true"


def unavailable(why: str) -> NoReturn:
    """Skip the test because the machine lacks something; where all is required, fail."""
    if REQUIRE_ALL:
        pytest.fail(why)
    pytest.skip(f"NOT TESTED: {why}")


def needed(path: Path, name: str) -> Path:
    """Return a path that scripts/clients makes, or skip."""
    if not path.exists():
        unavailable(f"there is no {name}: run scripts/clients")
    return path


@dataclass(frozen=True, slots=True)
class Place:
    """Where the servers of one test keep everything."""

    #: the test's own directory
    root: Path
    #: a directory whose path is short enough for sockets
    runtime: Path

    @property
    def workspace(self) -> Path:
        """What --workspace is given."""
        return self.root / "workspace"

    @property
    def outputs(self) -> Path:
        """Where sessions put their files."""
        return self.workspace / "outputs"

    @property
    def state(self) -> Path:
        """What --state-dir is given."""
        return self.root / "state"

    @property
    def log(self) -> Path:
        """What the servers wrote to stderr."""
        return self.root / "server.log"

    def arguments(self, *flags: str) -> list[str]:
        """Return the arguments of `kernelry` that serve here."""
        folders = ["--state-dir", str(self.state), "--workspace", str(self.workspace)]
        return ["serve", *folders, *flags]

    def environment(self) -> dict[str, str]:
        """Return variables for a server: ours, without settings of the machine's user."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("KERNELRY_")}
        folders = {"CONFIG_HOME": self.root / "config", "RUNTIME_DIR": self.runtime}
        ours = {f"XDG_{name}": str(folder) for name, folder in folders.items()}
        # scripts/test runs everything once with each way to start kernels.
        ours["KERNELRY_KERNEL_ENV"] = f"{MARK}={self.root}"
        # What is gone within a guard was ended, and not given up because its server was gone.
        ours["KERNELRY_ORPHAN_TIMEOUT"] = str(10 * HANG)
        if isolation := os.environ.get("KERNELRYTEST_ISOLATION"):
            ours["KERNELRY_ISOLATION"] = isolation
        start = os.environ.get("KERNELRYTEST_START")
        forced = {"KERNELRY_KERNEL_START": start, "KERNELRY_PRELOAD": "none"} if start else {}
        return kept | ours | forced | {MARK: str(self.root)}

    def processes(self) -> list[psutil.Process]:
        """Return the servers of this place and all that descends from them."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.root):
                    found.append(process)
        return found

    def commands(self) -> list[list[str]]:
        """Return what these processes run; a process can end while it is asked."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                found.append(process.cmdline())
        return found

    def server(self) -> psutil.Process:
        """Return the one server that runs here."""
        running = []
        for process in self.processes():
            with suppress(psutil.Error):
                running += [process] if "serve" in process.cmdline() else []
        assert len(running) == 1, running
        return running[0]

    def has_fork_server(self) -> bool:
        """Say whether the process that starts and guards kernels is up; it comes later."""
        return bool(list(self.runtime.glob("kernelry/*/*.sock")))

    def is_at_rest(self) -> bool:
        """Say whether nothing here has anything to do: no thread runs, or would if it could."""
        for process in self.processes():
            for stat in Path(f"/proc/{process.pid}/task").glob("*/stat"):
                with suppress(OSError):  # it ended meanwhile
                    if stat.read_text().rpartition(")")[2].split()[0] in ("R", "D"):
                        return False
        return True

    def survivors(self, seconds: float) -> list[psutil.Process]:
        """Return what still runs here when `seconds` are over; nothing as soon as nothing does."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=0.05)
        return left


@dataclass(frozen=True, slots=True)
class Answer:
    """A tool's answer, as far as tests look at it."""

    #: the structured part
    data: dict[str, Any]
    #: the text blocks
    text: str
    #: whether it is a tool error
    is_error: bool
    #: all blocks
    content: list[Any]


class ToolFailedError(AssertionError):
    """A tool call that should work was refused."""


class Agent:
    """An `mcp.Client`, with the words that tests use; `call_tool` answers as fastmcp's does."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def call(self, tool: str, /, **arguments: Any) -> Answer:
        """Call a tool and return its answer, error or not."""
        result = await self.client.call_tool(tool, arguments)
        text = "\n".join(block.text for block in result.content if block.type == "text")
        return Answer(result.structured_content or {}, text, result.is_error, [*result.content])

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None) -> Answer:
        """Call a tool that must work."""
        answer = await self.call(name, **(arguments or {}))
        if answer.is_error:
            raise ToolFailedError(f"{name}: {answer.text}")
        return answer

    async def ask(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must work and return what it says."""
        return (await self.call_tool(tool, arguments)).data

    async def refused(self, tool: str, /, **arguments: Any) -> str:
        """Call a tool that must refuse and return why it does."""
        answer = await self.call(tool, **arguments)
        assert answer.is_error, f"{tool} accepted {str(arguments)[:200]}: {answer.text[:500]}"
        return answer.text

    async def run(self, code: str, session_id: str | None = None, **more: Any) -> dict[str, Any]:
        """Run code and return the execution."""
        named = {} if session_id is None else {"session_id": session_id}
        return await self.ask("run_python_code", code=code, **named, **more)

    async def health(self, tool: str = "get_kernel_health", **arguments: Any) -> dict[str, Any]:
        """Ask how a kernel is that can answer, until it gets a processor in time to do so."""
        with anyio.fail_after(HANG):
            while True:
                said = await self.ask(tool, **arguments)
                if said.get("verdict", said.get("activity")) not in SILENT:
                    return said

    async def value(self, expression: str, session_id: str | None = None) -> str:
        """Return the repr of an expression in a session."""
        done = await self.run(expression, session_id)
        assert done["status"] == "completed", done
        results: list[str] = done["results"]
        assert len(results) == 1, done
        return results[0]


@asynccontextmanager
async def stdio_agent(
    place: Place,
    *flags: str,
    mode: str = "auto",
    command: tuple[str, ...] = (str(KERNELRY),),
    **options: Any,
) -> AsyncIterator[Agent]:
    """Start a server over stdio and connect the official client, with its options, to it."""
    program, *first = command
    server = StdioServerParameters(
        command=program,
        args=[*first, *place.arguments(*flags)],
        env=place.environment(),
        cwd=place.root,
    )
    with place.log.open("a") as log:
        transport = sdk_stdio.stdio_client(server, errlog=log)
        async with Client(transport, mode=mode, **options) as client:
            yield Agent(client)


@asynccontextmanager
async def http_agent(
    server: "HttpServer", mode: str = "auto", **options: Any
) -> AsyncIterator[Agent]:
    """Connect the official client, with its options, to a server over HTTP."""
    async with httpx2.AsyncClient(headers=server.headers, timeout=httpx2.Timeout(120)) as http:
        transport = streamable_http_client(server.url, http_client=http)
        async with Client(transport, mode=mode, **options) as client:
            yield Agent(client)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A running `kernelry serve --http`."""

    #: where clients connect
    url: str
    #: what they must send
    token: str
    #: the server
    process: subprocess.Popen[str]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an authorised client."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self.url.removeprefix("http://").removesuffix("/mcp").rsplit(":", 1)
        return host, int(port)


@contextmanager
def http_server(place: Place, *flags: str, wait: bool = True) -> Iterator[HttpServer]:
    """Start `kernelry serve --http` on a free port; end it with SIGTERM."""
    process = subprocess.Popen(
        [str(KERNELRY), *place.arguments("--http", "127.0.0.1:0", *flags)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=place.environment(),
        cwd=place.root,
    )
    said = Lines(process.stderr, place.log)
    try:
        token = said.matching(r"^token: (\S+)")
        url = said.matching(r"^kernelry serves (http://\S+)")
        server = HttpServer(url, token, process)
        if wait:
            assert until(lambda: accepts_connections(server.address), HANG), "nobody listens"
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            said.close()


class Lines:
    """The lines of a pipe as they come, also written to a log."""

    def __init__(self, pipe: IO[str] | None, log: Path | None = None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._log = log
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            if self._log is not None:
                with self._log.open("a") as log:
                    log.write(line)
            self._queue.put(line)
        self._queue.put(None)

    def next(self, seconds: float) -> str | None:
        """Return the next line; None at the end of the pipe.

        Raises:
            TimeoutError: None came in time.
        """
        try:
            line = self._queue.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"no line within {seconds} s") from None
        if line is None:
            self._queue.put(None)
        return line

    def matching(self, pattern: str, seconds: float = HANG) -> str:
        """Return the first group of the first line that matches."""
        seen = []
        deadline = time.monotonic() + seconds
        while (line := self.next(max(deadline - time.monotonic(), 0))) is not None:
            seen.append(line)
            if match := re.search(pattern, line):
                return match[1]
        raise AssertionError(f"the process ended without saying {pattern!r}: {''.join(seen)}")

    def close(self) -> None:
        """Wait for the end of the pipe and give it back."""
        self._thread.join(HANG)
        self._pipe.close()


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for something that happens outside of us; say whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def remove_all(folder: Path) -> None:
    """Remove a folder in which files may come and go meanwhile."""

    def is_removed() -> bool:
        shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    assert until(is_removed, HANG), folder


def settled(place: Place, measure: Callable[[], T], seconds: float = HANG) -> T:
    """Return a measurement once it stays the same: pools fill up, caches are made.

    What only waits for a processor changes nothing either, so all must be at rest, too.
    """
    deadline = time.monotonic() + seconds
    last, since = measure(), time.monotonic()
    while time.monotonic() - since < 0.7 or not place.is_at_rest():
        assert time.monotonic() < deadline, f"still changing: {last}"
        time.sleep(0.05)
        if (found := measure()) != last:
            last, since = found, time.monotonic()
    return last


#: `kernelry` that lets the system know its threads by their names, as Python 3.14 does
NAMING = """
import ctypes, sys, threading
from kernelry_mcp.command.cli import main
def name(*event):
    sys.setprofile(None)
    ctypes.CDLL(None).prctl(15, threading.current_thread().name.encode(), 0, 0, 0)
threading.setprofile(name)
main(sys.argv[1:])
"""
NAMED_SERVER = (sys.executable, "-c", NAMING)
POOLED = "asyncio_"  # how the threads of the event loop's pool are named: it grows to its bound


def lasting_threads(server: psutil.Process) -> list[str]:
    """Return the names of a NAMED_SERVER's threads; not those of the pool, which are reused."""
    names = []
    for comm in Path(f"/proc/{server.pid}/task").glob("*/comm"):
        with suppress(OSError):  # it ended meanwhile
            names.append(comm.read_text().rstrip("\n"))
    return sorted(name for name in names if not name.startswith(POOLED))


def accepts_connections(address: tuple[str, int]) -> bool:
    """Say whether somebody listens at `address`."""
    with suppress(OSError), socket.create_connection(address, timeout=1):
        return True
    return False


@dataclass
class RawServer:
    """A server over stdio, spoken to in lines of JSON-RPC (2025-11-25)."""

    #: where it keeps everything
    place: Place
    #: more flags
    flags: tuple[str, ...] = ()
    #: whether it leads a session of its own, as the official client starts it
    session_leader: bool = False
    #: more variables
    env: dict[str, str] = field(default_factory=dict)
    #: what starts it
    command: tuple[str, ...] = (str(KERNELRY),)
    #: messages that answered no request of ours
    others: list[dict[str, Any]] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._log = self.place.log.open("a")
        self.process = subprocess.Popen(
            [*self.command, *self.place.arguments(*self.flags)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self.place.environment() | self.env,
            cwd=self.place.root,
            start_new_session=self.session_leader,
            encoding="utf-8",
        )
        self._lines = Lines(self.process.stdout)
        self._id = 0
        hello = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "0"},
        }
        try:
            self.request("initialize", hello)
            self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.close_stdin()
            try:
                self.process.wait(HANG)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.close_stdin()
        self._lines.close()
        self._log.close()

    def close_stdin(self) -> None:
        """Let the server read the end of its stdin."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def send_line(self, line: str) -> None:
        """Write one line, whatever it is."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        self.send_line(json.dumps(message))

    def start(self, method: str, params: dict[str, Any]) -> int:
        """Send a request and return its id."""
        self._id += 1
        self.send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        return self._id

    def answer(self, request_id: int | str | None) -> dict[str, Any]:
        """Return the message that answers a request."""
        deadline = time.monotonic() + ANSWER_DEADLINE
        while True:
            line = self._lines.next(max(deadline - time.monotonic(), 0))
            assert line is not None, f"the server ended; see {self.place.log}"
            message: dict[str, Any] = json.loads(line)  # anything else on stdout is a defect
            assert message["jsonrpc"] == "2.0"
            if "method" not in message and message.get("id") == request_id:
                return message
            self.others.append(message)

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its result."""
        message = self.answer(self.start(method, params))
        assert "result" in message, message
        result: dict[str, Any] = message["result"]
        return result

    def start_tool(self, tool: str, /, **arguments: Any) -> int:
        """Call a tool without waiting for its answer; return the request's id."""
        return self.start("tools/call", {"name": tool, "arguments": arguments})

    def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool and return its result, error or not."""
        return self.request("tools/call", {"name": tool, "arguments": arguments})

    def tool(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool that must work and return what it says."""
        result = self.call(tool, **arguments)
        assert not result.get("isError"), result
        said: dict[str, Any] = result["structuredContent"]
        return said


def killed_at(point: str, place: Place, flags: tuple[str, ...], *, code: str, tool: str) -> None:
    """Have a server run code, and be killed where `tool` comes to a crash point."""
    with RawServer(place, flags, env={VARIABLE: point}) as victim:
        victim.tool("run_python_code", code=code)
        # The kernel of a server that has no guardian for it yet ends with it.
        assert until(place.has_fork_server, HANG)
        victim.start_tool(tool)
        assert victim.process.wait(HANG) == -signal.SIGKILL
