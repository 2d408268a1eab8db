"""The fault matrix: what is broken on purpose, and what must come of it.

Each case is held by tests marked ``@fault("B1")``, here or beside the feature they belong
to, or by ``scripts/soak`` if it takes minutes. `python -m tests.faults.matrix` prints the
table with who holds what. Expected of every case besides its own line: other sessions
answer `1+1` meanwhile, and file descriptors, threads, zombies and directories are
afterwards what they were (fixtures `bystander` and `nothing_left` of this folder).
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T", bound=Callable[..., Any])

TESTS = Path(__file__).parents[1]
SOAK = TESTS.parent / "scripts" / "soaks"


@dataclass(frozen=True, slots=True)
class Case:
    """One fault."""

    #: what is done
    injection: str
    #: what must come of it
    expected: str


def fault(*cases: str) -> Callable[[T], T]:
    """Mark a test as one that holds these cases."""

    def mark(test: T) -> T:
        for case in cases:
            assert case in CASES, f"there is no case {case}"
            test = pytest.mark.fault(case)(test)
        return test

    return mark


# fmt: off
CASES: dict[str, Case] = {
    # A. Bad input
    "A1": Case("session ids: unknown, empty, 10 kB, ../x, NUL, emoji, other case", "refused alike, naming those there are"),
    "A2": Case("create twice, delete twice, switch to a deleted session", "defined answers, no second kernel"),
    "A3": Case("code: empty, comments, 10 MB, surrogates, NUL, CRLF, tabs, BOM, syntax error", "runs or a clear error; the record holds the exact text"),
    "A4": Case("wait and timeout: 0, -1, NaN, 1e308, text", "refused with what is allowed; nothing runs"),
    "A5": Case("packages: shell text, options, paths, URLs, 1,000 names, unknown, conflicting", "refused before anything starts, or the resolver's words; nothing changed"),
    "A6": Case("save_script to /etc/x, ../../x, a link, a folder, a taken name, 300 characters, NUL", "refused; links never followed"),
    "A7": Case("arguments: wrong types, unknown, missing, deeply nested", "an error that names them; the server goes on"),
    # B. Kernels
    "B1": Case("SIGKILL of a kernel, idle and busy", "dead (SIGKILL) within 0.5 s, partial output kept, restart works"),
    "B2": Case("segfault, abort, os._exit(7), stack overflow in a cell", "signal or exit code named, partial output kept, restart works"),
    "B3": Case("sys.exit(), quit(), exit() in a cell", "an error is shown, the session lives"),
    "B4": Case("the seven memory cases under a limit", "named with used and allowed; neighbours undisturbed"),
    "B5": Case("a kernel dies during its start: bad interpreter, no ipykernel, a broken one", "create fails with the log's last lines; nothing left"),
    "B6": Case("a kernel that starts slowly, or never gets ready", "waited for, then a timeout error; its process is gone"),
    "B7": Case("SIGKILL during restart, interrupt, shutdown, installation", "ready or dead, never stuck"),
    "B8": Case("kernels that die at each start", "each start fails by itself, with the reason; the pool gives up after three"),
    "B9": Case("endless loop, sleep, native sleep, regex, async sleep, ignored SIGINT", "the ladder ends each or says it can't, and which step worked"),
    "B10": Case("SIGSTOP of a kernel", "stopped; interrupt wakes it; restart works"),
    "B11": Case("a cell closes descriptors, replaces sys.stdout and handlers, removes its cwd", "dead with its cause, or repaired before the next cell"),
    "B12": Case("a cell forks and both return, starts daemons and printing threads", "late output is labelled; no process outlives the session"),
    "B13": Case("200 MB print, a million lines, 20,000 displays, 300 MB repr, `yes`, raw writes", "bounded, counted exactly; server and kernel stay small"),
    "B14": Case("__repr__ that raises, is huge, never ends; broken HTML; a 50 MB image", "a placeholder; the cell ends"),
    "B15": Case("input(), getpass(), breakpoint(), %debug", "an error at once, no hang"),
    "B16": Case("ANSI, OSC, JSON-RPC text, carriage returns", "cleaned; the protocol's stream stays valid"),
    "B17": Case("the workspace's file system is full, of bytes and of inodes", "OSError in the cell; records are kept"),
    "B18": Case("a cell queued behind one that fails", "it runs, and says so"),
    "B19": Case("IOPub loses idle, loses, repeats, reorders messages", "it ends by the reply and a grace; outputs_complete is false"),
    "B20": Case("garbage, foreign and wrongly signed messages on a kernel's sockets", "ignored and counted"),
    "B21": Case("a kernel's sockets and connection file are deleted", "running sessions go on; restart works"),
    "B22": Case("a second client attaches to a kernel", "ours goes on"),
    "B23": Case("code signs displays, updates, text, errors, notes without end", "stopped, with the reason; neighbours answer, the server stays small"),
    "B24": Case("a frame of 8 GiB, a message without end, on a kernel's own sockets", "the kernel is dead, with the reason; restart works"),
    "B25": Case("odd types and sizes in every field of messages, replies and answers", "taken for what they can be, or left out; every tool and resource answers, with codes"),
    "B26": Case("a replay without end, a journal of anything, for the next server", "bounded; the execution is stopped with the reason"),
    "B27": Case("files of a session without end: many, sparse, deep, swapped", "nobody else waits, nor does an end"),
    # C. Clients and the protocol
    "C1": Case("malformed JSON, empty lines, batches, jsonrpc 1.0, null ids", "an error answer where one is due; the server goes on"),
    "C2": Case("invalid UTF-8", "an error answer; the server goes on"),
    "C3": Case("a line of 20 MB, and one over the 32 MB cap", "the first is taken, the second refused"),
    "C4": Case("a request nested 100,000 deep", "refused with its id"),
    "C5": Case("a request id that is in flight already", "the second is refused, the first answered"),
    "C6": Case("cancel: unknown id, twice, after the end, in flight", "no crash; the session lives"),
    "C7": Case("a second initialize, calls before it, an unknown version", "answered; nothing is reset"),
    "C8": Case("stdin ends while idle and within a call", "exit code 0 in 2 s, no process left"),
    "C9": Case("stdout is closed, stdin stays open", "the server ends in order"),
    "C10": Case("a client that does not read its answers", "bounded memory; nothing lost"),
    "C11": Case("SIGKILL of the host", "the server and its kernels are gone in 2 s"),
    "C12": Case("an HTTP client goes during a long cell and comes back", "the result is there, once"),
    "C13": Case("100 calls at once into one session; create, delete, switch during runs", "in order, all answered, no deadlock"),
    "C14": Case("HTTP: tokens, Host, Origin, media type, 1 GB body, slow sender, unknown session", "401, 403, 415, 413, 408, 404; no side effect"),
    "C15": Case("an id that another caller might have", "session ids mean the same for all of one token; no token, no answer"),
    # D. Server and host
    "D1": Case("SIGKILL of the server at each named point, 40 times", "the store opens, no session is half there, no process is left"),
    "D2": Case("SIGKILL of the server with kernels idle, busy, in native code, with children", "all adopted by the next server, or gone after the orphan timeout"),
    "D3": Case("SIGTERM, SIGINT, SIGHUP; twice; during the start", "a clean end in 5 s, the second signal forces it"),
    "D4": Case("the state directory's disk is full, then is not", "cells go on; degraded, then recovered; integrity ok"),
    "D5": Case("state directory read-only, removed, somebody else's, a link", "refused at start with path and cure; degraded at run time"),
    "D6": Case("the k-th write or fsync of the store fails", "no crash; what is said to be kept is kept"),
    "D7": Case("database corrupt, truncated, empty, older, newer, bits flipped", "moved aside under a name, never overwritten; or refused with the cure"),
    "D8": Case("two servers on one state directory, one after and two at once", "one wins; the other names the holder"),
    "D9": Case("no file descriptors left", "create is refused with the numbers; sessions go on"),
    "D10": Case("fork fails", "create fails with the reason; sessions go on"),
    "D11": Case("the clock jumps a day either way", "no session expires, no duration is negative"),
    "D12": Case("server and kernels are halted and go on", "nobody is declared dead"),
    "D13": Case("a clean-up meets a call to the same session", "the call wins or is told so; no crash"),
    "D14": Case("the event loop is blocked for seconds", "logged; no kernel is declared dead"),
    "D15": Case("nobody reads the server's stderr", "nothing blocks; what is dropped is counted"),
    "D16": Case("the sandbox tool is missing or broken", "auto says so; an explicit level is refused"),
    "D17": Case("no package index, wrong hashes, an installation killed midway", "the environment is as it was"),
    "D18": Case("a session shadows what a kernel needs (json, zmq)", "the server goes on; a start that fails says why"),
    "D19": Case("the runtime directory of live sessions is deleted", "sessions go on; new kernels start"),
    # T. Authors of packages and of arguments
    "T11": Case("packages with a setup.py, a .pth, paths that lead out, links in an environment", "no code runs at the installation; nothing outside is touched"),
    "T12": Case("any text as the name of a package", "refused, or exactly one argument of uv's"),
    # E. Load
    "E1": Case("200 sessions at once, a cell each, all deleted", "all right; nothing left"),
    "E2": Case("10,000 cells in 10 sessions", "all right; the server grows by less than 1 kB a cell"),
    "E3": Case("300 cycles of create, run, delete", "descriptors, threads, directories as before"),
    "E4": Case("10 minutes of seeded chaos in 8 sessions", "every answer agrees with the model"),
    "E5": Case("1,000 cells that print 1 MB", "server, kernel and disk bounded"),
    "E6": Case("100 restarts under calls", "each call answered; 100 generations"),
    "E7": Case("1, 50 and 200 idle sessions beside a cell", "its latency stays as it is"),
    "E8": Case("ten minutes of messages, frames, answers and files at random, from a seed", "nothing of ours fails; p99 of a neighbour at most 3 times quiet, memory flat"),
}
# fmt: on

#: cases that can't be injected here, or belong to something that does not exist yet, and why
NOT_INJECTED: dict[str, str] = {}


def holders(folder: Path) -> Iterator[tuple[str, str]]:
    """Return (case, "file::function") of everything below `folder` marked with `fault`."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func).endswith("fault"):
                    for argument in mark.args:
                        yield ast.literal_eval(argument), f"{path.name}::{node.name}"


def main() -> None:
    """Print the table."""
    held: dict[str, list[str]] = {}
    for folder in (TESTS, SOAK):
        for number, name in holders(folder):
            held.setdefault(number, []).append(name)
    for number, case in CASES.items():
        print(f"{number:4} {case.injection}\n     -> {case.expected}")  # noqa: T201
        for holder in held.get(number, [NOT_INJECTED.get(number, "NOT HELD")]):
            print(f"     {holder}")  # noqa: T201


if __name__ == "__main__":
    main()
