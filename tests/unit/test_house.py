"""The house is as scripts/house/rooms.toml says: rooms, floors, doors and sizes."""

import ast
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import REPOSITORY, House, faults

#: what a kernel's interpreter is sure to have
INSIDE_MAY_IMPORT = {"ipykernel", "IPython", "tornado", "traitlets", "zmq"}
LIBRARY = REPOSITORY / "kernels" / "kernelry"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the house that a test may spoil: the folder of the library in it."""
    for root in ("kernels", "server"):
        shutil.copytree(
            REPOSITORY / root, tmp_path / root, ignore=shutil.ignore_patterns("__pycache__")
        )
    return tmp_path / "kernels" / "kernelry"


def imported(path: Path) -> Iterator[str]:
    """Yield what a file imports by absolute names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def found_in(library: Path) -> list[str]:
    """Return what is wrong with a copy."""
    top = library.parents[1]
    return list(faults(House(roots=(top / "kernels", top / "server"))))


def test_the_house_is_as_its_table_says() -> None:
    assert not list(faults(House()))


def test_an_import_of_a_room_above_is_found(copy: Path) -> None:
    with (copy / "output" / "images.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom kernelry.session import Run\n")
    [fault] = found_in(copy)
    assert "kernelry.output is not above kernelry.session" in fault


def test_an_import_past_the_door_of_a_room_is_found(copy: Path) -> None:
    with (copy / "session" / "run.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom kernelry.output.fold import OutputFold\n")
    [fault] = found_in(copy)
    assert "imports from kernelry.output.fold, not from its room kernelry.output" in fault


def test_a_name_that_a_room_does_not_offer_is_found(copy: Path) -> None:
    with (copy / "session" / "run.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom kernelry.output import transcript\n")
    [fault] = found_in(copy)
    assert "transcript is not offered by kernelry.output" in fault


def test_a_file_beside_the_rooms_is_found(copy: Path) -> None:
    (copy / "extras.py").write_text("", encoding="utf-8")
    [fault] = found_in(copy)
    assert "belongs to no room" in fault


def test_a_room_and_a_module_that_pass_their_size_are_found(copy: Path) -> None:
    (copy / "events" / "long.py").write_text("pass\n" * 501, encoding="utf-8")
    assert ["501 lines" in fault for fault in found_in(copy)] == [True]
    for number in range(6):
        (copy / "events" / f"more_{number}.py").write_text("pass\n" * 490, encoding="utf-8")
    assert any("kernelry.events: 36" in fault for fault in found_in(copy))
    for number in range(9):
        (copy / "events" / f"small_{number}.py").write_text("", encoding="utf-8")
    assert any("kernelry.events: 18 files" in fault for fault in found_in(copy))


def test_what_runs_in_kernels_is_imported_by_nobody(copy: Path) -> None:
    with (copy / "engines" / "spawn.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom kernelry.inside.walls import guard\n")
    [fault] = found_in(copy)
    assert "apart" in fault


def test_the_library_knows_nothing_of_mcp() -> None:
    for path in LIBRARY.rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"kernelry_mcp", "mcp", "mcp_types", "fastmcp"}, path


def test_what_runs_in_the_kernel_imports_only_the_standard_library_and_ipykernel() -> None:
    for path in (LIBRARY / "inside").rglob("*.py"):
        for name in imported(path):
            root = name.split(".")[0]
            allowed = root in sys.stdlib_module_names or root in INSIDE_MAY_IMPORT
            assert allowed, f"{path} imports {name}"
