"""Ids that agents repeat: short, without letters that look alike, never a number."""

import secrets

LETTERS = "abcdefghjkmnpqrstvwxyz"  # of Crockford's base 32, without digits
SYMBOLS = "0123456789" + LETTERS
LENGTH = 8  # 22 * 32**7 of them: whoever keeps them sees to it that none is given twice


def short_id() -> str:
    """Return a new id of 8 characters; it may be taken, once in 700 thousand million."""
    # All at once: each number from the system lets other threads have the interpreter.
    number, first = divmod(secrets.randbits(128), len(LETTERS))
    rest = (SYMBOLS[number >> 5 * place & 31] for place in range(LENGTH - 1))
    return LETTERS[first] + "".join(rest)
