"""Cells that spoil what they run in: the session is repaired, or dead with its cause."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kernelry import Config, ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.output.fold import Display, Spill, stream_text
from tests.acceptance.harness import Place, RawServer, unavailable

from .kernels import HANG, pid_of, printed, restarted, run, until, value
from .matrix import fault


@pytest.fixture
async def session(sessions: Sessions) -> Session:
    return await sessions.create(SessionSpec(id="s"))


# A3: text that is none


@fault("A3")
@pytest.mark.parametrize(
    ("code", "status"),
    [
        (r'raise ValueError("\udcff")', "failed"),
        (r'raise ValueError("\ud800")', "failed"),
        (r'import os; open(os.fsdecode(b"not there \xff"))', "failed"),
        (r'print("\ud800\udcff"); "\udcff"', "completed"),
        (r'display({"application/json": {"\udcff": "\ud800"}}, raw=True)', "completed"),
        (r'import kernelry_session; kernelry_session.checkpoint(progress="\ud800")', "completed"),
        (
            r'import kernelry_session; kernelry_session.publish("mine", ["\ud800"])',
            "completed",
        ),
        (r'import kernelry_session; kernelry_session.context["\udcff"] = "\ud800"', "completed"),
    ],
)
async def test_halves_of_characters_reach_nobody_as_such_and_lose_nothing(
    sessions: Sessions, session: Session, code: str, status: str
) -> None:
    done = await run(sessions, session, code)
    assert done.status == status, done.error
    shown = str(await sessions.execution(done.id)) + str(session.record.context)
    shown += str(await sessions.events.read(topics=["mine"]))
    assert shown.encode("utf-8")
    assert ("ud800" in shown) or ("xff" in shown) or ("udcff" in shown), shown
    assert await value(sessions, session, "1+1") == "2"


# B11: what a cell takes away from its kernel


@fault("B11")
@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("first", [0, 3], ids=["all", "without stdio"])
async def test_a_kernel_whose_descriptors_a_cell_closed_is_dead_with_its_cause(
    sessions: Sessions, session: Session, first: int
) -> None:
    done = await run(
        sessions, session, f"print('before', flush=True)\nimport os; os.closerange({first}, 1000)"
    )
    assert done.status is ExecutionStatus.DIED
    assert done.error is not None
    assert "SIGABRT" in done.error.message
    assert stream_text(done.outputs, "stdout") == "before\n"
    await restarted(sessions, session)


@fault("B11")
@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    "code",
    [
        "import os; os.closerange(0, 3)",
        "import sys; sys.stdout.close(); sys.stderr.close()",
        "import sys; sys.stdout = sys.stderr = None; sys.stdin.close()",
        "import signal\nfor s in (2, 10, 13, 15, 17): signal.signal(s, signal.SIG_IGN)",
        "import os, shutil; shutil.rmtree(os.getcwd(), ignore_errors=True)",
        "import sys; sys.path.clear(); sys.argv.clear()",
        "import os; os.environ.clear()",
        "del __builtins__, get_ipython",
        "import sys, warnings; warnings.simplefilter('error'); sys.excepthook = None",
    ],
)
async def test_what_a_cell_spoils_is_repaired_before_the_next(
    sessions: Sessions, session: Session, code: str
) -> None:
    done = await run(sessions, session, code)
    assert done.status is ExecutionStatus.COMPLETED, done.error
    code = "import sys; print('fine'); print('too', file=sys.stderr)"
    after = await run(sessions, session, code)
    assert after.status is ExecutionStatus.COMPLETED, after.error
    assert stream_text(after.outputs, "stdout") == "fine\n"
    assert stream_text(after.outputs, "stderr") == "too\n"
    stopped = await run(sessions, session, "while True: pass", timeout=0.1)
    assert stopped.status is ExecutionStatus.TIMED_OUT
    await restarted(sessions, session)


# B12: what a cell leaves running


@fault("B12")
@pytest.mark.usefixtures("bystander")
async def test_a_fork_of_which_both_return_is_one_kernel_and_all_it_prints_is_heard(
    sessions: Sessions, session: Session
) -> None:
    kernel = psutil.Process(pid_of(session))
    for number in range(20):
        code = (
            f"import os\npid = os.fork()\nif pid: print('parent', {number})\n"
            f"else: print('child', {number}); display('shown'); 1/0"
        )
        done = await run(sessions, session, code)
        assert done.status is ExecutionStatus.COMPLETED
        await until(lambda: "ZeroDivisionError" in all_text(sessions, done.id), "it is heard")  # noqa: B023
        for text in ("parent", f"child {number}\n", "'shown'\n"):
            assert text in all_text(sessions, done.id)
        assert await value(sessions, session, f"{number} + 1") == str(number + 1)
    left = [child for child in kernel.children() if child.status() != psutil.STATUS_ZOMBIE]
    psutil.wait_procs(left, timeout=HANG)
    assert not any(child.is_running() for child in left)


def all_text(sessions: Sessions, execution_id: str) -> str:
    """Return what an execution that ended lately has printed by now."""
    live = sessions.live_run(execution_id)
    assert live is not None
    return stream_text(live[1].fold.outputs, "stdout")


@fault("B12")
async def test_no_process_of_a_cell_outlives_its_session(
    sessions: Sessions, session: Session
) -> None:
    code = (
        "import os, subprocess, threading, time\n"
        "def tell():\n    while True: print('tick', flush=True); time.sleep(0.01)\n"
        "threading.Thread(target=tell, daemon=True).start()\n"
        "subprocess.Popen(['sleep', '100'], start_new_session=True)\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(100)\n"
        "    os._exit(0)\n"
        "os.wait(); None"
    )
    done = await run(sessions, session, code)
    await until(lambda: all_text(sessions, done.id).count("tick") > 3, "the thread is heard")
    assert "own" in await printed(sessions, session, "print('own', flush=True)")
    kernel = psutil.Process(pid_of(session))
    family = [kernel, *kernel.children(recursive=True)]
    assert len(family) == 3
    await sessions.delete(session.id)
    psutil.wait_procs(family, timeout=HANG)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family)


# B13: floods; most of them are in tests/acceptance/test_acceptance_issue.py

MEBIBYTE = 1 << 20


@fault("B13")
@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    ("code", "whole"),
    [
        ("class Huge:\n    def __repr__(self): return 'x' * 100_000_000\nHuge()", 100_000_000),
        ("import os\nfor i in range(50_000): os.write(1 + i % 2, b'y' * 999 + b'\\n')", 50_000_000),
        (
            "import subprocess; subprocess.run('yes | head -c 50000000', shell=True); None",
            50_000_000,
        ),
    ],
    ids=["repr", "raw writes", "yes"],
)
async def test_a_flood_is_bounded_counted_and_leaves_server_and_kernel_small(
    sessions: Sessions, session: Session, code: str, whole: int
) -> None:
    await run(sessions, session, "print('x' * 200_000)")  # what the first spill loads, stays
    us, kernel = psutil.Process(), psutil.Process(pid_of(session))
    before = us.memory_info().rss, kernel.memory_info().rss
    done = await run(sessions, session, code)
    assert done.status is ExecutionStatus.COMPLETED
    spill = next(output for output in done.outputs if isinstance(output, Spill))
    shown = [o.text for o in done.outputs if isinstance(o, Display)]
    kept = stream_text(done.outputs, "stdout") + stream_text(done.outputs, "stderr")
    assert len(kept) + len("".join(shown)) + spill.chars + spill.dropped == whole
    assert await value(sessions, session, "1+1") == "2"
    assert us.memory_info().rss - before[0] < 20 * MEBIBYTE
    assert kernel.memory_info().rss - before[1] < 50 * MEBIBYTE


# B14: values that can't be shown


@fault("B14")
@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("def __repr__(self): raise ValueError('no')", "<Bad object>|ValueError: no"),
        ("def __repr__(self): return 5", "<Bad object>|non-string"),
        ("def __repr__(self): return repr(self)", "<Bad object>|RecursionError"),
        (
            "def __repr__(self): return 'fine'\n    def _repr_html_(self): raise ValueError('no')",
            "fine|ValueError: no",
        ),
        (
            "def __repr__(self): return 'fine'\n"
            "    def _repr_mimebundle_(self, **k): return {'text/html': object()}",
            "fine|text/html left out",
        ),
        (
            "def __repr__(self): return 'fine'\n"
            "    def _repr_png_(self): return b'\\x89PNG' + bytes(50 << 20)",
            "fine|left out",
        ),
    ],
)
async def test_a_value_that_can_not_be_shown_has_a_placeholder(
    sessions: Sessions, session: Session, body: str, shown: str
) -> None:
    done = await run(sessions, session, f"class Bad:\n    {body}\ndisplay(Bad())\nBad()")
    assert done.status is ExecutionStatus.COMPLETED, done.error
    texts = [output.text for output in done.outputs if isinstance(output, Display)]
    assert len(texts) == 2
    for text in texts:
        assert all(part in text for part in shown.split("|")), text
        assert len(text) < 1000
    assert not stream_text(done.outputs, "stderr")
    assert await value(sessions, session, "1+1") == "2"


@fault("B14")
async def test_a_repr_that_never_ends_is_ended_by_an_interrupt(
    sessions: Sessions, session: Session
) -> None:
    code = "class Bad:\n    def __repr__(self):\n        while True: pass\nbad = Bad()\nbad"
    done = await run(sessions, session, code, timeout=0.2)
    assert done.status is ExecutionStatus.TIMED_OUT
    variables, _ = await session.variables(10)
    assert "bad" in [variable.name for variable in variables]
    assert await value(sessions, session, "1+1") == "2"


# B15: a keyboard that nobody is at


@fault("B15")
@pytest.mark.parametrize(
    "code",
    [
        "input('name? ')",
        "import getpass; getpass.getpass()",
        "breakpoint()",
        "import pdb; pdb.set_trace()\nprint('after')",
        "%debug",
        "%pdb on\n1/0",
    ],
)
async def test_code_that_asks_somebody_is_refused_at_once(
    sessions: Sessions, session: Session, code: str
) -> None:
    await run(sessions, session, "kept = 1\n1/0")
    done = await run(sessions, session, code)
    assert done.status is ExecutionStatus.FAILED, done
    assert done.error is not None
    assert done.error.type in ("StdinNotImplementedError", "ZeroDivisionError")
    assert await value(sessions, session, "kept") == "1"


# B16: output that means something to a terminal or to a protocol


@fault("B16")
def test_what_a_cell_prints_never_is_the_protocol_nor_a_terminals(place: Place) -> None:
    answer = '{"jsonrpc": "2.0", "id": 3, "result": {"content": []}}'
    noise = (
        "import os, sys\n"
        "print('\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07\\x1b]8;;http://x\\x1b\\\\link\\x1b]8;;\\x1b\\\\')\n"
        "for i in range(5): print(f'\\r{i * 25}%', end='')\n"
        "print()\n"
        f"print({answer!r})\n"
        f"os.write(1, {answer.encode()!r} + b'\\n')\n"
        f"sys.stderr.write('\\x1b[2J' + {answer!r})\n"
        f"raise ValueError('\\x1b[31m' + {answer!r})"
    )
    with RawServer(place) as server:
        done = server.tool("run_python_code", code=noise)
        assert done["status"] == "failed"
        lines = done["stdout"].splitlines()
        assert lines[:2] == ["red link", "100%"]
        assert lines[2:] == [answer, answer]
        assert answer in done["stderr"]
        assert answer in done["error"]["message"]
        assert "\x1b" not in str(done)
        assert server.tool("run_python_code", code="1+1")["results"] == ["2"]
        assert not [other for other in server.others if "method" not in other]


# B17: the workspace's disk is full; quotas do not exist yet


@pytest.fixture
def disk(config: Config) -> Iterator[Path]:
    """The workspace, on a small disk of its own."""
    config.workspace.mkdir()
    options = "size=1m,nr_inodes=40,mode=700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(config.workspace)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        unavailable(f"can't mount a tmpfs: {done.stderr.strip()}")
    yield config.workspace
    subprocess.run(["umount", "--lazy", str(config.workspace)], check=True)


@fault("B17")
@pytest.mark.parametrize(
    ("fill", "empty"),
    [
        (
            "with open('big', 'wb', buffering=0) as f:\n    while True: f.write(bytes(65536))",
            "import os; os.remove('big')",
        ),
        (
            "for i in range(1000): open(f'small-{i}', 'w').close()",
            "import glob, os\nfor path in glob.glob('small-*'): os.remove(path)",
        ),
    ],
    ids=["bytes", "inodes"],
)
async def test_a_full_workspace_is_an_error_of_the_cell_alone(
    disk: Path, config: Config, fill: str, empty: str
) -> None:
    async with Sessions(config) as sessions:
        session = await sessions.create(SessionSpec(id="s"))
        full = await run(sessions, session, fill)
        assert full.status is ExecutionStatus.FAILED
        assert full.error is not None
        assert full.error.type == "OSError"
        assert "No space left" in full.error.message
        flood = await run(sessions, session, "print('x' * 300_000)")  # spilled elsewhere
        assert flood.status is ExecutionStatus.COMPLETED
        figure = "from PIL import Image; Image.effect_noise((300, 300), 50)"
        shown = await run(sessions, session, figure)
        assert shown.status is ExecutionStatus.COMPLETED, shown.error
        other = await sessions.create(SessionSpec(id="other"))
        assert await value(sessions, other, "1+1") == "2"
        await restarted(sessions, session)
        assert not sessions.degraded
        for execution in (full, flood):
            assert (await sessions.execution(execution.id)).outputs == execution.outputs
        assert (await run(sessions, session, empty)).status is ExecutionStatus.COMPLETED
        assert (await run(sessions, session, "open('fits', 'w').write('x')")).error is None
