"""web.py: which addresses a picture may come from; what was connected to counts, not what the URL looks like."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.inputs.manifest import read_manifest
from pipeline.models.find import ModelError, find_model
from pipeline.store.remote import web
from pipeline.store.remote.web import refused
from pipeline.store.storage import Storage, StorageError, parse_storage_options

HERE = {"web": {"private": True}}
METADATA = (
    "http://169.254.169.254/latest/meta-data", "http://2852039166/latest/meta-data", "http://0xa9fea9fe/", "http://0.0.0.0/",
    "http://[::ffff:169.254.169.254]/", "http://[fe80::1]/", "http://[fd00:ec2::254]/latest/meta-data", "http://[64:ff9b::a9fe:a9fe]/",
    "http://025177524776/", "http://0251.0376.0251.0376/", "http://0xa9.254.43518/", "http://169.16689662/",
    "http://[::ffff:a9fe:a9fe]/", "http://[0:0:0:0:0:ffff:100.100.100.200]/", "http://[fe80::1%25lo]/", "http://[fe80::a9fe:a9fe]/",
    "http://[fd20:ce::254]/", "http://[::]/", "http://[ff02::1]/", "http://255.255.255.255/",
    "http://100.100.100.200/", "http://168.63.129.16/", "http://[2002:a9fe:a9fe::]/",
)  # fmt: skip
PRIVATE = (
    "http://10.0.0.1/",
    "http://192.168.1.1/",
    "http://172.16.0.1/",
    "http://[::1]/",
    "http://[fd12::1]/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://017700000001/",
    "http://127.1/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[64:ff9b::a00:1]/",
    "http://[2002:a00:1::]/",
    "http://100.64.0.1/",
)


@pytest.fixture
def server() -> Iterator[Any]:
    """Sends where the path says, else a picture's worth of bytes; and counts what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012
        said: list[str | None] = []  # noqa: RUF012

        def do_GET(self) -> None:
            self.asked.append(self.path)
            self.said.append(self.headers.get("Authorization"))
            there = self.path.startswith("/to?")
            self.send_response(302 if there else 200)
            if there:
                self.send_header("Location", self.path[4:])
            body = b"" if there else b"concept,images\nowl,owl.png\n"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    threading.Thread(target=made.serve_forever, daemon=True).start()
    Handler.address = f"http://127.0.0.1:{made.server_address[1]}"  # type: ignore[attr-defined]
    yield Handler
    made.shutdown()
    made.server_close()


@pytest.mark.parametrize("path", ["model", "model.safetensors", "to?http://169.254.169.254/model.safetensors"])
def test_a_model_on_a_web_server_is_refused_and_nothing_is_asked(server: Any, path: str) -> None:
    """Catches a model's URL that reaches a private network, which only pictures' URLs are checked for."""
    for options in ({}, HERE):
        for url in (f"{server.address}/{path}", f"http://169.254.169.254/{path}", f"HTTP://[::1]/{path}"):
            with pytest.raises(ModelError, match="a web server does not list its files"):
                find_model(url, options)
    assert server.asked == []


@pytest.mark.parametrize("url", METADATA)
def test_a_clouds_metadata_is_refused_also_behind_a_redirect_and_where_private_is_allowed(
    server: Any, url: str
) -> None:
    """Catches a picture's URL that reads the credentials of the machine from its cloud."""
    for asked in (url, f"{server.address}/to?{url}"):
        with pytest.raises(StorageError, match=r"from which no picture is fetched|not a canonical"):
            Storage(asked, HERE).read_bytes(at_most=1_000)


@pytest.mark.parametrize(
    "address",
    ["::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2002:7f00:1::", "fec0::1", "5f00::1", "::1"],
)  # fmt: skip
def test_no_spelling_of_a_private_address_is_a_public_one(address: str) -> None:
    """Catches an IPv6 address that a gateway, or the machine, takes for an IPv4 address of a private network."""
    assert "web.private=true" in refused(address, private=False)
    assert not refused(address, private=True)


@pytest.mark.parametrize(
    "address", ["::169.254.169.254", "::ffff:0:169.254.169.254", "64:ff9b:1::169.254.169.254", "::"]
)
def test_no_spelling_of_a_clouds_metadata_is_allowed(address: str) -> None:
    assert "web.private=true" not in refused(address, private=True) != ""


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"])
def test_public_addresses_are_read(address: str) -> None:
    assert not refused(address, private=False)


@pytest.mark.parametrize("url", [*PRIVATE, "here"])
def test_private_addresses_are_refused_unless_they_are_allowed(server: Any, url: str) -> None:
    with pytest.raises(StorageError, match=r"unless --storage-option web.private=true|not a canonical"):
        Storage(server.address if url == "here" else url).read_bytes(at_most=1_000)
    assert server.asked == []
    assert Storage(server.address, HERE).read_bytes(at_most=1_000)


