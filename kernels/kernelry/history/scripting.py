"""Executions as a script of cells that Python runs: without magics, with top-level await."""

import ast
import io
import tokenize
from collections.abc import Iterable

from kernelry.models import Execution, SessionRecord

AWAITING = (ast.Await, ast.AsyncFor, ast.AsyncWith)
OWN_SCOPE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
STRINGS = ("STRING", "FSTRING_START", "FSTRING_MIDDLE", "FSTRING_END")
TRIES = 5  # to parse code
#: what awaits in cells needs: one event loop for all of them
RUNNER = "import asyncio\n\n_loop = asyncio.Runner()\n"


def script(record: SessionRecord, executions: Iterable[Execution]) -> str:
    """Return executions as a script of cells (``# %%``); what only IPython knows is commented."""
    about = " ".join((record.description or "exported by kernelry").split())
    made = [(execution, as_python(execution.code)) for execution in executions]
    parts = [f"# {record.id}: {about}\n"]
    if any(awaits(code) for _, code in made):
        parts.append(RUNNER)
    parts += [
        f"# %% {execution.index} ({execution.status})\n{run_alone(code, execution.index)}\n"
        for execution, code in made
    ]
    return "\n".join(parts)


def as_python(code: str) -> str:
    """Return code with magics and shell lines commented out; all of it if it is no Python then."""
    lines = code.splitlines()
    magic = [line.lstrip().startswith(("%", "!")) for line in lines]
    commented = "\n".join(
        f"# {line}" if is_magic else line for line, is_magic in zip(lines, magic, strict=True)
    )
    if parsed(code) is not None:  # what looks like magic is in a text
        return code
    if not code.lstrip().startswith("%%") and parsed(commented) is not None:
        return commented
    return "\n".join(f"# {line}".rstrip() for line in lines)


def parsed(code: str) -> ast.Module | None:
    """Return what Python makes of code; None: it is none."""
    for _ in range(TRIES):
        try:
            return ast.parse(code)
        except (
            SystemError
        ):  # another thread parses too, or ran out of stack (python/cpython#106905)
            continue
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
    return None


def awaits(code: str) -> bool:
    """Say whether code awaits outside of its functions, which a script may not."""
    waiting: list[ast.AST] = [*(parsed(code) or ast.Module([], [])).body]
    while waiting:
        node = waiting.pop()
        is_asynchronous = isinstance(node, ast.comprehension) and node.is_async
        if isinstance(node, AWAITING) or is_asynchronous:
            return True
        if not isinstance(node, OWN_SCOPE):
            waiting += ast.iter_child_nodes(node)
    return False


def run_alone(code: str, index: int) -> str:
    """Return a cell as a script runs it: one that awaits in a function of its own.

    Args:
        code: What Python parses.
        index: Number of the cell.
    """
    if not awaits(code):
        return code
    named = f"    global {', '.join(names)}\n" if (names := bound_by(code)) else ""
    made = f"async def _cell_{index}():\n{named}{indented(code)}\n\n\n_loop.run(_cell_{index}())"
    try:
        compile(made, "<cell>", "exec", dont_inherit=True)
    except SyntaxError as error:  # what a module may do and a function may not
        commented = "\n".join(f"# {line}".rstrip() for line in code.split("\n"))
        return f"# no script can run this cell: {error.msg}\n{commented}"
    return made


def bound_by(code: str) -> list[str]:
    """Return the names that a cell gives a value."""
    found = set[str]()
    waiting: list[ast.AST] = [*(parsed(code) or ast.Module([], [])).body]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.add(other or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                found.add(name)
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                found.add(name)
            case _:
                pass
        if isinstance(node, COMPREHENSIONS):  # what they walk over is theirs, := is not
            walruses = [one for one in ast.walk(node) if isinstance(one, ast.NamedExpr)]
            waiting += [one.target for one in walruses]
        elif not isinstance(node, OWN_SCOPE):
            waiting += ast.iter_child_nodes(node)
    return sorted(found - {"*"})


def indented(code: str) -> str:
    """Return code one level deeper; lines within strings stay as they are."""
    within = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if tokenize.tok_name[token.type] in STRINGS:
            within |= set(range(token.start[0] + 1, token.end[0] + 1))
    return "\n".join(
        line if number in within or not line.strip() else f"    {line}"
        for number, line in enumerate(code.split("\n"), 1)
    )
