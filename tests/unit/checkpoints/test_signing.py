"""The key of a state directory: one, whoever asks for it first."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from kernelry.checkpoints.signing import load_key

AT_ONCE = 8


def test_all_who_make_the_key_at_once_have_the_same(tmp_path: Path) -> None:
    barrier = Barrier(AT_ONCE)

    def load(path: Path) -> bytes:
        barrier.wait()
        return load_key(path)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(8):
            path = tmp_path / f"key{number}"
            assert len({*pool.map(load, [path] * AT_ONCE)}) == 1
