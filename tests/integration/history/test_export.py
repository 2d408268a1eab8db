"""A session's history as notebook and script, and run again."""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from kernelry import ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.errors import FileExistsConflictError, InvalidArgumentError, SessionNotFoundError
from kernelry.history.notebooks import Exported, Form, Which, export
from kernelry.history.replay import ReplayReport
from kernelry.history.scripting import as_python
from tests.faults.kernels import HANG, run

PICTURE = """
from IPython.display import Image, display
from PIL import Image as Picture
import io
made = io.BytesIO()
Picture.new('RGB', (8, 8), 'red').save(made, 'png')
display(Image(made.getvalue()))
"""


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    session = await sessions.create(SessionSpec(id="s", description="Squares of numbers"))
    for code in (
        "squares = [n * n for n in range(5)]",
        "print('sum', sum(squares))\nsquares",
        "%time squares[0]",
        "1 / 0",
        PICTURE,
    ):
        await run(sessions, session, code)
    return session


async def exported(sessions: Sessions, session_id: str = "s", **options: object) -> Exported:
    return await export(
        sessions.history,
        [session_id],
        sessions.workspace,
        sessions.sessions_dir,
        **options,  # type: ignore[arg-type]
    )


def read(sessions: Sessions, done: Exported) -> nbformat.NotebookNode:
    path = sessions.workspace.root / done.written.path
    made = nbformat.read(path, as_version=4)
    nbformat.validate(made)
    return made


async def test_a_session_is_exported_as_a_notebook_that_says_what_it_did(
    sessions: Sessions, session: Session
) -> None:
    done = await exported(sessions)
    assert done.written.path == "outputs/s.ipynb"
    title, *cells = read(sessions, done).cells
    assert "Squares of numbers" in title.source
    assert done.count == len(cells) == 5
    assert cells[1].outputs[0].text == "sum 30\n"
    assert cells[1].outputs[1].data["text/plain"] == "[0, 1, 4, 9, 16]"
    assert cells[3].outputs[0].ename == "ZeroDivisionError"
    assert "image/png" in cells[4].outputs[0].data
    with pytest.raises(FileExistsConflictError):
        await exported(sessions)
    await exported(sessions, overwrite=True)


async def test_which_executions_are_exported_is_a_choice(
    sessions: Sessions, session: Session
) -> None:
    done = await exported(sessions, which=Which.SUCCESSFUL, path="outputs/good.ipynb")
    assert done.count == 4
    await session.restart()
    await run(sessions, session, "newest = 1")
    done = await exported(sessions, which=Which.LATEST, path="outputs/latest.ipynb")
    assert [cell.source for cell in read(sessions, done).cells[1:]] == ["newest = 1"]


async def test_an_exported_notebook_runs_again_to_the_same_outputs(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    for code in (
        "import math\nx = math.sqrt(16)",
        "print('x', x)\nx",
        "def f(n): return n + x\nf(1)",
    ):
        await run(sessions, session, code)
    await sessions.delete("s", keep_history=True)
    made = read(sessions, await exported(sessions, "s~1"))
    before = [cell.outputs for cell in made.cells[1:]]
    again = await NotebookClient(made, timeout=HANG).async_execute()
    after = [cell.outputs for cell in again.cells[1:]]
    assert [texts(outputs) for outputs in after] == [texts(outputs) for outputs in before]
    assert texts(before[1]) == ["x 4.0\n", "4.0"]


def texts(outputs: list[nbformat.NotebookNode]) -> list[str]:
    return [o.text if o.output_type == "stream" else o.data["text/plain"] for o in outputs]


async def test_a_script_is_python_whatever_its_session_is_called(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="t", description='"""\nimport nonsense \\'))
    await run(sessions, session, "print(2)")
    done = await export(
        sessions.history, ["t"], sessions.workspace, sessions.sessions_dir, form=Form.SCRIPT
    )
    path: Path = sessions.workspace.root / done.written.path
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("2\n", "")


