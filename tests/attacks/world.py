"""Where attacks take place: sessions of one level, what they are after, and who listens.

The service runs in a thread of its own, so that one serves all attacks of a level.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import pty
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from kernelry import ArtifactSpec, Config, Execution, Run, Sessions, SessionSpec
from kernelry.scripts import run_script
from kernelry.session.session import Session

T = TypeVar("T")

SCRIPTS = Path(__file__).parent / "scripts"
COMMON = "from tests.attacks.scripts.common import "
Level = Literal["process", "guard", "box"]
DEADLINE = 60  # seconds after which an attack hangs
SHARED = Path("/dev/shm")
CANARY = secrets.token_hex(8)
MNT_DETACH = 2
#: nobody's variable: it is in the environment of the server only
VARIABLE = "ATTACK_CANARY_OF_THE_SERVER"


def source(script: str) -> str:
    """Return the text of an attack script, which needs nothing besides it."""
    lines = (SCRIPTS / f"{script}.py").read_text(encoding="utf-8").splitlines()
    own = "\n".join(line for line in lines if not line.startswith(COMMON))
    return (SCRIPTS / "common.py").read_text(encoding="utf-8") + "\n\n" + own


class Listeners:
    """Services of the user on this machine, which count who reaches them."""

    def __init__(self, folder: Path, workspace: Path) -> None:
        self.addresses: dict[str, Any] = {}
        self._stack = ExitStack()
        name = f"kernelry-attack-{secrets.token_hex(4)}"
        unix = {
            "unix_stream": str(folder / "docker.sock"),
            "unix_datagram": str(folder / "log"),
            "unix_workspace": str(workspace / "service.sock"),
        }
        workspace.mkdir()
        made = {
            "tcp": self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "unix_stream": self._listen(socket.AF_UNIX, socket.SOCK_STREAM, unix["unix_stream"]),
            "unix_datagram": self._listen(socket.AF_UNIX, socket.SOCK_DGRAM, unix["unix_datagram"]),
            "unix_workspace": self._listen(
                socket.AF_UNIX, socket.SOCK_STREAM, unix["unix_workspace"]
            ),
            "abstract": self._listen(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}"),
        }
        with contextlib.suppress(OSError):  # not every kernel has it
            made["vsock"] = self._listen(socket.AF_VSOCK, socket.SOCK_STREAM, (1, 0xFFFFFFFF))
        self._made = made
        ports = {kind: made[kind].getsockname()[1] for kind in ("tcp", "udp")}
        self.addresses = {**ports, **unix, "abstract": f"@{name}"}

    def _listen(self, family: int, kind: int, address: Any) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family, kind))
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen(100)
        return made

    def reached(self) -> set[str]:
        """Return which of them somebody has reached since the last time this was asked."""
        found = set()
        while ready := select.select(list(self._made.values()), [], [], 0)[0]:
            for name, made in self._made.items():
                if made in ready:
                    found.add(name)
                    if made.type == socket.SOCK_STREAM:
                        made.accept()[0].close()
                    else:
                        made.recv(100)
        return found

    def close(self) -> None:
        """Stop listening."""
        self._stack.close()


@dataclass
class Result:
    """What came of an attack."""

    #: step -> whether it got through, and what it said
    steps: dict[str, tuple[bool, str]]
    #: listeners that were reached
    reached: set[str]
    #: which of the victims are dead
    killed: set[int]
    #: what is different in the folder outside
    changed: set[str] = field(default_factory=set)

    @property
    def through(self) -> set[str]:
        """Names of the steps that got through."""
        return {name for name, (through, _) in self.steps.items() if through}

    def why(self, names: set[str]) -> dict[str, str]:
        """Return what some steps said."""
        return {name: self.steps[name][1] for name in sorted(names) if name in self.steps}


class World:
    """A service at one level with an attacker and a neighbour, and the user around it."""

    def __init__(self, level: Level, root: Path, **changes: Any) -> None:
        self.level = level
        self.root = root
        self.workspace = root / "workspace"
        self.listeners = Listeners(root, self.workspace)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        settings: dict[str, Any] = {
            "state_dir": root / "state",
            "state_dir_named": True,
            "workspace": self.workspace,
            "isolation": level,
            "network": False,
            "kernel_start": "fork",
            "warm": 1,
            "preloads": (),
        }
        os.environ[VARIABLE] = f"{CANARY}-variable-of-the-server"
        self.service = Sessions(Config(**settings | changes))
        self._terminal, self._slave = pty.openpty()
        self._victims: list[subprocess.Popen[bytes]] = []
        self._shared = SHARED / f"kernelry-attack-{secrets.token_hex(4)}"
        self._secret = root / "home" / ".ssh" / "id"
        self._count = 0
        self._is_open = False
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._memory_id = -1

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the service's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(DEADLINE)

    def start(self) -> None:
        """Start the service, the attacker's session and the neighbour's."""
        self._secret.parent.mkdir(parents=True)
        self._secret.write_text(f"secret {CANARY}")
        self._shared.write_bytes(b"shared")
        self._key = 0x5EED0000 | secrets.randbelow(1 << 16)
        self._memory_id = self._libc.shmget(self._key, 4096, 0o600 | 0o1000)
        environment = {"PATH": os.defpath, "SECRET": CANARY}
        with self._secret.open("rb") as secret:
            self._holder = subprocess.Popen(["sleep", "600"], stdin=secret, env=environment)
        self.wait(self.service.__aenter__())
        self._is_open = True
        self.wait(self.service.wait_until_warm())
        self.attacker = self.create("attacker")
        self.neighbour = self.create("neighbour")
        self.run("kept = 1; print('x' * 300_000)", self.neighbour)
        own = str(self.neighbour.directory / "tmp" / "own.sock")
        self.run(
            "import socket\nown = socket.socket(socket.AF_UNIX)\n"
            f"own.bind({own!r}); own.listen(100)",
            self.neighbour,
        )
        saved = self.wait(self.service.checkpoints.create(self.neighbour))
        spec = ArtifactSpec(name="result")
        kept = self.wait(self.service.artifacts.store("neighbour", spec, b"stored"))
        self._saved, self._artifact = saved.id, kept.hash

    def create(self, name: str) -> Session:
        """Make a session that has a kernel."""

        async def create() -> Session:
            session = await self.service.create(SessionSpec(id=name))
            await session.ensure_kernel()
            return session

        return self.wait(create())

    def restart(self, session: Session) -> None:
        """Give a session a new kernel."""
        self.wait(session.restart())

    def begin(self, code: str, session: Session | None = None) -> Run:
        """Begin to run a cell."""
        return self.wait(self.service.run(session or self.attacker, code))

    def ended(self, run: Run) -> Execution:
        """Wait for a cell's end."""
        assert self.wait(run.wait(DEADLINE)), "the cell hangs"
        return run.snapshot()

    def run(self, code: str, session: Session | None = None) -> Execution:
        """Run a cell to its end."""
        return self.ended(self.begin(code, session))

    def value(self, expression: str, session: Session | None = None) -> Any:
        """Return a value that JSON can say."""
        name = self.workspace / f"value-{secrets.token_hex(4)}.json"
        code = f"import json\nopen({str(name)!r}, 'w').write(json.dumps({expression})) and None"
        done = self.run(code, session)
        assert done.error is None, done.error
        return json.loads(name.read_text())

    def attack(self, script: str, way: str = "cell") -> Result:
        """Have the attacker run a script in one of `WAYS`, and look at what came of it."""
        self._count += 1
        name = f"{script}_{self._count}"
        target = self._target(name)
        before = tree(Path(target["outside"]))
        path = self.workspace / "scripts" / f"{name}.py"
        result = self.workspace / f"{name}.json"
        head = f"import os\nos.environ['ATTACK_TARGET'] = {json.dumps(target)!r}\n"
        path.write_text(f"{head}{source(script)}\nattempt({str(result)!r})\n")
        self.listeners.reached()
        if way == "run_script":
            done = self.wait(run_script(self.attacker, name, (), timeout=DEADLINE))
            assert result.exists(), (done.stdout, done.stderr)
        else:
            if way == "restart":
                self.restart(self.attacker)
            execution = self.run(WAYS[way].format(path=str(path)))
            assert result.exists(), execution
        steps = {
            key: (bool(got), said) for key, (got, said) in json.loads(result.read_text()).items()
        }
        for gone in (path, result):
            gone.unlink()
        after = tree(Path(target["outside"]))
        # As root, without walls, the attack has mounted something there.
        self._libc.umount2(os.fsencode(f"{target['outside']}/tree2"), MNT_DETACH)
        return Result(
            steps=steps,
            reached=self.listeners.reached(),
            killed=self._count_victims(),
            changed={
                file for file in before.keys() | after.keys() if before.get(file) != after.get(file)
            },
        )

    def _target(self, name: str) -> dict[str, Any]:
        """Return what a script is told, with all that it may break made anew."""
        self._victims = [
            subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(7)
        ]
        outside = self.root / f"outside-{name}"
        for folder in ("tree", "tree2"):
            (outside / folder).mkdir(parents=True)
            (outside / folder / "file").write_text("kept")
        for file in (
            "overwritten",
            "raw",
            "truncated",
            "linked",
            "hard",
            "swapped",
            "taken",
            "deleted",
            "mode",
        ):
            (outside / file).write_text("kept")
            (outside / file).chmod(0o600)
        kernel = self.neighbour.kernel
        assert kernel is not None
        runtime = self.service._ground.state.runtime
        path = kernel._connection.path
        spills = sorted(self.neighbour.spill_dir.iterdir())
        return {
            **self.listeners.addresses,
            "workspace": str(self.workspace),
            "outside": str(outside),
            "secret_file": str(self._secret),
            "canary": CANARY[::-1],
            "holder": self._holder.pid,
            "server": os.getpid(),
            "database": str(self.service.state_dir / "kernelry.sqlite"),
            "checkpoint": str(self.service.state_dir / "checkpoints" / self._saved),
            "signing_key": str(self.service.state_dir / "checkpoints" / "key"),
            "artifact": str(next((self.service.state_dir / "blobs").rglob(f"{self._artifact}*"))),
            "terminal": os.ttyname(self._slave),
            "victims": [victim.pid for victim in self._victims],
            "neighbour": kernel.process.pid,
            "neighbour_directory": str(self.neighbour.directory),
            "neighbour_output": str(spills[0]),
            "neighbour_own": str(self.neighbour.directory / "tmp" / "own.sock"),
            "neighbour_connection": f"{path}.json",
            "neighbour_socket": f"{path}-1",
            "fork_server": self.service.fork_server_pid,
            "fork_server_socket": str(next(runtime.glob("*.sock"), "none")),
            "runtime": str(runtime),
            "shared": str(self._shared),
            "system_v_key": self._key,
        }

    def _count_victims(self) -> set[int]:
        """Return which victims are dead, and end the others."""
        killed = set()
        for number, victim in enumerate(self._victims):
            victim.terminate()  # too late for one that was killed, even if it is not gone yet
            if victim.wait(DEADLINE) == -signal.SIGKILL:
                killed.add(number)
        return killed

    def close(self) -> None:
        """End everything."""
        with ExitStack() as stack:
            stack.callback(os.environ.pop, VARIABLE, None)
            stack.callback(self.loop.close)
            stack.callback(self._thread.join, DEADLINE)
            stack.callback(self.loop.call_soon_threadsafe, self.loop.stop)
            stack.callback(self.listeners.close)
            stack.callback(self._shared.unlink, missing_ok=True)
            stack.callback(os.close, self._slave)
            stack.callback(os.close, self._terminal)
            if self._memory_id >= 0:
                stack.callback(self._libc.shmctl, self._memory_id, 0, None)
            stack.callback(self._holder.wait)
            stack.callback(self._holder.kill)
            if self._is_open:
                self.wait(self.service.__aexit__(None, None, None))


