# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""A Hub on the loopback interface whose repositories are folders, for tests of the real client."""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class HubServer:
    """
    A context manager. `requests` has the method and path of what was asked, `downloads` the files that were sent,
    `tokens` the values of the Authorization header that came with requests to repositories.

    Args:
        repositories (`dict[str, Path]`):
            Folders by repository id; each is its repository's only revision, `main`. Commits write to them.
        storage (`Path`, *optional*): Where new repositories get their folders; without it none can be made.
    """

    def __init__(self, repositories: dict[str, Path] | None = None, storage: Path | None = None):
        self.repositories = {name: Path(folder) for name, folder in (repositories or {}).items()}
        self.storage = storage
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.large_files: dict[str, bytes] = {}
        self.commits: list[str] = []
        self._born = time.time_ns()
        # Cleared, the server takes no large file until it is set: to stop an upload in the middle.
        self.takes_large_files = threading.Event()
        self.takes_large_files.set()
        # Files that are not sent as long as they are named here: to stop a download in the middle.
        self.stalled: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.takes_large_files.set()
        self.stalled.clear()
        self._server.shutdown()
        self._server.server_close()

    def commit_of(self, name: str) -> str:
        """The latest commit of a repository, unlike that of any other server: a cache may outlive this one."""
        return hashlib.sha1(f"{name} {self._born} {self.url} {len(self.commits)}".encode()).hexdigest()

    @property
    def downloads(self) -> set[str]:
        return {path.split("/", 5)[5] for method, path in self.requests if method == "GET" and "/resolve/" in path}

    def use(self, monkeypatch):
        """Makes huggingface_hub's client in this process ask this server."""
        template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", self.url)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", self.url)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # keeps the endpoint that it was made with
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)

    def environment(self, home: Path) -> dict[str, str]:
        """The same for another process, whose cache is in `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_test",
        }


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._read()

    def do_GET(self):
        self._read()

    def do_POST(self):
        path, body = self._start()
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._send_json({"errors": [], "warnings": []})
        name, folder, rest = self._find(path)
        if folder is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        self.hub.tokens.add(self.headers.get("Authorization"))
        if rest[0] == "preupload":
            return self._send_json({"files": [self._upload_mode(file) for file in json.loads(body)["files"]]})
        if rest[:2] == ["info", "lfs"]:
            return self._send_json(
                {"transfer": "basic", "objects": list(map(self._action, json.loads(body)["objects"]))}
            )
        return self._commit(name, folder, [json.loads(line) for line in body.splitlines()])

    def do_PUT(self):
        """A large file: it belongs to no repository until a commit names it."""
        path, body = self._start()
        self.hub.takes_large_files.wait()
        self.hub.large_files[path.rsplit("/", 1)[-1]] = body
        self._send(200, b"", {})

    def _start(self) -> tuple[str, bytes]:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        return path, self._body()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _find(self, path: str) -> tuple[str, Path | None, list[str]]:
        """Name and folder of the repository that a path is about, and what of it."""
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name = "/".join(parts[:2]).removesuffix(".git")
        return name, self.hub.repositories.get(name), parts[2:]

    def _read(self):
        path, _ = self._start()
        name, folder, rest = self._find(path)
        if folder is None:
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
        self.hub.tokens.add(self.headers.get("Authorization"))
        if len(rest) > 1 and rest[1] not in ("main", self.hub.commit_of(name)):
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if path.startswith("/api/models/"):
            return self._send_listing(name, folder, rest)
        file = folder.joinpath(*rest[2:])
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        while self.command == "GET" and "/".join(rest[2:]) in self.hub.stalled:
            time.sleep(0.02)
        body = file.read_bytes()
        return self._send(200, body, {"ETag": f'"{_blob_id(body)}"', "X-Repo-Commit": self.hub.commit_of(name)})

    def _send_listing(self, name, folder, rest):
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        paths = [file.relative_to(folder).as_posix() for file in files]
        if rest[:1] == ["tree"]:
            files = [file for file in files if file.is_relative_to(folder.joinpath(*rest[2:]))]
            if rest[2:] and not files:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            paths = [file.relative_to(folder).as_posix() for file in files]
            listing = [
                {"type": "file", "path": path, "size": file.stat().st_size, "oid": _blob_id(file.read_bytes())}
                for path, file in zip(paths, files, strict=True)
            ]
        else:
            siblings = [{"rfilename": path} for path in paths]
            listing = {"_id": name, "id": name, "modelId": name, "sha": self.hub.commit_of(name), "siblings": siblings}
        return self._send_json(listing)

    def _create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        exists = name in self.hub.repositories
        if not exists:
            self.hub.repositories[name] = self.hub.storage / name
            self.hub.repositories[name].mkdir(parents=True)
        self._send_json({"url": f"{self.hub.url}/{name}"}, 409 if exists else 200)

    @staticmethod
    def _upload_mode(file):
        is_large = file["path"].endswith(".safetensors") or file["size"] > 10_000_000
        return {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

    def _action(self, wanted):
        is_known = wanted["oid"] in self.hub.large_files
        upload = {"actions": {"upload": {"href": f"{self.hub.url}/large/{wanted['oid']}"}}}
        return {"oid": wanted["oid"], "size": wanted["size"]} | ({} if is_known else upload)

    def _commit(self, name, folder, operations):
        for operation in operations:
            kind, value = operation["key"], operation["value"]
            if kind == "header":
                self.hub.commits.append(value["summary"])
                continue
            path = folder / value["path"]
            if kind == "deletedFile":
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            is_large = kind == "lfsFile"
            path.write_bytes(self.hub.large_files[value["oid"]] if is_large else base64.b64decode(value["content"]))
        url = f"{self.hub.url}/{name}/commit/{self.hub.commit_of(name)}"
        self._send_json({"success": True, "commitOid": self.hub.commit_of(name), "commitUrl": url})

    def _send_json(self, value, status=200):
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, body, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _blob_id(body: bytes) -> str:
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()
