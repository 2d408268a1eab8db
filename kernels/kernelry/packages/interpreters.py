"""Interpreters of kernels: find one, and ask it what it is before it is relied on."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from kernelry.engines import links, own_paths
from kernelry.errors import InvalidArgumentError
from kernelry.programs import run_program

OLDEST = (3, 11)  # of Python
OLDEST_IPYKERNEL = (6, 29)
PROBE_DEADLINE = 20.0  # seconds an interpreter has to say what it is
PATH_CHARS = 1000  # longest path or name of an interpreter
#: runs on any Python 3
PROBE = """
import json, sys
try:
    from importlib.metadata import version
    ipykernel = version("ipykernel")
except Exception:
    ipykernel = ""
ends = ("site-packages", "dist-packages")
folders = [path for path in sys.path if path.endswith(ends)]
print(json.dumps([list(sys.version_info[:3]), ipykernel, folders]))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """What an interpreter says of itself."""

    #: its path
    python: Path
    #: its version, three numbers
    version: tuple[int, ...]
    #: version of its ipykernel; empty: it has none
    ipykernel: str
    #: where its packages are
    folders: tuple[Path, ...]

    @property
    def site(self) -> str:
        """The folder for packages of an environment of it, relative to the environment."""
        return "lib/python{}.{}/site-packages".format(*self.version)


async def ask_interpreter(python: Path) -> Interpreter:
    """Run an interpreter and return what it says of itself.

    Raises:
        InvalidArgumentError: It is no Python that runs.
    """
    shown = repr(str(python))
    try:
        answer = await run_program(
            [str(python), "-I", "-c", PROBE], cwd=Path("/"), timeout=PROBE_DEADLINE
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidArgumentError(f"the interpreter {shown} does not run: {why}") from error
    try:
        version, ipykernel, folders = json.loads(answer.stdout.strip().splitlines()[-1])
        return Interpreter(
            python=python,
            version=tuple(int(number) for number in version),
            ipykernel=str(ipykernel),
            folders=tuple(Path(str(folder)) for folder in folders),
        )
    except (LookupError, TypeError, ValueError) as error:
        why = (answer.stderr.strip() or answer.stdout.strip())[-500:] or "it said nothing"
        msg = f"the interpreter {shown} does not run (exit code {answer.returncode}): {why}"
        raise InvalidArgumentError(msg) from error


async def interpreter_reads(python: Path) -> tuple[Path, ...]:
    """Return what has to be readable for an interpreter to run.

    Raises:
        InvalidArgumentError: It does not run.
    """
    if python == Path(sys.executable):
        return own_paths()
    code = (
        "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, "
        "*filter(None, sys.path)]))"
    )
    done = await run_program([str(python), "-P", "-c", code], cwd=Path("/"), timeout=PROBE_DEADLINE)
    if done.returncode != 0:
        raise InvalidArgumentError(f"{python} does not run: {done.stderr.strip()[-500:]}")
    paths: list[str] = [*json.loads(done.stdout), *links(python)]
    return tuple({Path(path): None for path in paths})


async def check_interpreter(python: Path) -> Interpreter:
    """Return what an interpreter says of itself if it can run kernels.

    Raises:
        InvalidArgumentError: It can't; with what to do about it.
    """
    found = await ask_interpreter(python)
    shown = ".".join(map(str, found.version))
    if found.version[:2] < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        msg = f"{python} is Python {shown}; kernels need {oldest} or newer. Name another one."
        raise InvalidArgumentError(msg)
    cure = f"Run `uv pip install --python {python} ipykernel`, then try again."
    if not found.ipykernel:
        raise InvalidArgumentError(f"{python} (Python {shown}) has no ipykernel. {cure}")
    parts = found.ipykernel.split(".")[:2]
    if all(part.isdecimal() for part in parts) and tuple(map(int, parts)) < OLDEST_IPYKERNEL:
        oldest = ".".join(map(str, OLDEST_IPYKERNEL))
        msg = f"{python} has ipykernel {found.ipykernel}; kernels need {oldest} or newer. {cure}"
        raise InvalidArgumentError(msg)
    return found


def check_place(python: str, found: Path, folders: tuple[Path, ...]) -> None:
    """Refuse a name that can't be one, and an interpreter that sessions could have made.

    Args:
        python: What was asked for: an absolute path, or a name to be looked up.
        found: The absolute path that it means.
        folders: Where sessions can write; what is there would run unwatched.

    Raises:
        InvalidArgumentError: With what to do instead.
    """
    if len(python) > PATH_CHARS or "\0" in python:
        raise InvalidArgumentError("that is no interpreter: name one like 'python3.12'")
    is_name = len(Path(python).parts) == 1
    if not is_name and not python.startswith(("/", "~")):
        msg = f"{python!r} is neither an absolute path nor a name like 'python3.12'"
        raise InvalidArgumentError(msg)
    if not found.is_file():
        where = "on the server's PATH" if is_name else "there"
        raise InvalidArgumentError(f"no interpreter {python!r} {where}; give an absolute path")
    for folder in folders:
        if any(path.is_relative_to(folder.resolve()) for path in (found, found.resolve())):
            msg = f"{python!r} is in {folder}, where sessions can write; name one elsewhere"
            raise InvalidArgumentError(msg)
