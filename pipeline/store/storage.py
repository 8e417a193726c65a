"""The few file operations that a run needs, on local disk or any object store that fsspec supports.

    Storage("s3://bucket/run-7", parse_storage_options(["endpoint_url=http://minio:9000"])).write_bytes("run.json", ...)

A Storage holds a URL and options but no connection, so it can be sent to other processes.
"""

import errno
import itertools
import os
import posixpath
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import fsspec

from pipeline.store.local_disk import (
    files_below,
    inside,
    link,
    links_to_nothing,
    opened_regular,
    remove_over,
    replaceable,
    replaced_over,
    sync_folder,
    version_of,
    versions_in,
    versions_matching,
)
from pipeline.store.locations import local_path, parse_storage_options, resolve_url, scheme_of, without_credentials
from pipeline.store.remote.listings import Entry, entries, matching
from pipeline.store.remote.object_stores import (
    ALLOWED,
    KINDS,
    LOCAL,
    WEB,
    creation,
    file_system,
    remove_object,
    replacement,
    version,
    web_options,
)
from pipeline.store.retry import (
    StorageError,
    StorageNotFoundError,
    StorageTooLargeError,
    StorageUnavailableError,
    http_status,
    keep_trying,
)

__all__ = [
    "Storage",
    "StorageError",
    "StorageNotFoundError",
    "StorageTooLargeError",
    "StorageUnavailableError",
    "parse_storage_options",
    "resolve_url",
    "scheme_of",
    "without_credentials",
]

CHAINED = re.compile(r"::[A-Za-z][A-Za-z0-9+.-]*://")  # a plain "::" may be in any file's name
PARTIAL = ".partial"
MOST_MATCHES = 100_000  # of a pattern; links that lead in circles make more
MOST_NAMES = 2_000_000  # right inside a folder of a run; a manifest has half as many rows at most
MOST_LISTED = 1_000_000  # files and folders right inside a store's folder that a pattern is looked for in
UNFINISHED = re.compile(r"\.[0-9a-f]{32}" + re.escape(PARTIAL))  # written by _through_partial only

T = TypeVar("T")


