"""A model hub of one folder: the answers that huggingface_hub asks for."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "c" * 40


@contextmanager
def hub(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """huggingface_hub finds the folder under any name of a repository. Yields the paths of the files that were fetched."""
    fetched: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            url = self.path.partition("?")[0]
            files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            if "/tree/" in url:
                tree = [
                    {"type": "file", "path": name, "size": path.stat().st_size, "oid": name}
                    for name, path in files.items()
                ]
                self.send(json.dumps(tree).encode(), {})
            elif "/resolve/" in url:
                name = url.partition("/resolve/")[2].partition("/")[2]
                if name not in files:
                    self.send(b"", {"X-Error-Code": "EntryNotFound"}, 404)
                    return
                if self.command == "GET":
                    fetched.append(name)
                self.send(files[name].read_bytes(), {"ETag": f'"{name.replace("/", "-")}"', "X-Repo-Commit": COMMIT})
            else:
                self.send(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": []}).encode(), {})

        def send(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("ENDPOINT", address),
        ("HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(cache)),
        ("HF_HUB_OFFLINE", False),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    try:
        yield fetched
    finally:
        server.shutdown()
        server.server_close()
