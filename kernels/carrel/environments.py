"""A virtual environment per session, made by uv when the first package is installed.

It is layered over the kernel's interpreter: a ``.pth`` file shows what the interpreter
has, behind what the session installed. Only what the interpreter lacks is installed
(measured in reference/kernels.md section 3). The running kernel adopts it without restart.
"""

import asyncio
import json
import os
import re
import shutil
import ssl
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from carrel.engines.launch import Environment
from carrel.errors import InstallError, InvalidArgumentError
from carrel.programs import Completed, run_program

if TYPE_CHECKING:  # packaging and importlib.metadata cost a server 20 ms of its start
    from packaging.requirements import Requirement

PLANNED = re.compile(r"^ \+ ([A-Za-z0-9_.-]+)==(\S+)", re.MULTILINE)
PACKAGES_LIMIT = 100  # requirements in one call
REQUIREMENT_LENGTH = 300  # characters of one requirement
SETUP_DEADLINE = 60.0  # seconds for making the environment itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """What an installation did."""

    #: uv's exit code; 0: all is installed
    returncode: int
    #: what uv wrote
    stdout: str
    #: what uv wrote to stderr
    stderr: str
    #: name==version of what is new in the session
    installed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class InstallReport:
    """What an installation did to a session."""

    #: uv's part
    installation: Installation
    #: modules that the kernel had loaded before, in another version
    stale_modules: tuple[str, ...] = ()


def uv_binary() -> Path:
    """Return the uv that came as our dependency.

    Raises:
        InstallError: It is not there.
    """
    import uv

    try:
        return Path(uv.find_uv_bin())
    except FileNotFoundError as error:
        msg = "uv is not installed; reinstall carrel, it is one of its dependencies"
        raise InstallError(msg) from error


