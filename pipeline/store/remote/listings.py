"""Listings of object stores that stop while they are read, and patterns that are matched folder by folder."""

import glob
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fsspec.asyn import sync

from pipeline.store.local_disk import MOST_FOLDERS, name_fits
from pipeline.store.remote.object_stores import KINDS
from pipeline.store.retry import http_status

NOT_FOUND = 404

Entry = Mapping[str, Any]  # as fsspec describes a file or a folder: name, type and more


def entries(system: Any, protocol: str, key: str, at_most: int) -> list[Entry]:
    """The files and folders right inside the folder; of more than `at_most`, one more than that.

    From S3, Google and Azure no more pages are asked for than that takes. HDFS tells a folder as a whole, and lets none hold more
    than a million files (dfs.namenode.fs-limits.max-directory-items). Raises what the store raises, FileNotFoundError for no such
    folder included.
    """
    if KINDS.get(protocol) == "s3":
        listed = sync(system.loop, _of_s3, system, key, at_most)
    elif KINDS.get(protocol) == "gs":
        files, folders = sync(system.loop, system._do_list_objects, key, max_results=at_most + 1)
        bucket = key.strip("/").split("/")[0]
        listed = [*files, *({"name": f"{bucket}/{each.strip('/')}", "type": "directory"} for each in folders)]
    elif KINDS.get(protocol) == "az":
        listed = sync(system.loop, _of_azure, system, key, at_most)
    else:
        listed = system.ls(key, detail=True, refresh=True)
    root = key.strip("/")
    # Asked for a file, a store lists the file itself; an empty object may stand for the folder.
    inside = [each for each in listed if each["name"].strip("/") != root]
    return inside[: at_most + 1]


async def _of_s3(system: Any, key: str, at_most: int) -> list[Entry]:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    bucket, folder, _ = system.split_path(key)
    files: list[Entry] = []
    try:
        async for each in system._iterdir(bucket, delimiter="/", prefix=f"{folder.strip('/')}/" if folder else ""):
            files.append(each)
            if len(files) > at_most + 1:  # the folder itself may be among them
                break
    except ClientError as error:
        raise translate_boto_error(error) from error
    return files


async def _of_azure(system: Any, key: str, at_most: int) -> list[Entry]:
    container, folder, _ = system.split_path(key)
    files: list[Any] = []
    async with system.service_client.get_container_client(container=container) as client:
        walked = client.walk_blobs(include=["metadata"], name_starts_with=f"{folder.strip('/')}/" if folder else "")
        try:
            async for each in walked:
                files.append(each)
                if len(files) > at_most + 1:
                    break
        except Exception as error:
            if http_status(error) == NOT_FOUND:  # no such container
                raise FileNotFoundError(key) from error
            raise
    described: list[Entry] = await system._details(files)
    return described


def matching(listed: Callable[[str], list[Entry]], pattern: str, at_most: int) -> dict[str, Entry]:
    """Path -> entry of the files that the pattern matches. listed: what lies right inside a folder, by its path, "" for the first.

    Raises ValueError for more than `at_most` names, and for more than MOST_FOLDERS folders.
    """
    parts = pattern.split("/")
    files: dict[str, Entry] = {}
    todo, seen, folders = deque([("", 0)]), {("", 0)}, 0
    while todo:
        at, place = todo.popleft()
        nexts: list[tuple[str, int]] = []
        if place < len(parts) - 1 and not glob.has_magic(parts[place]):
            nexts = [(f"{at}{parts[place]}/", place + 1)]
        else:
            folders += 1
            if folders > MOST_FOLDERS:
                raise ValueError(f"more than {MOST_FOLDERS:,} folders below it")
            for path, entry, after in _steps(listed(at), at, parts, place):
                if after is None:
                    files[path] = entry
                else:
                    nexts.append((path, after))
            if len(files) > at_most:
                raise ValueError(f"more than {at_most:,} names match")
        for each in nexts:
            if each not in seen:
                seen.add(each)
                todo.append(each)
    return {path: files[path] for path in sorted(files)}


def _steps(inside: list[Entry], at: str, parts: list[str], place: int) -> Iterator[tuple[str, Entry, int | None]]:
    """(a file's path, its entry, None), and (a folder's path with a slash, its entry, the part that goes on there)."""
    anywhere, is_last = parts[place] == "**", place == len(parts) - 1
    matches = name_fits("*" if anywhere else parts[place])
    if anywhere and not is_last:
        yield at, {}, place + 1  # no folder between
    for entry in inside:
        name = str(entry["name"]).rstrip("/").rpartition("/")[2]
        if not matches(name):
            continue
        if entry["type"] == "directory":
            if anywhere:
                yield f"{at}{name}/", entry, place
            elif not is_last:
                yield f"{at}{name}/", entry, place + 1
        elif is_last and entry["type"] == "file":
            yield f"{at}{name}", entry, None
