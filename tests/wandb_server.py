"""A small W&B server on loopback: what the real client needs to make, resume and upload runs, and all it was sent.

It shows that our use of the client delivers what it should; it says nothing about W&B's own server.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "k" * 40
ENTITY = {"id": "e1", "name": "lab"}


@dataclass
class Run:
    """What has arrived of one run."""

    name: str
    made: list[dict[str, Any]] = field(default_factory=list)
    """Variables of each request that made or changed it."""
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    """stream file -> line number -> line"""
    files: set[str] = field(default_factory=set)
    exits: list[int] = field(default_factory=list)

    @property
    def history(self) -> list[dict[str, Any]]:
        found = self.lines.get("wandb-history.jsonl", {})
        return [json.loads(found[number]) for number in sorted(found)]

    @property
    def summary(self) -> dict[str, Any]:
        lines = self.lines.get("wandb-summary.json", {})
        return json.loads(lines[max(lines)]) if lines else {}

    def first(self, key: str) -> Any:
        return next((made[key] for made in self.made if made.get(key) is not None), None)


class Server:
    """The server; a context manager.  While ``answering`` is not set it accepts connections and says nothing."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.lock, self.answering = threading.Lock(), threading.Event()
        self.answering.set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"server_": self}))
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": KEY}

    def __enter__(self) -> Server:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.answering.set()
        self._http.shutdown()
        self._http.server_close()

    def graphql(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The answer to a query."""
        if "rtifact" in query and (answer := self._artifacts(query, given)) is not None:
            return answer
        if "createRunFiles" in query:
            run = self._run(given.get("run") or given.get("runName") or "")
            urls = [{"name": name, "uploadUrl": f"{self.address}/up/{run.name}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": run.name, "uploadHeaders": [], "files": urls}}
        if "upsertBucket" in query:
            run = self._run(given.get("name") or given.get("id") or "")
            run.made.append(given)
            project = {"id": "P1", "name": given.get("project") or "sivibench", "entity": ENTITY}
            bucket = {"id": run.name, "name": run.name, "displayName": run.first("displayName") or run.name}
            bucket |= {"description": "", "config": "{}", "sweepName": None, "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": len(run.made) == 1}}
        if "bucket(" in query:  # RunResumeStatus
            found = self.runs.get(given.get("name", ""))
            return {"model": {"id": "P1", "name": "sivibench", "entity": ENTITY, "bucket": found and _status(found)}}
        if "viewer" in query:
            about = {"id": "u1", "entity": "lab", "username": "lab", "flags": "{}", "teams": {"edges": []}}
            return {"viewer": about, "serverInfo": {"features": []}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": None, "latestLocalVersionInfo": None}}
        return {"model": None, "entity": None} if "model" in query else {}

    def _artifacts(self, query: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """Artifacts (tables are kept in them, too): every one is new, every file is wanted."""
        if "query ArtifactType" in query:
            return {"project": {"artifact": None}}
        if "createArtifactManifest(" in query:
            name = f"{given['artifactID']}/{given['name']}"
            file = {"id": "F", "name": name, "displayName": name, "uploadHeaders": []}
            file |= {"uploadUrl": f"{self.address}/up/artifacts/{name}"}
            return {"createArtifactManifest": {"artifactManifest": {"id": "M", "file": file}}}
        if "createArtifactFiles(" in query:
            files = []
            for spec in given["input"]["artifactFiles"]:
                name = f"{spec['artifactID']}/{spec['name']}"
                file = {"id": name, "name": spec["name"], "displayName": spec["name"], "uploadHeaders": []}
                file |= {"uploadUrl": f"{self.address}/up/artifacts/{name}", "storagePath": name}
                file |= {"uploadMultipartUrls": None, "artifact": {"id": spec["artifactID"]}}
                files.append({"node": file})
            return {"createArtifactFiles": {"files": {"edges": files}}}
        if "commitArtifact(" in query:
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
        if "createArtifact(" in query:
            with self.lock:
                self.artifacts.append(given)
                number = f"A{len(self.artifacts)}"
            made = {"id": number, "state": "PENDING", "artifactSequence": {"id": "S", "latestArtifact": None}}
            return {"createArtifact": {"artifact": made}}
        return None

    def stream(self, name: str, data: dict[str, Any]) -> None:
        """Lines of a run's streams, each at its place."""
        run = self._run(name)
        for stream, part in (data.get("files") or {}).items():
            kept = run.lines.setdefault(stream, {})
            for number, line in enumerate(part["content"], part["offset"]):
                kept[number] = line
        if data.get("complete"):
            run.exits.append(data["exitcode"])

    def _run(self, name: str) -> Run:
        with self.lock:
            return self.runs.setdefault(name, Run(name))


def _status(run: Run) -> dict[str, Any]:
    history = run.lines.get("wandb-history.jsonl", {})
    tail = json.dumps([history[max(history)]]) if history else "[]"
    events = len(run.lines.get("wandb-events.jsonl", {}))
    found = {"id": run.name, "name": run.name, "displayName": run.name, "config": "{}", "tags": []}
    found |= {"summaryMetrics": json.dumps(run.summary), "historyTail": tail, "eventsTail": "[]"}
    found |= {"historyLineCount": len(history), "eventsLineCount": events, "logLineCount": 0}
    return found | {"wandbConfig": '{"t": 1}'}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionResetError, BrokenPipeError):
            pass  # the client drops its connections when it exits

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server_.answering.wait()
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, payload: dict[str, Any]) -> None:
        body = json.dumps(payload).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._body()
        self._answer({})

    def do_PUT(self) -> None:
        self._body()
        _, _, run, name = self.path.split("/", 3)
        if run in self.server_.runs:  # else a file of an artifact
            self.server_.runs[run].files.add(name)
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/file_stream"):
            self.server_.stream(self.path.split("/")[-2], json.loads(body))
            self._answer({"exitcode": None, "limits": {}})
        elif self.path.endswith("/graphql"):
            asked = json.loads(body)
            query = re.sub(r"\s+", " ", asked.get("query", ""))
            self._answer({"data": self.server_.graphql(query, asked.get("variables") or {})})
        else:
            self._answer({})
