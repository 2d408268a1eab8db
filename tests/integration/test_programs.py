"""Programs that the server runs end in time, with all they have started, whatever happens."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from kernelry import Config
from kernelry.launching.isolation import Levels
from kernelry.programs import run_program, waiting_program
from tests.attacks.conftest import need
from tests.attacks.world import Level

HANG = 60.0  # seconds after which a test is stuck
SLEEP = ["/bin/sh", "-c", "echo started; exec sleep 61"]


def of_ours(argument: str) -> list[psutil.Process]:
    """Return the processes of this machine that were told something."""
    return [p for p in psutil.process_iter(["cmdline"]) if argument in (p.info["cmdline"] or ())]


@pytest.mark.parametrize("level", ["process", "guard", "box"])
async def test_a_program_behind_walls_ends_in_time(level: Level, tmp_path: Path) -> None:
    await asyncio.to_thread(need, level)
    walls = await Levels(tmp_path).choose(Config(isolation=level))
    mark = str(tmp_path)
    argv = walls.confine([*SLEEP, mark], cwd=tmp_path, reads=(), writes=[tmp_path])
    async with asyncio.timeout(HANG):
        done = await run_program(argv, cwd=tmp_path, timeout=5)
    assert (done.returncode, done.stdout) == (-9, "started\n")
    assert done.stderr == "\n[killed: it took longer than 5 s]"
    assert not of_ours(mark)


@pytest.mark.parametrize("level", ["process", "guard", "box"])
async def test_a_program_that_waits_and_is_not_told_ends(level: Level, tmp_path: Path) -> None:
    await asyncio.to_thread(need, level)
    walls = await Levels(tmp_path).choose(Config(isolation=level))
    argv = walls.confine(["-"], cwd=tmp_path, reads=[tmp_path], writes=())
    async with asyncio.timeout(HANG):
        async with waiting_program(argv, cwd=tmp_path):
            pass
        async with waiting_program(argv, cwd=tmp_path) as waiting:
            done = await waiting.run(["/bin/sh", "-c", "echo told; exit 3"], timeout=HANG)
    assert (done.returncode, done.stdout, done.stderr) == (3, "told\n", "")
    assert not of_ours(str(tmp_path))


async def test_what_has_left_a_program_and_holds_its_output_is_not_waited_for() -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "print('left behind', flush=True)\n"
        "subprocess.Popen(['sleep', '62.0625'], start_new_session=True)"
    )
    try:
        async with asyncio.timeout(HANG):
            done = await run_program([sys.executable, "-c", code], timeout=5)
    finally:
        for left in of_ours("62.0625"):
            left.kill()
    assert (done.returncode, done.stdout) == (0, "left behind\n")
    assert "what it has left running took longer than 5 s" in done.stderr


@pytest.mark.parametrize("steps", range(12))
async def test_a_program_whose_start_is_cancelled_again_and_again_leaves_nothing(
    steps: int,
) -> None:
    """Each start is cut off a step of the loop later than the one before."""
    before = psutil.Process().children()
    running = asyncio.create_task(run_program(SLEEP, timeout=HANG))
    for _ in range(steps):
        await asyncio.sleep(0)
    running.cancel()
    while not running.done():
        await asyncio.sleep(0)
        running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert psutil.Process().children() == before


async def test_a_program_that_is_not_there_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        await run_program(["/is/not/there"], timeout=HANG)
