"""What a hostile build tries: run by a backend, which knows `out`; it leaves what came of it.

PLACES, a dictionary that it is given, says where things are that are not its own.
"""

import glob
import json
import os
import pathlib
import socket
import sys
import zipfile
from collections.abc import Callable
from typing import Any

out: pathlib.Path = globals()["out"]
PLACES: dict[str, Any] = globals()["PLACES"]
found: dict[str, list[Any]] = {}


def attempt(name: str, work: Callable[[], object]) -> None:
    """Note whether something worked, and what it gave."""
    try:
        found[name] = [True, str(work())]
    except Exception as error:
        found[name] = [False, repr(error)]


def read_all(pattern: str) -> str:
    """Read all files that a pattern means; at least one."""
    paths = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    return next(pathlib.Path(path).read_text(errors="replace") for path in paths)


def environments() -> str:
    """Read the variables of all processes but its own kind."""
    texts = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        try:
            texts.append(pathlib.Path(path).read_text(errors="replace"))
        except OSError:
            continue
    texts = [text for text in texts if PLACES["secret"] in text]
    return texts[0]


def tcp(port: int) -> bool:
    """Connect to a service of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


def link() -> str:
    """Leave a link to a file of others in the place of the wheel's neighbour."""
    os.symlink(PLACES["secret_file"], out / "link")
    return pathlib.Path(out / "link").read_text()


found["variables"] = [PLACES["secret"] in repr(dict(os.environ)), ""]
found["arguments"] = [PLACES["secret"] in repr(sys.argv), ""]
found["home"] = [bool(os.listdir(os.environ["HOME"])), os.environ["HOME"]]
attempt("secret file", lambda: pathlib.Path(PLACES["secret_file"]).read_text())
attempt("link", link)
attempt("other variables", environments)
attempt("uv's cache, read", lambda: read_all(PLACES["cache"] + "/**"))
attempt("uv's cache", lambda: pathlib.Path(PLACES["cache"], "poison").write_text("x"))
attempt("state", lambda: read_all(PLACES["state"] + "/*"))
attempt("slots", lambda: os.listdir(PLACES["state"] + "/installs"))
attempt("other slot", lambda: pathlib.Path(PLACES["state"], "installs", "x").write_text("x"))
attempt("its own slot", lambda: (out.parents[3] / "wheels" / "numpy-9-py3-none-any.whl").touch())
attempt("uv's next cache", lambda: list((out.parents[3] / "aside").iterdir()))
attempt("its tools", lambda: next((out.parents[1] / "tools").rglob("*.cfg")).write_text("x"))
attempt("workspace", lambda: pathlib.Path(PLACES["workspace"], "canary").touch())
attempt("neighbour", lambda: read_all(PLACES["state"] + "/sessions/*/install.log"))
attempt("tcp", lambda: tcp(PLACES["port"]))
attempt("index", lambda: tcp(PLACES["index"]))

info = "hostile-1.0.dist-info/"
with zipfile.ZipFile(out / "hostile-1.0-py3-none-any.whl", "w") as made:
    made.writestr("hostile.json", json.dumps(found))
    made.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    made.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    made.writestr(info + "RECORD", "")
