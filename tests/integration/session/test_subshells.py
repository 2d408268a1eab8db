"""Another Jupyter client on a session's kernel: its subshells run beside the session's cells."""

# jupyter_client's annotations are partial.
# pyright: reportAttributeAccessIssue=false

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from jupyter_client.asynchronous.client import AsyncKernelClient

from kernelry import ExecutionStatus, Run, Session, Sessions, SessionSpec
from kernelry.models import InterruptStep

HANG = 60.0


class FrontEnd:
    """A client as JupyterLab is one."""

    #: msg_id of its newest request
    newest = ""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def control(self, kind: str, **content: Any) -> dict[str, Any]:
        """Ask on the control channel."""
        return await self._ask("control", kind, content)

    async def create_subshell(self) -> str:
        """Return the id of a new subshell."""
        return str((await self.control("create_subshell_request"))["subshell_id"])

    async def execute(self, code: str, subshell: str | None = None) -> tuple[dict[str, Any], str]:
        """Run code; return the reply, and what it printed."""
        content = await self._ask("shell", "execute_request", {"code": code}, subshell)
        printed = ""
        while True:
            message = await self.client.get_iopub_msg(timeout=HANG)
            if message["parent_header"].get("msg_id") != self.newest:
                continue
            if message["msg_type"] == "stream":
                printed += message["content"]["text"]
            if message["content"].get("execution_state") == "idle":
                return content, printed

    async def _ask(
        self, channel: str, kind: str, content: dict[str, Any], subshell: str | None = None
    ) -> dict[str, Any]:
        message = self.client.session.msg(kind, content)
        message["header"]["subshell_id"] = subshell
        self.newest = message["header"]["msg_id"]
        getattr(self.client, f"{channel}_channel").send(message)
        while True:
            reply = await getattr(self.client, f"get_{channel}_msg")(timeout=HANG)
            if reply["parent_header"].get("msg_id") == self.newest:
                answer: dict[str, Any] = reply["content"]
                return answer


async def run(sessions: Sessions, session: Session, code: str) -> Run:
    """Run code in the session."""
    done = await sessions.run(session, code)
    assert await done.wait(HANG)
    assert done.snapshot().status is ExecutionStatus.COMPLETED
    return done


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    session = await sessions.create(SessionSpec(id="a"))
    await session.ensure_kernel()
    return session


@pytest.fixture
async def front_end(session: Session) -> AsyncIterator[FrontEnd]:
    assert session.kernel is not None
    client = AsyncKernelClient(connection_file=f"{session.kernel.record.path}.json")
    client.load_connection_file()
    client.start_channels(hb=False)
    await client.wait_for_ready(timeout=HANG)
    yield FrontEnd(client)
    client.stop_channels()


async def test_a_subshell_runs_while_the_session_s_cell_does(
    sessions: Sessions, session: Session, front_end: FrontEnd
) -> None:
    subshell = await front_end.create_subshell()
    await run(sessions, session, "import time\nopened = False")
    code = "while not opened: time.sleep(0.01)\nprint('opened')"
    running = await sessions.run(session, code)
    reply, printed = await front_end.execute("opened = True; print('by the subshell')", subshell)
    assert (reply["status"], printed) == ("ok", "by the subshell\n")
    assert await running.wait(HANG)
    done = running.snapshot()
    assert done.status is ExecutionStatus.COMPLETED
    assert "by the subshell" not in str(done.outputs)


async def test_a_stop_of_the_session_s_cell_leaves_a_subshell_s_alone(
    sessions: Sessions, session: Session, front_end: FrontEnd
) -> None:
    subshell = await front_end.create_subshell()
    await front_end.execute("import threading; go = threading.Event(); in_it = threading.Event()")
    beside = asyncio.create_task(
        front_end.execute("in_it.set(); go.wait(30); n = 1\nn += 1\nprint(n)", subshell)
    )
    running = await sessions.run(session, "in_it.wait()\nwhile True: pass")
    await running.begun.wait()
    assert (await session.interrupt()).step is InterruptStep.SIGINT
    await run(sessions, session, "go.set()")
    reply, printed = await beside
    assert (reply["status"], printed) == ("ok", "2\n")


async def test_what_a_subshell_s_cell_raises_is_answered(front_end: FrontEnd) -> None:
    subshell = await front_end.create_subshell()
    reply, _ = await front_end.execute("1/0", subshell)
    assert (reply["status"], reply["ename"]) == ("error", "ZeroDivisionError")
    reply, printed = await front_end.execute(
        "import asyncio; await asyncio.sleep(0); print(1)", subshell
    )
    assert (reply["status"], printed) == ("ok", "1\n")
    reply, _ = await front_end.execute(
        "class A:\n def __repr__(self): raise ValueError\nA()", subshell
    )
    assert reply["status"] == "ok"


async def test_a_process_that_a_subshell_forks_ends_with_its_cell(front_end: FrontEnd) -> None:
    subshell = await front_end.create_subshell()
    code = (
        "import os\npid = os.fork()\n"
        "if pid: print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    reply, printed = await front_end.execute(code, subshell)
    assert (reply["status"], printed) == ("ok", "0\n")


async def test_cells_on_the_control_channel_are_answered(front_end: FrontEnd) -> None:
    for code, status in (
        ("a = 1", "ok"),
        ("1/0", "error"),
        ("await __import__('asyncio').sleep(0)", "ok"),
    ):
        assert (await front_end.control("execute_request", code=code))["status"] == status
    assert (await front_end.execute("print(a)"))[1] == "1\n"


async def test_the_session_goes_on_when_a_subshell_is_deleted(
    sessions: Sessions, session: Session, front_end: FrontEnd
) -> None:
    subshell = await front_end.create_subshell()
    await front_end.execute("b = 2", subshell)
    assert (await front_end.control("delete_subshell_request", subshell_id=subshell))[
        "status"
    ] == "ok"
    assert (await front_end.control("list_subshell_request"))["subshell_id"] == []
    assert "2" in str((await run(sessions, session, "print(b)")).snapshot().outputs)
