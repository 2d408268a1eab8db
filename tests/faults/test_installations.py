"""Installations that fail, and sessions whose packages shadow what a kernel needs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from carrel import Session, Sessions, SessionSpec
from carrel.errors import KernelStartError
from tests.acceptance.harness import Place, RawServer, until
from tests.package_index import Index, serving

from .conftest import Bystander
from .matrix import fault

HANG = 120.0


@pytest.fixture
def index() -> Iterator[Index]:
    with serving() as index:
        yield index


@pytest.fixture
def env(index: Index, tmp_path: Path) -> dict[str, str]:
    """Variables of a server that installs from the index."""
    return {"UV_DEFAULT_INDEX": index.url, "UV_CACHE_DIR": str(tmp_path / "uv-cache")}


def install(server: RawServer) -> dict[str, Any]:
    """Install the package into the default session."""
    return server.tool("install_dependencies", packages=["tiny"])


def has_tiny(server: RawServer) -> bool:
    """Say whether the default session can import the package."""
    done = server.tool("run_python_code", code="import tiny; tiny.value")
    return bool(done["results"] == ["'1.0'"])


def own_packages(server: RawServer, session_id: str = "default") -> dict[str, str]:
    """Return what a session has installed, with versions."""
    listed = server.tool("list_packages", session_id=session_id, limit=1000)["packages"]
    return {name: item["version"] for name, item in listed.items() if item["own"]}


@fault("D17")
def test_a_package_whose_hash_is_wrong_is_not_installed(
    place: Place, index: Index, env: dict[str, str]
) -> None:
    index.claimed_hash = "0" * 64
    with RawServer(place, env=env) as server:
        done = install(server)
        assert (done["returncode"] != 0, done["installed"]) == (True, [])
        assert "hash" in done["stderr"].lower()
        assert not has_tiny(server)
        index.claimed_hash = ""
        assert install(server)["installed"] == ["tiny==1.0"]
        assert has_tiny(server)


@fault("D17")
def test_without_an_index_an_installation_says_so_and_changes_nothing(
    place: Place, env: dict[str, str]
) -> None:
    env["UV_DEFAULT_INDEX"] = "http://127.0.0.1:9/simple"  # nobody listens there
    env["UV_HTTP_RETRIES"] = "0"
    with RawServer(place, env=env) as server:
        done = install(server)
        assert (done["returncode"] != 0, done["installed"]) == (True, [])
        assert "127.0.0.1:9" in done["stderr"]
        assert not has_tiny(server)
        assert not own_packages(server)


@fault("D17")
def test_an_installation_that_is_killed_midway_changes_nothing(
    place: Place, index: Index, env: dict[str, str]
) -> None:
    index.may_send.clear()
    with RawServer(place, env=env) as server:
        server.tool("create_session", session_id="other")
        installing = server.start_tool("install_dependencies", packages=["tiny"])
        assert index.was_asked.wait(HANG)
        done = server.tool("run_python_code", code="1+1", session_id="other")
        assert done["results"] == ["2"]
        for process in psutil.Process(server.process.pid).children(recursive=True):
            if process.name() == "uv":
                process.kill()
        result = server.answer(installing)["result"]["structuredContent"]
        assert (result["returncode"], result["installed"]) == (-9, [])
        index.may_send.set()
        assert not has_tiny(server)
        assert install(server)["installed"] == ["tiny==1.0"]
        assert has_tiny(server)


@fault("D17")
def test_an_index_that_does_not_answer_is_given_up_after_the_timeout(
    place: Place, index: Index, env: dict[str, str]
) -> None:
    index.may_send.clear()
    with RawServer(place, env=env) as server:
        done = server.tool("install_dependencies", packages=["tiny"], timeout=1)
        assert (done["returncode"] != 0, done["installed"]) == (True, [])
        assert not has_tiny(server)
        running = [p for p in place.processes() if p.name() == "uv"]
        assert until(lambda: not any(p.is_running() for p in running), HANG)


BROKEN = "raise RuntimeError('this is not what a kernel needs')\n"


@fault("D18")
async def test_modules_in_the_workspace_that_shadow_the_standard_ones_harm_no_kernel(
    sessions: Sessions, bystander: Bystander
) -> None:
    for name in ("json", "zmq", "ipykernel", "socket"):
        (sessions.workspace.root / f"{name}.py").write_text(BROKEN)
        (sessions.workspace.scripts / f"{name}.py").write_text(BROKEN)
    for fresh in (False, True):
        session = await sessions.create(SessionSpec(id=f"fresh-{fresh}"), fresh=fresh)
        run = await sessions.run(session, "print('up')")
        assert await run.wait(HANG)
        assert run.snapshot().status == "completed"
        await session.restart()
    await bystander.look()


async def with_environment(sessions: Sessions) -> Session:
    """Return a session that has an environment of its own, and fresh kernels."""
    return await sessions.create(SessionSpec(id="shadowed"), fresh=True)


@fault("D18")
async def test_a_broken_zmq_in_a_sessions_environment_is_named_and_harms_nobody_else(
    sessions: Sessions, bystander: Bystander
) -> None:
    session = await with_environment(sessions)
    package = session.environment.site / "zmq"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN)
    with pytest.raises(KernelStartError, match="this is not what a kernel needs"):
        await session.restart()
    await bystander.look()
    shutil.rmtree(package)
    run = await sessions.run(session, "1+1")
    assert await run.wait(HANG)
    assert run.snapshot().status == "completed"
