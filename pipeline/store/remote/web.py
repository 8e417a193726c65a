"""Files of web servers, read as a stream that stops at its limit, whatever the server says or does."""

import ipaddress
import socket
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
import fsspec
from fsspec.asyn import sync

PIECE = 2**16  # bytes
MOST_REDIRECTS = 10
FOLLOWED = (301, 302, 303, 307, 308)
# An IPv4 address in the last four bytes: behind a NAT64 gateway, and in two older forms.
TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")))
PUBLIC = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out for the open network
# Where clouds tell a machine its credentials, besides 169.254.169.254: AWS and Google by IPv6, Alibaba, Azure, Oracle.
METADATA = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)


class RefusedAddressError(OSError):
    """A picture's URL, or a redirect of it, that leads where pictures have no business."""


def read_web(
    url: str,
    at_most: int | None,
    *,
    private: bool = False,
    host: str = "",
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The file, or its first `at_most` bytes; None is the whole.

    What is read is what the server sends: it is not asked to compress, and nothing is unpacked. private: also from private
    networks and this machine. Raises what aiohttp raises, FileNotFoundError, and RefusedAddressError for an address of a private
    network, or of the link itself and the like, where a cloud keeps its metadata. What is looked at is the address that is
    connected to, for each redirect anew. headers: sent to `host` (with its port, where it is not the usual one) and to nobody
    else, also behind a redirect; and not in the clear, unless the URL itself is http://.
    """
    system = fsspec.filesystem(
        "http", encoded=True, client_kwargs={"auto_decompress": False}, get_client=CLIENTS[private]
    )
    data: bytes = sync(system.loop, _read, system, url, at_most, host, headers or {})
    return data


async def _client(private: bool, **settings: Any) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(socket_factory=partial(_connectable, private))
    return aiohttp.ClientSession(connector=connector, **settings)


# fsspec keeps one client for the same arguments, so these have to be the same objects each time.
CLIENTS = {private: partial(_client, private) for private in (False, True)}


async def _read(system: Any, url: str, at_most: int | None, host: str, private_headers: Mapping[str, str]) -> bytes:
    session: aiohttp.ClientSession = await system.set_session()
    plain = {"Accept-Encoding": "identity"} | ({} if at_most is None else {"Range": f"bytes=0-{at_most - 1}"})
    schemes = {"https", urlsplit(url).scheme}
    for _ in range(MOST_REDIRECTS):
        at = urlsplit(url)
        meant = at.netloc.rpartition("@")[2].lower() == host.lower() and at.scheme in schemes
        headers = {**private_headers, **plain} if meant else plain
        try:
            async with session.get(system.encode_url(url), headers=headers, allow_redirects=False) as answer:
                if answer.status in FOLLOWED and "Location" in answer.headers:
                    url = urljoin(url, answer.headers["Location"])
                    if urlsplit(url).scheme not in ("http", "https"):
                        raise RefusedAddressError(
                            f"a redirect leads to {urlsplit(url).scheme}://, which is not the web"
                        )
                    continue
                system._raise_not_found_for_status(answer, url)
                content = bytearray()
                async for piece in answer.content.iter_chunked(PIECE):
                    content += piece
                    if at_most is not None and len(content) >= at_most:
                        break  # leaving closes the connection, with whatever the server would still have sent
                return bytes(content if at_most is None else content[:at_most])
        except aiohttp.ClientConnectorError as error:
            if "from which no picture is fetched" in str(error.os_error):  # of several addresses there is one error
                raise RefusedAddressError(f"{urlsplit(url).hostname} is {error.os_error}") from None
            raise
    raise RefusedAddressError(f"more than {MOST_REDIRECTS} redirects")


def _connectable(private: bool, address: tuple[Any, ...]) -> socket.socket:
    """A socket for an address that a name server, or the URL itself, gave. Raises RefusedAddressError."""
    family, kind, protocol, _, (said, *_) = address
    if reason := refused(str(said), private=private):
        raise RefusedAddressError(reason)
    return socket.socket(family, kind, protocol)


def refused(address: str, *, private: bool) -> str:
    """Why nothing is read from this address, or "".

    >>> refused("169.254.169.254", private=True)
    '169.254.169.254, an address from which no picture is fetched'
    """
    at = ipaddress.ip_address(address.split("%")[0])
    is_public = at.is_global
    if isinstance(at, ipaddress.IPv6Address):
        inside = (
            at.ipv4_mapped
            or at.sixtofour
            or (ipaddress.IPv4Address(int(at) & 0xFFFFFFFF) if any(at in each for each in TRANSLATED) else None)
        )
        is_public = at in PUBLIC and is_public if inside is None else inside.is_global
        at = at if inside is None or at.is_unspecified else inside
    if at.is_link_local or at.is_multicast or at.is_unspecified or at in METADATA or str(at) == "255.255.255.255":
        return f"{address}, an address from which no picture is fetched"
    if not (private or is_public):
        return (
            f"{address}, an address of a private network, from which no picture is fetched unless --storage-option "
            "web.private=true is given"
        )
    return ""
