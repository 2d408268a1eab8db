"""The environment of a session: where installations land, what they change, what they need."""

import asyncio
import hashlib
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Config, Execution, Isolation, Session, Sessions, SessionSpec
from kernelry.output.fold import stream_text
from tests.package_index import Index, in_use, sdist, wheel

HANG = 120.0  # seconds
WAYS = {
    "one": "%pip install -q one",
    "two": "!pip install -q two",
    "three": "!uv pip install -q three",
    "four": "!{sys.executable} -m pip install -q four",
    "five": "!{sys.executable} {sys.prefix}/lib/kernelry/pip install -q five",  # without pip
    "six_": "subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', 'six_'], check=True)",
}
EXTRAS = [f"extra{number}" for number in range(5)]
BACKEND = """\
import pathlib, zipfile
pathlib.Path({canary!r}).touch()

def build_wheel(directory, settings=None, metadata=None):
    info = "built-1.0.dist-info"
    name = "built-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(directory) / name, "w") as archive:
        archive.writestr("built.py", "value = 1")
        archive.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: built\\nVersion: 1.0\\n")
        archive.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{{info}}/RECORD", "")
    return name
"""  # noqa: E501


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    """An index that uv and pip use, here and in kernels."""
    files: dict[str, bytes] = {}
    for name in (*WAYS, *EXTRAS, "tiny"):
        files |= wheel(name)
    with in_use(files, monkeypatch, tmp_path) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
        yield index


@pytest.fixture
async def service(index: Index, config: Config) -> AsyncIterator[Sessions]:
    """A service that installs from the index."""
    names = ("PIP_INDEX_URL", "PIP_CONFIG_FILE", "UV_DEFAULT_INDEX")
    async with Sessions(replace(config, kernel_env=names)) as sessions:
        yield sessions


async def run(sessions: Sessions, session: Session, code: str) -> str:
    """Run code that must work and return what it printed."""
    done = await outcome(sessions, session, code)
    assert done.status == "completed", (done.error, stream_text(done.outputs, "stdout"))
    return stream_text(done.outputs, "stdout")


async def outcome(sessions: Sessions, session: Session, code: str) -> Execution:
    running = await sessions.run(session, code)
    assert await running.wait(HANG)
    return running.snapshot()


async def own(session: Session) -> dict[str, str]:
    """Return what a session has installed itself."""
    return {item.name: item.version for item in await session.packages() if item.own}


async def install(session: Session, *packages: str) -> tuple[str, ...]:
    """Install what must be installable, and return what is new."""
    done = (await session.install(packages, timeout=HANG)).installation
    assert done.returncode == 0, done.stderr
    return done.installed


