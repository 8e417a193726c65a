"""The stores that a URL may name, the options that are meant for each, and how a file is created in one exactly once."""

import copy
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import fsspec

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


def _made(system: Any, key: str, data: bytes, more: Mapping[str, Any]) -> bool:
    try:
        system.pipe_file(key, data, mode="create", **more)
    except FileExistsError:
        return False
    return True
