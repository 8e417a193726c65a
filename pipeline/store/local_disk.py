"""Storage on local disk: listing files with their versions, and putting files in their places on a condition."""

import contextlib
import errno
import fcntl
import fnmatch
import glob
import itertools
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

MOST_FOLDERS = 10_000  # below the folder of a pattern with **
NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL})
NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


def opened_regular(path: str) -> BinaryIO:
    """The opened file. Raises OSError for a pipe or a device, which might never give, or never end."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError("it is not a regular file")


def inside(root: str, path: str) -> Path:
    """The path of a file below the folder, to be written or deleted. Raises OSError if links in the folder lead out of it."""
    target = Path(path)
    home, parent = os.path.realpath(root), os.path.realpath(target.parent)
    if path != root and os.path.commonpath([home, parent]) != home:
        raise OSError(
            f"{target.parent} is a link to {parent}; through a link out of the folder nothing is written or deleted"
        )
    return target


def sync_folder(folder: Path) -> None:
    """Syncs the folder, so that the names in it survive a power cut."""
    # Some network file systems cannot sync a folder; they have their own ways to keep names safe.
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def files_below(folder: str) -> Iterator[str]:
    """Paths of all files below the folder, relative to it, in no order."""
    walked = os.walk(folder, onerror=_unless_gone)
    return (os.path.relpath(f"{at}/{name}", folder) for at, _, names in walked for name in names)


def versions_in(folder: str, at_most: int) -> dict[str, str | None]:
    """Name -> size and time of change, of the files right inside the folder; of some more than `at_most`, where there are more."""
    versions: dict[str, str | None] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            # A file that was deleted since the folder was read. Raised, the error would look as if the folder were gone.
            with contextlib.suppress(FileNotFoundError):
                if _is_file(entry):
                    versions[entry.name] = version_of(entry.stat())
            if len(versions) > at_most:
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

    A folder that several links lead to is listed under the shortest path only, so circular links are harmless.
    Raises ValueError for more than `at_most`, and for too many folders.
    """
    walked: Iterator[str]
    if "**" in pattern.split("/"):
        matches = path_fits(pattern)
        walked = (path for path in _names_below(root, _plain_part(pattern)) if matches(path))
    else:
        walked = _names_fitting(root, pattern)
    paths = list(itertools.islice(walked, at_most + 1))
    if len(paths) > at_most:
        raise ValueError(f"more than {at_most:,} names match")
    versions: dict[str, str | None] = {}
    seen: set[tuple[str, str]] = set()
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        file = Path(root, path)
        place = (os.path.realpath(file.parent), file.name)
        if place not in seen and not file.is_dir():
            versions[path] = _version_if_there(file)
        seen.add(place)
    return {path: versions[path] for path in sorted(versions)}


def name_fits(part: str) -> Callable[[str], Any]:
    """Whether one component of a pattern matches a name, in a time that no pattern makes much longer than the name."""
    return re.compile(fnmatch.translate(part)).match


def path_fits(pattern: str) -> Callable[[str], bool]:
    """Whether the whole pattern matches a path. "**" stands for any number of folders, but beside other signs for no more than "*".

    Not a regular expression: one for several "**" can take a time that grows exponentially with their number.
    """
    parts = [None if part == "**" else name_fits(part) for part in pattern.split("/")]
    if parts[-1] is None:
        parts.append(name_fits("*"))

    def fits(path: str) -> bool:
        names, at, part = path.split("/"), 0, 0
        back: tuple[int, int] | None = None  # the last "**" may stand for one more folder
        while at < len(names) or part < len(parts):
            matches = parts[part] if part < len(parts) else None
            if part < len(parts) and matches is None:
                back = (at + 1, part)
                part += 1
            elif matches is not None and at < len(names) and matches(names[at]):
                at, part = at + 1, part + 1
            elif back is not None and back[0] < len(names):
                at, part = back[0], back[1]
            else:
                return False
        return True

    return fits


