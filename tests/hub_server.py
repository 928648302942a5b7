# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A Hub on the loopback interface that serves folders as repositories, for tests of the real client."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class HubServer:
    """
    A context manager. `requests` has the method and path of what was asked, `downloads` the files that were sent,
    `tokens` the values of the Authorization header that came with requests to repositories.

    Args:
        repositories (`dict[str, Path]`): Folders by repository id; each is its repository's only revision, `main`.
    """

    def __init__(self, repositories: dict[str, Path]):
        self.repositories = {name: Path(folder) for name, folder in repositories.items()}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    @property
    def downloads(self) -> set[str]:
        return {path.split("/", 5)[5] for method, path in self.requests if method == "GET" and "/resolve/" in path}

    def use(self, monkeypatch):
        """Makes huggingface_hub's client ask this server."""
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


def commit_of(name: str) -> str:
    """The one commit of a repository."""
    return hashlib.sha1(name.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        is_api = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models" if is_api else "").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        folder = self.hub.repositories.get(name)
        if folder is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        self.hub.tokens.add(self.headers.get("Authorization"))
        if len(rest) > 1 and rest[1] not in ("main", commit_of(name)):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if is_api:
            return self._send_listing(name, folder, rest)
        file = folder.joinpath(*rest[2:])
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        body = file.read_bytes()
        return self._send(200, body, {"ETag": f'"{_blob_id(body)}"', "X-Repo-Commit": commit_of(name)})

    def _send_listing(self, name, folder, rest):
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        paths = [file.relative_to(folder).as_posix() for file in files]
        if rest[:1] == ["tree"]:
            listing = [
                {"type": "file", "path": path, "size": file.stat().st_size, "oid": _blob_id(file.read_bytes())}
                for path, file in zip(paths, files, strict=True)
            ]
        else:
            siblings = [{"rfilename": path} for path in paths]
            listing = {"_id": name, "id": name, "modelId": name, "sha": commit_of(name), "siblings": siblings}
        self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})

    def _send(self, status, body, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _blob_id(body: bytes) -> str:
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()
