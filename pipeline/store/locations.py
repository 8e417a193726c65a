"""URLs, paths and storage options: parsing what a person writes, and hiding credentials before it is shown."""

import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.text_files import MOST_TEXT_BYTES, lines_of

_SECRET = (
    r"key|secret|token|passw|passphrase|pwd|credential|signature|auth|bearer|cookie|session|jwt|connection.?string"
)
# Storage options with such a name are secret. "sig", "sas" and "username" count as whole names only.
SECRET_NAME = re.compile(rf"{_SECRET}|^sig$|^sas|username|accessid", re.IGNORECASE)
# A query's value by its name, also in an address that is a value of another one, and so is escaped. All lengths are bounded, or
# else a text of a few kilobytes could keep the search busy for hours.
SECRET_QUERY = re.compile(
    rf"((?:[?&#;]|%3F|%26)(?:amp;)?[^=&#;?\s]{{0,40}}?(?:{_SECRET}|sig|sas|accessid|pass|pw|hmac|hdn[a-z]{{1,3}})"
    r"[^=&#;?\s]{0,40}?(?:=|%3D))(?:(?!%26)[^&#;\s'\"<>])+",
    re.IGNORECASE,
)
# Of user names and passwords in a URL. Half of Amazon's keys hold a slash, which a port before a path must not be taken for.
SECRET_USER = re.compile(
    r"(?<=://)(?:[^/?#\s\"'<>]{1,2000}@|[^/?#\s\"'<>:@[]{1,200}:(?![0-9]{1,5}[/?#])[^\s\"'<>@]{1,200}@)"
)
# in connection strings and headers, anywhere in a message
SECRET_PAIR = re.compile(r"((?:AccountKey|SharedAccessSignature|Password|Pwd)\s{0,9}=\s{0,9})[^;\s'\"]+", re.IGNORECASE)
SECRET_HEADER = re.compile(r"\b((?:Bearer|Basic)\s{1,9})[A-Za-z0-9+/=._~-]{8,}")
LONG_TOKEN = 8  # characters
SHORTEST_SECRET = 4  # characters; a shorter secret would match half of any text


