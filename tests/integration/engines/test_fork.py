"""Kernels forked from the warm process: fast, and like any other in all a cell can do."""

import asyncio
import os
import random
import signal
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from kernelry import Config, ExecutionStatus, Session, Sessions, SessionSpec
from kernelry.output import SAVED
from kernelry.output.fold import Display, stream_text

HANG = 60  # seconds after which a test is stuck


@pytest.fixture
def config(config: Config) -> Config:
    return replace(config, kernel_start="fork", warm=0, isolation="auto")  # boxes are not forked


async def printed(sessions: Sessions, session: Session, code: str) -> str:
    run = await sessions.run(session, textwrap.dedent(code))
    assert await run.wait(HANG)
    execution = run.snapshot()
    assert execution.status is ExecutionStatus.COMPLETED, execution.error
    return stream_text(execution.outputs, "stdout")


async def new(sessions: Sessions, **how: Any) -> Session:
    return await sessions.create(SessionSpec(), **how)


def fork_server_pid(session: Session) -> int:
    assert session.kernel is not None
    parent = psutil.Process(session.kernel.process.pid).parent()
    assert parent is not None
    return int(parent.pid)


async def test_kernels_are_forked_from_one_process(sessions: Sessions) -> None:
    first, second = await new(sessions), await new(sessions)
    assert fork_server_pid(first) == fork_server_pid(second) != os.getpid()
    assert (await sessions.health(first)).start == "fork"
    assert sessions.fork_server is not None
    assert sessions.fork_server.level == "shell"


async def test_kernels_that_nobody_has_leave_no_directory(config: Config) -> None:
    async with Sessions(replace(config, warm=1)) as sessions:
        await sessions.wait_until_warm()
        (warm,) = sessions.sessions_dir.iterdir()  # nothing is left of how forking was tried
        (kernel,) = psutil.Process(sessions.fork_server_pid).children()
        kernel.kill()
        await asyncio.to_thread(kernel.wait, HANG)
        session = await new(sessions)
        assert session.directory != warm
        async with asyncio.timeout(HANG):
            while warm.exists():
                await asyncio.sleep(0.01)
    assert [path.name for path in sessions.sessions_dir.iterdir()] == [session.directory.name]
    areas = sessions.sessions_dir.parent / "branches"  # of kernels behind walls, for their copies
    assert {path.name for path in areas.glob("*")} <= {session.directory.name}


async def test_a_warm_kernel_is_handed_over_with_its_directory(config: Config) -> None:
    async with Sessions(replace(config, warm=2)) as sessions:
        await sessions.wait_until_warm()
        sessions_made = [await new(sessions) for _ in range(4)]
        places = set()
        for session in sessions_made:
            where = "import os; print(os.environ['IPYTHONDIR'], os.getcwd())"
            ipython, cwd = (await printed(sessions, session, where)).split()
            assert Path(ipython).parent == session.directory
            assert cwd == str(sessions.workspace.root)
            places.add(ipython)
        assert len(places) == 4


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import asyncio\nawait asyncio.sleep(0)\nprint(1)", "1\n"),
        (
            "import threading\nt = threading.Thread(target=print, args=(2,))\nt.start()\nt.join()",
            "2\n",
        ),
        ("import subprocess\nsubprocess.run(['echo', '3'])", "3\n"),
        ("!echo 4", "4\n"),
        ("%timeit -n1 -r1 5", "ns"),
        (
            "import multiprocessing as mp\n"
            "with mp.get_context('fork').Pool(1) as p: print(p.map(abs, [-6]))",
            "[6]",
        ),
        (
            "import multiprocessing as mp\n"
            "with mp.get_context('spawn').Pool(1) as p: print(p.map(abs, [-7]))",
            "[7]",
        ),
        (
            "import pickle\nclass Own:\n    x = 8\nprint(pickle.loads(pickle.dumps(Own())).x)",
            "8\n",
        ),
        ("import inspect\ndef nine(): return 9\nprint(inspect.getsource(nine))", "return 9"),
        ("import faulthandler\nfaulthandler.enable()\nprint(faulthandler.is_enabled())", "True"),
        (
            "import signal\nsignal.signal(signal.SIGUSR2, lambda *_: print('usr2'))\n"
            "signal.raise_signal(signal.SIGUSR2)",
            "usr2\n",
        ),
        ("import os\nos.system('echo 12')", "12\n"),
        ("import ctypes\nctypes.CDLL(None).puts(b'13')\nctypes.CDLL(None).fflush(None)", "13\n"),
        ("import logging\nlogging.warning('x')\nprint('fine')", "fine\n"),
        ("from IPython import get_ipython\nprint(type(get_ipython()).__name__)", "Shell"),
    ],
)
async def test_what_a_cell_can_do_it_can_do_in_a_fork(
    sessions: Sessions, code: str, expected: str
) -> None:
    assert expected in await printed(sessions, await new(sessions), code)


