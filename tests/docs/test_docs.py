"""The pages tell the truth: their examples run, and the reference names everything."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest
from packaging.requirements import Requirement

import kernelry_mcp.command.clients  # noqa: F401  # has an error class of its own  # noqa: F401  # has an error class of its own
from kernelry import errors
from kernelry_mcp.command.cli import main
from kernelry_mcp.context import declared_tools, options_of
from kernelry_mcp.settings import PREFIX, TOOLSETS, Settings

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
LINK_TO_TEST = re.compile(r"\[(test_\w+)\]\((\S+)\)")
#: what the seeds say of sessions, by its numbers
CLAIMS = [
    *("PY-14", "PY-16"),
    *(f"LS-{number}" for number in range(1, 23)),
    *(f"TV-{number}" for number in range(1, 15)),
    *(f"PR-{number}" for number in (*range(1, 8), *range(12, 16))),
    *("RT-10", "RT-11", "RT-14"),
]
DEADLINE = 300  # seconds for the examples of one page
README_LINES = 120

# Runs the blocks of a page, in order, in one namespace and one task, with top-level await.
RUNNER = """
import ast, asyncio, json, sys

async def run(page, blocks):
    namespace = {"__name__": "__main__"}
    for line, text in blocks:
        source = "\\n" * line + text
        code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        pending = eval(code, namespace)
        if pending is not None:
            await pending

asyncio.run(run(*json.loads(sys.argv[1])))
"""


def blocks_of(page: Path, language: str) -> list[tuple[int, str]]:
    """Return the fenced blocks of a page in `language`, each with the line it follows."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(2)), match[2])
        for match in FENCE.finditer(text)
        if match[1] == language
    ]


def run_examples(page: Path, directory: Path) -> None:
    """Run the Python examples of a page in a process of their own; fail with what it said."""
    blocks = blocks_of(page, "python")
    assert blocks, f"{page.name} has no examples"
    home = directory / "home"
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("KERNELRY_")}
    env |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}",
        "KERNELRY_WORKSPACE": str(directory / "workspace"),
        "KERNELRY_STATE_DIR": str(directory / "state"),
    }
    said = directory / "said.txt"
    with said.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", RUNNER, json.dumps([str(page), blocks])],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(DEADLINE)
        finally:
            with suppress(ProcessLookupError):  # nothing that an example started may stay
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert code == 0, f"{page.name}:\n{said.read_text(encoding='utf-8')[-8000:]}"


def reference() -> str:
    return (DOCS / "reference.md").read_text(encoding="utf-8")


def error_classes(kind: type[errors.KernelryError]) -> Iterator[type[errors.KernelryError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from error_classes(below)


def anchor(heading: str) -> str:
    """Return the anchor that a heading gets on a rendered page."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_examples_of_the_readme_run(tmp_path: Path) -> None:
    run_examples(README, tmp_path)


def test_the_examples_of_the_tutorial_run(tmp_path: Path) -> None:
    run_examples(DOCS / "tutorial.md", tmp_path)


def test_a_failing_example_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\n```\n\n```python\nassert x == 2, 'wrong'\n```\n", encoding="utf-8"
    )
    with pytest.raises(AssertionError, match=r'page\.md", line 6,'):
        run_examples(page, tmp_path)


def test_the_reference_is_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "docs"), "--check"],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_reference_names_every_tool_with_its_parameters() -> None:
    page = reference()
    for tool in declared_tools(TOOLSETS, read_only=False):
        assert f"### {tool.name}\n" in page
        section = page.split(f"### {tool.name}\n")[1].split("\n### ")[0]
        for name in tool.parameters.get("properties", {}):
            shown = f"options.{name}" if name in options_of(tool) else name
            assert f"| `{shown}` |" in section, f"{tool.name}: {name}"


def test_the_reference_names_every_setting() -> None:
    page = reference()
    for name in Settings.model_fields:
        assert f"| `--{name.replace('_', '-')}` | `{PREFIX}{name.upper()}` |" in page, name


def test_the_reference_names_every_command_and_its_own_flags() -> None:
    page = reference()
    for name, command in main.commands.items():
        assert f"### kernelry {name}\n" in page
        for option in command.params:
            assert isinstance(option, click.Option)
            assert f"`{option.opts[0]}`" in page, f"{name}: {option.opts}"


def test_tv_14_every_error_has_a_code_of_its_own_that_the_reference_names() -> None:
    page = reference()
    ours = [k for k in error_classes(errors.KernelryError) if k.__module__.startswith("kernelry")]
    assert len({kind.code for kind in ours}) == len(ours)
    for kind in ours:
        assert f"| `{kind.code}` | `{kind.__name__}` |" in page, kind


def test_the_architecture_says_what_each_dependency_is_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for requirement in map(Requirement, project["dependencies"]):
        assert f"| `{requirement.name}` |" in page, requirement.name


def test_the_readme_names_every_core_tool_and_is_short() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < README_LINES
    for tool in declared_tools(["core"], read_only=False):
        assert f"`{tool.name}`" in text, tool.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, fragment = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_json_of_a_page_is_json(page: Path) -> None:
    for _, text in blocks_of(page, "json"):
        json.loads(text)


def test_every_claim_of_the_seeds_is_held_by_a_test_named_after_it_or_left_out() -> None:
    kept, _, left_out = (DOCS / "claims.md").read_text(encoding="utf-8").partition("## What was")
    row = re.compile(r"^\| ([A-Z]{2}-\d+) \| (.+) \|$", re.MULTILINE)
    found = row.findall(kept)
    assert sorted([claim for claim, _ in found + row.findall(left_out)]) == sorted(CLAIMS)
    for claim, rest in found:
        tests = LINK_TO_TEST.findall(rest)
        assert tests, claim
        for name, target in tests:
            assert name.startswith(f"test_{claim.lower().replace('-', '_')}_"), (claim, name)
            text = (DOCS / target).resolve().read_text(encoding="utf-8")
            assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), name


@pytest.mark.parametrize(
    ("page", "heading"), [("survival.md", "## Case by case"), ("security.md", "## Threats")]
)
def test_what_a_page_promises_is_held_by_tests_that_are_there(page: str, heading: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    rows = text.partition(heading)[2].partition("\n## ")[0].splitlines()
    rows_with_tests = [row for row in rows if row.startswith("| ")][2:]
    assert rows_with_tests
    assert all(re.search(r"\[test_", row) for row in rows_with_tests)
    for name, target in LINK_TO_TEST.findall(text):
        tests = (DOCS / target).resolve().read_text(encoding="utf-8")
        assert re.search(rf"def {name}\(", tests), name
