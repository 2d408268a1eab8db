"""Wheels that a build has left: checked while they are written anew.

A build may leave anything in the place of its wheel. What goes on is a file of ours: it has
the files that were checked, under names that were checked, and its RECORD is what is in it.
So nobody after this has to take the same archive for the same thing.
"""

import base64
import configparser
import csv
import hashlib
import io
import os
import posixpath
import re
import stat
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import BinaryIO

from kernelry import bounds
from kernelry.packages.distributions import ENDS, canonical
from kernelry.packages.merging import folder_fd, is_frame
from kernelry.packages.sources import BuildError

CHUNK = 1 << 20  # bytes
END_OF_ZIP = struct.Struct("<4s4H2LH")
ZIP64_LOCATOR = b"PK\x06\x07"
PATH_CHARS = 500  # of a file in a wheel
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
HASHES = ("sha256", "sha384", "sha512")
DATE = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel
#: how a frame shows its interpreter; see inside/environment.py
OWN_FILES = ("_kernelry_parent.pth",)
#: what reading an archive that somebody has made up may raise
UNREADABLE = (
    OSError, EOFError, LookupError, RuntimeError, ValueError,
    struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
SCRIPT = re.compile(r"[\w.+-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a wheel has to be."""

    #: the package, normalised
    name: str
    #: its version
    version: str
    #: where an environment has its packages, relative to it
    site: str
    #: when the check must be over, by the monotonic clock
    deadline: float


def take_wheel(base: Path, out: str, into: Path, expected: Expected, stop: threading.Event) -> Path:
    """Check the wheel in a folder that a build could write to, and write it anew.

    Args:
        base: A folder that the build could not change.
        out: The one where it had to leave its wheel, relative to that.
        into: Where the checked wheel goes.
        expected: What it has to be.
        stop: When set, nobody waits for the answer.

    Returns:
        The new file.

    Raises:
        BuildError: There is none, or it is not what it has to be.
    """
    try:
        with folder_fd(base, out) as folder:
            name = only_wheel(folder)
            check_name(name, expected)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
                check_archive(file)
                with zipfile.ZipFile(file) as archive:
                    return Wheel(archive, expected, stop).write(into / name)
    except UNREADABLE as error:
        raise BuildError(f"its wheel can't be read: {error}") from error


def only_wheel(folder: int) -> str:
    """Return the name of the one wheel in a folder."""
    with os.scandir(folder) as entries:
        found = [entry.name for entry, _ in zip(entries, range(100), strict=False)]
    wheels = [name for name in found if name.endswith(".whl")]
    if len(wheels) != 1:
        raise BuildError(f"it left {len(wheels) or 'no'} wheels" if wheels else "it left no wheel")
    return wheels[0]


def check_name(file: str, expected: Expected) -> None:
    """See to it that a file's name is that of the wheel that was wanted."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import Version

    try:
        name, version, _, _ = parse_wheel_filename(file)
    except InvalidWheelFilename as error:
        raise BuildError(f"the name of its wheel is none: {file[:80]!r}") from error
    if name != expected.name or version != Version(expected.version):
        msg = f"it made a wheel of {name} {version}, not of {expected.name} {expected.version}"
        raise BuildError(msg)


def check_archive(file: BinaryIO) -> None:
    """See to it that an archive is a plain file with a list of files that can be read at once."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size < END_OF_ZIP.size:
        raise BuildError("its wheel is no archive")
    if status.st_size > bounds.WHEEL_BYTES:
        raise BuildError("its wheel is too large")
    start = max(status.st_size - END_OF_ZIP.size - 20, 0)
    file.seek(start)
    tail = file.read()
    mark, _, _, _, count, size, _, comment = END_OF_ZIP.unpack(tail[-END_OF_ZIP.size :])
    if mark != b"PK\x05\x06" or comment or tail.startswith(ZIP64_LOCATOR):
        raise BuildError("its wheel is no plain archive")
    if count > bounds.WHEEL_FILES or size > bounds.WHEEL_INDEX:
        raise BuildError(f"its wheel has too many files ({count})")
    file.seek(0)


class Wheel:
    """The files of a wheel, on their way into a new one.

    Args:
        archive: What a build left.
        expected: What it has to be.
        stop: When set, nobody waits for it.
    """

    def __init__(self, archive: zipfile.ZipFile, expected: Expected, stop: threading.Event) -> None:
        self._archive = archive
        self._expected = expected
        self._stop = stop
        self._infos: dict[str, zipfile.ZipInfo] = {}
        self._left = bounds.WHEEL_UNPACKED
        self._left = min(self._left, max(self._packed * bounds.WHEEL_RATIO, bounds.WHEEL_SMALL))

    @property
    def _packed(self) -> int:
        assert self._archive.fp is not None
        return os.fstat(self._archive.fp.fileno()).st_size

    def write(self, path: Path) -> Path:
        """Check all of it, and write it to a path where nothing is.

        Raises:
            BuildError: It is not what it has to be; nothing is left at the path.
        """
        for info in self._archive.infolist():
            check_member(info)
            if info.filename in self._infos:
                raise BuildError(f"its wheel has {info.filename!r} twice")
            if not info.is_dir():
                self._infos[info.filename] = info
        folder = self._metadata_folder()
        for name in self._infos:
            check_place(name, folder, self._expected.site)
        self._check_metadata(folder)
        recorded = read_record(self._read(f"{folder}/RECORD"), self._infos)
        rows: list[tuple[str, str, str]] = []
        try:
            with zipfile.ZipFile(path, "x") as made:
                for name, info in self._infos.items():
                    if name != f"{folder}/RECORD":
                        rows.append(self._copy(info, made, recorded.get(name, "")))
                text = io.StringIO()
                rows.append((f"{folder}/RECORD", "", ""))
                csv.writer(text, lineterminator="\n").writerows(rows)
                made.writestr(zipfile.ZipInfo(f"{folder}/RECORD", DATE), text.getvalue())
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def _copy(
        self, info: zipfile.ZipInfo, made: zipfile.ZipFile, recorded: str
    ) -> tuple[str, str, str]:
        """Copy one file; return its line of the new RECORD."""
        new = zipfile.ZipInfo(info.filename, DATE)
        mode = 0o755 if (info.external_attr >> 16) & 0o111 else 0o644
        new.external_attr = (stat.S_IFREG | mode) << 16
        new.file_size = info.file_size  # so that zipfile knows beforehand what is large
        algorithm = recorded.partition("=")[0] or "sha256"
        own, theirs, size = hashlib.sha256(), hashlib.new(algorithm), 0
        with self._archive.open(info) as source, made.open(new, "w") as target:
            while chunk := source.read(CHUNK):
                size += len(chunk)
                self._spend(len(chunk))
                own.update(chunk)
                theirs.update(chunk)
                target.write(chunk)
        if recorded and recorded != f"{algorithm}={coded(theirs.digest())}":
            raise BuildError(f"the RECORD of its wheel is wrong for {info.filename!r}")
        return info.filename, f"sha256={coded(own.digest())}", str(size)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise BuildError("its wheel unpacks to too much")
        if self._stop.is_set() or time.monotonic() > self._expected.deadline:
            raise BuildError("there was no time left to check its wheel")

    def _metadata_folder(self) -> str:
        folders = {name.partition("/")[0] for name in self._infos if "/" in name}
        found = [folder for folder in folders if folder.endswith(".dist-info")]
        wanted = (self._expected.name, self._expected.version)
        if len(found) != 1 or not is_for(found[0].removesuffix(".dist-info"), *wanted):
            raise BuildError(f"its wheel has not the one folder of metadata of {wanted[0]}")
        return found[0]

    def _check_metadata(self, folder: str) -> None:
        for name in ("METADATA", "WHEEL", "RECORD"):
            if f"{folder}/{name}" not in self._infos:
                raise BuildError(f"its wheel has no {name}")
        message = BytesHeaderParser().parsebytes(self._read(f"{folder}/METADATA"))
        check_headers(message, self._expected)
        if f"{folder}/entry_points.txt" in self._infos:
            check_entry_points(self._read(f"{folder}/entry_points.txt").decode("utf-8"))

    def _read(self, name: str) -> bytes:
        with self._archive.open(self._infos[name]) as file:
            data = file.read(bounds.WHEEL_METADATA + 1)
        if len(data) > bounds.WHEEL_METADATA:
            raise BuildError(f"{name!r} in its wheel is too large")
        return data


def check_member(info: zipfile.ZipInfo) -> None:
    """See to it that an entry of an archive is a plain file with a plain path."""
    name = info.filename
    shown = repr(name[:80])
    plain = name.removesuffix("/")
    parts = plain.split("/")
    if (
        not plain
        or info.orig_filename != name
        or len(name) > PATH_CHARS
        or not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise BuildError(f"its wheel has a file with the path {shown}, which leads elsewhere")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        raise BuildError(f"its wheel has {shown}, which is a link or no file")
    if info.flag_bits & 1 or info.compress_type not in METHODS:
        raise BuildError(f"its wheel has {shown} packed in a way that wheels are not")


def check_place(name: str, folder: str, site: str) -> None:
    """See to it that a file of a wheel goes to where its package may have files.

    Args:
        name: Its path in the wheel.
        folder: The wheel's folder of metadata.
        site: Where an environment has its packages, relative to it.
    """
    place = posixpath.join(site, name)
    data = folder.removesuffix(".dist-info") + ".data/"
    if name.startswith(data):
        scheme, _, rest = name.removeprefix(data).partition("/")
        roots = {
            "purelib": site,
            "platlib": site,
            "scripts": "bin",
            "data": "",
            "headers": "include",
        }
        if scheme not in roots or not rest:
            raise BuildError(f"its wheel has {name[:80]!r}, which belongs nowhere")
        place = posixpath.join(roots[scheme], rest)
    parts = place.split("/")
    if any(is_frame("/".join(parts[:count])) for count in range(1, len(parts) + 1)):
        raise BuildError(f"its wheel would replace {place!r}, a part of the environment itself")
    if place.startswith(f"{site}/"):
        top = place.removeprefix(f"{site}/").partition("/")[0]
        if top in OWN_FILES:
            raise BuildError(f"its wheel would replace {top!r}, a part of the environment itself")
        if top.endswith(ENDS) and (top != folder or place != posixpath.join(site, name)):
            raise BuildError(f"its wheel has metadata of something else, {top[:80]!r}")


def check_headers(message: Message, expected: Expected) -> None:
    """See to it that a wheel's metadata are those of the package that was wanted."""
    from packaging.requirements import InvalidRequirement, Requirement

    for header, wanted in (("Name", expected.name), ("Version", expected.version)):
        found = [str(value).strip() for value in message.get_all(header, [])]
        if len(found) != 1 or not is_same(header, found[0], wanted):
            shown = ", ".join(found)[:80] or "nothing"
            raise BuildError(f"{header} in its wheel's METADATA is {shown}, not {wanted}")
    for value in message.get_all("Requires-Dist", []):
        with suppress(InvalidRequirement):  # uv's to say
            if Requirement(str(value)).url:
                raise BuildError(
                    f"its wheel needs {str(value)[:80]!r}, which is no package by name"
                )


def check_entry_points(text: str) -> None:
    """See to it that the scripts of a wheel are new ones of the environment."""
    parser = configparser.RawConfigParser(delimiters=("=",), strict=False, allow_no_value=True)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise BuildError("its wheel's entry_points.txt can't be read") from error
    for section in ("console_scripts", "gui_scripts"):
        for name in parser.options(section) if parser.has_section(section) else ():
            if not SCRIPT.fullmatch(name) or name in (".", "..") or is_frame(f"bin/{name}"):
                raise BuildError(f"its wheel has a script {name[:80]!r}, which it may not have")


def read_record(text: bytes, names: Mapping[str, object]) -> dict[str, str]:
    """Return the hashes that a RECORD tells, by path.

    Raises:
        BuildError: It lists what is not there, or tells a hash of no known kind.
    """
    found: dict[str, str] = {}
    try:
        for row in csv.reader(io.StringIO(text.decode("utf-8"))):
            if not row:
                continue
            if row[0] not in names:
                raise BuildError(f"the RECORD of its wheel lists {row[0][:80]!r}, not in it")
            if len(row) > 1 and row[1]:
                if row[1].partition("=")[0] not in HASHES:
                    raise BuildError(f"the RECORD of its wheel has no hash of {row[0][:80]!r}")
                found[row[0]] = row[1]
    except csv.Error as error:
        raise BuildError("the RECORD of its wheel can't be read") from error
    return found


def is_for(stem: str, name: str, version: str) -> bool:
    """Say whether NAME-VERSION, as a folder of metadata has it, is that of a package."""
    left, _, right = stem.partition("-")
    return canonical(left) == name and is_same("Version", right, version)


def is_same(header: str, found: str, wanted: str) -> bool:
    """Say whether two names or two versions mean the same."""
    from packaging.version import InvalidVersion, Version

    if header == "Name":
        return canonical(found) == wanted
    try:
        return Version(found) == Version(wanted)
    except InvalidVersion:
        return False


def coded(digest: bytes) -> str:
    """Return a hash as RECORD writes it."""
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
