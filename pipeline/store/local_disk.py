"""Storage on local disk: listing files with their versions, and creating files exclusively."""

import contextlib
import errno
import glob
import itertools
import os
import stat
from pathlib import Path
from typing import BinaryIO

NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


def opened_regular(path: str) -> BinaryIO:
    """The opened file. Raises OSError for a pipe or a device, which might never give, or never end."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError("it is not a regular file")


def sync_folder(folder: Path) -> None:
    """Syncs the folder, so that the names in it survive a power cut."""
    # Some network file systems cannot sync a folder; they have their own ways to keep names safe.
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def files_below(folder: str) -> list[str]:
    """Paths of all files below the folder, relative to it, in no order."""
    walked = os.walk(folder, onerror=_unless_gone)
    return [os.path.relpath(f"{at}/{name}", folder) for at, _, names in walked for name in names]


def versions_in(folder: str, at_most: int | None = None) -> dict[str, str | None]:
    """Name -> size and time of change, of the files right inside the folder; of some more than `at_most`, where there are more."""
    versions: dict[str, str | None] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            # A file that was deleted since the folder was read. Raised, the error would look as if the folder were gone.
            with contextlib.suppress(FileNotFoundError):
                if _is_file(entry):
                    versions[entry.name] = version_of(entry.stat())
            if at_most is not None and len(versions) > at_most:
                break
    return versions


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_file()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False  # a link to itself


def versions_matching(root: str, pattern: str, at_most: int) -> dict[str, str | None]:
    """Path below root -> size and time of change of the files that match the pattern; None for a dangling link.

    A folder that several links lead to is read through the shortest path only, so circular links are harmless.
    Raises ValueError for more than `at_most`.
    """
    walked = glob.iglob(pattern, root_dir=root, recursive=True, include_hidden=True)  # noqa: PTH207 - relative to a folder
    found = list(itertools.islice(walked, at_most + 1))
    if len(found) > at_most:
        raise ValueError(f"more than {at_most:,} names match")
    versions: dict[str, str | None] = {}
    seen: set[tuple[str, str]] = set()
    for path in sorted(found, key=lambda path: (path.count("/"), path)):
        file = Path(root, path)
        place = (os.path.realpath(file.parent), file.name)
        if place not in seen and not file.is_dir():
            versions[path] = _version_if_there(file)
        seen.add(place)
    return {path: versions[path] for path in sorted(versions)}


def version_of(said: os.stat_result) -> str:
    """Size and time of change."""
    return f"{said.st_size}-{said.st_mtime_ns}"


def _version_if_there(file: Path) -> str | None:
    try:
        return version_of(file.stat())
    except OSError:  # a link to nothing, or in a circle
        return None


def links_to_nothing(folder: str) -> list[str]:
    """Names of links right inside the folder whose targets are gone, sorted."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_symlink() and not Path(entry).exists())


def link(partial: Path, target: Path) -> bool:
    """Renames the finished file to its name unless that is taken. True if this call did."""
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        data = partial.read_bytes()  # check before the name is claimed: a sweep may have removed the file
        # Without hard links only one caller can still claim the name, but a reader may see an unfinished file.
        try:
            with target.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return False
    return True


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
