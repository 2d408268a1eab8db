"""Installations that fail, and sessions whose packages shadow what a kernel needs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kernelry import Session, Sessions, SessionSpec
from kernelry.crashpoints import INSTALL_POINTS, VARIABLE
from kernelry.errors import KernelStartError
from tests.acceptance.harness import Place, RawServer, stdio_agent, until
from tests.package_index import Index, sdist, serving, wheel

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


@fault("D17")
@pytest.mark.parametrize("point", INSTALL_POINTS)
def test_a_server_killed_while_an_environment_is_changed_leaves_it_as_it_was(
    place: Place, index: Index, env: dict[str, str], point: str
) -> None:
    index.files = wheel("pack", "1.0", {"pack/__init__.py": "", "pack/gone.py": ""})
    with RawServer(place, env=env) as server:
        done = server.tool("install_dependencies", packages=["pack"])
        assert done["installed"] == ["pack==1.0"]
    prefix = Path(done["log"]).with_name("env")
    before = files_of(prefix)
    index.files |= wheel("pack", "2.0", {"pack/__init__.py": "a = 2", "pack/new/x.py": ""})
    index.files |= wheel("tiny")
    packages = ["pack>=2", "tiny"]
    with RawServer(place, env=env | {VARIABLE: point}) as server:
        server.start_tool("install_dependencies", packages=packages)
        assert server.process.wait(HANG) == -9
    with RawServer(place, env=env) as server:
        assert own_packages(server) == {"pack": "1.0"}
        assert files_of(prefix) == before
        assert not (place.state / "installs").exists()
        again = server.tool("install_dependencies", packages=packages)
        assert again["installed"] == ["pack==2.0", "tiny==1.0"]
        assert own_packages(server) == {"pack": "2.0", "tiny": "1.0"}


@fault("D17")
def test_a_server_killed_while_packages_are_fetched_leaves_no_trace(
    place: Place, index: Index, env: dict[str, str]
) -> None:
    index.may_send.clear()
    with RawServer(place, env=env) as server:
        (shown,) = server.tool("run_python_code", code="import sys; sys.prefix")["results"]
        prefix = Path(shown.strip("'"))
        before = files_of(prefix)
        # A fork server that is still starting would outlive the test.
        assert until(lambda: bool([*place.runtime.glob("kernelry/*/*.sock")]), HANG)
        server.start_tool("install_dependencies", packages=["tiny"])
        assert index.was_asked.wait(HANG)
        server.process.kill()
        server.process.wait()
        assert until(lambda: not any(p.name() == "uv" for p in place.processes()), HANG)
    index.may_send.set()
    with RawServer(place, env=env) as server:
        assert files_of(prefix) == before
        assert not (place.state / "installs").exists()
        assert install(server)["installed"] == ["tiny==1.0"]
        server.tool("restart_kernel")
        assert has_tiny(server)


def files_of(prefix: Path) -> dict[str, str]:
    """Return the files of an environment and what is in them."""
    found = [path for path in (prefix / "lib").rglob("*") if "__pycache__" not in path.parts]
    assert found
    return {str(path): path.read_text() if path.is_file() else "" for path in found}


@fault("D17")
async def test_a_client_hears_how_far_an_installation_is(
    place: Place, index: Index, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    index.may_send.clear()
    heard: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))
        index.may_send.set()

    async with stdio_agent(place) as agent:
        arguments = {"packages": ["tiny"]}
        call = agent.client.call_tool
        done = await call("install_dependencies", arguments, progress_callback=hear)
        assert done.structured_content is not None
        assert done.structured_content["installed"] == ["tiny==1.0"]
        assert heard and heard[0][0] > 0 and heard[0][1]
        assert "install tiny" in Path(done.structured_content["log"]).read_text()


@fault("T11")
def test_an_author_s_code_does_not_run_when_a_package_is_installed(
    place: Place, index: Index, env: dict[str, str]
) -> None:
    canary = place.root / "canary"
    touch = f"import pathlib; pathlib.Path({str(canary)!r}).touch()\n"
    index.files = sdist("source", {"setup.py": touch})
    index.files |= wheel("hooked", files={"hooked.py": touch, "hooked.pth": touch})
    index.files |= wheel("after", requires=("hooked",))
    with RawServer(place, env=env) as server:
        done = server.tool("install_dependencies", packages=["source"])
        assert done["returncode"] != 0 and "--allow-sdist" in done["stderr"]
        for name in ("hooked", "after", "after>=1"):
            assert server.tool("install_dependencies", packages=[name])["returncode"] == 0
        server.tool("list_packages")
        assert own_packages(server) == {"hooked": "1.0", "after": "1.0"}
        assert not canary.exists()


@fault("T11")
def test_a_package_writes_and_removes_nothing_outside_of_its_environment(
    place: Place, index: Index, env: dict[str, str]
) -> None:
    victim = place.state / "victim"
    up = "../" * 7  # from the packages to the place
    outside = [str(victim), *("../" * depth + "victim" for depth in range(4, 8))]
    outside += ["../../../pyvenv.cfg", "../../..", "/", "..", "."]
    record = "".join(f"{path},,\n" for path in (*outside, "../../../bin/python"))
    index.files = wheel("tiny", "1.0", record=record) | wheel("tiny", "2.0")
    index.files |= wheel("climber", files={f"{up}state/evil.py": "", "../../../../evil.py": ""})
    index.files |= wheel(
        "usurper",
        files={
            "usurper.py": "",
            "usurper-1.0.data/scripts/python": "#!/bin/sh\nexit 7\n",
            "usurper-1.0.data/data/pyvenv.cfg": "home = /nowhere\n",
        },
    )
    with RawServer(place, env=env) as server:
        (shown,) = server.tool("run_python_code", code="import sys; sys.prefix")["results"]
        prefix = Path(shown.strip("'"))
        for folder in [*prefix.parents][:4]:
            (folder / "victim").touch()
        known = set(place.root.rglob("victim"))
        assert len(known) == 4
        frame = ((prefix / "pyvenv.cfg").read_text(), (prefix / "bin/python").readlink())
        for wanted in ("tiny==1.0", "tiny==2.0", "climber", "usurper"):
            server.tool("install_dependencies", packages=[wanted])
        assert set(place.root.rglob("victim")) == known
        assert not list(place.root.rglob("evil.py"))
        assert ((prefix / "pyvenv.cfg").read_text(), (prefix / "bin/python").readlink()) == frame
        assert own_packages(server)["tiny"] == "2.0"
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', '']).returncode"
        assert server.tool("run_python_code", code=code)["results"] == ["0"]


@fault("T11")
def test_links_that_a_cell_has_put_into_its_environment_lead_an_installation_nowhere(
    place: Place, index: Index, env: dict[str, str]
) -> None:
    target = place.root / "target"
    target.mkdir()
    code = f"""
