"""Builds from source: what they need, what they get, and where their wheels go."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Config, Session, Sessions, SessionSpec
from tests.acceptance.harness import until
from tests.package_index import Index, buildable, in_use, sdist, wheel

HANG = 120.0  # seconds
#: a build that makes its wheel of what a tool of its says, found only where that is installed
BY_A_TOOL = """
import tool
(out / "made-1.0-py3-none-any.whl").write_bytes(tool.wheel)
"""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Index]:
    """An index that uv uses."""
    with in_use(wheel("tiny"), monkeypatch, tmp_path) as index:
        yield index


@pytest.fixture
async def service(index: Index, config: Config) -> AsyncIterator[Sessions]:
    """A service that builds."""
    async with Sessions(replace(config, allow_sdist=True)) as sessions:
        yield sessions


async def install(session: Session, *packages: str) -> tuple[str, ...]:
    """Install what must be installable, and return what is new."""
    done = (await session.install(packages, timeout=HANG)).installation
    assert done.returncode == 0, (done.stderr, session.environment.log.path.read_text())
    return done.installed


async def refused(session: Session, *packages: str) -> str:
    """Install what can't be installed, and return what is said of it."""
    before = await own(session)
    done = (await session.install(packages, timeout=HANG)).installation
    assert done.returncode != 0 and not done.installed
    assert await own(session) == before
    return done.stderr


async def own(session: Session) -> dict[str, str]:
    """Return what a session has installed itself."""
    return {item.name: item.version for item in await session.packages() if item.own}


def text_of(session: Session, module: str) -> str:
    """Return the text of a module that a session has installed."""
    return (session.environment.site / f"{module}.py").read_text()


def tool(**made: dict[str, bytes]) -> dict[str, str]:
    """Return the files of a tool that has what builds shall leave."""
    (data,) = made["wheel"].values()
    return {"tool.py": f"wheel = {data!r}\n"}


async def test_what_is_built_is_installed_with_what_it_needs(
    service: Sessions, index: Index
) -> None:
    index.files |= buildable("upper", wheel("upper", requires=("lower", "tiny")))
    index.files |= buildable("lower")
    index.files |= wheel("top", requires=("upper>=1",))
    session = service.get("default")
    assert sorted(await install(session, "top")) == [
        "lower==1.0", "tiny==1.0", "top==1.0", "upper==1.0",
    ]  # fmt: skip
    assert await install(session, "upper") == ()
    assert text_of(session, "lower") == "value = '1.0'\n"
    folder = service.state_dir / "installs"
    assert not [name for slot in folder.glob("*-[0-9]") for name in os.listdir(slot) if
                name not in ("view", "view.stamp")]  # fmt: skip


async def test_what_tells_its_metadata_beforehand_is_built_too(
    service: Sessions, index: Index
) -> None:
    index.files |= buildable(
        "frank", wheel("frank", requires=("tiny",)), static="Requires-Dist: tiny\n"
    )
    index.files |= buildable("other", static="Requires-Dist: frank\n")
    session = service.get("default")
    assert sorted(await install(session, "other", "frank")) == [
        "frank==1.0", "other==1.0", "tiny==1.0",
    ]  # fmt: skip


async def test_a_wheel_is_taken_before_a_newer_source(service: Sessions, index: Index) -> None:
    index.files |= wheel("both", "0.9") | buildable("both", code="raise SystemExit(1)")
    assert await install(service.get("default"), "both") == ("both==0.9",)


@pytest.mark.parametrize("made", [wheel, buildable])
async def test_a_build_gets_what_it_needs_as_a_wheel_or_by_another_build(
    service: Sessions, index: Index, made: object
) -> None:
    files = tool(wheel=wheel("made"))
    ready = wheel("tool", files=files, requires=("tiny",))
    index.files |= ready if made is wheel else buildable("tool", ready)
    index.files |= buildable("made", {}, code=BY_A_TOOL, needs=("tool>=1",))
    session = service.get("default")
    assert await install(session, "made") == ("made==1.0",)
    assert await own(session) == {"made": "1.0"}


async def test_a_build_gets_what_only_its_backend_knows_that_it_needs(
    service: Sessions, index: Index
) -> None:
    index.files |= wheel("tool", files=tool(wheel=wheel("made")))
    more = "def get_requires_for_build_wheel(settings=None): return ['Tool >= 1']\n"
    index.files |= buildable("made", {}, code=BY_A_TOOL, needs=("tiny",), more=more)
    assert await install(service.get("default"), "made") == ("made==1.0",)


