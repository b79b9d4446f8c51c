"""An API server that keeps objects and speaks the paths of the real one; what a RayJob does, a test says."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

RESOURCES = {
    "v1": ["ConfigMap", "Secret", "Service", "ServiceAccount", "PersistentVolumeClaim", "Pod"],
    "apps/v1": ["StatefulSet", "Deployment"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "policy/v1": ["PodDisruptionBudget"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
    "ray.io/v1": ["RayJob", "RayCluster"],
    "monitoring.coreos.com/v1": ["PodMonitor"],
}
NAMESPACED = re.compile(
    r"/apis?/(?P<api>.+?)/namespaces/(?P<space>[^/]+)/(?P<plural>[a-z]+)(/(?P<name>[^/]+))?"
)
PROXIED = re.compile(r"/api/v1/namespaces/[^/]+/services/(?P<service>[^/]+)/proxy(?P<path>/.*)")
TOKEN = "a token of the cluster"


def plural(kind: str) -> str:
    return f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"


class KubeServer:
    """What there is, and what was asked for."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        """By API, plural and name."""
        self.resources = dict(RESOURCES)
        self.allowed = True
        self.said = b""
        """The log of every Ray job."""
        self.asked: list[str] = []
        """Of the dashboard."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self._answer("POST")

            def do_DELETE(self) -> None:
                self._answer("DELETE")

            def log_message(self, *told: object) -> None:
                pass

            def _answer(self, method: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                if proxied := PROXIED.fullmatch(self.path):
                    given = self.headers.get("X-Ray-Authorization") == f"Bearer {TOKEN}"
                    status, data = (
                        server.dashboard(method, proxied["path"]) if given else (401, b"")
                    )
                else:
                    status, answer = server.answer(method, self.path, body)
                    data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def answer(self, method: str, path: str, body: Any) -> tuple[int, object]:
        path, _, query = path.partition("?")
        if path.endswith("/selfsubjectaccessreviews"):
            return 201, {"status": {"allowed": self.allowed}}
        for api, kinds in self.resources.items():
            if path in (f"/api/{api}", f"/apis/{api}"):
                return 200, {"resources": [{"name": plural(k), "kind": k} for k in kinds]}
        found = NAMESPACED.fullmatch(path)
        if found is None or found["api"] not in self.resources:
            return 404, {"message": "the server could not find the requested resource"}
        if not self.allowed:
            return 403, {"message": f"{found['plural']} is forbidden: User cannot do that"}
        return self._object(method, (found["api"], found["plural"]), found["name"], query, body)

    def _object(
        self, method: str, kind: tuple[str, str], name: str | None, query: str, body: Any
    ) -> tuple[int, object]:
        if method == "POST":
            key = (*kind, body["metadata"]["name"])
            if key in self.objects:
                return 409, {"message": f"{key[2]} already exists"}
            self.objects[key] = body
            return 201, body
        if name is None:
            label, _, value = query.removeprefix("labelSelector=").partition("=")
            there = [one for key, one in self.objects.items() if key[:2] == kind]
            return 200, {
                "items": [one for one in there if not label or labels(one).get(label) == value]
            }
        if (*kind, name) not in self.objects:
            return 404, {"message": f"{name} not found"}
        if method == "DELETE":
            return 200, self.objects.pop((*kind, name))
        return 200, self.objects[*kind, name]

    def dashboard(self, method: str, path: str) -> tuple[int, bytes]:
        self.asked.append(f"{method} {path}")
        if path.startswith("/api/v0/logs/"):
            return 200, self.said
        return 200, json.dumps({"submission_id": "job-1", "driver_node_id": "abc"}).encode()


def labels(one: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = one["metadata"].get("labels") or {}
    return found


@contextmanager
def serving(folder: Path) -> Iterator[KubeServer]:
    """A server, and a kubectl configuration in `folder` that knows it by the context `toy`."""
    server = KubeServer()
    threading.Thread(target=server.http.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.http.server_address[1]}"
    settings = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "toy", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "toy", "context": {"cluster": "toy", "user": "me"}}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(settings))
    yield server
    server.http.shutdown()
    server.http.server_close()