@dataclass(frozen=True, slots=True, repr=False)
class Storage:
    """A folder (or one file) at `url`; every path below is relative to it, "" being the URL itself.

    url: a local path is made absolute at once, because other processes have other working directories.
    options: fsspec's keyword arguments for S3; those of other stores under their names, such as {"gs": {"token": ...}}.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.url.strip() or "\0" in self.url:
            raise ValueError("a storage URL must not be empty or hold a NUL character")
        if "://" in self.url:
            scheme, rest = self.url.split("://", 1)
            object.__setattr__(self, "url", f"{scheme.lower()}://{rest}")
        if CHAINED.search(self.url):
            raise ValueError(f"chained URLs ('::') are not supported: {without_credentials(self.url)}")
        if scheme_of(self.url) not in ALLOWED:
            raise ValueError(
                f"{without_credentials(self.url)}: nothing is known of {scheme_of(self.url)}:// here; "
                "use s3://, gs://, az://, hdfs://, https:// or a path"
            )
        try:
            fsspec.get_filesystem_class(scheme_of(self.url))
        except ImportError as error:
            raise ValueError(f"{without_credentials(self.url)}: {error}") from None
        if self.is_local:
            object.__setattr__(self, "url", local_path(self.url))

    def __repr__(self) -> str:
        return f"Storage({without_credentials(self.url)!r})"

    @property
    def is_local(self) -> bool:
        return scheme_of(self.url) in LOCAL

    @property
    def is_web(self) -> bool:
        """A web server. Its files can be read by name; nothing can be listed or written."""
        return scheme_of(self.url) in WEB

    def join(self, path: str) -> str:
        """The URL of `path`. Raises ValueError for one that leads outside this folder."""
        parts = path.split("/")
        if path and (any(part in ("", ".", "..") for part in parts) or "\0" in path):
            raise ValueError(f"{path[:200]!r} is not a plain path inside {without_credentials(self.url)}")
        root = self.url if self.is_local else re.sub(r"(?<![:/])/+$", "", self.url)
        return root + "/" * (not root.endswith("/")) + path if path else root

    def folder(self, path: str) -> "Storage":
        return Storage(self.join(path), self.options)

    def read_bytes(self, path: str = "", at_most: int | None = None) -> bytes:
        """The whole file. Raises StorageTooLargeError, having read little more, when it has over `at_most` bytes."""
        end = None if at_most is None else at_most + 1

        def read() -> bytes:
            if self.is_local:
                with opened_regular(self.join(path)) as file:
                    return file.read() if end is None else file.read(end)
            try:
                if self.is_web:
                    from pipeline.store.remote.web import read_web  # its client takes a while to import

                    return read_web(self._key(path), end, **web_options(self.options))
                # Left alone, s3fs asks for the size before each read, to fetch large files in parts.
                whole = {"max_concurrency": 1} if KINDS.get(scheme_of(self.url)) == "s3" else {}
                part = whole if end is None else {"start": 0, "end": end}
                return bytes(self._fs().cat_file(self._key(path), **part))
            except Exception as error:  # gcsfs has exceptions that are no OSError
                if end is not None and http_status(error) == 416:  # no range of an empty object can be satisfied
                    return b""
                raise

        data = self._try("read", path, read)
        if at_most is not None and len(data) > at_most:
            shown = without_credentials(self.join(path), self.options)
            raise StorageTooLargeError(f"{shown} has more than {at_most:,} bytes")
        return data

    def read_end(self, path: str, count: int) -> bytes:
        """The last `count` bytes of the file, or all of a shorter one."""

        def read() -> bytes:
            if self.is_local:
                with opened_regular(self.join(path)) as file:
                    file.seek(max(0, file.seek(0, os.SEEK_END) - count))
                    return file.read()
            return bytes(self._fs().tail(self._key(path), count))

        return self._try("read", path, read)

    def download(self, path: str, target: Path) -> None:
        """The file as a local one, without its whole in memory. The target's folder has to be there."""
        self._try("read", path, lambda: self._fs().get_file(self._key(path), str(target)))

    def write_bytes(self, path: str, data: bytes) -> None:
        """Writes or replaces the file; a reader sees the old bytes or the new, never a part."""
        if self.is_local:
            self._try("write", path, lambda: self._through_partial(path, data, os.replace))
        else:
            self._try("write", path, lambda: self._fs().pipe_file(self._key(path), data))

    def create_exclusive(self, path: str, data: bytes) -> bool:
        """Writes the file unless there is one: True if this call made it. Of several callers exactly one gets True.

        On the stores that are not in EXACTLY_ONCE that holds only for callers that do not race.
        """
        if self.is_local:
            return self._try("create", path, lambda: self._through_partial(path, data, link))
        return self._try("create", path, creation(self._fs(), scheme_of(self.url), self._key(path), data))

    def version(self, path: str) -> str:
        """What `replace` may be made conditional on: it changes whenever the file is written. "" for no file, and for a store
        without conditional writes.
        """
        if self.is_local:
            return self._try("look for", path, lambda: replaceable(Path(self.join(path))))
        return self._try("look for", path, lambda: version(self._fs(), scheme_of(self.url), self._key(path)))

    def replace(self, path: str, data: bytes, over: str, lock: str, left: Callable[[], float]) -> bool:
        """Writes the file if its version is still `over`: False if it is another one, or was deleted.

        lock: a file that local writers lock meanwhile, the same for all. left: for how many seconds a store without conditional
        writes may take; it raises when there are none.
        """
        if self.is_local:
            put = partial(replaced_over, over=over, lock=Path(self.join(lock)))
            return self._try("write", path, lambda: self._through_partial(path, data, put))
        call = replacement(self._fs(), scheme_of(self.url), self._key(path), data, over, left)
        return self._try("write", path, call)

    def names(self, folder: str = "") -> list[str]:
        """The names of the files right inside the folder, sorted, from one listing; [] when it does not exist.

        Raises StorageTooLargeError for more than MOST_NAMES.
        """
        return list(self.identities(folder))

    def identities(self, folder: str = "", at_most: int = MOST_NAMES) -> dict[str, str | None]:
        """Name -> identity of the files right inside the folder, by name, from one listing; {} when it does not exist.

        An identity is what the store says of a file's version and size; None where it says too little.
        Raises StorageTooLargeError for more files than `at_most`.
        """

        def listed() -> dict[str, str | None]:
            if self.is_local:
                return versions_in(self.join(folder), at_most)
            return {
                posixpath.basename(info["name"].strip("/")): _version_in_store(info)
                for info in self._entries(folder, at_most)
                if info["type"] == "file"
            }

        try:
            by_name = self._try("list", folder, listed)
        except StorageNotFoundError:
            return {}
        if len(by_name) > at_most:
            raise self._too_many(folder, at_most)
        return {name: by_name[name] for name in sorted(by_name) if not name.endswith(PARTIAL)}

    def identity(self, path: str = "") -> str | None:
        """Of one file; None for one that is not there as well."""
        try:
            if self.is_local:
                return self._try("look for", path, lambda: version_of(Path(self.join(path)).stat()))
            return self._try("look for", path, lambda: _version_in_store(self._fs().info(self._key(path))))
        except StorageNotFoundError:
            return None

    def _entries(self, folder: str, at_most: int) -> list[Entry]:
        """What lies right inside a store's folder. Raises StorageTooLargeError for more than `at_most` files and folders."""
        listed = entries(self._fs(), scheme_of(self.url), self._key(folder), at_most)
        if len(listed) > at_most:
            raise self._too_many(folder, at_most)
        return listed

    def _listed(self, folder: str) -> list[Entry]:
        """The same, for a path that may end in a slash; [] for no such folder."""
        try:
            return self._entries(folder.rstrip("/"), MOST_LISTED)
        except FileNotFoundError:
            return []

    def _too_many(self, folder: str, at_most: int) -> StorageTooLargeError:
        shown = without_credentials(self.join(folder), self.options)
        return StorageTooLargeError(f"{shown} holds more than {at_most:,} files")

    def find(self, folder: str = "", at_most: int = MOST_MATCHES) -> list[str]:
        """The paths of all files below the folder, relative to it, sorted; [] when it does not exist.

        Raises StorageError for more than `at_most`, and for more folders than a pattern may go through.
        """

        def listed() -> list[str]:
            if not self.is_local:
                return list(matching(self.folder(folder)._listed, "**", at_most))
            files = list(itertools.islice(files_below(self.join(folder)), at_most + 1))
            if len(files) > at_most:
                raise self._too_many(folder, at_most)
            return files

        return self._list(folder, listed)

    def matching(self, pattern: str, at_most: int = MOST_MATCHES) -> dict[str, str | None]:
        """Path below this folder -> identity of all files that the pattern matches, by path. Links are followed.

        An identity is None where the store says too little, or a link leads to nothing. Raises ValueError for more than `at_most`.
        """

        def matched() -> dict[str, str | None]:
            root = self.join("")
            if self.is_local:
                return versions_matching(root, pattern, at_most)
            files = matching(self._listed, pattern, at_most)
            return {name: _version_in_store(info) for name, info in files.items()}

        return self._try("list", "", matched)

    def links_to_nothing(self) -> list[str]:
        """The names of links right inside a local folder whose targets are gone, sorted. A store has none."""
        if not self.is_local:
            return []
        try:
            return self._try("list", "", lambda: links_to_nothing(self.join("")))
        except StorageNotFoundError:
            return []

    def is_link(self) -> bool:
        """Whether this is a local link, to something or to nothing."""
        return self.is_local and Path(self.join("")).is_symlink()

    def exists(self, path: str = "") -> bool:
        return self.kind(path) is not None

    def kind(self, path: str = "") -> str | None:
        """ "file", "directory", another word of fsspec's, or None where there is nothing."""
        try:
            # Not fs.exists: fsspec's default answers False to any fault.
            return self._try("look for", path, lambda: str(self._fs().info(self._key(path))["type"]))
        except StorageNotFoundError:
            return None

    def delete(self, path: str, over: str | None = None, lock: str = "") -> None:
        """Deletes the file; one that is not there is no error.

        over: a version, as for `replace`; on local disk and Google, a file of another version stays.
        """

        def remove() -> None:
            try:
                if not self.is_local:
                    remove_object(self._fs(), scheme_of(self.url), self._key(path), over)
                elif over is None:
                    inside(self.url, self.join(path)).unlink()
                else:
                    remove_over(inside(self.url, self.join(path)), over, Path(self.join(lock)))
            except (FileNotFoundError, KeyError):
                pass

        return self._try("delete", path, remove)

    def sweep(self) -> None:
        """Removes what killed writers left unfinished below this folder. A living writer whose file is taken writes it anew.

        An object store shows no unfinished files.
        """
        if self.is_local:
            for path in self._try("list", "", lambda: list(files_below(self.join("")))):
                if UNFINISHED.fullmatch(posixpath.basename(path)):
                    self.delete(path)

    def _fs(self) -> Any:
        return file_system(scheme_of(self.url), self.options)

    def _key(self, path: str) -> str:
        key = str(self._fs()._strip_protocol(self.join(path)))
        # What cannot stand in a request is escaped; whatever is escaped already stays as it is.
        return re.sub(r"[^!-~]", lambda sign: quote(sign[0]), key) if self.is_web else key

    def _try(self, action: str, path: str, call: Callable[[], T]) -> T:
        return keep_trying(action, self.join(path), self.options, call)

    def _through_partial(self, path: str, data: bytes, put_in_place: Callable[[Path, Path], T]) -> T:
        target = inside(self.url, self.join(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
        try:
            # A name in the folder is safe only when the folder is; else a power cut leaves it with nothing behind it.
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            done = put_in_place(unfinished, target)
        except FileNotFoundError:
            # Swept away, or its folder was removed: an error that passes, so that it is written anew.
            raise OSError(errno.EBUSY, "the unfinished file was taken away") from None
        finally:
            unfinished.unlink(missing_ok=True)
        sync_folder(target.parent)
        return done

    def _list(self, folder: str, listed: Callable[[], list[str]]) -> list[str]:
        try:
            names = self._try("list", folder, listed)
        except StorageNotFoundError:
            return []
        return sorted(name for name in names if not name.endswith(PARTIAL))


def _version_in_store(info: Mapping[str, Any]) -> str | None:
    """Stores differ in what they call the digest, or whatever else changes with the bytes of a file."""
    names = ("ETag", "etag", "md5Hash", "content_md5", "crc32c")
    version = next((info[name] for name in names if info.get(name)), None)
    return None if version is None else f"{info.get('size')}-{str(version).strip(chr(34))}"