async def test_what_says_nothing_of_its_build_is_built_by_setuptools(
    service: Sessions, index: Index
) -> None:
    (data,) = wheel("old").values()
    legacy = (
        "import os, pathlib\n"
        "class Legacy:\n"
        "    def build_wheel(self, out, settings=None, metadata=None):\n"
        "        assert os.path.exists('setup.py')\n"
        f"        (pathlib.Path(out) / 'old-1.0-py3-none-any.whl').write_bytes({data!r})\n"
        "__legacy__ = Legacy()\n"
    )
    files = {"setuptools/__init__.py": "", "setuptools/build_meta.py": legacy}
    index.files |= wheel("setuptools", "80.0", files)
    index.files |= sdist("old", {"setup.py": "raise SystemExit(1)\n"})
    assert await install(service.get("default"), "old") == ("old==1.0",)


async def test_two_sessions_build_for_themselves_and_the_cache_of_all_gets_nothing_of_it(
    service: Sessions, index: Index, tmp_path: Path
) -> None:
    code = (
        "import secrets\n"
        "data = base64.b64decode(WHEELS.popitem()[1])\n"
        "with zipfile.ZipFile(out / 'own-1.0-py3-none-any.whl', 'w') as made:\n"
        "    with zipfile.ZipFile(__import__('io').BytesIO(data)) as old:\n"
        "        for name in old.namelist():\n"
        "            text = {'own.py': secrets.token_hex()}.get(name, old.read(name))\n"
        "            made.writestr(name, b'' if name.endswith('RECORD') else text)\n"
    )
    index.files |= buildable("own", code=code)
    index.files |= wheel("above", requires=("own",))
    first, second = [await service.create(SessionSpec(id=name)) for name in "ab"]
    for session in (first, second):
        assert sorted(await install(session, "above")) == ["above==1.0", "own==1.0"]
    assert text_of(first, "own") != text_of(second, "own")
    cached = [path for path in (tmp_path / "uv-cache").rglob("*") if "own" in path.name]
    assert [path for path in cached if path.suffix not in (".rkyv",)] == []


async def test_a_build_goes_on_when_the_interpreter_s_file_is_touched_meanwhile(
    service: Sessions, index: Index
) -> None:
    touch = "python = os.path.realpath(sys.executable)\nos.chmod(python, os.stat(python).st_mode)"
    index.files |= buildable("lower", code=touch)
    index.files |= wheel("upper", requires=("lower",))
    assert sorted(await install(service.get("default"), "upper")) == ["lower==1.0", "upper==1.0"]


async def test_why_something_can_not_be_built_is_said(service: Sessions, index: Index) -> None:
    index.files |= buildable("broken", code="raise RuntimeError('no compiler here')")
    index.files |= buildable("needy", needs=("unheard-of",))
    index.files |= buildable("over", needs=("broken",))
    index.files |= buildable("snake", needs=("tail",)) | buildable("tail", needs=("snake",))
    index.files |= buildable("pointer", needs=("x @ file:///etc/passwd",))
    index.files |= sdist("garbled", {"pyproject.toml": "build-system = 1"})
    said = {
        name: await refused(service.get("default"), name, "tiny")
        for name in ("broken", "needy", "over", "snake", "pointer", "garbled")
    }
    assert "broken==1.0 has no wheel that fits, and it can't be built" in said["broken"]
    assert "RuntimeError: no compiler here" in said["broken"]
    assert "(unheard-of) can't be had" in said["needy"]
    assert "over==1.0 needs it to be built" in said["over"] and "compiler" in said["over"]
    assert "snake==1.0 needs tail==1.0 needs snake==1.0" in said["snake"]
    assert "URL" in said["pointer"]
    assert "pyproject.toml" in said["garbled"]


async def test_a_cancelled_build_leaves_nothing(
    service: Sessions, index: Index, tmp_path: Path
) -> None:
    index.files |= buildable(
        "slow", code="import time\nprint('begun', flush=True)\ntime.sleep(999)"
    )
    session = service.get("default")
    task = asyncio.create_task(session.install(["slow"], timeout=HANG))
    log = session.environment.log.path
    said = lambda: log.exists() and "begun" in log.read_text()  # noqa: E731
    assert await asyncio.to_thread(until, said, HANG)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not list((service.state_dir / "installs").glob("*/builds"))
    assert await own(session) == {}


async def test_a_build_that_takes_too_long_is_ended(service: Sessions, index: Index) -> None:
    index.files |= buildable("slow", code="while True: pass")
    done = (await service.get("default").install(["slow"], timeout=8)).installation
    assert done.returncode != 0 and "killed" in done.stderr