def _plain_part(pattern: str) -> str:
    """The folders before the first component of the pattern that holds a sign."""
    parts = pattern.split("/")
    return "/".join(itertools.takewhile(lambda part: not glob.has_magic(part), parts[:-1]))


def _names_fitting(root: str, pattern: str) -> Iterator[str]:
    """Paths, relative to root, of all that a pattern without "**" matches. Of the ways to one folder through as many others, the
    first is followed. Raises ValueError for more than MOST_FOLDERS folders.
    """
    *folders, last = pattern.split("/")
    ways, read = {os.path.realpath(root): ""}, 0
    for part in folders:
        read += len(ways)
        if read > MOST_FOLDERS:
            raise ValueError(f"more than {MOST_FOLDERS:,} folders below it")
        below: dict[str, str] = {}
        for real, at in ways.items():
            for name in _fitting(real, part):
                inner = os.path.realpath(f"{real}/{name}")
                if Path(inner).is_dir():
                    below.setdefault(inner, f"{at}{name}/")
        ways = below
    return (f"{at}{name}" for real, at in ways.items() for name in _fitting(real, last))


def _fitting(folder: str, part: str) -> list[str]:
    """The names in the folder that match one component of a pattern, sorted."""
    if not glob.has_magic(part):
        return [part] if os.path.lexists(f"{folder}/{part}") else []
    matches = name_fits(part)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:  # as a shell passes over what it may not read
        return sorted(entry.name for entry in entries if matches(entry.name))
    return []


def _names_below(root: str, start: str) -> Iterator[str]:
    """Paths of all files below root/start, relative to root. Links are followed, but never into a folder that they are in.

    Raises ValueError for more than MOST_FOLDERS folders.
    """
    top = os.path.realpath(Path(root, start))
    folders, read = deque([(start, top, frozenset({top}))]), 0
    while folders:
        at, real, above = folders.popleft()
        read += 1
        if read > MOST_FOLDERS:
            raise ValueError(f"more than {MOST_FOLDERS:,} folders below it")
        try:
            with os.scandir(real) as entries:
                listed = sorted((entry.name, entry.is_symlink(), _is_folder(entry)) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name, is_link, is_folder in listed:
            path = f"{at}/{name}" if at else name
            if not is_folder:
                yield path
                continue
            inside = os.path.realpath(f"{real}/{name}") if is_link else f"{real}/{name}"
            if inside not in above:
                folders.append((path, inside, above | {inside}))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False


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


def replaceable(path: Path) -> str:
    """What must still be so when `replaced_over` replaces the file; "" for no file. A file put in its place has another inode."""
    try:
        said = path.stat()
    except FileNotFoundError:
        return ""
    return f"{version_of(said)}-{said.st_ino}"


def replaced_over(partial: Path, target: Path, over: str, lock: Path) -> bool:
    """Renames the finished file to its name if the one there is still `over`: False if it is another.

    All who replace files like this lock the same file, so none comes between the look and the renaming. A network file system
    without locks leaves the moment between the two.
    """
    with _locked(lock):
        if replaceable(target) != over:
            return False
        partial.replace(target)
        return True


def remove_over(target: Path, over: str, lock: Path) -> None:
    """Removes the file if it is still `over`. lock: as for `replaced_over`."""
    with _locked(lock):
        if over and replaceable(target) == over:
            target.unlink()


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    opened = _opened_lock(lock)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        os.close(opened)


def _opened_lock(lock: Path) -> int:
    """A link or a pipe that somebody put in its place is replaced: neither followed nor waited for."""
    how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        opened = os.open(lock, how, 0o666)
        if stat.S_ISREG(os.fstat(opened).st_mode):
            return opened
        os.close(opened)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    lock.unlink(missing_ok=True)
    return os.open(lock, how | os.O_EXCL, 0o666)


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
