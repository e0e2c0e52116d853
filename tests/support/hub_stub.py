"""A stand-in for the Hugging Face Hub on 127.0.0.1: repositories, and commits of small files."""

import base64
import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """What was put.

    Attributes:
        url: Where it listens.
        created: The bodies of the requests for repositories.
        commits: Of each commit: (repository, message, description, {path: bytes}).
        failures: How many of the next commits fail.
        failed: How many have failed.
    """

    def __init__(self):
        self.url = ""
        self.created, self.commits = [], []
        self.failures = self.failed = 0

    def answer(self, path, body):
        """Return the status and the content for a POST."""
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/me/digits"}
        match = re.fullmatch(r"/api/models/(.+)/(preupload|commit)/main", path.partition("?")[0])
        if match is None:
            return 404, {"error": f"unknown: {path}"}
        if match[2] == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular"} for f in files]
            return 200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]}
        if self.failures:
            self.failures -= 1
            self.failed += 1
            return 403, {"error": "not today"}
        lines = [json.loads(line) for line in body.splitlines()]
        about = next(line["value"] for line in lines if line["key"] == "header")
        files = [line["value"] for line in lines if line["key"] == "file"]
        content = {file["path"]: base64.b64decode(file["content"]) for file in files}
        self.commits.append((match[1], about["summary"], about["description"], content))
        oid = f"{len(self.commits):040x}"
        return 200, {"commitUrl": f"{self.url}/{match[1]}/commit/{oid}", "commitOid": oid}


@contextlib.contextmanager
def running():
    """Give a `Hub` that listens."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, content = hub.answer(self.path, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
