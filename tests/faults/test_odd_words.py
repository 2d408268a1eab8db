"""Odd types and sizes in every field that a kernel fills, and a replay without end."""

import asyncio
import json
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from kernelry import Sessions, SessionSpec
from kernelry.messaging.link import own_socket
from tests.acceptance.harness import Agent, Place, RawServer, until

from .kernels import HANG
from .matrix import fault

FLAGS = ("--toolsets", "all")

#: makes `ODD`, and `odd(x)`: the value with each of its fields replaced, removed, renamed
ODDITIES = """
import itertools, json
kernel = get_ipython().kernel
ODD = [None, True, 0, -1, 10**300, -10**30, 1e308, 1.5, "", "x" * 70_000, "\\x1b[2J\\x00",
       [], [[]], ["a", 1, None], [[[1]]], {}, {"a": {"b": []}}, {"x" * 5000: 1}, "../../etc"]
def odd(value):
    yield from ODD
    if isinstance(value, dict):
        for key in value:
            for other in odd(value[key]):
                yield {**value, key: other}
            yield {k: v for k, v in value.items() if k != key}
    elif isinstance(value, list) and value:
        for other in odd(value[0]):
            yield [other]
session = kernel.session
session.pack = lambda part: json.dumps(part, default=str).replace("1e+308", "1e999").encode()
"""
#: sends each kind of message with each odd field
MESSAGES = """
parent = kernel.get_parent("shell")
bundle = {"text/plain": "a", "text/html": "b", "image/png": "aGk=", "application/json": {"a": [1]}}
shown = {"data": bundle, "metadata": {"kernelry_saved": {"image/png": "a"}},
         "transient": {"display_id": "d"}, "execution_count": 1}
for kind, content in KINDS(shown):
    for one in odd(content):
        session.send(kernel.iopub_socket, kind, session.pack(one), parent)
print("sent")
"""
KINDS = {
    "displays": "lambda shown: [('display_data', shown)]",
    "results": "lambda shown: [('execute_result', shown)]",
    "updates": "lambda shown: [('update_display_data', shown)]",
    "errors": "lambda shown: [('error', {'ename': 'E', 'evalue': 'e', 'traceback': ['t']})]",
    "text and clearing": (
        "lambda shown: [('stream', {'name': 'stdout', 'text': ''}), ('clear_output', {'wait': 0})]"
    ),
    "spills": (
        "lambda shown: [('kernelry_overflow', {'file': 'f'}), ('status', {'execution_state': 'x'})]"
    ),
    "notes": (
        "lambda shown: [('kernelry_note', {'kind': kind, 'at': 1, 'by': 'me', 'action': 'pause',"
        " 'progress': 'p', 'question': 'q', 'prompt': 'p', 'hidden': False, 'values': {'a': 1},"
        " 'removed': ['b'], 'topic': 't', 'data': {}}) for kind in ('requested', 'held',"
        " 'released', 'progress', 'context', 'published')]"
    ),
}
REPORT = {
    "files": ["a"],
    "files_total": 1,
    "overflow": {
        "file": "f",
        "chars": 1,
        "dropped": 1,
        "displays": 1,
        "totals": {"stdout": 1},
        "tails": {"stdout": "x"},
    },
    "hint": "h",
    "progress": "p",
    "missed": {"by": "b", "action": "stop"},
    "stopped": {"by": "b", "action": "stop"},
    "memory": [1, 2],
}
#: makes the replies of the next cells odd, one after the other
REPLIES = f"""
base = {{"status": "error", "ename": "E", "evalue": "e", "traceback": ["t"], "payload": [],
        "execution_count": 1, "kernelry": {REPORT!r}}}
replies = [reply for reply in odd(base) if isinstance(reply, dict) and "status" in reply] + [1]
inner = type(kernel).do_execute
async def do_execute(self, code, *args, **kwargs):
    reply = await inner(self, code, *args, **kwargs)
    return replies.pop() if code == "pass" else reply
type(kernel).do_execute = do_execute
len(replies)
"""
#: makes one answer of the helper odd at a time
ANSWERS = """
answers = {{op: itertools.cycle(odd(value)) for op, value in {answers!r}.items()}}
for op in answers:
    kernel.helper._ops[op] = lambda op=op, **kwargs: next(answers[op])
sum(1 for value in {answers!r}.values() for _ in odd(value))
"""


def no_failure_of_ours(said: Any, what: str) -> None:
    """An answer is a result, or an error with a code: never a failure of the server's."""
    if said.is_error:
        assert said.data and said.data["error"]["code"], (what, said.text[:500])
    assert "\x1b" not in json.dumps(said.data) and "\x00" not in said.text, what


async def see_everything(agent: Agent, session_id: str, index: int, execution_id: str) -> None:
    """Ask for an execution in all ways that there are."""
    looks: tuple[tuple[str, dict[str, Any]], ...] = (
        ("get_execution", {"execution_id": execution_id}),
        ("get_execution", {"execution_id": execution_id, "offset": 5}),
        ("search_executions", {"session_ids": [session_id]}),
        ("get_events", {}),
        ("export_notebook", {"session_id": session_id, "overwrite": True}),
        ("list_sessions", {}),
        ("get_kernel_health", {"session_id": session_id}),
    )
    for tool, arguments in looks:
        said = await agent.call(tool, **arguments)
        assert not said.is_error, (tool, said.text[:1000])
        assert len(said.text) < 100_000, tool
    for uri in (f"session://{session_id}/executions/{index}", f"session://{session_id}/graph"):
        found = await agent.client.read_resource(uri)
        assert json.loads(found.contents[0].text), uri  # type: ignore[union-attr]