async def test_a_script_is_python_that_runs(sessions: Sessions, session: Session) -> None:
    done = await exported(sessions, form=Form.SCRIPT, which=Which.SUCCESSFUL)
    path: Path = sessions.workspace.root / done.written.path
    assert "# %time squares[0]" in path.read_text()
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert "sum 30\n" in ran.stdout


@pytest.mark.parametrize(
    ("code", "script"),
    [
        ("x = 1\n!ls\n%pip list", "x = 1\n# !ls\n# %pip list"),
        ("%%bash\nls", "# %%bash\n# ls"),
        ("x =", "# x ="),
        ("text = '''\n%no magic\n'''", "text = '''\n%no magic\n'''"),
    ],
)
def test_what_only_ipython_knows_is_commented(code: str, script: str) -> None:
    assert as_python(code) == script


async def over(report: ReplayReport) -> ReplayReport:
    async with asyncio.timeout(HANG):
        await report.over.wait()
    return report


async def test_ls_19_a_replay_runs_the_same_in_a_new_session_and_names_what_differs(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="s", tags=("t",)))
    for code in ("x = 6", "x * 7", "import time; print(time.time_ns())", "object()"):
        await run(sessions, session, code)
    before = await sessions.history.executions("s")
    report = await over(await sessions.replays.start("s"))
    assert (report.session_id, report.replayed, report.matched) == ("s-replay-1", 4, 3)
    (difference,) = report.differences
    assert difference.index == 3
    assert list(difference.what) == ["stdout"]
    assert not report.stopped
    assert set(sessions.get("s-replay-1").record.tags) == {"t", "replay"}
    assert await sessions.history.executions("s") == before
    assert session.record.generation == 1


