"""Installing a package that is in the cache, beside pip doing the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile

from figures import Comparison, Figure, timed
from measures import HANG, MS, service

from kernelry import SessionSpec

PACKAGE = "humanize==4.9.0"


async def second_install(rounds: int) -> list[Comparison]:
    """Both have it in their caches; each round installs it where it has not been."""
    ours = Figure("install_dependencies", "ms")
    pip = Figure("pip install --target", "ms")
    async with service(preloads=(), warm=1) as sessions:
        for number in range(rounds + 1):
            session = await sessions.create(SessionSpec())
            seconds = await timed(session.install([PACKAGE], timeout=HANG))
            found = [item.name for item in await session.packages() if item.own]
            assert found == ["humanize"], found
            with tempfile.TemporaryDirectory(prefix="kernelry-bench-") as folder:
                argv = [sys.executable, "-m", "pip", "install", "-q", "--target", folder, PACKAGE]
                by_pip = await timed(asyncio.to_thread(subprocess.run, argv, check=True))
            if number:  # the first round fills the caches
                ours.samples.append(seconds * MS)
                pip.samples.append(by_pip * MS)
            await sessions.delete(session.id)
    return [Comparison("install a cached package", ours, pip, "<= 1/4", 0.25)]
