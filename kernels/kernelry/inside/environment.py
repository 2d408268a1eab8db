"""The frame of a session's virtual environment, and how a kernel makes it its own.

A frame is an environment without packages: a dozen links and small files, 0.3 ms. Each
kernel makes that of its session before it runs code, so that ``%pip``, ``!pip``, ``!uv
pip`` and subprocesses never reach the interpreter's own packages, installed or not. A
``.pth`` file shows these, behind what the session installs.
"""

import importlib
import json
import os
import sys

PARENTS = ("site-packages", "dist-packages")  # last parts of folders that hold packages
#: -P: a random.py in the working folder is none of pip's business
RUN_PIP = '#!/bin/sh\nexec "${0%/*}/python" -P -m pip "$@"\n'
#: what ``python -m pip`` is where the interpreter has no pip
UV_AS_PIP = """\
import os, sys

os.environ["VIRTUAL_ENV"] = sys.prefix
uv = os.path.join(sys.prefix, "bin", "uv")
if not os.path.exists(uv):
    sys.exit("there is neither pip nor uv here: use the tool install_dependencies")
os.execv(uv, [uv, "pip", *sys.argv[1:]])
"""


def main(text: str) -> None:
    """Make a frame for the server: ``{"prefix", "bare", "uv"}`` as JSON."""
    wanted = json.loads(text)
    make(wanted["prefix"], wanted["uv"], bare=wanted["bare"])


def make(prefix: str, uv: str, *, bare: bool = False) -> None:
    """Make the frame of this interpreter at `prefix`, if there is none.

    Args:
        prefix: Where; its parents are made too.
        uv: The program that shall be called uv in it; empty: none.
        bare: Whether it shall show nothing of the interpreter, and have neither pip nor uv.
    """
    marker = os.path.join(prefix, "pyvenv.cfg")
    if os.path.exists(marker):
        return
    # Of the interpreter itself, also where this process belongs to an environment of it.
    base = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    name = "python{}.{}".format(*sys.version_info)
    bin_dir = os.path.join(prefix, "bin")
    os.makedirs(site_of(prefix), exist_ok=True)
    os.makedirs(bin_dir, exist_ok=True)
    link("lib", os.path.join(prefix, "lib64"))
    link(base, os.path.join(bin_dir, "python"))
    for other in ("python3", name):
        link("python", os.path.join(bin_dir, other))
    if not bare:
        equip(prefix, uv)
    version = ".".join(map(str, sys.version_info[:3]))
    lines = (
        f"home = {os.path.dirname(base)}",
        f"implementation = {sys.implementation.name}",
        f"version_info = {version}",
        "include-system-site-packages = false",
        "relocatable = true",  # uv: scripts find their interpreter beside them
    )
    write(marker + ".new", "\n".join(lines) + "\n")
    os.replace(marker + ".new", marker)  # the last: with it, it is complete


def equip(prefix: str, uv: str) -> None:
    """Show the interpreter's packages in a frame, and give it pip and uv."""
    fallback = os.path.join(prefix, "lib", "kernelry")
    own = prefix + os.sep
    folders = [p for p in sys.path if os.path.basename(p) in PARENTS and not p.startswith(own)]
    lines = [f"import site; site.addsitedir({folder!r})" for folder in folders]
    lines.append("import os, sys; sys.path.append(os.path.join(sys.prefix, 'lib', 'kernelry'))")
    write(os.path.join(site_of(prefix), "_kernelry_parent.pth"), "\n".join(lines) + "\n")
    os.makedirs(os.path.join(fallback, "pip"), exist_ok=True)
    write(os.path.join(fallback, "pip", "__main__.py"), UV_AS_PIP)
    write(os.path.join(fallback, "pip", "__init__.py"), "")
    for name in ("pip", "pip3"):
        write(os.path.join(prefix, "bin", name), RUN_PIP, 0o755)
    if uv:
        link(uv, os.path.join(prefix, "bin", "uv"))


def site_of(prefix: str) -> str:
    """Return the folder for packages of an environment of this interpreter."""
    return os.path.join(prefix, "lib", "python{}.{}".format(*sys.version_info), "site-packages")


def adopt(prefix: str) -> None:
    """Make the environment at `prefix` this process's own, its packages before the others."""
    site = site_of(prefix)
    if site not in sys.path:
        parents = [i for i, path in enumerate(sys.path) if os.path.basename(path) in PARENTS]
        sys.path.insert(parents[0] if parents else len(sys.path), site)
    sys.prefix = sys.exec_prefix = prefix
    sys.executable = os.path.join(prefix, "bin", "python")
    if spawning := sys.modules.get("multiprocessing.spawn"):
        spawning.set_executable(sys.executable)  # it took a copy when it was imported
    os.environ["VIRTUAL_ENV"] = prefix
    bin_dir = os.path.join(prefix, "bin")
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if paths[0] != bin_dir:
        os.environ["PATH"] = os.pathsep.join([bin_dir, *paths])
    os.environ.pop("PYTHONHOME", None)
    importlib.invalidate_caches()


def link(target: str, path: str) -> None:
    """Make a symbolic link, in place of one that a start that failed has left."""
    try:
        os.symlink(target, path)
    except FileExistsError:
        os.unlink(path)
        os.symlink(target, path)


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write a small file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
