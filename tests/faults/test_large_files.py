"""Files of a session that hold up the server: many, sparse, deep. Nobody else waits for them."""

import signal
from pathlib import Path

import pytest

from kernelry import Sessions, SessionSpec
from kernelry.errors import CheckpointError
from tests.acceptance.harness import Place, RawServer, until

from .conftest import Bystander
from .kernels import HANG, run
from .kernels import until as comes
from .matrix import fault

#: leaves a sparse file where a checkpoint is expected, and says that it was saved
SPARSE = """
import os
kernel = get_ipython().kernel
def remember(stream, ident, parent):
    content = parent["content"]
    with open(content["path"], "wb") as file:
        file.truncate({size})
    reply = {{"status": "ok", "answer": {{"blocked": 0.0}}}}
    kernel.session.send(stream, "kernelry_checkpoint_reply", reply, parent, ident)
kernel.shell_handlers["kernelry_checkpoint"] = remember
kernel.helper._ops["saved"] = lambda id: {{"python": "3", "variables": [], "skipped": []}}
"""

#: leaves as many files as it likes in a folder: sockets, the only ones that walls let it make there
MANY = (
    "import os, stat\n"
    "for i in range({count}): os.mknod({folder!r} + f'/{{i}}', stat.S_IFSOCK | 0o600)"
)


@fault("B27")
async def test_a_hundred_thousand_files_beside_its_sockets_hold_nobody_up(
    sessions: Sessions, bystander: Bystander
) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    assert session.kernel is not None
    runtime = Path(session.kernel.record.path).parent
    code = MANY.format(count=100_000, folder=str(runtime))
    assert (await run(sessions, session, code)).error is None
    await session.restart()
    assert not runtime.exists()
    assert list(runtime.parent.glob(".gone-*")), "the restart has waited for the removal"
    seen = len(bystander.latencies)
    await comes(lambda: len(bystander.latencies) > seen, "a neighbour goes on")
    await comes(lambda: not list(runtime.parent.glob(".gone-*")), "they go")


@fault("B27")
async def test_a_checkpoint_that_is_larger_than_any_namespace_is_not_kept(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    assert (await run(sessions, session, SPARSE.format(size=8 << 40))).error is None
    with pytest.raises(CheckpointError, match="more than any namespace"):
        await sessions.checkpoints.create(session, patience=HANG)
    assert not [p for p in (sessions.state_dir / "checkpoints").iterdir() if p.name != "key"]


@fault("B27")
def test_checkpoints_that_take_long_to_read_hold_up_no_other_tool_and_no_end(place: Place) -> None:
    with RawServer(place, ("--toolsets", "all")) as server:
        for number in range(6):
            name = f"s{number}"
            server.tool("create_session", session_id=name)
            code = SPARSE.format(size=30 << 30)
            done = server.tool("run_python_code", session_id=name, code=code)
            assert done["status"] == "completed", done
            server.start_tool("create_checkpoint", session_id=name)
        folder = place.state / "checkpoints"
        assert until(lambda: folder.exists() and len(list(folder.iterdir())) >= 6, HANG)
        assert not server.call("list_files").get("isError")
        assert server.tool("run_python_code", code="1+1")["results"] == ["2"]
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(HANG) == 0
        assert len(list(folder.iterdir())) >= 6, "it was not asked to end while they are read"


@fault("B27")
async def test_a_session_of_any_depth_is_deleted(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    code = (
        f"import os\nos.chdir({str(session.directory)!r})\n"
        "for _ in range(3000):\n    os.mkdir('d'); os.chdir('d')\nos.chdir('/')"
    )
    assert (await run(sessions, session, code)).error is None
    directory = session.directory
    await sessions.delete("s")
    assert not directory.exists()
    await comes(lambda: not list(directory.parent.glob(".gone-*")), "all of it is gone")
