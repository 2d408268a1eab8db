"""A kernel does not start, or takes its time."""

import asyncio
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from kernelry import Config, KernelState, Sessions, SessionSpec
from kernelry.engines.local import LocalEngine
from kernelry.errors import KernelStartError

from .conftest import Bystander
from .kernels import HANG, pid_of, restarted, until, value
from .matrix import fault

Switch = Callable[[str], None]


@pytest.fixture
def switch(tmp_path: Path) -> Switch:
    """What the interpreter of the kernels does before it is one; empty: nothing."""
    before = tmp_path / "interpreter" / "before.sh"
    before.parent.mkdir()

    def turn(commands: str) -> None:
        before.write_text(commands, encoding="utf-8")

    turn("")
    return turn


@pytest.fixture
def config(config: Config, switch: Switch, tmp_path: Path) -> Config:
    """Kernels that are fresh processes of an interpreter that can be broken."""
    folder = tmp_path / "interpreter"
    python = folder / "python"
    words = (". ", str(folder / "before.sh"), f'\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.write_text("#!/bin/sh\n" + "".join(words), encoding="utf-8")
    python.chmod(0o755)
    reads = (folder,)  # what it runs is read within the walls
    return replace(config, python=python, kernel_start="spawn", warm=0, allow_read=reads)


async def family(sessions: Sessions) -> set[int]:
    """Return the processes of this service, with the one that looks after its kernels."""
    await sessions.wait_until_warm()
    return processes()


def processes() -> set[int]:
    """Return what descends from us."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


async def check_nothing_is_left(sessions: Sessions, before: set[int], *ids: str) -> None:
    """Check that a start that failed left no process, session, directory or socket."""
    await until(lambda: processes() <= before, "what was started is gone")
    assert [session.id for session in sessions.list()] == ["default", "bystander", *ids]
    directories = {session.directory.name for session in sessions.list()}
    assert {path.name for path in (sessions.state_dir / "sessions").iterdir()} <= directories


@fault("B5")
@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("echo 'this is no Python' >&2; exit 3", r"exit code 3(.|\n)*this is no Python"),
        (f"exec {sys.executable} -I -S -c 'import ipykernel'", "No module named 'ipykernel'"),
        ("export PYTHONPATH=@", r"ImportError: broken on purpose"),
        ("kill -KILL $$", "SIGKILL"),
    ],
    ids=["no python", "no ipykernel", "broken ipykernel", "killed"],
)
async def test_a_kernel_that_dies_during_its_start_is_quoted_and_nothing_is_left(
    sessions: Sessions, switch: Switch, broken: str, reason: str
) -> None:
    shadow = sessions.workspace.root / "shadow" / "ipykernel"  # where kernels can read it
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").write_text("raise ImportError('broken on purpose')", encoding="utf-8")
    other = await sessions.create(SessionSpec(id="other"))
    before = await family(sessions)
    switch(broken.replace("@", str(shadow.parent)))
    with pytest.raises(KernelStartError, match=reason):
        await sessions.create(SessionSpec(id="s"))
    await check_nothing_is_left(sessions, before, "other")
    with pytest.raises(KernelStartError, match=reason):
        await other.restart()
    assert other.kernel_state is KernelState.NOT_STARTED
    switch("")
    assert await value(sessions, other, "1+1") == "2"
    assert await value(sessions, await sessions.create(SessionSpec(id="s")), "1+1") == "2"


@fault("B6")
async def test_a_slow_start_is_waited_for(
    sessions: Sessions, bystander: Bystander, switch: Switch, tmp_path: Path
) -> None:
    go = tmp_path / "interpreter" / "go"
    switch(f"while ! [ -e {go} ]; do sleep 0.05; done")
    creating = asyncio.create_task(sessions.create(SessionSpec(id="s")))
    seen = len(bystander.latencies)
    await until(lambda: len(bystander.latencies) > seen + 20, "a neighbour goes on")
    assert not creating.done()
    go.touch()
    assert await value(sessions, await creating, "1+1") == "2"


@fault("B6")
@pytest.mark.usefixtures("bystander")
@pytest.mark.parametrize("stuck", ["exec sleep 1000", "kill -STOP $$"], ids=["silent", "halted"])
async def test_a_kernel_that_never_gets_ready_is_given_up_and_gone(
    sessions: Sessions, switch: Switch, monkeypatch: pytest.MonkeyPatch, stuck: str
) -> None:
    defaults = {"fresh": False, "deadline": 0.5}
    monkeypatch.setattr(LocalEngine.start, "__kwdefaults__", defaults)
    before = await family(sessions)
    switch(stuck)
    with pytest.raises(KernelStartError, match=r"took longer than 0.5 s"):
        await sessions.create(SessionSpec(id="s"))
    await check_nothing_is_left(sessions, before)


@fault("B6")
@pytest.mark.usefixtures("bystander")
async def test_a_start_that_nobody_waits_for_any_more_leaves_nothing(
    sessions: Sessions, switch: Switch
) -> None:
    before = await family(sessions)
    switch("exec sleep 1000")
    creating = asyncio.create_task(sessions.create(SessionSpec(id="s")))
    await until(lambda: processes() > before, "it is being started")
    creating.cancel()
    await asyncio.wait([creating], timeout=HANG)
    assert creating.cancelled()
    await check_nothing_is_left(sessions, before)


@fault("B8")
async def test_kernels_that_die_at_each_start_fail_one_by_one_and_the_pool_gives_up(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    forked = replace(config, python=Path(sys.executable), kernel_start="fork", warm=1)
    async with Sessions(forked) as sessions:
        await sessions.wait_until_warm()
        kept = await sessions.create(SessionSpec(id="kept"))
        await sessions.wait_until_warm()
        root, away = sessions.workspace.root, config.workspace.with_name("away")
        root.rename(away)
        root.touch()  # where each kernel changes to as it starts
        assert await value(sessions, kept, "1+1") == "2"
        for number in range(5):  # the first may be given the warm one
            try:
                await sessions.create(SessionSpec(id=f"s{number}"))
            except KernelStartError as error:
                assert "FileExistsError" in str(error)
        assert len(sessions.list()) <= 3
        await until(lambda: "the pool gives up" in caplog.text, "the pool gives up")
        assert caplog.text.count("a warm kernel did not start") == 3
        assert await value(sessions, kept, "1+1") == "2"
        root.unlink()
        away.rename(root)
        assert await value(sessions, await sessions.create(SessionSpec(id="new")), "1+1") == "2"
        psutil.Process(pid_of(kept)).send_signal(signal.SIGKILL)
        await until(lambda: kept.kernel_state is KernelState.DEAD, "it is dead")
        await restarted(sessions, kept)
