"""Interpreters of kernels: find one, and ask it what it is before it is relied on."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernelry.beneath import reading
from kernelry.errors import InvalidArgumentError
from kernelry.models import Limits
from kernelry.packages.distributions import distributions
from kernelry.paths import is_within
from kernelry.programs import run_program
from kernelry.walls import SYSTEM, Walls, links, own_paths

OLDEST = (3, 11)  # of Python
OLDEST_IPYKERNEL = (6, 29)
PROBE_DEADLINE = 20.0  # seconds an interpreter has to say what it is
PATH_CHARS = 1000  # longest path or name of an interpreter
#: runs on any Python 3; says it of what it is run with
PROBE = """
import json, sys
try:
    from importlib.metadata import version
    ipykernel = version("ipykernel")
except Exception:
    ipykernel = ""
ends = ("site-packages", "dist-packages")
folders = [path for path in sys.path if path.endswith(ends)]
reads = [sys.prefix, sys.base_prefix, sys.exec_prefix, *filter(None, sys.path)]
print(json.dumps([list(sys.version_info[:3]), ipykernel, folders, reads]))
"""
#: variables that name code, by paths; others of Python's and of the loader's are no paths
NAME_CODE = (
    *("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "PYTHONPLATLIBDIR"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT"),
)
SPACED = ("LD_PRELOAD", "LD_AUDIT")  # whose paths may be apart by blanks
PACKAGES = ("site-packages", "dist-packages")  # last parts of folders that hold packages
PTH_BYTES = 1 << 16  # of a .pth file that are looked at
#: where uv keeps the interpreters that it fetches
UV_PYTHONS = Path("~/.local/share/uv/python")


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """What an interpreter is."""

    #: its path
    python: Path
    #: its version, three numbers
    version: tuple[int, ...]
    #: version of its ipykernel; empty: it has none
    ipykernel: str
    #: where its packages are
    folders: tuple[Path, ...]
    #: what has to be readable for it to run
    reads: tuple[Path, ...]
    #: whether sessions can change it or its packages: it is run within walls only
    is_changeable: bool = False
    #: one of the same version that no session can change; None: there is none
    trusted: Path | None = None

    @property
    def site(self) -> str:
        """The folder for packages of an environment of it, relative to the environment."""
        return "lib/python{}.{}/site-packages".format(*self.version)


class Interpreters:
    """Knows the interpreters of one service, and which of them sessions can change.

    One that they can change is never run here, and its word opens nothing: what it needs to read
    must be open to sessions anyway, or be an installation of Python that we know.

    Args:
        walls: Those of the service.
        changeable: Folders that sessions may write; none where there are no walls.
    """

    def __init__(self, walls: Walls, changeable: Iterable[Path] = ()) -> None:
        self._walls = walls
        self._changeable = tuple(changeable)
        self._known: dict[tuple[Path, float], Interpreter] = {}

    async def ask(self, python: Path) -> Interpreter:
        """Return what an interpreter is; the same one is asked once.

        Raises:
            InvalidArgumentError: It is no Python that runs, or needs to read what is not open.
        """
        key = (python, changed_at(python))
        if key not in self._known:
            if self.is_changeable(python):
                self._known[key] = await self._look_at(python)
            elif python == Path(sys.executable):
                self._known[key] = own_interpreter()
            else:
                self._known[key] = await ask_interpreter(python)
        return self._known[key]

    async def check(self, python: Path) -> Interpreter:
        """Return what an interpreter is if it can run kernels.

        Raises:
            InvalidArgumentError: It can't; with what to do about it.
        """
        found = await self.ask(python)
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
            has = f"{python} has ipykernel {found.ipykernel}"
            raise InvalidArgumentError(f"{has}; kernels need {oldest} or newer. {cure}")
        return found

    def is_changeable(self, python: Path) -> bool:
        """Say whether sessions can change an interpreter, or packages that it would import."""
        known = (python, prefix_of(python), *shown_by(prefix_of(python)))
        return any(map(self._is_theirs, known))

    def without_changeable(self, env: dict[str, str]) -> dict[str, str]:
        """Return variables for an interpreter outside of walls: none leads it to sessions' files.

        Args:
            env: Variables; of those that name code, what sessions can change is left out.
        """
        found: dict[str, str] = {}
        for name, value in env.items():
            if name not in NAME_CODE:
                found[name] = value
                continue
            entries = re.split(r"[:\s]" if name in SPACED else os.pathsep, value)
            kept = [entry for entry in entries if not self._is_theirs(Path(entry))]
            if kept:
                found[name] = os.pathsep.join(kept)
        return found

    def _is_theirs(self, path: Path) -> bool:
        return any(is_within(path, root) for root in self._changeable)

    async def _look_at(self, python: Path) -> Interpreter:
        """Find out what an interpreter is that sessions can change.

        What it is an environment of is asked, if that is out of their reach, without ``site``;
        its packages are looked at by their names.
        """
        base, prefix = base_of(python), prefix_of(python)
        if self.is_changeable(base):
            return await self._ask_within(python)
        said = await ask_interpreter(base, *(() if shows_system(prefix) else ("-S",)))
        self._check_readable(python, said.reads)
        folders = (prefix / said.site, *said.folders)
        own = distributions(folders).get("ipykernel")
        return replace(
            said,
            python=python,
            ipykernel=own.version if own else "",
            folders=folders,
            reads=(*said.reads, *map(Path, links(python))),
            is_changeable=True,
            trusted=base,
        )

    async def _ask_within(self, python: Path) -> Interpreter:
        """Ask an interpreter that sessions can change all of, within walls and off the network."""
        walls = replace(self._walls, network=False, limits=Limits())
        argv = walls.confine(
            [str(python), "-I", "-c", PROBE],
            cwd=Path("/"),
            reads=self._changeable,
            writes=(),
        )
        said = await ask(argv, python)
        self._check_readable(python, said.reads)
        folders = (prefix_of(python) / said.site,)
        own = Path(sys.executable) if said.version == sys.version_info[:3] else None
        return replace(said, folders=folders, is_changeable=True, trusted=own)

    def _check_readable(self, python: Path, wanted: Iterable[Path]) -> None:
        """See to it that an interpreter whose word counts for nothing needs no more than is open.

        Raises:
            InvalidArgumentError: It does.
        """
        known = [*self._changeable, *self._walls.allow_read, *own_paths(), UV_PYTHONS]
        known += map(Path, SYSTEM)
        for path in wanted:
            if path.exists() and not any(is_within(path, root) for root in known):
                msg = (
                    f"{python} can be changed by sessions, and it needs to read {path}, which they "
                    f"may not read. Allow it with --allow-read {path}, or name another interpreter."
                )
                raise InvalidArgumentError(msg)


def own_interpreter() -> Interpreter:
    """Return what our own interpreter is."""
    folders = tuple(Path(path) for path in sys.path if path.endswith(PACKAGES))
    found = distributions(folders).get("ipykernel")
    return Interpreter(
        python=Path(sys.executable),
        version=sys.version_info[:3],
        ipykernel=found.version if found else "",
        folders=folders,
        reads=own_paths(),
        trusted=Path(sys.executable),
    )


async def ask_interpreter(python: Path, *options: str) -> Interpreter:
    """Run an interpreter that is trusted, and return what it says of itself.

    Args:
        python: Its path.
        options: More of its options than ``-P``.

    Raises:
        InvalidArgumentError: It is no Python that runs.
    """
    return await ask([str(python), "-P", *options, "-c", PROBE], python)


async def ask(argv: Sequence[str], python: Path) -> Interpreter:
    """Return what an interpreter says of itself when it is run like that.

    Raises:
        InvalidArgumentError: It is no Python that runs.
    """
    shown = repr(str(python))
    try:
        answer = await run_program(argv, cwd=Path("/"), timeout=PROBE_DEADLINE)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidArgumentError(f"the interpreter {shown} does not run: {why}") from error
    try:
        version, ipykernel, folders, reads = json.loads(answer.stdout.strip().splitlines()[-1])
        return Interpreter(
            python=python,
            version=tuple(int(number) for number in version),
            ipykernel=str(ipykernel),
            folders=tuple(Path(str(folder)) for folder in folders),
            reads=tuple(
                dict.fromkeys([*(Path(str(path)) for path in reads), *map(Path, links(python))])
            ),
            trusted=python,
        )
    except (LookupError, TypeError, ValueError) as error:
        why = (answer.stderr.strip() or answer.stdout.strip())[-500:] or "it said nothing"
        msg = f"the interpreter {shown} does not run (exit code {answer.returncode}): {why}"
        raise InvalidArgumentError(msg) from error


def base_of(python: Path) -> Path:
    """Return the program that an interpreter's path leads to: of an environment, its parent's."""
    return python.resolve()


def prefix_of(python: Path) -> Path:
    """Return the folder of the environment, or of the installation, that has an interpreter."""
    return python.parent.parent


def shows_system(prefix: Path) -> bool:
    """Say whether an environment shows the packages of what it is one of."""
    text = (reading.head(prefix, "pyvenv.cfg", PTH_BYTES) or b"").decode("utf-8", "replace")
    return bool(re.search(r"^include-system-site-packages\s*=\s*true", text, re.I | re.M))


def shown_by(prefix: Path) -> Iterator[Path]:
    """Yield the folders that ``.pth`` files of an environment add to its path.

    Read by us, since an interpreter that reads them runs what they say.
    """
    for file in sorted(prefix.glob("lib/python3*/*-packages/*.pth")):
        text = (reading.head(file.parent, file.name, PTH_BYTES) or b"").decode("utf-8", "replace")
        for line in text.splitlines():
            if line.strip() and not line.startswith(("#", "import ", "import\t")):
                yield file.parent / line.strip()


def changed_at(python: Path) -> float:
    """Return when what an interpreter's path means was last changed; 0 if nothing is there."""
    try:
        return max(python.stat().st_ctime, python.lstat().st_ctime)
    except OSError:
        return 0.0


def check_place(python: str, found: Path, state: Path) -> None:
    """Refuse a name that can't be one, and an interpreter among our own records.

    Args:
        python: What was asked for: an absolute path, or a name to be looked up.
        found: The absolute path that it means.
        state: The state directory; what is there belongs to sessions, one each.

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
    if is_within(found, state):
        msg = f"{python!r} is in {state}, where sessions have their own; name one elsewhere"
        raise InvalidArgumentError(msg)