@fault("B25")
async def test_odd_words_in_messages_are_taken_for_what_they_can_be_or_left_out(
    agent: Agent,
) -> None:
    await agent.ask("create_session", session_id="odd")
    for number, (name, kinds) in enumerate(KINDS.items(), 1):
        code = f"{ODDITIES}\nKINDS = {kinds}\n{MESSAGES}"
        said = await agent.call("run_python_code", session_id="odd", code=code, wait=HANG)
        no_failure_of_ours(said, name)
        assert said.data["status"] == "completed" or "OutputLimit" in str(said.data), said.data
        await see_everything(agent, "odd", number, said.data["execution_id"])
    assert await agent.value("6 * 7", "odd") == "42"


@fault("B25")
async def test_odd_words_in_replies_end_their_cells_and_break_nothing(agent: Agent) -> None:
    await agent.ask("create_session", session_id="odd")
    made = await agent.run(ODDITIES + REPLIES, "odd")
    last = ""
    count = int(made["results"][0])
    for number in range(count):
        said = await agent.call("run_python_code", session_id="odd", code="pass", wait=HANG)
        last = said.data["execution_id"]
        no_failure_of_ours(said, f"reply {number}")
        assert said.data["status"] != "running", said.data
        assert len(said.text) < 300_000 and len(said.data["new_files"]) <= 1000
    await see_everything(agent, "odd", count, last)
    assert await agent.value("6 * 7", "odd") == "42"


ASKED: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    (
        "list_variables",
        {},
        {"variables": {"variables": [{"name": "a", "type": "b", "repr": "c"}], "total": 1}},
    ),
    ("get_kernel_health", {}, {"status": {"busy": True, "held": False}}),
    ("check_kernel_responsiveness", {}, {"status": {"busy": True, "held": False}}),
    (
        "create_checkpoint",
        {},
        {
            "saved": {
                "python": "3",
                "variables": ["a"],
                "skipped": [{"name": "n", "type": "t", "reason": "r"}],
            }
        },
    ),
)


@fault("B25")
async def test_odd_answers_of_a_kernel_are_results_or_errors_with_a_code(agent: Agent) -> None:
    await agent.ask("create_session", session_id="odd")
    for tool, arguments, answers in ASKED:
        made = await agent.run(ODDITIES + ANSWERS.format(answers=answers), "odd")
        for number in range(int(made["results"][0])):
            said = await agent.call(tool, session_id="odd", **arguments)
            no_failure_of_ours(said, f"{tool} {number}")
            assert len(said.text) < 100_000
        if tool == "create_checkpoint":
            said = await agent.call("list_checkpoints", session_id="odd")
            assert not said.is_error and len(said.text) < 1_000_000


ENDLESS = """
import itertools
kernel = get_ipython().kernel
numbers = itertools.count(1)
me = kernel.get_parent("shell")["header"]["msg_id"]
def line():
    header = {"msg_id": str(next(numbers)), "msg_type": "comm_msg"}
    return json.dumps({"seq": 10**6 + next(numbers), "channel": "iopub", "header": header,
        "parent_header": {"msg_id": me}, "metadata": {}, "content": {"x": "y" * 200_000}})
import json, time
kernel.helper._ops["replay"] = lambda since: {"lines": [line() for _ in range(5)], "more": True}
print("ready", flush=True)
while True: time.sleep(0.01)
"""


@fault("B26")
def test_a_replay_without_end_is_stopped_by_the_next_server(place: Place) -> None:
    with RawServer(place, ("--orphan-timeout", "60")) as server:
        server.tool("create_session", session_id="s")
        assert until(lambda: bool(list(place.runtime.glob("kernelry/*/*.sock"))), HANG)
        asked = server.tool("run_python_code", session_id="s", code=ENDLESS, wait=0)
        execution_id = asked["execution_id"]

        def shown() -> str:
            return str(server.tool("get_execution", execution_id=execution_id)["stdout"])

        assert until(lambda: "ready" in shown(), HANG)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    with RawServer(place) as after:
        found = after.tool("get_execution", execution_id=execution_id, wait=HANG)
        assert found["status"] == "interrupted", found
        assert "keeps for the next server" in found["note"]
        assert after.tool("run_python_code", session_id="s", code="1+1")["results"] == ["2"]


@fault("B25")
async def test_spilled_output_that_is_not_there_is_no_work_for_every_server_to_come(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    code = (
        "kernel = get_ipython().kernel\n"
        "parent, told = kernel.get_parent('shell'), {'file': 'gone.txt'}\n"
        "kernel.session.send(kernel.iopub_socket, 'kernelry_overflow', told, parent)"
    )
    running = await sessions.run(session, code)
    assert await running.wait(HANG)
    async with asyncio.timeout(HANG):
        while await sessions._store.read(lambda s: s.execute("uncaptured").fetchall()):
            await asyncio.sleep(0.01)


@fault("B25")
async def test_a_link_in_the_place_of_a_kernel_s_socket_is_not_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "k-1"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(real))
        with own_socket(str(real)) as path, socket.socket(socket.AF_UNIX) as made:
            listener.listen()
            made.connect(path)
        link.symlink_to(real)
        with pytest.raises(OSError), own_socket(str(link)):
            pass
