"""The folder that all sessions share, from the server's side."""

from kernelry.workspace import files, scripts, transfer
from kernelry.workspace.filepaths import checked, explained, known
from kernelry.workspace.files import Content, Mode, Written
from kernelry.workspace.listing import list_folder
from kernelry.workspace.watching import Changes, Watch

__all__ = [
    "Changes",
    "Content",
    "Mode",
    "Watch",
    "Written",
    "checked",
    "explained",
    "files",
    "known",
    "list_folder",
    "scripts",
    "transfer",
]
