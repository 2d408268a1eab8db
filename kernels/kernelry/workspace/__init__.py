"""The folder that all sessions share, from the server's side."""

from kernelry.workspace import files, scripts
from kernelry.workspace.filepaths import explained, known
from kernelry.workspace.files import Content, Mode, Written
from kernelry.workspace.listing import list_folder

__all__ = [
    "Content",
    "Mode",
    "Written",
    "explained",
    "files",
    "known",
    "list_folder",
    "scripts",
]
