"""What is read of a content is what was put there, or an error."""

import pytest

from kernelry.store.blobs import Checked, DamagedError


def test_a_content_that_does_not_end_is_given_up_as_soon_as_it_is_too_long() -> None:
    class Endless:
        reads = 0

        def read(self, size: int, /) -> bytes:
            self.reads += 1
            return bytes(size)

    source = Endless()
    checked = Checked(source, "0" * 64, 1500)
    assert checked.read(1000) == bytes(1000)
    with pytest.raises(DamagedError):
        checked.read(1000)
    assert source.reads == 2
