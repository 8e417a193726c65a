"""Files of web servers, read as a stream that stops at its limit, whatever the server says or does."""

import asyncio
import ipaddress
import socket
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import fsspec
from fsspec.asyn import sync

PIECE = 2**16  # bytes
MOST_REDIRECTS = 10
FOLLOWED = (301, 302, 303, 307, 308)


class RefusedAddressError(OSError):
    """A picture's URL, or a redirect of it, that leads where pictures have no business."""


def read_web(url: str, at_most: int | None) -> bytes:
    """The file, or its first `at_most` bytes; None is the whole.

    What is read is what the server sends: it is not asked to compress, and nothing is unpacked. Raises what aiohttp raises,
    FileNotFoundError, and RefusedAddressError for an address of the link itself, such as that of a cloud's metadata, and for
    a redirect from a public address to a private one.
    """
    system = fsspec.filesystem("http", encoded=True, client_kwargs={"auto_decompress": False})
    data: bytes = sync(system.loop, _read, system, url, at_most)
    return data


async def _read(system: Any, url: str, at_most: int | None) -> bytes:
    session: aiohttp.ClientSession = await system.set_session()
    headers = {"Accept-Encoding": "identity"} | ({} if at_most is None else {"Range": f"bytes=0-{at_most - 1}"})
    came_from_public = False
    for _ in range(MOST_REDIRECTS):
        public = await _is_public(url)
        if came_from_public and not public:
            raise RefusedAddressError(f"a redirect leads to the private address of {urlsplit(url).hostname}")
        came_from_public = came_from_public or public
        async with session.get(system.encode_url(url), headers=headers, allow_redirects=False) as answer:
            if answer.status in FOLLOWED and "Location" in answer.headers:
                url = urljoin(url, answer.headers["Location"])
                if urlsplit(url).scheme not in ("http", "https"):
                    raise RefusedAddressError(f"a redirect leads to {urlsplit(url).scheme}://, which is not the web")
                continue
            system._raise_not_found_for_status(answer, url)
            content = bytearray()
            async for piece in answer.content.iter_chunked(PIECE):
                content += piece
                if at_most is not None and len(content) >= at_most:
                    break  # leaving closes the connection, with whatever the server would still have sent
            return bytes(content if at_most is None else content[:at_most])
    raise RefusedAddressError(f"more than {MOST_REDIRECTS} redirects")


async def _is_public(url: str) -> bool:
    """Whether all addresses of the URL's host are. Raises RefusedAddressError, ConnectionError."""
    parts = urlsplit(url)
    try:
        known = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
    except socket.gaierror as error:  # which may pass, as other faults of a connection do
        raise ConnectionError(f"the address of {parts.hostname} cannot be found ({error})") from None
    addresses = [ipaddress.ip_address(str(each[4][0]).split("%")[0]) for each in known]
    for address in addresses:
        plain = getattr(address, "ipv4_mapped", None) or address
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified:
            raise RefusedAddressError(f"{parts.hostname} is {address}, an address from which no picture is fetched")
    return all((getattr(each, "ipv4_mapped", None) or each).is_global for each in addresses)
