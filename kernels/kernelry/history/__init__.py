"""What was run: found by its words, exported, run again, drawn."""

from kernelry.history.graph import draw_graph
from kernelry.history.notebooks import Form, Which, export
from kernelry.history.replay import ReplayReport, Replays, own_packages, same_until
from kernelry.history.search import History, Search, words

__all__ = [
    "Form",
    "History",
    "ReplayReport",
    "Replays",
    "Search",
    "Which",
    "draw_graph",
    "export",
    "own_packages",
    "same_until",
    "words",
]
