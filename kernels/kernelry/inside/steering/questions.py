"""Questions of the user's code: input() and getpass(), answered through the server.

The answer comes on the control channel, so it reaches a kernel whose server was replaced
meanwhile, and nothing ever reads anybody's stdin. An interrupt ends the waiting.
"""

import secrets
import threading

from .notes import Notes

PROMPT_CHARS = 2000  # of a prompt that the server is told


class Questions:
    """What the code of this kernel asks; several threads ask one after the other."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._id = ""
        self._answer: str | None = None

    def ask(self, prompt: str, *, hidden: bool) -> str:
        """Ask, and wait for the answer.

        Args:
            prompt: What is asked.
            hidden: Whether the answer is a secret.
        """
        with self._turn, self._changed:
            self._id, self._answer = secrets.token_hex(8), None
            try:
                self._notes.send(
                    "asked", question=self._id, prompt=str(prompt)[:PROMPT_CHARS], hidden=hidden
                )
                while self._answer is None:
                    self._changed.wait()
                return self._answer
            finally:
                asked, self._id, self._answer = self._id, "", None
                self._notes.send("answered", question=asked)

    def answer(self, question: str, text: str) -> bool:
        """Take an answer; say whether somebody waited for it."""
        with self._changed:
            if not question or question != self._id or self._answer is not None:
                return False
            self._answer = text
            self._changed.notify_all()
            return True
