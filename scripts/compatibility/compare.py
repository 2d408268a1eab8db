"""Whether a cell gives an agent what stock ipykernel gives a notebook."""

from __future__ import annotations

import re

from sides import HANGS, OK, Seen

PICTURES = 10  # shown in one answer at most; the others are named
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CELL = re.compile(r"\S*/ipykernel_\d+/\d+\.py|Cell In\[\d+\]")
TEMPORARY = "/ipykernel_"
PLACE = re.compile(r" \(\d+\.py, line \d+\)$")  # which a syntax error tells twice
FOLDER = re.compile(r"(?:/[^/\s]+)+/(?:stock|ours|workspace)(?=[/\s]|$)")
PYTHON = re.compile(r"/[^'\s]*/bin/python[\d.]*")
UNIT = re.compile(r"\b(?:[nuµμm]?s|min|h)\b")
NUMBER = re.compile(r"\d[\d.,:]*(e[+-]?\d+)?")
ADDRESS = re.compile(r"0x[0-9a-f]+")
RATE = re.compile(r"[?#][kM]?(it/s|s/it)|#? ?± #?")
BOX = re.compile(r"[█▏▎▍▌▋▊▉━╸╺ ]+")
LEFT_OUT = 3  # lines that a difference names


def differences(stock: Seen, ours: Seen) -> list[str]:
    """Return in what `ours` is less than `stock`; nothing: an agent has all of it."""
    found = []
    if HANGS in (stock.status, ours.status):
        return [] if stock.status == ours.status else [f"{ours.status}; stock {stock.status}"]
    if ours.status != stock.status:
        found.append(f"ends as {ours.status}, stock as {stock.status}")
    if ours.error != stock.error:
        found.append(f"raises {ours.error or 'nothing'}, stock {stock.error or 'nothing'}")
    if ours.pictures < min(stock.pictures, PICTURES):
        found.append(f"shows {ours.pictures} pictures, stock {stock.pictures}")
    if ours.is_silent and not stock.is_silent:
        found.append("is silent")
    if stock.rich and not (ours.rich or ours.pictures or ours.text.strip()):
        found.append(f"says nothing of {', '.join(stock.rich)}")
    told = set(lines(ours.text))
    if missing := [line for line in lines(stock.text) if line not in told]:
        shown = "; ".join(line[:80] for line in missing[:LEFT_OUT])
        found.append(f"{len(missing)} lines of text differ: {shown}")
    if ours.status == OK and stock.status == OK and ours.error:
        found.append("an error in what completed")
    return found


def lines(text: str) -> list[str]:
    """Return the lines of a text as a terminal shows them, without what differs by chance."""
    found = []
    for line in CONTROLS.sub("", text).split("\n"):
        line = overtyped(line)
        if TEMPORARY in line or "Cell In" in line:
            line = CELL.sub("CELL", line)
        line = PLACE.sub("", line)
        line = PYTHON.sub("PYTHON", FOLDER.sub("FOLDER", line))
        line = UNIT.sub("s", line)
        line = NUMBER.sub("#", ADDRESS.sub("#", BOX.sub(" ", line)))
        line = " ".join(RATE.sub("", line).split())
        if line:
            found.append(line)
    return found


def overtyped(line: str) -> str:
    """Return what is left of a line when carriage returns and backspaces have been obeyed."""
    shown: list[str] = []
    column = 0
    for character in line:
        if character == "\r":
            column = 0
        elif character == "\b":
            column = max(column - 1, 0)
        else:
            shown[column : column + 1] = [character]
            column += 1
    return "".join(shown)
