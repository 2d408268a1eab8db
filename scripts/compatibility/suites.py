"""Other projects' own test suites, with kernels of our provisioner beside stock ones.

Each suite comes from its package's source distribution and runs twice in an environment of its
own, in which kernelry is installed: once with a kernelspec `python3` that is stock's, once with
one that names our provisioner. A test that fails with ours and not with stock needs a reason in
reasons.toml. Nothing may be left of either run after 15 s.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import page
import psutil

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".scratch" / "suites"
MARK = "COMPATIBILITY_SUITE"  # variable by which the processes of one run are found
SUITE_DEADLINE = 1500  # seconds for one run of a suite
TEST_DEADLINE = 120  # seconds for one test
LEFT_DEADLINE = 15.0  # seconds in which all that a run started has to end
SIDES = {"stock": "local-provisioner", "ours": "kernelry-fork"}
FAILED, PASSED, SKIPPED = "failed", "passed", "skipped"


@dataclass(frozen=True, slots=True)
class Suite:
    """One project's tests."""

    #: distribution whose source distribution has them
    package: str
    #: files, in it
    files: tuple[str, ...]
    #: what they need besides the package
    needs: tuple[str, ...]


SUITES = (
    Suite(
        "ipykernel",
        tuple(
            f"tests/test_{name}.py"
            for name in ("kernel", "message_spec", "async", "comm", "subshells")
        ),
        (
            "flaky",
            "pytest-asyncio",
            "pytest-cov",
            "pytest-timeout",
            "curio",
            "trio",
            "matplotlib",
            "debugpy",
        ),
    ),
    Suite(
        "nbclient",
        ("tests/test_client.py",),
        (
            "flaky",
            "pytest-asyncio",
            "pytest-timeout",
            "ipywidgets",
            "nbconvert",
            "testpath",
            "xmltodict",
        ),
    ),
    Suite("jupyter_kernel_test", ("test_ipykernel.py",), ("pytest-timeout",)),
)


def run(only: str, *, write: bool) -> int:
    """Run suites on both sides, all or some; print, and maybe write, what differs."""
    python = make_environment()
    why = page.reasons("suites")
    rows = ["| suite | stock | ours | why ours differs |", "| --- | --- | --- | --- |"]
    unexplained = 0
    for suite in (one for one in SUITES if not only or one.package in only.split(",")):
        source = fetch(suite.package)
        results = {side: run_side(suite, source, python, side) for side in SIDES}
        stock, ours = results["stock"], results["ours"]
        said = []
        for test, outcome in ours.items():
            if outcome == FAILED and stock.get(test) != FAILED:
                reason = why.get(f"{suite.package}:{test}", "")
                unexplained += not reason
                said.append(f"`{test}`: {reason or '**no reason**'}")
        unexplained += bool(stock.keys() - ours.keys())
        name = f"{suite.package} {version_of(source)}"
        rows.append(f"| {name} | {counted(stock)} | {counted(ours)} | {'; '.join(said) or '-'} |")
        print(rows[-1], flush=True)
    if write:
        page.write_suites(rows)
    return 1 if unexplained else 0


def make_environment() -> Path:
    """Return the interpreter of the suites' environment, with kernelry in it."""
    python = FOLDER / "env" / "bin" / "python"
    uv = [sys.executable, "-m", "uv", "--quiet"]
    if not python.exists():
        subprocess.run([*uv, "venv", "--python", sys.executable, str(FOLDER / "env")], check=True)
    needs = sorted({name for suite in SUITES for name in (*suite.needs, suite.package)})
    needs = [f"ipykernel=={version('ipykernel')}" if one == "ipykernel" else one for one in needs]
    install = [*uv, "pip", "install", "--python", str(python)]
    subprocess.run([*install, "pip", "pytest", *needs, "-e", str(ROOT)], check=True)
    return python


def fetch(package: str) -> Path:
    """Return the folder of a package's source distribution, of the version that is installed."""
    wanted = f"{package}=={version_in(FOLDER / 'env' / 'bin' / 'python', package)}"
    folder = FOLDER / wanted.replace("==", "-")
    if not folder.exists():
        pip = [str(FOLDER / "env" / "bin" / "python"), "-m", "pip", "download", "--quiet"]
        flags = ["--no-deps", "--no-binary", package, "--dest", str(FOLDER)]
        subprocess.run([*pip, *flags, wanted], check=True)
        archive = next(FOLDER.glob(f"{folder.name}*.tar.gz"))
        with tarfile.open(archive) as file:
            file.extractall(FOLDER, filter="data")
    return folder


def version_in(python: Path, package: str) -> str:
    """Return the version of a distribution that an interpreter has."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def version_of(source: Path) -> str:
    """Return the version in the name of a source distribution's folder."""
    return source.name.rpartition("-")[2]


def run_side(suite: Suite, source: Path, python: Path, side: str) -> dict[str, str]:
    """Run a suite with the kernels of one side; return each test's outcome."""
    home = FOLDER / f"{suite.package}-{side}"
    shutil.rmtree(home, ignore_errors=True)
    spec = home / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    said = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
        "metadata": {
            "debugger": True,
            "kernel_provisioner": {"provisioner_name": SIDES[side]},
        },
    }
    (spec / "kernel.json").write_text(json.dumps(said), encoding="utf-8")
    tree = home / "tree"
    shutil.copytree(source, tree)
    env = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "KERNELRY", "PYTEST"))
    }
    folders = {name: str(home / name.lower()) for name in ("HOME", "IPYTHONDIR")}
    for folder in folders.values():
        Path(folder).mkdir()
    env |= folders | {"JUPYTER_PATH": str(home / "jupyter"), MARK: f"{suite.package}-{side}"}
    env["PATH"] = f"{python.parent}{os.pathsep}{env['PATH']}"
    report = home / "report.xml"
    flags = ["-p", "no:cacheprovider", "-q", f"--timeout={TEST_DEADLINE}", f"--junitxml={report}"]
    flags += ["-o", "asyncio_default_fixture_loop_scope=function"]
    print(f"... {suite.package} with {side}", file=sys.stderr, flush=True)
    with (home / "out.txt").open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            [str(python), "-m", "pytest", *flags, *suite.files],
            cwd=tree,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            process.wait(SUITE_DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            print(f"{suite.package} with {side} hung; see {out.name}", flush=True)
    left = survivors(env[MARK])
    outcomes = read(report)
    if left:
        outcomes["(processes left)"] = FAILED
        print(f"{suite.package} with {side} left {left}", flush=True)
    return outcomes


def survivors(mark: str) -> list[list[str]]:
    """Return the commands of what a run has left when it had time to end; ends them."""
    deadline = time.monotonic() + LEFT_DEADLINE
    while (left := marked(mark)) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.2)
    commands = []
    for process in left:
        try:
            commands.append(process.cmdline())
            process.kill()
        except psutil.Error:
            continue
    return commands


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def read(report: Path) -> dict[str, str]:
    """Return each test's outcome from a report; a hung run has none."""
    if not report.exists():
        return {"(the run)": FAILED}
    outcomes = {}
    for case in ET.parse(report).iter("testcase"):  # our own run's
        name = f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"
        kinds = {child.tag for child in case}
        failed = bool(kinds & {"failure", "error"})
        outcomes[name] = FAILED if failed else SKIPPED if "skipped" in kinds else PASSED
    return outcomes


def counted(outcomes: dict[str, str]) -> str:
    """Return how many passed, failed and were skipped."""
    said = [list(outcomes.values()).count(kind) for kind in (PASSED, FAILED, SKIPPED)]
    return f"{said[0]} passed, {said[1]} failed, {said[2]} skipped"