def parse_requirements(packages: Sequence[str]) -> "list[Requirement]":
    """Return `packages` as PEP 508 requirements by name.

    Raises:
        InvalidArgumentError: One is an option, a URL, a path, or not PEP 508.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    if not packages:
        raise InvalidArgumentError("packages is empty: name at least one, like ['requests>=2']")
    if len(packages) > PACKAGES_LIMIT:
        raise InvalidArgumentError(f"more than {PACKAGES_LIMIT} packages in one call")
    found = []
    for text in packages:
        shown = repr(text[:80])
        try:
            if len(text) > REQUIREMENT_LENGTH:
                raise InvalidRequirement("too long")
            requirement = Requirement(text)
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0]
            msg = (
                f"{shown} is not a package requirement ({reason}). Give PEP 508 strings such as "
                "'requests' or 'numpy>=2,<3'; options, URLs and paths are not accepted."
            )
            raise InvalidArgumentError(msg) from error
        if requirement.url:
            msg = f"{shown} is a URL requirement; only packages by name are accepted"
            raise InvalidArgumentError(msg)
        found.append(requirement)
    return found


class SessionEnvironment:
    """The virtual environment of one session; made by the first installation."""

    def __init__(self, prefix: Path, python: Path) -> None:
        self._prefix = prefix
        self._parent = python
        self._lock = asyncio.Lock()

    @property
    def exists(self) -> bool:
        """Say whether it has been made."""
        return (self._prefix / "pyvenv.cfg").exists()

    @property
    def paths(self) -> Environment:
        """Where it is; meaningful once it exists."""
        site = next(self._prefix.glob("lib/python*/site-packages"), self._prefix)
        return Environment(prefix=self._prefix, site=site)

    @property
    def python(self) -> Path:
        """The interpreter that runs this session's scripts."""
        return self._prefix / "bin" / "python" if self.exists else self._parent

    def variables(self, env: dict[str, str]) -> dict[str, str]:
        """Return `env` as a subprocess of this session should see it."""
        if not self.exists:
            return env
        path = f"{self._prefix / 'bin'}{os.pathsep}{env.get('PATH', os.defpath)}"
        return {**env, "VIRTUAL_ENV": str(self._prefix), "PATH": path}

    async def install(self, requirements: "list[Requirement]", *, timeout: float) -> Installation:
        """Install what the interpreter and the session lack.

        Args:
            requirements: What is wanted.
            timeout: Seconds for all of it.

        Returns:
            uv's word on it; a failure (unknown package, conflict) is a returncode.

        Raises:
            InstallError: The environment itself could not be made.
        """
        async with self._lock:
            deadline = asyncio.get_running_loop().time() + timeout
            wanted = [str(requirement) for requirement in requirements]
            plan = await self._uv(
                ["install", "--dry-run", "--python", str(self._parent), "--", *wanted], deadline
            )
            if plan.returncode != 0:
                return Installation(
                    returncode=plan.returncode, stdout=plan.stdout, stderr=plan.stderr
                )
            missing = self._without_satisfied(PLANNED.findall(plan.stderr), requirements)
            if not missing:
                return Installation(
                    returncode=0, stdout="Everything asked for is there already.", stderr=""
                )
            await self._create()
            pins = [f"{name}=={version}" for name, version in missing]
            done = await self._uv(
                ["install", "--no-deps", "--python", str(self._prefix), "--", *pins], deadline
            )
            return Installation(
                returncode=done.returncode,
                stdout=done.stdout,
                stderr=done.stderr,
                installed=tuple(pins) if done.returncode == 0 else (),
            )

    def _without_satisfied(
        self, planned: list[tuple[str, str]], requirements: "list[Requirement]"
    ) -> list[tuple[str, str]]:
        """Leave out what the session's environment has in the planned or a fitting version."""
        from importlib.metadata import distributions

        from packaging.utils import canonicalize_name

        if not self.exists:
            return planned
        have = {
            canonicalize_name(found.name): found.version
            for found in distributions(path=[str(self.paths.site)])
        }
        wanted = {canonicalize_name(item.name): item for item in requirements}
        missing = []
        for name, version in planned:
            key = canonicalize_name(name)
            fits = key in wanted and key in have and wanted[key].specifier.contains(have[key])
            if not fits and have.get(key) != version:
                missing.append((name, version))
        return missing

    async def _create(self) -> None:
        if self.exists:
            return
        argv = [str(uv_binary()), "venv", "--no-project", "--no-config"]
        argv += ["--python", str(self._parent), str(self._prefix)]
        made = await run_program(argv, env=uv_environment(), timeout=SETUP_DEADLINE)
        if made.returncode != 0:
            shutil.rmtree(self._prefix, ignore_errors=True)
            raise InstallError(f"uv could not make the session's environment: {made.stderr}")
        folders = await parent_site_packages(self._parent)
        lines = [f"import site; site.addsitedir({folder!r})" for folder in folders]
        (self.paths.site / "_carrel_parent.pth").write_text(
            "\n".join(lines) + "\n", encoding="utf-8"
        )

    async def _uv(self, arguments: list[str], deadline: float) -> Completed:
        seconds = max(deadline - asyncio.get_running_loop().time(), 0.1)
        argv = [str(uv_binary()), "pip", *arguments]
        return await run_program(argv, env=uv_environment(), timeout=seconds)


def uv_environment() -> dict[str, str]:
    """Return the environment for uv: ours, without what would point it elsewhere."""
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONHOME")}
    env |= {"UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    known = ssl.get_default_verify_paths()
    if known.cafile or known.capath:
        # The machine's own certificates, as a company's proxy may need them; hosts start
        # servers without the variables that would say so.
        env["UV_SYSTEM_CERTS"] = "1"
    return env


async def parent_site_packages(python: Path) -> list[str]:
    """Return the site-packages folders of an interpreter."""
    if python == Path(sys.executable):
        paths = sysconfig.get_paths()
        return sorted({paths["purelib"], paths["platlib"]})
    code = (
        "import json, sysconfig; p = sysconfig.get_paths(); "
        "print(json.dumps([p['purelib'], p['platlib']]))"
    )
    answer = await run_program([str(python), "-I", "-c", code], timeout=SETUP_DEADLINE)
    if answer.returncode != 0:
        raise InstallError(f"{python} does not run: {answer.stderr}")
    return sorted(set(json.loads(answer.stdout)))
