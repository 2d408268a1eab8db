"""Clients that break the protocol, its pipes or themselves (matrix, group C and D3, D14, D15)."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import anyio
import psutil
import pytest

from tests.acceptance.harness import (
    KERNELRY,
    LEGACY,
    MODERN,
    HttpServer,
    Place,
    RawServer,
    http_agent,
    http_server,
    stdio_agent,
    until,
)

from .matrix import fault

GUARD = 60.0  # seconds after which something hangs
MEBIBYTE = 1 << 20
HELLO = {
    "protocolVersion": LEGACY,
    "capabilities": {},
    "clientInfo": {"name": "raw", "version": "0"},
}
HOST = "import subprocess, sys; subprocess.run(sys.argv[1:])"
LONG = "import time\nwhile True: time.sleep(0.01)"
ENDS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class Pipes:
    """A server over stdio whose pipes are in the test's hands; nobody reads unless told to."""

    def __init__(
        self, place: Place, *flags: str, command: tuple[str, ...] = (str(KERNELRY),)
    ) -> None:
        self.place = place
        self.command = [*command, *place.arguments(*flags)]
        self.stderr: IO[bytes] | int | None = None
        self.buffer = b""

    def __enter__(self) -> Self:
        self.log = self.place.log.open("ab")
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr or self.log,
            env=self.place.environment(),
            cwd=self.place.root,
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin = self.process.stdin.fileno()
        self.stdout = self.process.stdout.fileno()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr, self.log):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(GUARD)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            if kind is None:
                raise

    def shake_hands(self) -> None:
        """Initialize."""
        self.send(1, "initialize", HELLO)
        assert "result" in self.read()
        self.write({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def write(self, message: dict[str, Any]) -> None:
        """Write a message."""
        os.write(self.stdin, json.dumps(message).encode() + b"\n")

    def send(self, number: int | str, method: str, params: dict[str, Any]) -> None:
        """Write a request."""
        self.write({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    def call(self, number: int | str, tool: str, /, **arguments: Any) -> None:
        """Write a call of a tool."""
        self.send(number, "tools/call", {"name": tool, "arguments": arguments})

    def read(self) -> dict[str, Any]:
        """Read the next message."""
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.stdout], [], [], GUARD)
            assert ready, "no answer"
            more = os.read(self.stdout, 1 << 20)
            assert more, f"the server ended; see {self.place.log}"
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def value(self, number: int, code: str, session_id: str = "default") -> str:
        """Run code and return what its last expression is."""
        self.call(number, "run_python_code", code=code, session_id=session_id)
        while (answer := self.read()).get("id") != number:
            pass
        said: dict[str, Any] = answer["result"]["structuredContent"]
        assert said["status"] == "completed", said
        return str(said["results"][-1])


@pytest.fixture
def raw(place: Place) -> Iterator[RawServer]:
    """A server with a session `free`, which must answer after whatever was sent to it."""
    with RawServer(place) as server:
        server.tool("create_session", session_id="free")
        server.tool("run_python_code", code="kept = 1", session_id="free")
        yield server
        assert one_and_one(server)
        assert server.tool("run_python_code", code="kept", session_id="free")["results"] == ["1"]
    assert server.process.returncode == 0
    assert "Traceback" not in place.log.read_text()


def one_and_one(server: RawServer) -> bool:
    """Say whether a session beside the fault answers."""
    done = server.tool("run_python_code", code="1+1", session_id="free")
    return bool(done["results"] == ["2"])


def busy(server: RawServer) -> int:
    """Call a cell that never ends; return the request's id when the cell runs."""
    number = server.start_tool("run_python_code", code=LONG, wait=600)
    assert until(
        lambda: server.tool("list_sessions")["sessions"]["default"]["kernel"] == "busy", GUARD
    )
    return number


def answer_of(server: RawServer, number: int | str) -> dict[str, Any]:
    """Return an answer that may have come before another one that was waited for."""
    for message in server.others:
        if message.get("id") == number and "method" not in message:
            server.others.remove(message)
            return message
    return server.answer(number)


def current(listed: dict[str, Any]) -> list[str]:
    """Return the sessions that a caller means when it names none."""
    return [name for name, item in listed["sessions"].items() if item["current"]]


def write_bytes(server: RawServer, data: bytes) -> None:
    """Write bytes that are no text."""
    assert server.process.stdin is not None
    server.process.stdin.flush()
    server.process.stdin.buffer.write(data)  # type: ignore[attr-defined]
    server.process.stdin.flush()


def rss(process: psutil.Process) -> int:
    """Return the bytes a process has in memory."""
    return int(process.memory_info().rss)


# C1 to C7: messages

NO_MESSAGES = [
    ('{"jsonrpc": "2.0", "id": 801, "method": "ping"', 801, -32700),
    ('{"jsonrpc": "1.0", "id": 802, "method": "ping"}', 802, -32600),
    ('{"jsonrpc": "2.0", "id": null, "method": "ping"}', None, -32600),
    ('{"jsonrpc": "2.0", "id": true, "method": "ping"}', None, -32600),
    ('{"jsonrpc": "2.0", "id": {"a": 1}, "method": "ping"}', None, -32600),
    ('[{"jsonrpc": "2.0", "id": 803, "method": "ping"}]', None, -32600),
    ('{"jsonrpc": "2.0", "id": 804, "method": 5}', 804, -32600),
    ('{"params": {"id": 1}, "id": "named", "jsonrpc": "2.0"', "named", -32700),
    ('"id": 5', None, -32700),
    ("{" * 50, None, -32700),
    ("\0", None, -32700),
]


@fault("C1")
def test_what_is_no_message_is_answered_with_its_id_where_it_has_one(raw: RawServer) -> None:
    for line, number, code in NO_MESSAGES:
        raw.send_line("")
        raw.send_line(line)
        answer = raw.answer(number)
        assert answer["error"]["code"] == code, (line, answer)
        assert one_and_one(raw)
    assert not raw.others


@fault("C2")
def test_bytes_that_are_no_text_are_refused_with_the_requests_id(raw: RawServer) -> None:
    write_bytes(raw, b'{"jsonrpc": "2.0", "id": 810, "method": "ping", "params": "\xff\xfe"}\n')
    assert raw.answer(810)["error"]["code"] == -32700
    write_bytes(raw, b"\xff\xfe\xfa\n")
    assert raw.answer(None)["error"]["code"] == -32700


@fault("C3")
def test_a_line_of_20_megabytes_is_taken_and_one_beyond_the_limit_refused(raw: RawServer) -> None:
    number = raw.start_tool("run_python_code", code="#" * (20 << 20))
    answer = raw.answer(number)["result"]
    assert answer["isError"]
    assert str(20 << 20) in answer["content"][0]["text"]  # it was read to its end
    number = raw.start_tool("run_python_code", code="#" * (33 << 20))
    refused = raw.answer(number)["error"]
    assert refused["code"] == -32600
    assert str(32 << 20) in refused["message"]


@fault("C4")
@pytest.mark.parametrize("opening", ["[", '{"a": '])
def test_a_message_nested_100000_deep_is_refused_with_its_id(raw: RawServer, opening: str) -> None:
    closing = "]" if opening == "[" else "}"
    deep = opening * 100_000 + "1" + closing * 100_000
    head = '"jsonrpc": "2.0", "method": "ping"'
    for line, number in (
        (f'{{{head}, "id": 820, "params": {{"id": 5, "x": {deep}}}}}', 820),
        (f'{{{head}, "params": {{"x": {deep}, "id": 5}}, "id": "after"}}', "after"),
    ):
        raw.send_line(line)
        refused = raw.answer(number)["error"]
        assert refused["code"] == -32600
        assert "100002 levels" in refused["message"]
    # Deep, but not too deep.
    raw.send_line(f'{{{head}, "id": 821, "params": {{"x": {"[" * 150}{"]" * 150}}}}}')
    assert "result" in raw.answer(821)


@fault("C5")
def test_an_id_in_flight_is_refused_and_its_first_request_answered(raw: RawServer) -> None:
    first = busy(raw)
    listing = {"jsonrpc": "2.0", "method": "tools/list"}
    for same in (first, str(first)):  # to the SDK they are one
        raw.send(listing | {"id": same})
        refused = raw.answer(same)["error"]
        assert refused == {"code": -32600, "message": f"id {same!r} is in flight already"}
    assert one_and_one(raw)
    raw.tool("interrupt_execution")
    assert answer_of(raw, first)["result"]["structuredContent"]["status"] == "interrupted"
    raw.send(listing | {"id": first})  # answered, so it is free again
    assert "result" in raw.answer(first)


@fault("C5")
def test_a_thousand_requests_are_taken_at_once_and_no_more(raw: RawServer) -> None:
    run = raw.tool("run_python_code", code=LONG, wait=0)
    call = {"name": "get_execution", "arguments": {"execution_id": run["execution_id"], "wait": 90}}
    waiting = [raw.start("tools/call", call) for _ in range(1_000)]
    refused = raw.answer(raw.start("tools/list", {}))["error"]
    assert refused["code"] == -32005
    assert "1000" in refused["message"]
    for number in waiting[500:]:
        raw.send(cancellation(number))
    assert until(lambda: "result" in raw.answer(raw.start("tools/list", {})), GUARD)
    raw.tool("interrupt_execution")
    for number in waiting[:500]:
        assert "result" in answer_of(raw, number)


@fault("C5")
def test_an_id_in_flight_is_refused_over_http_in_its_mcp_session_only(served: HttpServer) -> None:
    mine, other = mcp_session(served), mcp_session(served)
    wait = call_message(7, "run_python_code", code="while True: pass", wait=600)
    with streaming(served, wait, mine) as first:
        assert until(lambda: kernel_of(served, mine) == "busy", GUARD)
        status, body = post(served, call_message("7", "list_sessions"), mine)
        assert (status, body["error"]["code"]) == (409, -32600)
        assert body["id"] == "7"
        assert post(served, call_message(7, "list_sessions"), other)[0] == 200
        post(served, call_message(8, "interrupt_execution"), other)
        assert "interrupted" in read_all(first)
    assert post(served, call_message(7, "list_sessions"), mine)[0] == 200


@fault("C5")
def test_an_id_stays_in_flight_over_http_when_its_client_goes(
    place: Place, served: HttpServer
) -> None:
    """Its answer would go into the stream of the next request of that id."""
    mine = mcp_session(served)
    wait = call_message(7, "run_python_code", code="while True: pass", wait=600)
    with streaming(served, wait, mine) as first:
        assert until(lambda: kernel_of(served, mine) == "busy", GUARD)
        port = first.getsockname()[1]
    server = place.server()
    assert until(lambda: port not in [c.raddr.port for c in connections(server)], GUARD)
    for _ in range(5):
        assert kernel_of(served, mine) == "busy"
        assert post(served, call_message(7, "list_sessions"), mine)[0] == 409
    post(served, call_message(8, "interrupt_execution"), mine)
    again = call_message(7, "list_sessions")
    assert until(lambda: post(served, again, mine)[0] == 200, GUARD)


def connections(process: psutil.Process) -> list[Any]:
    """Return the connections that a process holds."""
    return [each for each in process.net_connections("tcp") if each.raddr]


def cancellation(number: int | str) -> dict[str, Any]:
    """Return the notification that cancels a request."""
    params = {"requestId": number, "reason": "a test"}
    return {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}


@fault("C6")
def test_cancelling_what_is_not_there_or_not_any_more_does_nothing(raw: RawServer) -> None:
    for number in (4711, "nobody", -1, True, None, [1]):
        raw.send(cancellation(number))  # type: ignore[arg-type]
    ended = raw.start_tool("run_python_code", code="'ended'", session_id="free")
    raw.answer(ended)
    raw.send(cancellation(ended))
    assert one_and_one(raw)
    first = busy(raw)
    raw.send(cancellation(first))
    raw.send(cancellation(first))
    assert until(
        lambda: raw.tool("list_sessions")["sessions"]["default"]["kernel"] != "busy", GUARD
    )
    assert raw.tool("run_python_code", code="'lives'")["results"] == ["'lives'"]
    assert first not in [message.get("id") for message in raw.others]
    raw.send({"jsonrpc": "2.0", "id": first, "method": "tools/list"})
    assert "result" in raw.answer(first)


@fault("C7")
def test_a_second_initialize_resets_nothing(raw: RawServer) -> None:
    raw.tool("switch_session", session_id="free")
    for version in (LEGACY, "1999-01-01"):
        answer = raw.request("initialize", HELLO | {"protocolVersion": version})
        assert answer["protocolVersion"] <= LEGACY
    assert raw.tool("run_python_code", code="kept")["results"] == ["1"]
    assert current(raw.tool("list_sessions")) == ["free"]


@fault("C7")
def test_calls_before_initialize_are_refused_and_it_works_afterwards(place: Place) -> None:
    with Pipes(place) as server:
        server.call(1, "list_sessions")
        assert server.read()["error"]["code"] == -32602
        server.send(2, "initialize", HELLO | {"protocolVersion": "1999-01-01"})
        assert server.read()["result"]["protocolVersion"] == LEGACY
        server.write({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert server.value(3, "1+1") == "2"


# C9 to C11: pipes


@fault("C9")
@pytest.mark.parametrize("waiting", [False, True], ids=["idle", "within a call"])
def test_a_stdout_that_nobody_reads_any_more_ends_the_server(place: Place, waiting: bool) -> None:
    with Pipes(place) as server:
        server.shake_hands()
        assert server.value(2, "1+1") == "2"
        if waiting:
            server.call(3, "run_python_code", code=LONG, wait=600)
            server.call(4, "list_sessions")
            server.read()
        assert server.process.stdout is not None
        server.process.stdout.close()
        assert server.process.wait(GUARD) == 0
        assert not place.survivors(GUARD)
    assert "nobody reads stdout" in place.log.read_text()


@fault("C10")
def test_a_client_that_does_not_read_is_waited_for(place: Place) -> None:
    count = 3_000
    with Pipes(place) as server:
        server.shake_hands()
        server.call(2, "run_python_code", code="print('x' * 300_000)")
        execution = server.read()["result"]["structuredContent"]["execution_id"]
        page = {"execution_id": execution, "offset": 1000, "limit": 40_000}
        server.call(3, "get_execution", **page)
        server.read()
        process = psutil.Process(server.process.pid)
        before = rss(process)
        todo = list(range(10, 10 + count))
        os.set_blocking(server.stdin, False)
        while todo and select.select([], [server.stdin], [], 1.0)[1]:
            with suppress(BlockingIOError):
                server.call(todo[0], "get_execution", **page)
                del todo[0]
        assert todo, "it took all requests, and nobody read an answer"
        assert rss(process) - before < 30 * MEBIBYTE
        # It goes on as soon as somebody reads, and nothing was lost.
        answered: list[int] = []
        while len(answered) < count:
            if todo and select.select([], [server.stdin], [], 0)[1]:
                with suppress(BlockingIOError):
                    server.call(todo[0], "get_execution", **page)
                    del todo[0]
            message = server.read()
            content = message["result"]["structuredContent"]
            assert len(content.get("text", "")) == 40_000, content
            answered.append(message["id"])
        assert sorted(answered) == list(range(10, 10 + count))
        assert rss(process) - before < 50 * MEBIBYTE
        os.set_blocking(server.stdin, True)
        assert server.value(5, "1+1") == "2"


@fault("C10")
def test_a_client_that_goes_without_reading_ends_the_server(place: Place) -> None:
    """Its end of stdin is closed while its other end still keeps our answers from going out."""
    with Pipes(place) as server:
        server.shake_hands()
        server.call(2, "run_python_code", code="print('x' * 300_000)")
        execution = server.read()["result"]["structuredContent"]["execution_id"]
        os.set_blocking(server.stdin, False)
        while select.select([], [server.stdin], [], 1.0)[1]:
            with suppress(BlockingIOError):
                server.call(3, "get_execution", execution_id=execution, limit=40_000)
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(GUARD) == 0


@fault("C11")
def test_a_host_that_is_killed_takes_its_server_along(place: Place) -> None:
    """Even if somebody else holds the server's pipes open, as we do here."""
    with Pipes(place, command=(sys.executable, "-c", HOST, str(KERNELRY))) as host:
        host.shake_hands()
        assert host.value(2, "1+1") == "2"
        host.call(3, "run_python_code", code=LONG)
        host.process.kill()
        host.process.wait()
        assert not place.survivors(GUARD)
    assert "which started this server, is gone" in place.log.read_text()


# C12 to C15: HTTP and many calls


def call_message(number: int | str, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """Return a call of a tool."""
    params = {"name": tool, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


def modern(message: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a request as the wire of 2026-07-28 has it, and its headers."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": HELLO["clientInfo"],
    }
    params = message["params"] | {"_meta": meta}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
    return message | {"params": params}, headers | {"Mcp-Name": params.get("name", "")}


def request_bytes(
    server: HttpServer, body: bytes, headers: dict[str, str], method: str = "POST"
) -> bytes:
    """Return an HTTP request."""
    given = {
        "Host": "{}:{}".format(*server.address),
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **server.headers,
        **headers,
    }
    lines = [f"{method} /mcp HTTP/1.1", *(f"{k}: {v}" for k, v in given.items() if v != "-")]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def streaming(
    server: HttpServer, message: dict[str, Any], headers: dict[str, str]
) -> Iterator[socket.socket]:
    """Send a request; its connection is cut at the end of the block."""
    with socket.create_connection(server.address, timeout=GUARD) as connection:
        connection.sendall(request_bytes(server, json.dumps(message).encode(), headers))
        yield connection


def read_all(connection: socket.socket) -> str:
    """Read an answer to the end of its connection."""
    data = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(1 << 16):
            data += more
    return data.decode()


def status_of(answer: str) -> int:
    """Return the status of an HTTP answer."""
    match = re.match(r"HTTP/1.1 (\d+) ", answer)
    assert match, answer
    return int(match[1])


def post(
    server: HttpServer, message: dict[str, Any], headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    """Send a request; return the status and the message of the answer."""
    with streaming(server, message, headers) as connection:
        answer = read_all(connection)
    found = re.search(r"^(?:data: )?(\{.*\})", answer.partition("\r\n\r\n")[2], re.MULTILINE)
    return status_of(answer), json.loads(found[1]) if found else {}


def mcp_session(server: HttpServer) -> dict[str, str]:
    """Open an mcp_session of the older wire; return the headers of its requests."""
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
    with streaming(server, hello, {}) as connection:
        answer = read_all(connection)
    match = re.search(r"^mcp-session-id: (\S+)", answer, re.MULTILINE | re.IGNORECASE)
    assert match, answer
    headers = {"Mcp-Session-Id": match[1], "MCP-Protocol-Version": LEGACY}
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert post(server, ready, headers)[0] == 202
    return headers


def kernel_of(server: HttpServer, headers: dict[str, str]) -> str:
    """Return what the default session's kernel does."""
    _, answer = post(server, call_message(99, "list_sessions"), headers)
    sessions = answer["result"]["structuredContent"]["sessions"]
    return str(sessions["default"]["kernel"])


@fault("C12")
@pytest.mark.parametrize("era", [LEGACY, MODERN])
async def test_a_client_that_comes_back_finds_its_result_once(
    place: Place, served: HttpServer, era: str
) -> None:
    code = (
        "import pathlib, time\n"
        "open('marks.txt', 'a').write('mark\\n')\n"
        "while not pathlib.Path('go').exists(): time.sleep(0.01)\n'done'"
    )
    message, headers = call_message(5, "run_python_code", code=code, wait=600), {}
    if era == LEGACY:
        headers = mcp_session(served)
    else:
        message, headers = modern(message)
    marks = place.workspace / "marks.txt"
    with streaming(served, message, headers):
        assert until(marks.exists, GUARD)
    async with http_agent(served) as agent:
        await agent.ask("create_session", session_id="free")
        assert await agent.value("1+1", "free") == "2"
        execution = (await agent.ask("get_kernel_health"))["execution_id"]
        (place.workspace / "go").touch()
        done = await agent.ask("get_execution", execution_id=execution, wait=GUARD)
        assert (done["status"], done["results"]) == ("completed", ["'done'"])
    assert marks.read_text() == "mark\n"


@fault("C13")
async def test_a_hundred_calls_at_once_are_all_answered_in_order(place: Place) -> None:
    async with stdio_agent(place) as agent:
        await agent.ask("create_session", session_id="free")
        await agent.run("seen = []")
        answers: dict[int, str] = {}

        async def run(number: int) -> None:
            answers[number] = await agent.value(f"seen.append({number}); len(seen)")

        with anyio.fail_after(GUARD):
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(run, number)
                assert await agent.value("1+1", "free") == "2"
        assert sorted(map(int, answers.values())) == list(range(1, 101))
        in_order = sorted(answers, key=lambda number: int(answers[number]))
        assert await agent.value(f"seen == {in_order}") == "True"


@fault("C13")
async def test_sessions_come_and_go_while_their_cells_run(place: Place) -> None:
    async with stdio_agent(place) as agent:
        await agent.ask("create_session", session_id="free")
        outcomes: list[str] = []

        async def live(number: int) -> None:
            name = f"brief_{number}"
            await agent.ask("create_session", session_id=name)
            await agent.ask("switch_session", session_id=name)

            async def cell() -> None:
                answer = await agent.call("run_python_code", code=LONG, session_id=name, wait=60)
                outcomes.append(answer.data["status"] if not answer.is_error else "refused")

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cell)
                tasks.start_soon(cell)
                await agent.call("switch_session", session_id="free")
                await agent.ask("delete_session", session_id=name)

        with anyio.fail_after(2 * GUARD):
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(live, number)
                assert await agent.value("1+1", "free") == "2"
        assert len(outcomes) == 16
        assert set(outcomes) <= {"died", "cancelled", "interrupted", "refused"}, outcomes
        listed = await agent.ask("list_sessions")
        assert set(listed["sessions"]) == {"default", "free"}


HEADER_FAULTS = [
    ({"Authorization": "-"}, 401),
    ({"Authorization": "Bearer wrong"}, 401),
    ({"Authorization": "Bearer "}, 401),
    ({"Host": "evil.example"}, 403),
    ({"Host": "127.0.0.1.evil.example:80"}, 403),
    ({"Host": "evil.example", "Authorization": "-"}, 403),
    ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "http://localhost.evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Content-Type": "text/plain"}, 415),
    ({"Content-Type": "application/jsonx"}, 415),
    ({"Content-Type": "-"}, 415),
    ({"Content-Length": str(1 << 30)}, 413),
    ({"Content-Length": "9" * 30}, 400),
    ({"Mcp-Session-Id": "nobody's", "MCP-Protocol-Version": LEGACY}, 404),
]


def running(server: HttpServer) -> bool:
    """Say whether a session answers over HTTP."""
    message, headers = modern(call_message(1, "run_python_code", code="1+1"))
    return bool(post(server, message, headers)[1]["result"]["structuredContent"]["results"])


@fault("C14")
def test_what_no_client_of_ours_sends_is_refused_and_nothing_runs(
    place: Place, served: HttpServer
) -> None:
    running(served)
    code = "open('pwned', 'w').write('x')"
    message, headers = modern(call_message(1, "run_python_code", code=code))
    body = json.dumps(message).encode()
    for given, status in HEADER_FAULTS:
        with socket.create_connection(served.address, timeout=GUARD) as connection:
            connection.sendall(request_bytes(served, body, headers | given))
            answer = read_all(connection)
        assert status_of(answer) == status, (given, answer)
        assert running(served)
    for allowed in ({"Origin": "http://localhost:3000"}, {"Host": "LOCALHOST"}):
        with socket.create_connection(served.address, timeout=GUARD) as connection:
            connection.sendall(request_bytes(served, body, headers | allowed))
            assert status_of(read_all(connection)) in {200, 421}  # the SDK wants a port
    (place.workspace / "pwned").unlink()


@fault("C14")
def test_a_body_without_a_length_is_cut_at_the_limit(place: Place, served: HttpServer) -> None:
    running(served)
    process = place.server()
    before = rss(process)
    headers = {"Transfer-Encoding": "chunked", "Content-Length": "-"}
    chunk = b"%x\r\n" % MEBIBYTE + b" " * MEBIBYTE + b"\r\n"
    with socket.create_connection(served.address, timeout=GUARD) as connection:
        connection.sendall(request_bytes(served, b"", headers))
        sent = 0
        with suppress(ConnectionError):
            while sent < 1024:  # 1 GB
                connection.sendall(chunk)
                sent += 1
        assert 32 <= sent < 64
        assert status_of(read_all(connection)) == 413
    assert running(served)
    assert rss(process) - before < 100 * MEBIBYTE


@fault("C14")
def test_a_sender_that_is_too_slow_is_given_up(served: HttpServer) -> None:
    head = request_bytes(served, b"", {"Content-Length": "100"})
    with (
        socket.create_connection(served.address, timeout=GUARD) as silent,
        socket.create_connection(served.address, timeout=GUARD) as in_head,
        socket.create_connection(served.address, timeout=GUARD) as in_body,
        socket.create_connection(served.address, timeout=GUARD) as in_second,
    ):
        began = time.monotonic()
        in_head.sendall(head[:40])
        in_body.sendall(head + b'{"jsonrpc"')
        in_second.sendall(request_bytes(served, b"{}", {"Connection": "keep-alive"}))
        first = b""
        while not first.endswith(b"}"):
            first += in_second.recv(1 << 16)
        in_second.sendall(head[:40])
        assert running(served)
        for slow in (in_body, silent, in_head, in_second):
            assert "408 Request Timeout" in read_all(slow)
        assert time.monotonic() - began > 4  # none was cut off before its time
    assert running(served)


@fault("C15")
def test_a_client_without_cookies_has_no_default_to_set_and_is_told(served: HttpServer) -> None:
    message, headers = modern(call_message(1, "create_session", session_id="mine"))
    assert not post(served, message, headers)[1]["result"]["isError"]
    for number, (session_id, said) in enumerate(
        [("mine", "Pass session_id='mine' with each call"), ("gone", "no session 'gone'")]
    ):
        message, headers = modern(call_message(number, "switch_session", session_id=session_id))
        result = post(served, message, headers)[1]["result"]
        assert result["isError"] and said in result["content"][0]["text"]
    message, headers = modern(call_message(3, "list_sessions"))
    listed = post(served, message, headers)[1]["result"]["structuredContent"]
    assert listed["active_session"] == "default"


@fault("C15")
async def test_session_ids_mean_the_same_for_all_of_one_token(served: HttpServer) -> None:
    async with http_agent(served) as one, http_agent(served, mode="legacy") as two:
        await one.ask("create_session", session_id="shared")
        await one.run("mine = 'of one'", "shared")
        assert await two.value("mine", "shared") == "'of one'"
        # What a session is switched to is each caller's own.
        await two.ask("switch_session", session_id="shared")
        assert current(await one.ask("list_sessions")) == ["default"]
        unknown = await two.refused("run_python_code", code="1", session_id="nobodys")
        assert "no session 'nobodys'" in unknown
    message, headers = modern(call_message(1, "run_python_code", code="1", session_id="shared"))
    for token in ("-", "Bearer wrong", f"Basic {served.token}"):
        status, body = post(served, message, headers | {"Authorization": token})
        assert status == 401
        assert "shared" not in json.dumps(body)


# D3: signals

BREAK_THE_END = """
import asyncio, pathlib, sys, time
from kernelry import Sessions
async def hang(self):
    pathlib.Path("ending").touch()
    await asyncio.sleep(1000)
def block(*args, **filters):
    pathlib.Path("ending").touch()
    while True:
        time.sleep(1000)
Sessions.{name} = {how}
from kernelry_mcp.command.cli import main
main(sys.argv[1:])
"""


def catches(process: subprocess.Popen[Any]) -> bool:
    """Say whether a process handles SIGTERM by now."""
    with suppress(OSError):
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(re.search(r"^SigCgt:\s+(\w+)", status, re.MULTILINE)[1], 16)  # type: ignore[index]
        return bool(caught & 1 << (signal.SIGTERM - 1))
    return False


STAGES: dict[str, Callable[[Place, subprocess.Popen[Any]], bool]] = {
    "handlers": lambda place, process: catches(process),
    "state": lambda place, process: (place.state / "lock").exists(),
    "store": lambda place, process: (place.state / "kernelry.sqlite").exists(),
    "child": lambda place, process: bool(psutil.Process(process.pid).children()),
}


@fault("D3")
@pytest.mark.parametrize("wire", ["stdio", "http"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_during_the_start_ends_the_server_well(
    place: Place, wire: str, stage: str, number: signal.Signals
) -> None:
    flags = ["--http", "127.0.0.1:0"] if wire == "http" else []
    with (
        place.log.open("a") as log,
        subprocess.Popen(
            [str(KERNELRY), *place.arguments(*flags)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=place.environment(),
            cwd=place.root,
        ) as process,
    ):
        assert until(lambda: STAGES[stage](place, process), GUARD)
        process.send_signal(number)
        assert process.wait(GUARD) == 0
        assert not place.survivors(GUARD)
    assert "Traceback" not in place.log.read_text()


@fault("D3")
@pytest.mark.parametrize("wire", ["stdio", "http"])
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
async def test_a_signal_ends_a_running_server_in_order(
    place: Place, wire: str, number: signal.Signals
) -> None:
    if wire == "stdio":
        with RawServer(place) as raw:
            assert raw.tool("run_python_code", code="1+1")["results"] == ["2"]
            busy(raw)
            raw.process.send_signal(number)
            assert raw.process.wait(GUARD) == 0
    else:
        with http_server(place) as server:
            async with http_agent(server) as agent:
                await agent.run(LONG, wait=0)
            server.process.send_signal(number)
            assert server.process.wait(GUARD) == 0
    assert not place.survivors(GUARD)


@fault("D3")
@pytest.mark.parametrize("wire", ["stdio", "http"])
@pytest.mark.parametrize(
    ("name", "how"),
    [("_stop_all", "hang"), ("list", "block")],
    ids=["the end hangs", "the loop is blocked"],
)
def test_a_second_signal_ends_what_the_first_can_not(
    place: Place, wire: str, name: str, how: str
) -> None:
    script = BREAK_THE_END.format(name=name, how=how)
    broken = [sys.executable, "-c", script]
    ending = place.root / "ending"
    if wire == "stdio":
        with Pipes(place, command=tuple(broken)) as server:
            server.shake_hands()
            assert server.value(2, "1+1") == "2"
            server.call(3, "run_python_code", code=LONG, wait=600)
            if how == "block":
                server.call(4, "list_sessions")
                assert until(ending.exists, GUARD)
            check_second_signal(place, server.process, ending)
    else:
        with broken_http_server(place, broken) as served:
            assert running(served)
            if how == "block":
                message, headers = modern(call_message(1, "list_sessions"))
                with streaming(served, message, headers):
                    assert until(ending.exists, GUARD)
            check_second_signal(place, served.process, ending)
    # Its sockets are the next server's to remove.
    with RawServer(place) as following:
        following.tool("create_session", session_id="new")
        assert following.tool("run_python_code", code="1+1", session_id="new")["results"] == ["2"]


@contextmanager
def broken_http_server(place: Place, command: list[str]) -> Iterator[HttpServer]:
    """Start a server over HTTP by another command."""
    with place.log.open("a") as log:
        process = subprocess.Popen(
            [*command, *place.arguments("--http", "127.0.0.1:0")],
            stdin=subprocess.DEVNULL,
            stderr=log,
            text=True,
            env=place.environment(),
            cwd=place.root,
        )
    try:
        # It says its token first.
        assert until(lambda: "kernelry serves" in place.log.read_text().rpartition("\n")[0], GUARD)
        said = place.log.read_text()
        url, token = re.search(r"serves (\S+)", said), re.search(r"token: (\S+)", said)
        assert url
        assert token
        yield HttpServer(url[1], token[1], process)
    finally:
        process.kill()
        process.wait()


def check_second_signal(place: Place, process: subprocess.Popen[Any], ending: Path) -> None:
    """Send two signals; the second must end all there is."""
    process.send_signal(signal.SIGTERM)
    assert until(ending.exists, GUARD)
    assert len(place.processes()) >= 2
    process.send_signal(signal.SIGINT)
    assert process.wait(GUARD) == 1
    assert not place.survivors(GUARD)


# D14 and D15: the loop and the log

BLOCK = """
import os, sys, time
from kernelry import Sessions
listed = Sessions.list
def block(*args, **filters):
    while os.path.exists("block"):
        time.sleep(0.05)
    return listed(*args, **filters)
Sessions.list = block
from kernelry_mcp.command.cli import main
main(sys.argv[1:])
"""


@fault("D14")
def test_a_blocked_loop_is_told_and_nobody_is_declared_dead(place: Place) -> None:
    with Pipes(place, command=(sys.executable, "-c", BLOCK)) as server:
        server.shake_hands()
        server.call(2, "create_session", session_id="busy")
        server.read()
        assert server.value(3, "kept = 1; kept", "busy") == "1"
        assert server.value(4, "1+1") == "2"
        code = (
            "import os, time\nopen('begun', 'w').close()\n"
            "while not os.path.exists('go'): time.sleep(0.01)\n"
            "open('ran', 'w').close()\n'ran'"
        )
        server.call(5, "run_python_code", code=code, session_id="busy")
        assert until((place.workspace / "begun").exists, GUARD)
        (place.root / "block").touch()
        server.call(6, "list_sessions")
        # The loop is blocked until this has been told and the cell has ended.
        assert until(lambda: "the event loop is blocked, in:" in place.log.read_text(), GUARD)
        (place.workspace / "go").touch()
        assert until((place.workspace / "ran").exists, GUARD)
        (place.root / "block").unlink()
        answers = {message["id"]: message["result"] for message in (server.read(), server.read())}
        assert answers[5]["structuredContent"]["results"] == ["'ran'"]
        kernels = [item["kernel"] for item in answers[6]["structuredContent"]["sessions"].values()]
        assert "dead" not in kernels
        assert server.value(7, "kept", "busy") == "1"
        assert server.value(8, "1+1") == "2"
        told = r"the event loop was blocked for ([\d.]+) s"
        assert until(lambda: bool(re.search(told, place.log.read_text())), GUARD)
    said = place.log.read_text()
    assert "in block" in said  # where
    match = re.search(told, said)
    assert match
    assert 1 <= float(match[1]) < 2 * GUARD  # a second without an answer is a block


@fault("D15")
@pytest.mark.parametrize("wakes", [True, False], ids=["read later", "never read"])
def test_a_log_that_nobody_reads_blocks_nothing(place: Place, wakes: bool) -> None:
    server = Pipes(place, "--log-level", "DEBUG")
    server.stderr = subprocess.PIPE
    with server:
        server.shake_hands()
        assert server.value(2, "1+1") == "2"
        process = psutil.Process(server.process.pid)
        before = rss(process)
        for number in range(3, 6_000):  # each is a line of the log
            server.write({"jsonrpc": "2.0", "method": "notifications/nothing"})
            if number % 100 == 0:
                assert server.value(number, "1+1") == "2"
        assert rss(process) - before < 30 * MEBIBYTE
        assert server.value(6_001, "1+1") == "2"
        assert server.process.stderr is not None
        if wakes:
            said = ""
            while not (dropped := re.search(r"(\d+) lines of the log were dropped", said)):
                assert select.select([server.process.stderr], [], [], GUARD)[0]
                said += os.read(server.process.stderr.fileno(), 1 << 16).decode()
            assert int(dropped[1]) > 1_000
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(GUARD) == 0
