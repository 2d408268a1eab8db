"""Sessions with an interpreter of their own."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Config, Session, Sessions, SessionSpec
from kernelry.errors import InvalidArgumentError, SessionExistsError
from kernelry.output.fold import stream_text
from tests.package_index import serving, wheel

HANG = 120.0  # seconds
SCRATCH = Path(__file__).parents[3] / ".scratch"  # filled by scripts/clients
VERSION = "import sys; print(*sys.version_info[:2], sep='.')"


@pytest.fixture
def other() -> Path:
    """An interpreter that is not the server's."""
    for name in ("python3.12", "python3.13"):
        found = SCRATCH / name / "bin" / "python"
        if found.exists():
            return found
    if os.environ.get("KERNELRYTEST_REQUIRE_ALL"):
        pytest.fail("no other interpreter here: run scripts/clients")
    pytest.skip("no other interpreter here: scripts/clients could not make it")


async def printed(sessions: Sessions, session: Session, code: str) -> str:
    running = await sessions.run(session, code)
    assert await running.wait(HANG)
    done = running.snapshot()
    assert done.status == "completed", done.error
    return stream_text(done.outputs, "stdout")


async def test_a_session_has_the_interpreter_it_asked_for_also_after_restarts(
    config: Config, other: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = subprocess.check_output([other, "-c", VERSION], text=True)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    with serving(wheel("tiny")) as index:
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        async with Sessions(config) as sessions:
            await sessions.wait_until_warm()
            session = await sessions.create(SessionSpec(id="a", python=str(other)))
            assert await printed(sessions, session, VERSION) == version
            done = (await session.install(["tiny"], timeout=HANG)).installation
            assert done.installed == ("tiny==1.0",), done.stderr
            assert await printed(sessions, session, "import tiny; print(tiny.value)") == "1.0\n"
            await session.restart()
            assert await printed(sessions, session, f"import tiny; {VERSION}") == version
            assert (await sessions.health(session)).python == str(other)
            neighbour = await sessions.create(SessionSpec(id="b"))
            assert await printed(sessions, neighbour, VERSION) != version
            assert await sessions.create(SessionSpec(id="a"), reuse=True) is session
            with pytest.raises(SessionExistsError, match="python"):
                await sessions.create(SessionSpec(id="a", python=sys.executable), reuse=True)
        async with Sessions(replace(config, warm=0)) as sessions:
            session = sessions.get("a")
            assert await printed(sessions, session, f"import tiny; {VERSION}") == version
            assert session.environment.parent == other


async def test_an_interpreter_is_found_by_its_name(
    sessions: Sessions, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
    name = "python{}".format(subprocess.check_output([other, "-c", VERSION], text=True).strip())
    session = await sessions.create(SessionSpec(id="a", python=name))
    assert session.environment.parent == other.with_name(name)


async def test_the_servers_own_interpreter_by_its_path_is_nothing_special(
    sessions: Sessions,
) -> None:
    session = await sessions.create(SessionSpec(id="a", python=sys.executable))
    assert session.record.python == ""


async def test_an_interpreter_that_can_not_run_kernels_is_refused_with_the_cure(
    sessions: Sessions, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho '[[3, 8, 1], \"7.0\", [], []]'\n")
    old.chmod(0o755)
    inside = sessions.workspace.root / "python"
    inside.symlink_to(sys.executable)
    own = sessions.state_dir / "sessions" / "python"
    own.symlink_to(sys.executable)
    refused = {
        str(bare / "bin" / "python"): rf"uv pip install --python {bare}/bin/python ipykernel",
        "/nonexistent/python": "no interpreter",
        "python9.9": "on the server's PATH",
        "bin/python": "neither an absolute path nor a name",
        "/bin/true": "does not run",
        "/etc/passwd": "does not run",
        str(tmp_path): "no interpreter",
        str(old): "Python 3.8.1; kernels need 3.11",
        str(inside): "has no ipykernel",
        str(own): "where sessions have their own",
        "py\0thon": "no interpreter",
        "x" * 2000: "no interpreter",
    }
    for python, why in refused.items():
        with pytest.raises(InvalidArgumentError, match=why):
            await sessions.create(SessionSpec(id="a", python=python))
    assert [session.id for session in sessions.list()] == ["default"]
