"""The part of Google Cloud Storage's JSON API that gcsfs uses for our files, in memory, with its conditional uploads.

https://cloud.google.com/storage/docs/json_api/v1: objects insert (multipart, media), get, list, delete; ifGenerationMatch.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class GoogleStore:
    """lost: of so many next uploads the answer is lost, after the work is done. refused: so many requests get a 503."""

    endpoint: str = ""
    lost: int = 0
    refused: int = 0
    objects: dict[str, tuple[dict[str, Any], bytes]] = field(default_factory=dict)
    headers: list[dict[str, str]] = field(default_factory=list)
    generations: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    @property
    def options(self) -> dict[str, Any]:
        return {"gs": {"endpoint_url": self.endpoint, "token": "anon"}}

    def insert(self, bucket: str, body: bytes, asked: dict[str, str]) -> tuple[int, Any]:
        """body: multipart/related, the object's JSON and then its bytes; or its bytes alone, as uploadType says."""
        said, data = {"name": asked.get("name")}, body
        if asked.get("uploadType") == "multipart":
            _, first, rest = body.split(b"--==0==", 2)
            said = json.loads(first.split(b"\n\n", 1)[1])
            data = rest.split(b"\n\n", 1)[1].removesuffix(b"\n--==0==--")
        name = f"{bucket}/{said['name']}"
        with self.one_at_a_time:
            there = self.objects[name][0]["generation"] if name in self.objects else "0"
            if asked.get("ifGenerationMatch", there) != there:
                return 412, {"error": {"code": 412, "message": "conditionNotMet"}}
            kept = said | {
                "kind": "storage#object", "bucket": bucket, "size": str(len(data)), "generation": str(next(self.generations)),
                "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
            }  # fmt: skip
            self.objects[name] = (kept, data)
        return 200, kept

    def list(self, bucket: str, asked: dict[str, str]) -> tuple[int, Any]:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        items, prefixes = [], set()
        for name, (kept, _) in sorted(self.objects.items()):
            path = name.removeprefix(f"{bucket}/")
            if path == name or not path.startswith(prefix):
                continue
            folder, found, _ = path[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                prefixes.add(f"{prefix}{folder}{delimiter}")
            else:
                items.append(kept)
        entries: list[tuple[str, Any]] = [
            *(("prefixes", each) for each in sorted(prefixes)),
            *(("items", each) for each in items),
        ]
        start, most = int(asked.get("pageToken", 0)), int(asked.get("maxResults", 1000))
        page: dict[str, Any] = {"kind": "storage#objects", "items": [], "prefixes": []}
        for kind, each in entries[start : start + most]:
            page[kind].append(each)
        return 200, page | ({"nextPageToken": str(start + most)} if start + most < len(entries) else {})


@contextmanager
def google_store() -> Iterator[GoogleStore]:
    store = GoogleStore()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            store.headers.append(dict(self.headers.items()))
            parts = urlsplit(self.path)
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if store.refused:
                store.refused -= 1
                return self.send(503, b"{}")
            found = re.fullmatch(r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", parts.path)
            if found is None:
                return self.send(404, b"{}")
            bucket, name = found[1], f"{found[1]}/{unquote(found[2] or '')}"
            if self.command == "POST":
                status, said = store.insert(bucket, body, asked)
                if store.lost:
                    store.lost -= 1
                    self.close_connection = True
                    return self.connection.close()
                return self.send(status, json.dumps(said).encode())
            if not found[2]:
                return self.send(*self.in_json(store.list(bucket, asked)))
            if name not in store.objects:
                return self.send(404, b"{}")
            if self.command == "DELETE":
                if (
                    asked.get("ifGenerationMatch", store.objects[name][0]["generation"])
                    != store.objects[name][0]["generation"]
                ):
                    return self.send(412, b"{}")
                del store.objects[name]
                return self.send(204, b"")
            kept, data = store.objects[name]
            if asked.get("alt") == "media":
                return self.media(data)
            return self.send(200, json.dumps(kept).encode())

        def media(self, data: bytes) -> None:
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if wanted is None:
                return self.send(200, data)
            start, end = int(wanted[1] or 0), int(wanted[2] or len(data) - 1) + 1
            return self.send(206, data[start:end]) if start < len(data) else self.send(416, b"{}")

        def in_json(self, answer: tuple[int, Any]) -> tuple[int, bytes]:
            return answer[0], json.dumps(answer[1]).encode()

        def send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):  # gcsfs may have stopped listening
                self.wfile.write(content)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server looks for these

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
