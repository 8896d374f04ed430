"""A hub on this machine, of one repository with several revisions, for what fetches models."""

import hashlib
import http.server
import json
import re
from pathlib import Path

from server import Background

NAME = "someone/model"


class Hub(Background):
    """Serves folders as the revisions of a repository while the block lasts. The last one is `main`.

    asked: the paths of all requests. broken: name of a file whose bytes are not those of its checksum.
    """

    def __init__(self, *folders: Path):
        super().__init__(Handler)
        self.folders = {hashlib.sha1(str(folder).encode()).hexdigest(): folder for folder in folders}
        self.asked: list[str] = []
        self.broken = None

    def commit(self, revision: str | None = "main") -> str | None:
        """The commit that a revision stands for."""
        newest = list(self.folders)[-1]
        return newest if revision in ("main", None) else revision if revision in self.folders else None

    def environment(self, home: Path) -> dict[str, str]:
        """What tells the hub's client to come here."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        self.server.asked.append(self.path)
        headers, body, status = {}, b"", 404
        listed = re.fullmatch(rf"/api/models/{NAME}(?:/(?:revision|tree)/(?P<revision>[^/?]+))?(?:\?.*)?", self.path)
        wanted = re.fullmatch(rf"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<file>[^?]+)", self.path)
        commit = self.server.commit((listed or wanted)["revision"]) if listed or wanted else None
        if commit:
            folder, headers = self.server.folders[commit], {"X-Repo-Commit": commit}
            files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
            if listed:
                said = [{"rfilename": name, "size": file.stat().st_size} for name, file in files.items()]
                body = json.dumps({"id": NAME, "modelId": NAME, "sha": commit, "siblings": said, "tags": []}).encode()
                if "/tree/" in self.path:
                    entries = [
                        {"type": "file", "path": one["rfilename"], "size": one["size"], "oid": "0"} for one in said
                    ]
                    body = json.dumps(entries).encode()
                headers["Content-Type"], status = "application/json", 200
            elif wanted["file"] in files:
                body, status = files[wanted["file"]].read_bytes(), 200
                large = wanted["file"].endswith(".safetensors")
                etag = hashlib.sha256(body) if large else hashlib.sha1(b"blob %d\0" % len(body) + body)
                headers["ETag"] = f'"{etag.hexdigest()}"'
                if wanted["file"] == self.server.broken:
                    body = body[:-1] + bytes([body[-1] ^ 1])
        if status == 404:
            here = "RevisionNotFound" if f"/{NAME}/" in self.path else "RepoNotFound"
            headers["X-Error-Code"] = "EntryNotFound" if commit else here
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass
