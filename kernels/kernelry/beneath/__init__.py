"""Open what lies below a folder that others write to, and nothing else.

All goes by descriptors, relative to one of that folder (which may be a link itself: it is
ours to name; but below `follow_none_below` others can change the way to it, and no link there is
followed). No link below it is followed, at no component, also not while somebody swaps names:
Linux resolves the path in one call that can't leave the folder (openat2); elsewhere each component
is opened by itself. Only regular files are opened, never waited for, and nobody reads more than a
limit. What does not work is an OSError.

`resolve` finds the way, `reading` and `writing` say what is done there.
"""

from kernelry.beneath import reading, writing
from kernelry.beneath.removing import ASIDE, put_aside, remove_tree
from kernelry.beneath.resolve import (
    LIST,
    folder,
    follow_none_below,
    make_private,
    strict_root,
)

__all__ = [
    "ASIDE",
    "LIST",
    "folder",
    "follow_none_below",
    "make_private",
    "put_aside",
    "reading",
    "remove_tree",
    "strict_root",
    "writing",
]
