"""What a terminal would show at the end of a text: cursor movements applied, colours left out.

Progress bars go back to the beginning of their line, nested ones and tables that are drawn anew
((tqdm, rich) some lines up. A terminal of any height and width, so nothing wraps and nothing is
lost. Pure; no text takes it longer than some milliseconds for each thousand characters.
"""

import re

ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: what moves the cursor or takes something away
MOVES = re.compile(r"\x1b\[(\d*)([ABCDEFGJK])|\r|\x08|\n")
FURTHEST = 1000  # columns or lines that a movement goes; what is beyond is written there


def plain(text: str) -> str:
    """Return `text` without ANSI escapes and control characters."""
    return CONTROL.sub("", ANSI.sub("", text))


def readable(text: str) -> str:
    """Return `text` as a terminal would show it."""
    if "\x1b" not in text and "\r" not in text and "\x08" not in text:
        return CONTROL.sub("", text)
    return Screen(text).text


class Screen:
    """A terminal that has shown a text."""

    def __init__(self, text: str) -> None:
        self._lines: list[list[str]] = [[]]  # of characters: they are written over one by one
        self._row = self._column = 0
        at = 0
        for move in MOVES.finditer(text):
            self._write(plain(text[at : move.start()]))
            at = move.end()
            match move[0]:
                case "\n":
                    self._feed()
                case "\r":
                    self._column = 0
                case "\x08":
                    self._column = max(self._column - 1, 0)
                case _:
                    self._move(move[2], min(int(move[1][:9] or 0), FURTHEST))
        self._write(plain(text[at:]))

    @property
    def text(self) -> str:
        """What is on it."""
        return "\n".join(map("".join, self._lines))

    def _write(self, text: str) -> None:
        """Write over what is there."""
        if not text:
            return
        line = self._lines[self._row]
        if (missing := self._column - len(line)) > 0:
            self._column = min(self._column, max(len(line), FURTHEST))
            line += " " * min(missing, self._column - len(line))
        line[self._column : self._column + len(text)] = text
        self._column += len(text)

    def _feed(self) -> None:
        self._row += 1
        self._column = 0
        if self._row == len(self._lines):
            self._lines.append([])

    def _move(self, how: str, count: int) -> None:
        many = max(count, 1)
        match how:
            case "A" | "F":
                self._row = max(self._row - many, 0)
            case "B" | "E":
                self._row = min(self._row + many, len(self._lines) - 1)
            case "C":
                self._column += many
            case "D":
                self._column = max(self._column - many, 0)
            case "G":
                self._column = many - 1
            case "K" if count == 0:
                del self._lines[self._row][self._column :]
            case "K" if count == 2:
                self._lines[self._row].clear()
            case "J" if count == 0:  # a whole screen that is cleared stays: it has scrolled by
                del self._lines[self._row][self._column :], self._lines[self._row + 1 :]
        if how in "EF":
            self._column = 0
