"""The house's doors open one way (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
LIBRARY = REPOSITORY / "kernels" / "kernelry"
INSIDE = LIBRARY / "inside"

#: modules of the library, lowest first; one may import those of its own row and below
ROWS: list[set[str]] = [
    {"errors", "outputs", "crashpoints"},
    {"beneath"},
    {"shielding"},
    {"models", "paths", "budget", "programs", "transcript", "descriptors", "signing"},
    {"transitions", "templates", "checkpoint_models", "reports"},
    {"filepaths", "files", "listing", "checkpoint_files"},
    {"engines", "store", "scripts", "distributions", "interpreters", "requirements", "uv"},
    {"merging", "usage"},
    {"installs"},
    {"config", "specs", "run", "environments", "images"},
    {"isolation"},
    {"artifacts"},
    {"services", "launches", "adoption", "inspection", "interrupts", "saving"},
    {"events", "history"},
    {"notebooks", "graph", "event_file"},
    {"late", "kernel_source", "notes"},
    {"executions"},
    {"session"},
    {"steering", "script_runs", "replay", "checkpoints", "selection"},
    {"lifecycle", "suspension", "directory"},
    {"health", "recovery", "cleanup", "supervisor", "foundation"},
    {"sessions"},
    {"__init__"},
]
#: what a kernel's interpreter is sure to have
INSIDE_MAY_IMPORT = {"ipykernel", "IPython", "tornado", "traitlets", "zmq"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def row_of(module: str) -> int:
    return next(i for i, row in enumerate(ROWS) if module in row)


def room(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def test_the_library_knows_nothing_of_mcp() -> None:
    for path in LIBRARY.rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"kernelry_mcp", "mcp", "mcp_types", "fastmcp"}, path


def test_rooms_of_the_library_import_only_downwards() -> None:
    for path in LIBRARY.rglob("*.py"):
        if INSIDE in path.parents:
            continue
        for name in imported(path):
            parts = name.split(".")
            if parts[0] != "kernelry" or len(parts) < 2:
                continue
            known = {module for row in ROWS for module in row}
            if parts[1] in known:
                assert row_of(parts[1]) <= row_of(room(path)), f"{path} imports {name}"


def test_what_runs_in_the_kernel_imports_only_the_standard_library_and_ipykernel() -> None:
    import sys

    for path in INSIDE.rglob("*.py"):
        for name in imported(path):
            root = name.split(".")[0]
            allowed = root in sys.stdlib_module_names or root in INSIDE_MAY_IMPORT
            assert allowed, f"{path} imports {name}"


def test_nothing_of_ours_imports_what_runs_in_the_kernel() -> None:
    for root in (LIBRARY, REPOSITORY / "server"):
        for path in root.rglob("*.py"):
            if INSIDE not in path.parents:
                assert not any("inside" in name.split(".") for name in imported(path)), path