#: how a cell runs a script
WAYS = {
    "cell": "import runpy\n_ = runpy.run_path({path!r})",
    "restart": "import runpy\n_ = runpy.run_path({path!r})",
    "thread": (
        "import runpy, threading\n"
        "thread = threading.Thread(target=runpy.run_path, args=({path!r},))\n"
        "thread.start(); thread.join()"
    ),
    "subprocess": "import subprocess, sys\nsubprocess.run([sys.executable, {path!r}])",
    "fork": (
        "import os, runpy\npid = os.fork()\n"
        "if pid == 0:\n    runpy.run_path({path!r}); os._exit(0)\n"
        "_ = os.waitpid(pid, 0)"
    ),
    "multiprocessing": (
        "import multiprocessing, runpy\n"
        "context = multiprocessing.get_context('spawn')\n"
        "child = context.Process(target=runpy.run_path, args=({path!r},))\n"
        "child.start(); child.join()"
    ),
    "run_script": "",
}


def tree(folder: Path) -> dict[str, Any]:
    """Return what is in a folder: contents, modes, times of change, attributes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        said = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (said, status.st_mode, status.st_mtime_ns)
    return found


@contextmanager
def world(level: Level, **changes: Any) -> Iterator[World]:
    """Make a world, in a folder that is gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="attacks-"))  # short: sockets lie below it
    made = World(level, root, **changes)
    try:
        try:
            made.start()
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)
