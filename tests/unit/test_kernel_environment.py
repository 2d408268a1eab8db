"""Kernels get the variables that programs need, and none that may hold a secret."""

from pathlib import Path

import pytest

from kernelry.config import kernel_environment


def test_only_known_variables_reach_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "2",
        "HTTPS_PROXY": "http://proxy:3128",
        "HTTP_PROXY": "http://user:secret@proxy:3128",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "ANTHROPIC_API_KEY": "secret",
        "KERNELRY_TOKEN_FILE": "secret",
        "SSH_AUTH_SOCK": "secret",
        "MY_OWN": "secret",
        "CHOSEN": "chosen",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = kernel_environment(Path("/session"), ["CHOSEN", "MADE=up=1"])
    assert "secret" not in found.values()
    wanted = {name: given[name] for name in ("LC_ALL", "OMP_NUM_THREADS", "HTTPS_PROXY", "CHOSEN")}
    assert wanted.items() <= found.items()
    assert (found["MADE"], found["HOME"]) == ("up=1", "/session/home")
    assert "HTTP_PROXY" not in found