def state_of(folder: Path) -> str:
    """Return a hash of all files of a tree, but not of bytecode."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if "__pycache__" not in path.parts:
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and status.st_size < 10_000 else b""
            found.update(f"{path} {status.st_mode} {status.st_size}".encode() + content)
    return found.hexdigest()


async def test_whatever_way_a_cell_installs_it_lands_in_its_session(service: Sessions) -> None:
    before = state_of(Path(sys.prefix))
    session = await service.create(SessionSpec(id="a"))
    await run(service, session, "import subprocess, sys")
    for number, (name, code) in enumerate(WAYS.items(), 1):
        said = await run(service, session, code)
        assert len(await own(session)) == number, (code, said)
        assert await run(service, session, f"import {name}; print({name}.value)") == "1.0\n"
    assert state_of(Path(sys.prefix)) == before
    other = await service.create(SessionSpec(id="b"))
    assert await own(other) == {}
    assert "ModuleNotFoundError" in str((await outcome(service, other, "import one")).error)


async def test_files_by_the_names_of_libraries_keep_nobody_from_installing(
    service: Sessions,
) -> None:
    session = await service.create(SessionSpec(id="a"))
    for name in ("random", "json", "email", "pip"):
        (service.workspace.root / f"{name}.py").write_text("raise RuntimeError('shadowed')")
    for code in ("%pip install -q one", "!pip install -q two"):
        await run(service, session, code)
    assert sorted(await own(session)) == ["one", "two"]


async def test_processes_of_a_session_see_its_packages_and_the_interpreters(
    service: Sessions,
) -> None:
    session = await service.create(SessionSpec(id="a"))
    show = "(__import__('tiny').value, __import__('ipykernel').__name__, __import__('sys').prefix)"
    code = (
        "import multiprocessing, subprocess, sys\n"
        f"show = {show!r}\n"
        "with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "    print(pool.apply(eval, (show,)))\n"
        "for python in (sys.executable, 'python'):\n"
        "    program = [python, '-c', f'print({show})']\n"
        "    print(subprocess.check_output(program, text=True).strip())\n"
    )
    assert await install(session, "tiny") == ("tiny==1.0",)
    seen = (await run(service, session, code)).splitlines()
    assert seen == [str(("1.0", "ipykernel", str(session.environment.prefix)))] * 3


async def test_the_servers_environment_is_the_same_after_twenty_installations(
    service: Sessions,
) -> None:
    dice = random.Random(20)
    before = state_of(Path(sys.prefix))
    found = [await service.create(SessionSpec(id=f"s{number}")) for number in range(3)]
    for _ in range(20):
        await install(dice.choice(found), *dice.sample(EXTRAS, dice.randint(1, 3)))
    assert state_of(Path(sys.prefix)) == before
    assert any([await own(session) for session in found])


async def test_only_what_the_interpreter_and_the_session_lack_is_installed(
    service: Sessions, index: Index
) -> None:
    index.files |= wheel("plots", requires=("pandas", "matplotlib>=3", "tiny", "extra0"))
    index.files |= wheel("tiny", "2.0")
    session = await service.create(SessionSpec(id="a"))
    assert await install(session, "tiny<2") == ("tiny==1.0",)
    # What the session has in a fitting version stays as it is.
    assert sorted(await install(session, "plots")) == ["extra0==1.0", "plots==1.0"]
    assert await install(session, "plots", "tiny") == ()
    assert await install(session, "tiny>=2") == ("tiny==2.0",)
    assert await own(session) == {"extra0": "1.0", "plots": "1.0", "tiny": "2.0"}
    assert not [name for name in index.asked if name.startswith(("pandas", "matplotlib"))]


async def test_an_exact_version_that_is_cached_needs_no_index(
    service: Sessions, index: Index
) -> None:
    first, second = [await service.create(SessionSpec(id=name)) for name in "ab"]
    await install(first, "tiny==1.0")
    index.looked_up.clear()
    assert await install(second, "Tiny == 1.0") == ("tiny==1.0",)
    assert await install(second, "tiny==1.0") == ()
    assert index.looked_up == []


async def test_what_an_exact_version_needs_is_looked_up_though_some_of_it_is_cached(
    service: Sessions, index: Index
) -> None:
    index.files |= wheel("plots", requires=("tiny",))
    first, second = [await service.create(SessionSpec(id=name)) for name in "ab"]
    await install(first, "plots==1.0")
    index.files |= wheel("tiny", "2.0")
    assert sorted(await install(second, "plots==1.0")) == ["plots==1.0", "tiny==2.0"]


async def test_a_new_version_leaves_nothing_of_the_old_one(service: Sessions, index: Index) -> None:
    old = {"pack/__init__.py": "", "pack/gone.py": "", "left/behind.py": "", "pack/kept.py": "a=1"}
    index.files |= wheel("pack", "1.0", old)
    index.files |= wheel("pack", "2.0", {"pack/__init__.py": "", "pack/kept.py": "a=2"})
    session = await service.create(SessionSpec(id="a"))
    await install(session, "pack==1.0")
    await run(service, session, "!python -c 'import pack.gone, pack.kept, left.behind'")
    await install(session, "pack==2.0")
    site = session.environment.site
    found = sorted(str(p.relative_to(site)) for p in site.rglob("*.py"))
    assert found == ["pack/__init__.py", "pack/kept.py"]
    assert not (site / "left").exists()
    await run(service, session, "import pack.kept; assert pack.kept.a == 2")


async def test_a_package_changed_by_one_session_is_whole_in_the_next(service: Sessions) -> None:
    first = await service.create(SessionSpec(id="a"))
    await install(first, "tiny")
    await run(service, first, "import tiny; open(tiny.__file__, 'w').write('value = 666')")
    second = await service.create(SessionSpec(id="b"))
    await install(second, "tiny")
    assert await run(service, second, "import tiny; print(tiny.value)") == "1.0\n"


async def test_scripts_of_a_package_run_in_the_session(service: Sessions, index: Index) -> None:
    entry = {
        "tool.py": "def main(): import sys; print(sys.prefix)\n",
        "tool-1.0.dist-info/entry_points.txt": "[console_scripts]\nmy-tool = tool:main\n",
    }
    index.files |= wheel("tool", files=entry)
    session = await service.create(SessionSpec(id="a"))
    await install(session, "tool")
    assert await run(service, session, "!my-tool") == f"{session.environment.prefix}\n"


async def test_a_package_without_a_wheel_is_built_only_if_that_is_allowed(
    config: Config, index: Index, tmp_path: Path
) -> None:
    canary = tmp_path / "canaries" / "built"
    canary.parent.mkdir()
    system = "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    files = {"pyproject.toml": system, "backend.py": BACKEND.format(canary=str(canary))}
    index.files |= sdist("built", files)
    async with Sessions(config) as sessions:
        done = await sessions.get("default").install(["built"], timeout=HANG)
        assert done.installation.returncode != 0
        assert "--allow-sdist" in done.installation.stderr
        assert not canary.exists()
        unknown = await sessions.get("default").install(["unheard-of"], timeout=HANG)
        assert "--allow-sdist" not in unknown.installation.stderr
    allowed = replace(config, allow_sdist=True)
    async with Sessions(allowed) as sessions:
        done = await sessions.get("default").install(["built"], timeout=HANG)
        is_walled = sessions.walls.isolation is not Isolation.PROCESS
        assert (str(canary) in done.installation.stderr) == is_walled
        assert canary.exists() != is_walled  # it ran, behind the walls of an installation
    async with Sessions(replace(allowed, allow_write=(canary.parent,))) as sessions:
        assert await install(sessions.get("default"), "built") == ("built==1.0",)
        assert canary.exists()


async def test_installations_of_one_session_wait_for_each_other_those_of_two_do_not(
    service: Sessions, index: Index
) -> None:
    index.files |= wheel("slow")
    index.held = {"slow"}
    index.may_send.clear()
    first, second = [await service.create(SessionSpec(id=name)) for name in "ab"]
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(install(first, "slow"))
        assert await asyncio.to_thread(index.was_asked.wait, HANG)
        queued = group.create_task(install(first, "tiny"))
        assert await install(second, "tiny", "extra0") == ("extra0==1.0", "tiny==1.0")
        assert not slow.done() and not queued.done()
        assert await own(first) == {}
        index.may_send.set()
    assert await own(first) == {"slow": "1.0", "tiny": "1.0"}


async def test_a_cancelled_installation_changes_nothing(service: Sessions, index: Index) -> None:
    session = await service.create(SessionSpec(id="a"))
    await install(session, "extra0")
    before = state_of(session.environment.prefix)
    index.files |= wheel("slow")
    index.may_send.clear()
    index.was_asked.clear()
    installing = asyncio.create_task(install(session, "slow"))
    assert await asyncio.to_thread(index.was_asked.wait, HANG)
    assert "install slow" in session.environment.log.path.read_text()
    installing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await installing
    assert state_of(session.environment.prefix) == before
    assert not list((service.state_dir / "installs").glob("*/env"))
    index.may_send.set()
    assert await install(session, "slow") == ("slow==1.0",)


async def test_the_log_of_installations_is_bounded(service: Sessions, index: Index) -> None:
    session = await service.create(SessionSpec(id="a"))
    log = session.environment.log.path
    log.write_text("x" * (1 << 20))
    await install(session, "tiny")
    text = log.read_text()
    assert len(text) <= 256 << 10
    assert "install tiny" in text and "+ tiny==1.0" in text


async def test_packages_are_installed_and_listed_without_a_kernel(service: Sessions) -> None:
    session = service.get("default")
    assert {"ipykernel", "pandas"} <= {item.name for item in await session.packages()}
    await install(session, "tiny")
    assert await own(session) == {"tiny": "1.0"}
    assert session.kernel is None
    assert await run(service, session, "import tiny; print(tiny.value)") == "1.0\n"


async def test_the_environment_goes_with_its_session(service: Sessions) -> None:
    session = await service.create(SessionSpec(id="a"))
    await install(session, "tiny")
    await service.delete("a")
    assert not session.environment.prefix.exists()