def test_a_redirect_to_a_private_address_is_refused(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' server stands for a public one."""
    real = web.refused
    monkeypatch.setattr(web, "refused", lambda at, private: "" if at == "127.0.0.1" else real(at, private=private))
    port = server.address.rsplit(":", 1)[1]
    assert Storage(f"{server.address}/to?/a").read_bytes(at_most=1_000)
    with pytest.raises(StorageError, match=r"127.0.0.2, an address of a private network"):
        Storage(f"{server.address}/to?http://127.0.0.2:{port}/a").read_bytes(at_most=1_000)
    assert server.asked[-1].startswith("/to?")


def test_a_name_that_leads_to_another_address_when_it_is_asked_again_is_refused(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check of a name's address before its use, between which a name server changes its answer."""
    asked, real = [], socket.getaddrinfo

    def changing(host: Any, port: Any, *more: Any, **settings: Any) -> Any:
        if host not in ("pictures.example", b"pictures.example"):
            return real(host, port, *more, **settings)
        asked.append(host)
        address = "93.184.216.34" if len(asked) % 2 == 0 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    port = server.address.rsplit(":", 1)[1]
    with pytest.raises(StorageError, match=r"127.0.0.1, an address of a private network"):
        Storage(f"http://pictures.example:{port}/a").read_bytes(at_most=1_000)
    assert len(asked) == 1
    assert server.asked == []


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254"])
@pytest.mark.parametrize("how", ["asked for", "behind a chain of redirects"])
def test_a_name_that_leads_to_a_clouds_metadata_is_refused(
    server: Any, monkeypatch: pytest.MonkeyPatch, address: str, how: str
) -> None:
    """Catches a check of what the URL says, where anybody's name server says where it leads; private networks are allowed."""
    real, family = socket.getaddrinfo, socket.AF_INET6 if ":" in address else socket.AF_INET

    def answers(host: Any, port: Any, *more: Any, **settings: Any) -> Any:
        if host not in ("metadata.example", b"metadata.example"):
            return real(host, port, *more, **settings)
        return [(family, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)[: 4 if ":" in address else 2])]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    url = "http://metadata.example/latest/meta-data"
    chain = f"{server.address}/to?{server.address}/to?{server.address}/to?{url}"
    with pytest.raises(StorageError, match="from which no picture is fetched"):
        Storage(chain if how.startswith("behind") else url, HERE).read_bytes(at_most=1_000)
    assert len(server.asked) == (3 if how.startswith("behind") else 0)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a"])
def test_a_redirect_leads_to_the_web_only(server: Any, url: str) -> None:
    with pytest.raises(StorageError, match="not the web"):
        Storage(f"{server.address}/to?{url}", HERE).read_bytes(at_most=1_000)


def test_redirects_without_end_are_left(server: Any) -> None:
    with pytest.raises(StorageError, match="more than 10 redirects"):
        Storage(f"{server.address}/to?{'/to?' * 30}", HERE).read_bytes(at_most=1_000)


def test_a_manifest_that_the_command_names_may_lie_in_a_private_network(server: Any) -> None:
    assert read_manifest(f"{server.address}/m.csv").concepts[0].name == "owl"


def test_a_pipe_in_the_place_of_a_part_is_not_read(tmp_path: Path) -> None:
    """Catches a call that waits for ever for somebody to write."""
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="not a regular file"):
        Storage(str(tmp_path)).read_end("pipe", 4)


def test_headers_are_sent_to_the_host_they_are_for_and_to_nobody_else(server: Any) -> None:
    """Catches a token that a manifest, or a redirect, hands to another server; and one that is shown."""
    given = ["web.private=true", "web.headers.Authorization=Bearer abcdefgh-9"]
    host = server.address.removeprefix("http://")
    options = parse_storage_options([*given, f"web.host={host}"])
    elsewhere = server.address.replace("127.0.0.1", "localhost")
    assert Storage(f"{server.address}/m.csv", options).read_bytes(at_most=1_000)
    read_manifest(f"{server.address}/m.csv", options)
    assert set(server.said) == {"Bearer abcdefgh-9"}
    server.said.clear()
    assert Storage(f"{server.address}/to?{elsewhere}/a", options).read_bytes()
    assert server.said == ["Bearer abcdefgh-9", None]
    with pytest.raises(StorageError) as refused:
        Storage(f"{server.address}/to?http://169.254.169.254/?abcdefgh-9", options).read_bytes()
    assert "abcdefgh-9" not in str(refused.value)
    server.said.clear()
    Storage(f"{server.address}/a", parse_storage_options([*given, "web.host=pictures.example"])).read_bytes()
    Storage(f"{server.address}/a", HERE).read_bytes()
    assert server.said == [None, None]
    with pytest.raises((StorageError, ValueError), match=r"web.headers are sent to one host only: name it"):
        Storage(f"{server.address}/a", parse_storage_options(given)).read_bytes()
