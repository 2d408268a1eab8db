"""What may be asked to be installed: packages by name, never an option, a URL or a path."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kernelry.errors import InvalidArgumentError

if TYPE_CHECKING:  # packaging costs a server some of its start
    from packaging.requirements import Requirement

PACKAGES_LIMIT = 100  # requirements in one call
REQUIREMENT_LENGTH = 300  # characters of one requirement


def parse_requirements(packages: Sequence[str]) -> "list[Requirement]":
    """Return `packages` as PEP 508 requirements by name.

    Raises:
        InvalidArgumentError: One is an option, a URL, a path, or not PEP 508.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    if not packages:
        raise InvalidArgumentError("packages is empty: name at least one, like ['requests>=2']")
    if len(packages) > PACKAGES_LIMIT:
        raise InvalidArgumentError(f"more than {PACKAGES_LIMIT} packages in one call")
    found = []
    for text in packages:
        shown = repr(text[:80])
        try:
            if len(text) > REQUIREMENT_LENGTH:
                raise InvalidRequirement("too long")
            requirement = Requirement(text)
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0]
            msg = (
                f"{shown} is not a package requirement ({reason}). Give PEP 508 strings such as "
                "'requests' or 'numpy>=2,<3'; options, URLs and paths are not accepted."
            )
            raise InvalidArgumentError(msg) from error
        if requirement.url:
            msg = f"{shown} is a URL requirement; only packages by name are accepted"
            raise InvalidArgumentError(msg)
        found.append(requirement)
    return found


def exact_names(packages: Sequence[str]) -> set[str]:
    """Return the normalized names of packages if of each one version is wanted, else nothing.

    Args:
        packages: PEP 508 strings that have been checked.
    """
    from packaging.utils import canonicalize_name

    found = parse_requirements(packages)
    names = {canonicalize_name(item.name) for item in found if is_exact(item)}
    return set(names) if len(names) == len(found) else set()


def is_exact(requirement: "Requirement") -> bool:
    """Say whether only one version of a package will do."""
    clauses = list(requirement.specifier)
    return (
        len(clauses) == 1 and clauses[0].operator == "==" and not clauses[0].version.endswith(".*")
    )
