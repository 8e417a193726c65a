"""URLs, paths and the options that go with them, as a person writes them and as they may be shown."""

import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SECRET_NAME = re.compile(r"key|secret|token|passw|credential|signature|^sig$|username", re.IGNORECASE)
SECRET_QUERY = re.compile(r"([?&][^=&\s]*(?:key|secret|token|passw|credential|sig)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)


def parse_storage_options(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` pairs as fsspec's keyword arguments; `a.b=value` sets b inside a.

    Raises ValueError for a pair of another form, without showing what may be a secret.

    >>> parse_storage_options(["endpoint_url=http://minio:9000", "client_kwargs.use_ssl=false"])
    {'endpoint_url': 'http://minio:9000', 'client_kwargs': {'use_ssl': False}}
    """
    options: dict[str, Any] = {}
    for pair in pairs:
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


def _typed(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.startswith("{"):
        return json.loads(text)
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def without_credentials(text: str, options: Mapping[str, Any] | None = None) -> str:
    """The text with user names and passwords in URLs, secret query values and secret option values struck out.

    >>> without_credentials("https://me:pw@host/cat.png?X-Amz-Signature=abc&size=1")
    'https://***@host/cat.png?X-Amz-Signature=***&size=1'
    """
    text = re.sub(r"(?<=://)[^/@\s]*@", "***@", text)
    text = SECRET_QUERY.sub(r"\1***", text)
    for secret in _secrets(options or {}):
        text = text.replace(secret, "***")
    return text


def _secrets(options: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            found += _secrets(value)
        elif isinstance(value, str) and len(value) >= 4 and SECRET_NAME.search(name):
            found.append(value)
    return sorted(found, key=len, reverse=True)


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
    # Not Path.resolve: a link stays the name that the person gave.
    return os.path.normpath(Path(_at_home(re.sub(r"^(file|local)://", "", url))).absolute())


def _at_home(path: str) -> str:
    """With a "~" at the very beginning as the home it stands for; "./~x" is a file of that name, which Path does not see."""
    return os.path.expanduser(path)  # noqa: PTH111
