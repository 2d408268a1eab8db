"""A server trusts no path that a session could put something else in the place of."""

from dataclasses import replace
from pathlib import Path

import pytest

from kernelry import Config, Sessions
from kernelry.errors import IsolationError


def configs(config: Config, root: Path) -> dict[str, tuple[Config, tuple[str, str]]]:
    """Return configurations that let a session out, and the two settings that do."""
    data = config.workspace / "data"
    inner = replace(config, workspace=root / "shared" / "workspace")
    return {
        "the workspace in a folder that may be changed": (
            replace(inner, allow_write=(root / "shared",)),
            ("--workspace", "--allow-write"),
        ),
        "what may be read in the workspace": (
            replace(config, allow_read=(data,)),
            ("--allow-read", "--workspace"),
        ),
        "what may be changed in the workspace": (
            replace(config, allow_write=(data,)),
            ("--allow-write", "--workspace"),
        ),
        "the state directory in the workspace": (
            replace(config, state_dir=config.workspace / "state"),
            ("--state-dir", "--workspace"),
        ),
        "the state directory where everything may be read": (
            replace(config, allow_read=(root,)),
            ("--state-dir", "--allow-read"),
        ),
        "what may be read in what may be changed": (
            replace(config, allow_write=(root / "a",), allow_read=(root / "a" / "b",)),
            ("--allow-read", "--allow-write"),
        ),
        "the state directory behind a link in the workspace": (
            replace(config, state_dir=root / "link" / "state"),
            ("--state-dir", "--workspace"),
        ),
    }


@pytest.mark.parametrize("number", range(7))
async def test_a_path_that_sessions_could_change_is_refused_with_both_settings(
    config: Config, tmp_path: Path, number: int
) -> None:
    config.workspace.mkdir()
    (tmp_path / "link").symlink_to(config.workspace)
    wanted, names = list(configs(config, tmp_path).values())[number]
    with pytest.raises(IsolationError) as refused:
        async with Sessions(replace(wanted, isolation="guard")):
            pass
    assert all(name in str(refused.value) for name in names), refused.value
    assert not (wanted.state_dir / "kernelry.sqlite").exists()
    async with Sessions(replace(wanted, isolation="process", warm=0)):
        pass  # there are no walls that it could lead around


async def test_paths_beside_each_other_are_taken(config: Config, tmp_path: Path) -> None:
    for name in ("read", "write"):
        (tmp_path / name).mkdir()
    wanted = replace(
        config,
        isolation="guard",
        warm=0,
        allow_read=(tmp_path / "read",),
        allow_write=(tmp_path / "write", config.workspace),
    )
    async with Sessions(wanted) as sessions:
        assert sessions.walls.isolation == "guard"