async def test_a_debugger_is_there_when_it_is_asked_for(sessions: Sessions) -> None:
    session = await new(sessions)
    assert session.kernel is not None
    ask = session.kernel.channels.ask
    request = {"type": "request", "seq": 1, "command": "debugInfo", "arguments": {}}
    reply = await ask("control", "debug_request", request, deadline=HANG)
    assert reply["success"]
    assert (
        "debugger"
        in (await ask("control", "kernel_info_request", {}, deadline=HANG))["supported_features"]
    )


async def test_siblings_draw_different_random_numbers(config: Config) -> None:
    async with Sessions(replace(config, preloads=("numpy", "random", "uuid"))) as sessions:
        code = (
            "import random, uuid, secrets, numpy as np\n"
            "print(random.random(), np.random.random(), uuid.uuid4(), secrets.token_hex())"
        )
        drawn = [(await printed(sessions, await new(sessions), code)).split() for _ in range(3)]
        for column in zip(*drawn, strict=True):
            assert len(set(column)) == 3, column


async def test_a_figure_of_a_preloaded_pyplot_shows(config: Config) -> None:
    async with Sessions(replace(config, preloads=("matplotlib.pyplot",))) as sessions:
        session = await new(sessions)
        code = "import matplotlib.pyplot as plt; plt.plot([1, 2])"
        run = await sessions.run(session, code)
        assert await run.wait(HANG)
        shown = [o for o in run.snapshot().outputs if isinstance(o, Display)]
        assert any("image/png" in o.data and o.metadata[SAVED] for o in shown)


