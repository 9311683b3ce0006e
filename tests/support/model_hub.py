"""A small stand-in of the Hugging Face Hub: what its client asks of it to make a repository, upload and download it."""

import base64
import hashlib
import json
import re
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

import pytest

TOKEN = "hf_of_the_tests"


def require_timeouts() -> None:
    """Skip a test where what the client asks by itself cannot be given a time-out."""
    from huggingface_hub.utils import get_session

    if not hasattr(get_session(), "timeout"):
        pytest.skip("huggingface_hub before 1.0 waits for ever where it writes")


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let the Hub's client of this process mean the one at this address."""
    from huggingface_hub import constants, file_download

    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)  # before 1.0
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


@dataclass
class Repository:
    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=list)  # the whole content after each

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1] if self.commits else {}

    def at(self, revision: str) -> dict[str, bytes]:
        """The files at a commit, the n-th of which is called n in hexadecimal, or at main."""
        number = int(revision, 16) if re.fullmatch(r"[0-9a-f]{40}", revision) else len(self.commits)
        return self.commits[number - 1] if number else {}


class ModelHub(AbstractContextManager["ModelHub"]):
    """Listens on this machine, at `url`, until it is left. refuses: a path's beginning that is answered with 403.
    stalls: that of a request, METHOD PATH, which is not answered. redirects: whether where a file lies is answered and
    not the file, as the Hub does of large ones."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.refuses: str | None = None
        self.stalls: str | None = None
        self._left = threading.Event()
        self.redirects = False
        self.objects: dict[str, bytes] = {}  # large files by their SHA-256, before a commit names them
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_POST(self) -> None:
                self._answer(hub.post)

            def do_PUT(self) -> None:
                self._answer(hub.put)

            def do_GET(self) -> None:
                self._answer(hub.get)

            do_HEAD = do_GET  # noqa: N815

            def _answer(self, method: Any) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}" or self.command == "PUT"
                path, _, query = self.path.partition("?")
                if hub.stalls is not None and f"{self.command} {path}".startswith(hub.stalls):
                    hub._left.wait()
                    self.close_connection = True
                    return
                if "/tree/" in path and "recursive=true" in query.lower():
                    path = path.replace("/tree/", "/tree-below/", 1)
                refused = hub.refuses is not None and path.startswith(hub.refuses)
                code, headers, body = (403, {}, b"{}") if refused or not authorised else method(path, content)
                if code == 200 and (part := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))):
                    first, last = int(part[1]), min(int(part[2]), len(body) - 1)
                    headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(body)}"}
                    code, body = 206, body[first : last + 1]
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def __exit__(self, *details: object) -> None:
        self._left.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    # -- what it answers: (path, body) -> status, headers, body --------------------------------------------------------

    def post(self, path: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            name = f"datasets/{name}" if asked.get("type") == "dataset" else name
            if name in self.repositories:
                return 409, {}, json.dumps({"url": f"{self.url}/{name}"}).encode()
            self.repositories[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
            return _json({"url": f"{self.url}/{name}", "name": name.removeprefix("datasets/")})
        if path == "/api/validate-yaml":
            return _json({"warnings": [], "errors": []})
        if re.fullmatch(r"/api/(models|datasets)/(.+)/preupload/main", path):
            files = json.loads(content)["files"]
            large = {True: "lfs", False: "regular"}
            modes = [(file["path"], large[file["path"].endswith(".safetensors")]) for file in files]
            return _json({"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes]})
        if path.endswith("/info/lfs/objects/batch"):
            return _json({"transfer": "basic", "objects": [self._lfs(file) for file in json.loads(content)["objects"]]})
        if found := re.fullmatch(r"/api/(models|datasets)/(.+)/commit/main", path):
            name = found[2] if found[1] == "models" else f"datasets/{found[2]}"
            return self._commit(name, [json.loads(line) for line in content.splitlines()])
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/(.+)", path):
            asked = re.findall(r"paths=([^&]+)", content.decode()) or json.loads(content)["paths"]
            return _json([facts for facts in self._facts(f"datasets/{found[1]}", found[2]) if facts["path"] in asked])
        return 404, {}, b"{}"

    def put(self, path: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        self.objects[hashlib.sha256(content).hexdigest()] = content
        return 200, {}, b""

    def get(self, path: str, content: bytes) -> tuple[int, dict[str, str], bytes]:
        if (found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)) and found[1] in self.repositories:
            return _json({"id": found[1], "private": self.repositories[found[1]].private, "siblings": []})
        if found := re.fullmatch(r"/api/(datasets/[^/]+/[^/]+)(?:/revision/(.+))?", path):
            if found[1] not in self.repositories:
                return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
            sha = f"{len(self.repositories[found[1]].commits):040x}"
            sha = found[2] if found[2] and re.fullmatch(r"[0-9a-f]{40}", found[2]) else sha
            return _json({"id": found[1].removeprefix("datasets/"), "sha": sha, "private": False, "siblings": []})
        if found := re.fullmatch(r"/api/(datasets/[^/]+/[^/]+)/tree(-below)?/([^/]+)/?(.*)", path):
            top = f"{unquote(found[4])}/" if found[4] else ""
            under = [facts for facts in self._facts(found[1], found[3]) if facts["path"].startswith(top)]
            if not found[2]:
                below = {facts["path"].removeprefix(top).partition("/")[0] for facts in under}
                folders = [{"type": "directory", "path": top + name, "oid": "0" * 40} for name in sorted(below)]
                files = [facts for facts in under if "/" not in facts["path"].removeprefix(top)]
                names = {facts["path"] for facts in files}
                under = files + [folder for folder in folders if folder["path"] not in names]
            return _json(under) if under else (404, {"X-Error-Code": "EntryNotFound"}, b"{}")
        if path.startswith("/objects/"):
            return 200, {}, self.objects[path.removeprefix("/objects/")]
        found = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found is None or found[1] not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        repository = self.repositories[found[1]]
        files = repository.at(found[2])
        if found[3] not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        body = files[found[3]]
        tag = hashlib.sha256(body).hexdigest()
        if self.redirects:
            self.objects[tag] = body
            return 302, {"Location": f"{self.url}/objects/{tag}"}, b""
        return 200, {"X-Repo-Commit": f"{len(repository.commits):040x}", "ETag": f'"{tag}"'}, body

    def _facts(self, name: str, revision: str) -> list[dict[str, Any]]:
        """What a listing says of the files of a repository."""
        files = self.repositories[name].at(revision) if name in self.repositories else {}
        return [
            {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for path, body in files.items()
        ]

    def _lfs(self, file: dict[str, Any]) -> dict[str, Any]:
        return {**file, "actions": {"upload": {"href": f"{self.url}/objects/{file['oid']}"}}}

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        repository = self.repositories[name]
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if value.get("parentCommit") not in (None, f"{len(repository.commits):040x}"):
                return (
                    412,
                    {},
                    json.dumps({"error": "A commit has happened since. Please refresh and try again."}).encode(),
                )
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
        repository.commits.append(files)
        number = f"{len(repository.commits):040x}"
        return _json({"commitUrl": f"{self.url}/{name}/commit/{number}", "commitOid": number})


def _json(values: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(values).encode()