async def test_a_replay_stops_at_an_error_that_is_new_if_it_shall(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    (sessions.workspace.root / "there").touch()
    for code in ("1 / 0", "import os; os.rename('there', 'gone')", "1"):
        await run(sessions, session, code)
    report = await over(await sessions.replays.start("s"))
    assert (report.replayed, report.matched) == (2, 1)
    assert report.stopped == "execution 2 is failed, it was completed"
    report = await over(await sessions.replays.start("s", into="again", stop_on_error=False))
    assert (report.session_id, report.replayed, report.stopped) == ("again", 3, "")


async def test_a_replay_restarts_where_the_original_was_restarted(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    await run(sessions, session, "x = 1")
    await session.restart()
    assert (await run(sessions, session, "x")).status is ExecutionStatus.FAILED
    report = await over(await sessions.replays.start("s"))
    assert (report.matched, report.differences) == (2, [])
    assert sessions.get("s-replay-1").record.generation == 2


async def test_a_plan_only_lists_and_leaves_out_what_can_not_be_replayed(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    await run(sessions, session, "x = 1")
    await run(sessions, session, "while True: pass", timeout=0.2)
    report = await sessions.replays.plan("s")
    assert [execution.code for execution in report.executions] == ["x = 1"]
    assert report.skipped == {2: "timed_out"}
    assert len(sessions.list()) == 2
    with pytest.raises(SessionNotFoundError, match="has run nothing"):
        await sessions.replays.plan("default")
    with pytest.raises(SessionNotFoundError, match="no session 'gone'"):
        await sessions.replays.plan("gone")
    assert json.dumps(report.skipped)


async def test_a_replay_writes_into_a_folder_of_its_own_and_its_files_are_compared(
    sessions: Sessions,
) -> None:
    root = sessions.workspace.root
    (root / "uploads" / "given.txt").write_text("given")
    session = await sessions.create(SessionSpec(id="s"))
    for code in (
        "text = open('uploads/given.txt').read()",
        "_ = open('outputs/same.txt', 'w').write(text.upper())",
        "import time; _ = open('outputs/other.txt', 'w').write(str(time.time_ns()))",
        "open('outputs/same.txt').read()",
    ):
        await run(sessions, session, code)
    before = {path: path.read_text() for path in root.glob("outputs/*.txt")}
    report = await over(await sessions.replays.start("s"))
    assert report.folder == "replays/s-replay-1"
    assert report.same_files == ["outputs/same.txt"]
    (difference,) = report.differences
    assert difference.index == 3
    path, now = difference.what["files"]
    assert (path, now) == (
        "outputs/other.txt",
        "replays/s-replay-1/outputs/other.txt: other content",
    )
    assert {path: path.read_text() for path in root.glob("outputs/*.txt")} == before
    assert (root / "replays" / "s-replay-1" / "outputs" / "same.txt").read_text() == "GIVEN"
    report = await over(await sessions.replays.start("s", folder="."))
    assert "outputs/same.txt" in report.same_files
    assert not (root / "replays" / report.session_id).exists()


async def test_a_notebook_brings_the_scripts_that_its_cells_import(sessions: Sessions) -> None:
    (sessions.workspace.scripts / "helping.py").write_text("def triple(n):\n    return 3 * n\n")
    session = await sessions.create(SessionSpec(id="s"))
    await run(sessions, session, "from helping import triple\ntriple(14)")
    made = read(sessions, await exported(sessions))
    setup = [cell for cell in made.cells if "setup" in cell.metadata.get("tags", ())]
    assert setup[-1].source.startswith("%%writefile scripts/helping.py\ndef triple")
    assert all(cell.cell_type == "code" for cell in setup)
    (sessions.workspace.scripts / "helping.py").unlink()
    with tempfile.TemporaryDirectory() as elsewhere:
        resources = {"metadata": {"path": elsewhere}}
        again = await NotebookClient(made, timeout=HANG, resources=resources).async_execute()
    assert again.cells[-1].outputs[0].data["text/plain"] == "42"


async def test_a_notebook_names_the_packages_of_its_session_and_can_hold_several(
    sessions: Sessions,
) -> None:
    for name in ("one", "two"):
        session = await sessions.create(SessionSpec(id=name))
        await run(sessions, session, f"'{name}'")
    done = await export(
        sessions.history,
        ["one", "two"],
        sessions.workspace,
        sessions.sessions_dir,
        packages={"one": ["six==1.17.0"]},
    )
    made = read(sessions, done)
    sources = [cell.source for cell in made.cells]
    assert sources == ["# one\n\n", "%pip install six==1.17.0", "'one'", "# two\n\n", "'two'"]
    assert [s["session_id"] for s in made.metadata.kernelry.sessions] == ["one", "two"]
    assert made.metadata.kernelry.packages == ["six==1.17.0"]


async def test_a_script_of_cells_that_await_runs(sessions: Sessions) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    for code in (
        "import asyncio\nasync def double(n):\n    await asyncio.sleep(0)\n    return 2 * n",
        'text = """a\nb"""\nvalue = await double(21)  # kept\nqueue = asyncio.Queue()',
        "await queue.put([await double(n) for n in range(3)])",
        "print(value, repr(text), await queue.get())",
    ):
        await run(sessions, session, code)
    done = await exported(sessions, form=Form.SCRIPT)
    path: Path = sessions.workspace.root / done.written.path
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("42 'a\\nb' [0, 2, 4]\n", "")
    assert "value = await double(21)  # kept" in path.read_text()


async def test_a_replay_writes_only_where_the_workspace_is_and_not_into_itself(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="s"))
    await run(sessions, session, "_ = open('outputs/a.txt', 'w').write('a')")
    for folder in ("/tmp/elsewhere", "../elsewhere", "a\0b"):
        with pytest.raises(InvalidArgumentError, match="path"):
            await sessions.replays.start("s", folder=folder)
    assert len(sessions.list()) == 2
    for _ in range(2):  # the second finds what the first has left
        report = await over(await sessions.replays.start("s", folder="again"))
        assert (report.same_files, report.stopped) == (["outputs/a.txt"], "")
    assert not (sessions.workspace.root / "again" / "again").exists()
