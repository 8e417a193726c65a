"""The stores that a URL may name, the options that are meant for each, and writes that depend on what is there."""

import contextlib
import copy
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import fsspec
from fsspec.asyn import sync

from pipeline.store.retry import http_status

LOCAL = frozenset({"file", "local"})
WEB = frozenset({"http", "https"})
# Protocol -> the kind of store, the prefix of its options.
KINDS = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az", "hdfs": "hdfs",
    "http": "web", "https": "web",
}  # fmt: skip
ALLOWED = LOCAL | {"memory"} | KINDS.keys()
# Stores on which of several creators of one file exactly one wins, also if an answer is lost: tested, and no others are.
EXACTLY_ONCE = LOCAL | {"s3", "s3a", "gs", "gcs"}
# A listing of many pages must not start again for one lost page, so each request has a few tries of its own as well.
S3_CONFIG = {"retries": {"mode": "standard", "max_attempts": 3}, "connect_timeout": 10, "read_timeout": 60}
# Kind of store -> what it calls the version that a write may be conditional on.
CONDITION = {"s3": "ETag", "gs": "generation"}
NOT_IMPLEMENTED, PRECONDITION_FAILED = 501, 412
ONE_REQUEST = 5 * 2**29  # bytes, at most that many twice over: the limit of a request of S3 is 5 GiB
GS_SECONDS = 60  # for a request; gcsfs itself tries it six times


