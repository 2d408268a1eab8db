"""T23: what sessions can write is never trusted: not an interpreter, not a path for modules.

The poison is what a start runs before its first line: a ``.pth`` file, ``sitecustomize``. It
says where it ran, and tries to write outside. Who looks is the test.
"""

import asyncio
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Config, Session, Sessions, SessionSpec
from kernelry.errors import InvalidArgumentError, KernelStartError
from kernelry.output.fold import stream_text
from kernelry.scripts import run_script
from tests.attacks.conftest import need
from tests.attacks.test_ordinary_user import copy, copy_interpreter
from tests.attacks.world import Level
from tests.package_index import serving, wheel

HANG = 60.0
LIBRARY = "python{}.{}".format(*sys.version_info)
POISON = """\
import os
for folder in (%(inside)r, %(outside)r):
    try:
        with open(f"{folder}/{os.getpid()}", "w") as file:
            file.write(open("/proc/self/cmdline").read().replace("\\0", " "))
    except OSError:
        pass
"""


LEVELS: tuple[Level, ...] = ("process", "guard", "box")


class Marks:
    """Where poison that ran leaves word: within the walls, and outside of them."""

    def __init__(self, root: Path) -> None:
        self.inside, self.outside = root / "workspace" / "ran", root / "outside"
        self.inside.mkdir(parents=True)
        self.outside.mkdir()

    @property
    def poison(self) -> str:
        """Code that leaves word."""
        return POISON % {"inside": str(self.inside), "outside": str(self.outside)}

    def check(self, level: Level) -> None:
        """See that the poison is real, and that no wall let it through."""
        assert list(self.inside.iterdir())
        through = [path.read_text() for path in self.outside.iterdir()]
        assert through if level == "process" else not through, through


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    """Nothing has run yet."""
    return Marks(tmp_path)


def project_environment(folder: Path, *options: str) -> Path:
    """Make a project's own environment with our packages; return its interpreter."""
    base = Path(sys.executable).resolve()
    subprocess.run([base, "-m", "venv", "--without-pip", *options, folder], check=True)
    site = folder / "lib" / LIBRARY / "site-packages"
    shutil.rmtree(site)
    [packages] = {p for p in sys.path if p.endswith("site-packages") and p.startswith(sys.prefix)}
    copy(Path(packages), site)
    return folder / "bin" / "python"


def poison(python: Path, marks: Marks) -> None:
    """Have an interpreter run something before all else."""
    site = python.parents[1] / "lib" / LIBRARY / "site-packages"
    (site / "first.pth").write_text("import poison\n")
    (site / "poison.py").write_text(marks.poison)


async def printed(sessions: Sessions, session: Session, code: str) -> str:
    """Run a cell; return what it printed."""
    running = await sessions.run(session, code)
    assert await running.wait(HANG)
    done = running.snapshot()
    assert done.status == "completed", done.error
    return stream_text(done.outputs, "stdout")


async def use(sessions: Sessions, session: Session) -> None:
    """Do all that starts an interpreter."""
    assert await printed(sessions, session, "print(6 * 7)") == "42\n"
    await session.restart()
    assert await printed(sessions, session, "print(6 * 7)") == "42\n"
    (sessions.workspace.root / "scripts" / "hello.py").write_text("print('hello')")
    assert (await run_script(session, "hello.py", (), timeout=HANG)).returncode == 0
    done = (await session.install(["tiny"], timeout=HANG)).installation
    assert done.installed == ("tiny==1.0",), done.stderr
    assert await printed(sessions, session, "import tiny; print(tiny.value)") == "1.0\n"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("whose", ["server", "session"])
async def test_an_interpreter_in_the_workspace_works_and_what_it_starts_with_runs_within_the_walls(
    config: Config, marks: Marks, level: Level, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(need, level)
    monkeypatch.setenv("UV_CACHE_DIR", str(config.state_dir.with_name("uv-cache")))
    python = project_environment(config.workspace / ".venv")
    poison(python, marks)
    told = replace(config, isolation=level, kernel_start="auto")
    wanted = SessionSpec(id="a", python=str(python) if whose == "session" else "")
    with serving(wheel("tiny")) as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        told = replace(told, python=python) if whose == "server" else told
        async with Sessions(told) as sessions:
            session = await sessions.create(wanted)
            await use(sessions, session)
            assert (await sessions.health(session)).python == str(python)
            await sessions.wait_until_warm()
    marks.check(level)


@pytest.mark.parametrize("level", ["guard", "box"])
async def test_a_whole_installation_in_the_workspace_is_run_within_the_walls_only(
    config: Config, marks: Marks, level: Level
) -> None:
    """Not only an environment of one that lies elsewhere, but the program itself."""
    await asyncio.to_thread(need, level)
    own = config.workspace / "base"
    copy_interpreter(Path(sys.executable).resolve().parents[1], own)
    python = own / "bin" / LIBRARY
    site = own / "lib" / LIBRARY / "site-packages"
    [packages] = {p for p in sys.path if p.endswith("site-packages") and p.startswith(sys.prefix)}
    copy(Path(packages), site)
    (site / "first.pth").write_text("import poison\n")
    (site / "poison.py").write_text(marks.poison)
    async with Sessions(replace(config, isolation=level, kernel_start="auto")) as sessions:
        session = await sessions.create(SessionSpec(id="a", python=str(python)))
        assert await printed(sessions, session, "print(6 * 7)") == "42\n"
    marks.check(level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("start", ["fork", "spawn"])
async def test_a_path_for_modules_in_the_workspace_is_for_kernels_and_not_for_what_forks_them(
    config: Config, marks: Marks, level: Level, start: str
) -> None:
    await asyncio.to_thread(need, level)
    source = config.workspace / "src"
    source.mkdir()
    (source / "sitecustomize.py").write_text(marks.poison)
    (source / "own.py").write_text("value = 7")
    told = replace(config, isolation=level, kernel_env=(f"PYTHONPATH={source}",))
    told = replace(told, kernel_start="spawn" if start == "spawn" or level == "box" else "fork")
    async with Sessions(told) as sessions:
        await sessions.wait_until_warm()
        session = await sessions.create(SessionSpec(id="a"))
        assert await printed(sessions, session, "import own; print(own.value)") == "7\n"
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', '0'])"
        await printed(sessions, session, code)
    marks.check(level)


async def test_no_fork_server_is_made_of_an_interpreter_that_sessions_can_change(
    config: Config,
) -> None:
    await asyncio.to_thread(need, "guard")
    python = project_environment(config.workspace / ".venv")
    told = replace(config, isolation="guard", python=python, kernel_start="fork")
    with pytest.raises(KernelStartError, match="--kernel-start=fork"):
        async with Sessions(told):
            pass


async def test_what_a_changeable_interpreter_says_opens_nothing(
    config: Config, tmp_path: Path
) -> None:
    """It may name any folder as its own: that one is not readable by it."""
    await asyncio.to_thread(need, "guard")
    secret = tmp_path / "secret"
    secret.mkdir()
    liar = config.workspace / "bin" / "python"
    liar.parent.mkdir(parents=True)
    liar.write_text(
        "#!/bin/sh\n"
        f"""echo '[[3, 11, 7], "7.0", [], ["{secret}"]]'\n"""
    )
    liar.chmod(0o755)
    async with Sessions(replace(config, isolation="guard", kernel_start="auto")) as sessions:
        with pytest.raises(InvalidArgumentError, match=f"--allow-read {secret}"):
            await sessions.create(SessionSpec(id="a", python=str(liar)))
