"""``python -P .../inside/__main__.py PROGRAM ARGUMENT``: become a kernel, a fork server, ...

Makes this folder importable as ``kernelry_inside`` without touching ``sys.path``, so that a
cell's ``import helper`` never finds a file of ours, then hands over.
"""

import importlib
import importlib.util
import os
import sys

PACKAGE = "kernelry_inside"
PROGRAMS = {
    "kernel": "starting.launcher",
    "enter": "starting.entering",
    "forkserver": "starting.forkserver",
    "confined": "walls.confined",
    "environment": "environment",
    "build": "building",
}


def mount_package() -> None:
    """Put this folder into ``sys.modules`` as the package ``kernelry_inside``."""
    here = os.path.dirname(os.path.abspath(__file__))
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(here, "__init__.py"), submodule_search_locations=[here]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    mount_package()
    importlib.import_module(f"{PACKAGE}.{PROGRAMS[sys.argv[1]]}").main(*sys.argv[2:])
