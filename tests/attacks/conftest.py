"""One world for all attacks of a level."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernelry.launching.isolation import prove
from kernelry.models.sessions import Isolation
from tests.acceptance.conftest import place as place
from tests.acceptance.harness import unavailable
from tests.attacks.world import Level, World, world


def need(level: Level) -> None:
    """Skip where a level can't be had; where all is required, fail."""
    with tempfile.TemporaryDirectory() as folder:
        proof = asyncio.run(prove(Isolation(level), Path(folder)))
    if proof.failure:
        unavailable(f"no isolation '{level}' here: {proof.failure}")


@pytest.fixture(scope="module", params=["process", "guard", "box"])
def here(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world of each level."""
    need(request.param)
    with world(request.param) as made:
        yield made
