"""Threads that compute let the event loop have its turn; then all is as it was."""

import sys

from kernelry.yielding import SWITCH, Yielding


def test_the_setting_is_short_until_the_last_service_has_ended() -> None:
    before = sys.getswitchinterval()
    yielding = Yielding()
    yielding.begin()
    yielding.begin()
    assert 0 < sys.getswitchinterval() < 2 * SWITCH
    yielding.end()
    assert 0 < sys.getswitchinterval() < 2 * SWITCH
    yielding.end()
    assert sys.getswitchinterval() == before


def test_who_keeps_the_interpreter_for_long_meanwhile_keeps_it() -> None:
    before = sys.getswitchinterval()
    yielding = Yielding()
    yielding.begin()
    try:
        sys.setswitchinterval(1000)
        yielding.end()
        assert sys.getswitchinterval() == 1000
    finally:
        sys.setswitchinterval(before)