def options_for(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that are meant for this protocol's store: {"gs": {...}} for Google's, and plain ones for S3.

    Keys and endpoints of one store must not be sent to another that a manifest happens to name.

    >>> options_for("gs", {"key": "of S3", "gs": {"token": "of Google"}})
    {'token': 'of Google'}
    """
    kind = KINDS.get(protocol)
    own = options.get(kind, {}) if kind else {}
    if not isinstance(own, Mapping):
        raise ValueError(f"storage option {kind!r} must be followed by a name, as in {kind}.NAME=VALUE")  # noqa: TRY004
    plain = {name: value for name, value in options.items() if name not in KINDS.values()} if kind == "s3" else {}
    return copy.deepcopy(plain | dict(own))  # botocore rewrites the settings that it is given


def with_private(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options for what the command itself names, which may lie in a private network."""
    return {**options, "web": {**options_for("https", options), "private": True}}


def web_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What read_web takes besides an address. Raises ValueError for headers without the one host that they are sent to.

    >>> web_options({"web": {"host": "pictures.example", "headers": {"Authorization": "Bearer x"}}})
    {'private': False, 'host': 'pictures.example', 'headers': {'Authorization': 'Bearer x'}}
    """
    own = options_for("https", options)
    host, headers = str(own.get("host", "")), own.get("headers", {})
    if not isinstance(headers, Mapping):
        raise ValueError(  # noqa: TRY004
            "storage option 'web.headers' must be followed by a name, as in web.headers.Authorization=VALUE"
        )
    if headers and not host:
        raise ValueError(
            "web.headers are sent to one host only: name it, as in --storage-option web.host=pictures.example"
        )
    return {
        "private": bool(own.get("private")),
        "host": host,
        "headers": {name: str(value) for name, value in headers.items()},
    }


def file_system(protocol: str, options: Mapping[str, Any]) -> Any:
    """fsspec's file system. It keeps one for the same arguments, so that asking again costs microseconds."""
    if protocol in WEB:
        return fsspec.filesystem(protocol, encoded=True)  # a signature is of the bytes as they were written
    own = options_for(protocol, options)
    if KINDS.get(protocol) == "s3":
        own["config_kwargs"] = copy.deepcopy(S3_CONFIG) | own.get("config_kwargs", {})
        system = fsspec.filesystem(protocol, use_listings_cache=False, **own)
        system.retries = 1  # the tries are counted in keep_trying and, for a request, in S3_CONFIG
        return system
    if KINDS.get(protocol) == "gs":
        # gcsfs registers a subclass that asks another service over gRPC for each bucket's kind; the plain one is tested.
        from gcsfs.core import GCSFileSystem

        logging.getLogger("gcsfs").setLevel(
            logging.CRITICAL
        )  # it logs each error with a traceback and raises it as well
        return GCSFileSystem(use_listings_cache=False, **{"requests_timeout": GS_SECONDS} | own)
    return fsspec.filesystem(protocol, **({"use_listings_cache": False} if protocol in KINDS else {}), **own)


def creation(system: Any, protocol: str, key: str, data: bytes) -> Callable[[], bool]:
    """A call that writes the file unless there is one, and that may be repeated: True if it, or an earlier try, made it."""
    kind = KINDS.get(protocol)
    if kind not in ("s3", "gs"):
        return lambda: _made(system, key, data, {})
    # An answer may be lost after the store has done its work; the mark tells our own file from another's.
    mark = uuid.uuid4().hex

    def create() -> bool:
        if kind == "s3":
            made = _made(system, key, data, {"Metadata": {"creator": mark}})
            return made or system.metadata(key, refresh=True).get("creator") == mark
        made = _made(system, key, data, {"metadata": {"creator": mark}})
        return made or (system.info(key).get("metadata") or {}).get("creator") == mark

    return create


def version(system: Any, protocol: str, key: str) -> str:
    """What the store calls this version of the file, for `replacement`; "" for no file, and for a store without conditions."""
    kind = KINDS.get(protocol)
    if kind not in CONDITION:
        return ""
    try:
        said = system.info(key, refresh=True) if kind == "s3" else system.info(key)
    except FileNotFoundError:
        return ""
    return str(said.get(CONDITION[kind]) or "")


def replacement(
    system: Any, protocol: str, key: str, data: bytes, over: str, left: Callable[[], float]
) -> Callable[[], bool]:
    """A call that writes the file if its version is still `over`, and that may be repeated: False if it is another one.

    Stores without conditions write it as long as left(), in seconds, lasts: a request that the store itself holds back may
    still come later.
    """
    kind = KINDS.get(protocol)
    if kind not in CONDITION:
        return lambda: _written_in_time(system, key, data, left())

    def replace() -> bool:
        try:
            if kind == "gs":
                sync(system.loop, _put_over, system, key, data, over)
            else:
                condition = {"IfMatch": over} if over else {"IfNoneMatch": "*"}
                # Of a file in parts, s3fs would not send the condition.
                system.pipe_file(key, data, chunksize=ONE_REQUEST, **condition)
        except (FileExistsError, FileNotFoundError):
            refused = True
        except OSError as error:
            if http_status(error) == NOT_IMPLEMENTED:  # told at the start: see doubt_of_exactly_once
                return _written_in_time(system, key, data, left())
            if http_status(error) != PRECONDITION_FAILED:
                raise
            refused = True
        else:
            refused = False
        # An answer may be lost after the store has done its work; then our own bytes are there.
        return not refused or _holds(system, key, data)

    return replace


async def _put_over(system: Any, key: str, data: bytes, over: str) -> None:
    """gcsfs itself has no other condition than that there is no file."""
    bucket, name, _ = system.split_path(key)
    url = f"{system._location}/upload/storage/v1/b/{quote(bucket, safe='')}/o"
    headers = {"Content-Type": "application/octet-stream"}
    await system._call(
        "POST", url, uploadType="media", name=name, ifGenerationMatch=over or "0", headers=headers, data=data
    )


def remove_object(system: Any, protocol: str, key: str, over: str | None) -> None:
    """over: on Google, the version that is removed; one that was written since stays. Raises FileNotFoundError."""
    if over is None or KINDS.get(protocol) != "gs":
        system.rm_file(key)
        return
    bucket, name, _ = system.split_path(key)
    with contextlib.suppress(FileExistsError):  # as gcsfs says that a condition is not met
        sync(system.loop, system._call, "DELETE", "b/{}/o/{}", bucket, name, ifGenerationMatch=over or "0")


def _holds(system: Any, key: str, data: bytes) -> bool:
    try:
        return bool(system.cat_file(key) == data)
    except FileNotFoundError:
        return False


def _written_in_time(system: Any, key: str, data: bytes, seconds: float) -> bool:
    if system.async_impl:
        sync(system.loop, system._pipe_file, key, data, timeout=seconds)
    else:
        system.pipe_file(key, data)
    return True


def _made(system: Any, key: str, data: bytes, more: Mapping[str, Any]) -> bool:
    try:
        system.pipe_file(key, data, mode="create", **more)
    except FileExistsError:
        return False
    return True
