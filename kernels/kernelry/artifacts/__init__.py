"""Artifacts: named, typed data of sessions, each content kept once.

`service` stores, finds, reads and deletes them, `reading` makes pages of their contents,
`records` is what of them is in the database; the contents are in kernelry.store.blobs. `keeper`
makes artifacts of the output of executions, `captures` says of which.
"""

from kernelry.artifacts import captures
from kernelry.artifacts.keeper import Keeper
from kernelry.artifacts.models import Artifact, ArtifactQuery
from kernelry.artifacts.service import Artifacts
from kernelry.artifacts.specs import ID, ArtifactSpec

__all__ = [
    "ID",
    "Artifact",
    "ArtifactQuery",
    "ArtifactSpec",
    "Artifacts",
    "Keeper",
    "captures",
]
