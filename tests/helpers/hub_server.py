"""A server on loopback that answers the few requests that huggingface_hub makes to publish and fetch a model."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories by name: path -> content."""

    def __init__(self):
        self.repositories, self.requests = {}, []

    def sha(self, name):
        content = "".join(f"{path}{data!r}" for path, data in sorted(self.repositories[name].items()))
        return hashlib.sha1(content.encode()).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _reply(self, body=b"", status=200, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self):
        hub, path = self.server.hub, self.path.partition("?")[0]
        text = self.rfile.read(int(self.headers["Content-Length"] or 0))
        hub.requests.append(f"POST {path}")
        if path == "/api/repos/create":
            said = json.loads(text)
            name = "/".join(filter(None, (said.get("organization"), said["name"])))
            if name in hub.repositories:
                return self._reply({"error": "there is one", "url": f"{self.server.url}/{name}"}, 409)
            hub.repositories[name] = {}
            return self._reply({"url": f"{self.server.url}/{name}"})
        if path == "/api/validate-yaml":
            return self._reply({"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/preupload/main", path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(text)["files"]
            ]
            return self._reply({"files": files})
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)/commit/main", path):
            for line in text.splitlines():
                said = json.loads(line)
                if said["key"] == "file":
                    value = said["value"]
                    assert value["encoding"] == "base64"
                    hub.repositories[found[1]][value["path"]] = base64.b64decode(value["content"])
            oid = hub.sha(found[1])
            return self._reply({"commitUrl": f"{self.server.url}/{found[1]}/commit/{oid}", "commitOid": oid})
        return self._reply({"error": f"no answer to POST {path}"}, 404)

    def do_GET(self):
        hub, path = self.server.hub, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if (found := re.match(r"/api/models/([\w-]+/[\w-]+)", path)) and found[1] in hub.repositories:
            files = hub.repositories[found[1]]
            if "/tree/" in path:
                rows = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in files.items()
                ]
                return self._reply(rows)
            siblings = [{"rfilename": name} for name in files]
            return self._reply({"id": found[1], "sha": hub.sha(found[1]), "siblings": siblings, "private": False})
        if found := re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/(\w+)/(.+)", path):
            data = hub.repositories.get(found[1], {}).get(found[3])
            if data is not None:
                tag = hashlib.sha1(data).hexdigest()
                return self._reply(data, ETag=f'"{tag}"', X_Repo_Commit=found[2], Accept_Ranges="none")
        return self._reply({"error": "nothing here"}, 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hub_server():
    """Its address is ``url``, what it holds ``hub``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.hub, server.url = Hub(), f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