def parse_storage_options(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` pairs as fsspec's keyword arguments; `a.b=value` sets b inside a; `@FILE` stands for a file with one pair a
    line, since everybody on a machine can see the arguments of its processes.

    Raises ValueError for a pair of another form, without showing what may be a secret, and OSError for a file.

    >>> parse_storage_options(["endpoint_url=http://minio:9000", "client_kwargs.use_ssl=false"])
    {'endpoint_url': 'http://minio:9000', 'client_kwargs': {'use_ssl': False}}
    """
    options: dict[str, Any] = {}
    for pair in _with_files(pairs):
        name, equals, text = pair.partition("=")
        if not name.strip() or not equals:
            shown = name if equals or not SECRET_NAME.search(name) else "***"
            raise ValueError(
                f"storage option {shown!r} is not of the form key=value, e.g. endpoint_url=http://minio:9000"
            )
        *folders, last = {"region": "client_kwargs.region_name"}.get(name.strip(), name.strip()).split(".")
        inner = options
        for folder in folders:
            inner = inner.setdefault(folder, {})
        if not isinstance(inner, dict):
            raise ValueError(f"storage option {name!r}: {folders[-1]!r} already has a value of its own")  # noqa: TRY004
        inner[last] = text if SECRET_NAME.search(last) else _typed(text)
    return options


def _with_files(pairs: Iterable[str]) -> Iterator[str]:
    for pair in pairs:
        if not pair.startswith("@"):
            yield pair
            continue
        try:
            # It may be a pipe, as a shell makes one of a command's output: it is the user's own, unlike the files of a run.
            with Path(pair[1:]).expanduser().open("rb") as file:
                data = file.read(MOST_TEXT_BYTES + 1)
            if len(data) > MOST_TEXT_BYTES:
                raise ValueError(f"has more than {MOST_TEXT_BYTES:,} bytes")
            lines = lines_of(data)
        except ValueError as error:
            raise ValueError(f"{pair[1:]}: {error}") from None
        yield from (line for line in lines if not line.startswith("#"))


def _typed(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.startswith("{"):
        return json.loads(text)
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def without_credentials(text: str, options: Mapping[str, Any] | None = None) -> str:
    """The text with "***" in place of user names and passwords in URLs, secret query values and secret option values.

    >>> without_credentials("https://me:pw@host/cat.png?X-Amz-Signature=abc&size=1")
    'https://***@host/cat.png?X-Amz-Signature=***&size=1'
    """
    text = SECRET_USER.sub("***@", text)
    for pattern in (SECRET_QUERY, SECRET_PAIR, SECRET_HEADER):
        text = pattern.sub(r"\1***", text)
    for secret in _secrets(options or {}):
        for written in (secret, quote(secret, safe="")):
            text = text.replace(written, "***")
    return text


def all_without_credentials(value: Any, options: Mapping[str, Any] | None = None) -> Any:
    """The same for all texts inside dicts and lists."""
    if isinstance(value, str):
        return without_credentials(value, options)
    if isinstance(value, Mapping):
        return {name: all_without_credentials(each, options) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [all_without_credentials(each, options) for each in value]
    return value


def _secrets(options: Mapping[str, Any], *, inside: bool = False) -> list[str]:
    """The longest first, as one may hold another. inside: of what is secret as a whole, such as a token that is an object."""
    secrets = []
    for name, value in options.items():
        secret = inside or bool(SECRET_NAME.search(str(name)))
        if isinstance(value, Mapping):
            secrets += _secrets(value, inside=secret)
        elif isinstance(value, list | tuple):
            secrets += _secrets(dict(enumerate(value)), inside=secret)  # type: ignore[arg-type]
        elif secret and len(str(value)) >= SHORTEST_SECRET and not isinstance(value, bool):
            text = str(value)
            token = text.rpartition(" ")[2]  # of a header, without its "Bearer"
            secrets += [text, token] if len(token) >= LONG_TOKEN else [text]
    return sorted(secrets, key=len, reverse=True)


def scheme_of(url: str) -> str:
    """ "s3" for s3://bucket/x, "file" for a plain path."""
    return url.split("://", 1)[0].lower() if "://" in url else "file"


def resolve_url(reference: str, folder: str) -> str:
    """An absolute URL or path for `reference`, which is absolute itself or relative to the URL `folder`.

    Raises ValueError when its ".." climb out of the bucket or host.

    >>> resolve_url("../cats/1.jpg", "s3://bucket/lists")
    's3://bucket/cats/1.jpg'
    """
    if "://" in reference:
        return reference
    if scheme_of(folder) in ("file", "local"):
        return os.path.normpath(Path(local_path(folder)) / _at_home(reference))
    if reference.startswith(("/", "~")):
        return os.path.normpath(_at_home(reference))
    scheme, path = folder.split("://", 1)
    # Memory has no bucket or host above its folders.
    top, _, rest = path.partition("/") if scheme != "memory" else ("", "/", path.lstrip("/"))
    joined = posixpath.normpath(posixpath.join(rest, reference))
    if joined == ".." or joined.startswith("../"):
        raise ValueError(f"climbs above {without_credentials(f'{scheme}://{top}')}")
    return f"{scheme}://{top}/{joined}".removesuffix("/.")


def local_path(url: str) -> str:
    """The absolute path of a plain path or file:// URL."""
    # Not Path.resolve, which would replace links by their targets.
    return os.path.normpath(Path(_at_home(re.sub(r"^(file|local)://", "", url))).absolute())


def _at_home(path: str) -> str:
    """Expands a "~" at the very beginning. "./~x" is a file named "~x"; Path drops the "./" and would expand it too."""
    return os.path.expanduser(path)  # noqa: PTH111