import os, pathlib, shutil, sys
site = next(p for p in map(pathlib.Path, sys.path) if str(p).startswith(sys.prefix) and p.is_dir())
site.rename(site.with_name('moved'))
site.symlink_to({str(target)!r})
"""
    with RawServer(place, env=env) as server:
        assert server.tool("run_python_code", code=code)["status"] == "completed"
        refused = server.call("install_dependencies", packages=["tiny"])
        assert refused["isError"] and "damaged" in refused["content"][0]["text"]
        code = f"""
os.unlink(sys.prefix + '/pyvenv.cfg')
shutil.rmtree(sys.prefix + '/bin')
os.symlink({str(target)!r}, sys.prefix + '/bin')
"""
        assert server.tool("run_python_code", code=code)["status"] == "completed"
        refused = server.call("install_dependencies", packages=["tiny"])
        assert refused["isError"] and "damaged" in refused["content"][0]["text"]
        assert list(target.iterdir()) == []
        server.tool("create_session", session_id="other")
        done = server.tool("install_dependencies", packages=["tiny"], session_id="other")
        assert done["installed"] == ["tiny==1.0"]


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


@fault("D18")
@pytest.mark.parametrize("name", ["zmq", "ipykernel"])
def test_a_package_that_breaks_the_next_kernel_is_named_and_can_be_replaced(
    place: Place, index: Index, env: dict[str, str], name: str
) -> None:
    package = "pyzmq" if name == "zmq" else name
    index.files = wheel(package, "1.0", {f"{name}/__init__.py": BROKEN}) | wheel("json")
    good = {f"{name}_of_another_name.py": ""}
    index.files |= wheel(package, "99.0", good)
    with RawServer(place, env=env) as server:
        server.tool("create_session", session_id="a")
        done = server.tool(
            "install_dependencies", packages=[f"{package}<2", "json"], session_id="a"
        )
        assert done["restart_required"] and name in done["loaded_modules"]
        refused = server.call("restart_kernel", session_id="a")
        assert refused["isError"]
        said = refused["content"][0]["text"]
        assert "this is not what a kernel needs" in said and "env/lib/python" in said
        assert server.tool("run_python_code", code="import json; json.dumps(1)")["results"]
        server.tool("create_session", session_id="b")
        server.tool("install_dependencies", packages=[f"{package}>2"], session_id="a")
        server.tool("restart_kernel", session_id="a")
        done = server.tool("run_python_code", code="import json; json.dumps(1)", session_id="a")
        assert done["results"] == ["'1'"]
