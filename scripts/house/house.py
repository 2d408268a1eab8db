"""The house as data: rooms and floors of rooms.toml, and the imports there really are.

Used by tests/unit/test_house.py, scripts/docs and scripts/house/changed.py. It reads sources
and imports nothing of ours.
"""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("rooms.toml")
#: parts of the table -> what a reader calls them
PARTS = {"library": "the library", "server": "the server", "inside": "what runs in kernels"}
#: parts whose floors stand upon each other; `inside` stands apart
STACKED = ("library", "server")


@dataclass(frozen=True)
class Room:
    """A package, or a module that stands alone."""

    #: dotted name
    name: str
    #: its one idea
    idea: str
    #: part of the house: a key of `PARTS`
    part: str
    #: from 0 on the ground; those of the server are above those of the library
    floor: int


@dataclass(frozen=True)
class Import:
    """One name that one module takes from another of ours."""

    #: dotted name of the module that imports
    source: str
    #: dotted name of the module or package that is imported from
    target: str
    #: what is taken; empty: the module itself
    name: str
    #: line of the import
    line: int


@dataclass
class House:
    """The sources below some import roots, and the table that says how they should lie."""

    #: folders that are import roots: package names begin below them
    roots: tuple[Path, ...] = (REPOSITORY / "kernels", REPOSITORY / "server")
    #: the table of rooms
    table: Path = TABLE
    #: trees that were parsed already
    _trees: dict[str, ast.Module] = field(default_factory=dict)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The table as it is written."""
        return tomllib.loads(self.table.read_text(encoding="utf-8"))

    @property
    def limits(self) -> dict[str, int]:
        """How large things may be, in files and lines."""
        return dict(self.data["limits"])

    @property
    def tests(self) -> dict[str, list[str]]:
        """Room -> tests that reach it through a process."""
        return dict(self.data["tests"])

    @cached_property
    def rooms(self) -> dict[str, Room]:
        """All rooms of the table by name, from the ground up."""
        found = {}
        height = 0
        for part in PARTS:
            height = height if part in STACKED else 0
            for row in self.data[part]:
                found.update({n: Room(n, idea, part, height) for n, idea in row.items()})
                height += 1
        return found

    @cached_property
    def modules(self) -> dict[str, Path]:
        """All modules by dotted name; a package by its own."""
        found = {}
        for root in self.roots:
            for path in sorted(root.rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found

    def room_of(self, module: str) -> Room | None:
        """Return the room that a module belongs to; None: it is in none.

        A room that is a package has the modules directly in it; packages below are rooms of
        their own. Only the packages at the top have no modules but those that are rooms.
        """
        if module in self.rooms:
            return self.rooms[module]
        parent = module.rpartition(".")[0]
        is_top = "." not in parent or parent.endswith(".inside")
        return None if is_top else self.rooms.get(parent)

    def tree(self, module: str) -> ast.Module:
        """Return the syntax tree of a module."""
        if module not in self._trees:
            self._trees[module] = ast.parse(self.modules[module].read_text(encoding="utf-8"))
        return self._trees[module]

    def imports(self, module: str) -> Iterator[Import]:
        """Yield what a module imports of ours, wherever in it."""
        for node in ast.walk(self.tree(module)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if alias.name in self.modules:
                        yield Import(module, alias.name, "", node.lineno)
            elif isinstance(node, ast.ImportFrom):
                target = self._absolute(module, node)
                if target in self.modules:
                    for alias in node.names:
                        yield Import(module, target, alias.name, node.lineno)

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        is_package = self.modules[module].name == "__init__.py"
        kept = parts[: len(parts) - node.level + is_package]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def offered(self, package: str) -> set[str]:
        """Return the names in ``__all__`` of a package."""
        for node in self.tree(package).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return set(ast.literal_eval(node.value))
        return set()

    def is_package(self, module: str) -> bool:
        """Say whether a module is a package."""
        return self.modules[module].name == "__init__.py"

    def lines(self, module: str) -> int:
        """Return how many lines a module has."""
        return self.modules[module].read_text(encoding="utf-8").count("\n")


def faults(house: House) -> Iterator[str]:
    """Yield all that is not as the table and its limits say, one sentence each."""
    for module, path in house.modules.items():
        room = house.room_of(module)
        if room is None:
            yield f"{path}: belongs to no room of rooms.toml"
            continue
        for item in house.imports(module):
            yield from _wrong_way(house, room, item)
        if house.is_package(module):
            yield from _more_than_a_door(house, module)
        yield from _too_large(house, module)
    for name in house.rooms:
        if name not in house.modules:
            yield f"rooms.toml has a room {name} that is not there"
        yield from _crowded(house, name)


def _wrong_way(house: House, room: Room, item: Import) -> Iterator[str]:
    submodule = f"{item.target}.{item.name}"
    reached = submodule if submodule in house.rooms else item.target
    other = house.room_of(reached)
    if other is None or other.name == room.name:
        return
    where = f"{house.modules[item.source]}:{item.line}"
    apart = "inside" in (room.part, other.part) and room.part != other.part
    if apart:
        yield f"{where}: imports {reached}; what runs in kernels is apart"
    elif other.floor >= room.floor:
        yield f"{where}: {room.name} is not above {other.name}, which it imports"
    elif reached != other.name:
        yield f"{where}: imports from {reached}, not from its room {other.name}"
    elif reached == submodule:  # the room itself
        return
    elif house.is_package(reached) and item.name not in {"", *house.offered(reached)}:
        yield f"{where}: {item.name} is not offered by {reached} (__all__)"


def _more_than_a_door(house: House, package: str) -> Iterator[str]:
    for node in house.tree(package).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        is_name = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
            "__all__",
            "__version__",
        )
        if not (is_text or is_import or is_name):
            yield f"{house.modules[package]}:{node.lineno}: more than imports and __all__"


def _too_large(house: House, module: str) -> Iterator[str]:
    path, limits = house.modules[module], house.limits
    if (lines := house.lines(module)) > limits["module_lines"]:
        yield f"{path}: {lines} lines, {limits['module_lines']} are the limit"
    for node in ast.walk(house.tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limits["function_lines"]:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines"


def _crowded(house: House, name: str) -> Iterator[str]:
    own = [m for m in house.modules if (r := house.room_of(m)) and r.name == name]
    files = [module for module in own if not house.is_package(module)]
    if len(files) > house.limits["room_files"]:
        yield f"{name}: {len(files)} files, {house.limits['room_files']} are the limit"
    if (lines := sum(map(house.lines, own))) > house.limits["room_lines"]:
        yield f"{name}: {lines} lines, {house.limits['room_lines']} are the limit"
