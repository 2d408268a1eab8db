"""What a kernel answers may be anything: whoever reads it says so, and nothing else comes of it."""

from collections.abc import Iterator
from contextlib import contextmanager

from kernelry.errors import KernelryError, KernelSilentError
from kernelry.messaging.wire import UNSOUND

SAID_CHARS = 200  # of what was wrong with an answer


@contextmanager
def understood(question: str, failure: type[KernelryError] = KernelSilentError) -> Iterator[None]:
    """Read an answer of a kernel in this block.

    Args:
        question: What it was asked.
        failure: What is raised if the answer is none.

    Raises:
        KernelryError: It makes no sense.
    """
    try:
        yield
    except UNSOUND as error:
        why = f"{type(error).__name__}: {error}"[:SAID_CHARS]
        raise failure(f"the kernel's answer to {question!r} makes no sense ({why})") from error