async def test_a_fresh_session_has_a_process_of_its_own(sessions: Sessions) -> None:
    forked = [await new(sessions) for _ in range(2)]
    fresh = await new(sessions, fresh=True)
    hashes = [await printed(sessions, s, "print(hash('x'))") for s in (*forked, fresh)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert (await sessions.health(fresh)).start == "spawn"
    await fresh.restart()
    assert (await sessions.health(fresh)).start == "spawn"


async def test_kernels_go_on_when_the_fork_server_is_killed(sessions: Sessions) -> None:
    session = await new(sessions)
    await printed(sessions, session, "x = 1")
    gone = fork_server_pid(session)
    os.kill(gone, signal.SIGKILL)
    assert await printed(sessions, session, "print(x)") == "1\n"
    another = await new(sessions)
    assert fork_server_pid(another) != gone
    run = await sessions.run(session, "import os; os._exit(3)")
    assert await run.wait(HANG)
    assert run.snapshot().status is ExecutionStatus.DIED
    await session.restart()
    assert await printed(sessions, session, "print(2)") == "2\n"


async def test_a_creation_that_meets_a_fork_server_just_killed_succeeds(
    sessions: Sessions,
) -> None:
    session = await new(sessions)
    for _ in range(5):
        server = sessions._kernels.engine._servers._server
        assert server is not None
        os.kill(server.pid, signal.SIGKILL)  # nothing is awaited: we can't have noticed yet
        assert not server.is_closed
        another = await new(sessions)
        assert await printed(sessions, another, "print(1)") == "1\n"
    assert await printed(sessions, session, "print(2)") == "2\n"


async def test_an_exit_code_comes_through_the_fork_server(sessions: Sessions) -> None:
    session = await new(sessions)
    run = await sessions.run(session, "import os; os._exit(7)")
    assert await run.wait(HANG)
    error = run.snapshot().error
    assert error is not None
    assert "exit code 7" in error.message


async def test_nothing_is_left_when_the_service_ends(config: Config) -> None:
    async with Sessions(replace(config, warm=2)) as sessions:
        await sessions.wait_until_warm()
        session = await new(sessions)
        server = psutil.Process(fork_server_pid(session))
        family = [server, *server.children(recursive=True)]
    _, alive = psutil.wait_procs(family, timeout=HANG)
    assert not alive


async def test_the_fork_server_ends_its_kernels_when_the_service_was_killed(
    config: Config, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, os, sys\nfrom pathlib import Path\n"
        "from kernelry import Config, Sessions, SessionSpec\n"
        "async def main():\n"
        "    config = Config(state_dir=Path(sys.argv[1]), state_dir_named=True, warm=0,\n"
        "        workspace=Path(sys.argv[2]), kernel_start='fork', preloads=(),\n"
        "        orphan_timeout=0.5)\n"
        "    async with Sessions(config) as sessions:\n"
        "        session = await sessions.create(SessionSpec(id='a'))\n"
        "        await sessions.run(session, 'while True: pass')\n"
        "        print(session.kernel.process.pid, flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "asyncio.run(main())\n",
        encoding="utf-8",
    )
    import sys

    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        str(config.state_dir),
        str(config.workspace),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    kernel = psutil.Process(int(await process.stdout.readline()))
    server = kernel.parent()
    assert server is not None
    process.kill()
    await process.wait()
    _, alive = psutil.wait_procs([kernel, server], timeout=HANG)
    assert not alive


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        (
            "starts_a_thread",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()",
            "thread",
        ),
        ("raises", "raise RuntimeError('no')", "RuntimeError: no"),
        ("crashes", "import os; os._exit(9)", "died"),
        ("is_not_there", None, "No module named"),
    ],
)
async def test_a_preload_that_can_not_be_had_is_named_and_left_out(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    source: str | None,
    reason: str,
) -> None:
    if source is not None:
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with Sessions(replace(config, preloads=("fractions", module, "colorsys"))) as sessions:
        started = sessions.fork_server
        assert started is not None
        assert started.preloaded == ["fractions", "colorsys"]
        assert reason in started.refused[module]
        code = "import sys; print('colorsys' in sys.modules)"
        assert await printed(sessions, await new(sessions), code) == "True\n"


async def test_a_preloaded_package_can_be_replaced_in_a_session(config: Config) -> None:
    async with Sessions(replace(config, preloads=("packaging.version",))) as sessions:
        session = await new(sessions)
        report = await session.install(["packaging==23.2"], timeout=300)
        assert report.installation.returncode == 0, report.installation.stderr
        assert report.stale_modules == ("packaging",)
        await session.restart()
        code = "import packaging; print(packaging.__version__)"
        assert await printed(sessions, session, code) == "23.2\n"
        assert (await sessions.health(session)).start == "spawn"


async def test_many_creations_and_deletions_at_once_leave_nothing(sessions: Sessions) -> None:
    dice = random.Random(7)

    async def one() -> None:
        session = await new(sessions)
        if dice.random() < 0.5:
            run = await sessions.run(session, "1")
            assert await run.wait(HANG)
        await sessions.delete(session.id)

    server = psutil.Process(fork_server_pid(await new(sessions)))
    await asyncio.gather(*(one() for _ in range(50)))
    children = server.children()
    assert len(children) == 1
    assert all(child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert len(sessions.list()) == 2
