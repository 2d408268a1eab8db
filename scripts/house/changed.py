"""``changed.py [BASE]``: print the test files that a change asks for, a line each.

A change is what git has since BASE (default: the last commit) and what it does not track yet.
It asks for the tests of each room it touches: those in a folder of the room's name, those that
import from it, and those that ``[tests]`` of rooms.toml names since they reach it through a
process. Rooms that import a changed module are touched too, as far as their folders of tests.
What belongs to no room (pyproject.toml, tests/conftest.py) asks for all tests.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from house import REPOSITORY, House

ALWAYS = ["tests/unit/test_house.py"]
PAGES = "docs/"
EVERYTHING = ["tests"]


class Changes:
    """Which tests a change asks for.

    Args:
        house: The rooms and their imports.
        top: The folder of the repository.
    """

    def __init__(self, house: House, top: Path = REPOSITORY) -> None:
        self._house = house
        self._top = top

    def tests(self, files: Iterable[str]) -> list[str]:
        """Return paths of tests, sorted; ``["tests"]`` stands for all.

        Args:
            files: Paths of changed files, relative to the repository.
        """
        modules: set[str] = set()
        found = set(ALWAYS)
        for file in files:
            if (module := self._module_of(file)) is not None:
                modules.add(module)
            elif file.startswith(PAGES) or file == "README.md":
                found.add("tests/docs")
            elif file.startswith("tests/") and file.endswith(".py"):
                if not (users := self._users_of(file)):
                    return EVERYTHING
                found |= users
            elif not file.startswith(("scripts/", "LICENSE", ".ci/")):
                return EVERYTHING
        for module in modules:
            found |= set(self._tests_of(module))
        there = {path for path in found if (self._top / path).exists()}
        return sorted(p for p in there if not {str(f) for f in Path(p).parents} & there)

    def _module_of(self, file: str) -> str | None:
        """Return the module of a file of ours; for data (SQL, toml) its package; None: none."""
        path = Path(file)
        if path.parts[0] not in ("kernels", "server"):
            return None
        parts = list(path.with_suffix("").parts[1:])
        if path.suffix != ".py" or parts[-1] == "__init__":
            parts.pop()
        while parts and ".".join(parts) not in self._house.modules:
            parts.pop()
        return ".".join(parts) or None

    def _tests_of(self, module: str) -> Iterator[str]:
        room = self._house.room_of(module)
        if room is None:
            return
        yield from self._about(room.name)
        for other in self._house.modules:
            imports = self._house.imports(other)
            if any(module == self._reached(other, i.target, i.name) for i in imports):
                above = self._house.room_of(other)
                yield from self._about(above.name) if above else ()
        for path, imported in self._imports_of_tests.items():
            if any((r := self._house.room_of(name)) and r.name == room.name for name in imported):
                yield path

    def _about(self, room: str) -> Iterator[str]:
        """Yield the folders of tests with a room's name, and those that the table names."""
        parts = room.split(".")
        below = parts[1:] or parts
        for kind in ("unit", "integration"):
            for depth in range(len(below), 0, -1):
                folder = "/".join(("tests", kind, *below[:depth]))
                if (self._top / folder).is_dir():
                    yield folder
                    break
        for depth in range(len(parts), 0, -1):
            named = self._house.tests.get(".".join(parts[:depth]))
            if named is not None:
                yield from named
                break

    def _reached(self, source: str, target: str, name: str) -> str:
        """Return the module that an import gets at; behind a room's door the one a name is from."""
        submodule = f"{target}.{name}"
        if submodule in self._house.modules:
            return submodule
        if source != target and self._house.is_package(target):
            return self._doors.get(target, {}).get(name, target)
        return target

    @cached_property
    def _doors(self) -> dict[str, dict[str, str]]:
        """Package -> name that it offers -> module that has it."""
        return {
            package: {i.name: i.target for i in self._house.imports(package)}
            for package in self._house.modules
            if self._house.is_package(package)
        }

    @cached_property
    def _imports_of_tests(self) -> dict[str, set[str]]:
        """Test file -> modules of ours that it imports."""
        found = {}
        for path in sorted((self._top / "tests").rglob("test_*.py")):
            names: set[str] = set()
            for target, name in _imported(path):
                if target in self._house.modules:
                    names.add(self._reached("", target, name))
            found[str(path.relative_to(self._top))] = names
        return found

    def _users_of(self, file: str) -> set[str]:
        """Return a test file itself, or the tests that import a file beside them."""
        path = self._top / file
        if path.name.startswith("test_"):
            return {file}
        if path.name == "conftest.py":
            return {str(path.parent.relative_to(self._top))}
        users = set()
        for test in (self._top / "tests").rglob("test_*.py"):
            names = {name for pair in _imported(test) for name in pair}
            if path.stem in {name.rpartition(".")[2] for name in names}:
                users.add(str(test.relative_to(self._top)))
        return users


def _imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def changed_files(base: str) -> list[str]:
    """Return what git has changed since `base`, and what it does not track or ignore."""
    asked = (
        ["git", "diff", "--name-only", base],
        ["git", "ls-files", "--others", "--exclude-standard"],
    )
    found: list[str] = []
    for command in asked:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
        found += done.stdout.splitlines()
    return found


if __name__ == "__main__":
    base = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    print("\n".join(Changes(House()).tests(changed_files(base))))
