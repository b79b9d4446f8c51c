"""The Kubernetes API, by way of `kubectl proxy`: contexts, log-ins and plug-ins are kubectl's affair.

The proxy listens on a socket file that only we can open, and ends with this process.
"""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from troupe.errors import UserError
from troupe.jobs.targets.web import AnswerError, Web, dial_socket
from troupe.store import child

START_SECONDS = 15.0
Document = dict[str, Any]
"""A Kubernetes object."""


def open_api(context: str, name: str) -> Web:
    """The way to the API server of a context.

    Raises:
        UserError: there is no kubectl, or no such context.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise UserError("--to: Kubernetes needs kubectl on the PATH")
    folder = Path(tempfile.mkdtemp(prefix="troupe-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "api"
    ends_with_us = [sys.executable, "-I", "-S", str(child.__file__), str(os.getpid())]
    process = subprocess.Popen(
        [*ends_with_us, kubectl, f"--context={context}", "proxy", f"--unix-socket={path}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    atexit.register(process.kill)
    deadline = time.monotonic() + START_SECONDS
    while not _answers(path):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            said = process.communicate()[0].decode(errors="replace").strip().splitlines()
            raise UserError(f"--to: {name}: kubectl: {said[-1] if said else 'does not start'}")
        time.sleep(0.02)
    return Web(name, dial_socket(path))


def _answers(path: Path) -> bool:
    """Whether somebody listens on a socket file; for a moment it is there before anybody does."""
    with socket.socket(socket.AF_UNIX) as knock:
        return knock.connect_ex(str(path)) == 0


class Objects:
    """Objects of one namespace."""

    def __init__(self, web: Web, namespace: str) -> None:
        self.web = web
        self.namespace = namespace
        self._plurals: dict[tuple[str, str], str] = {}

    def create(self, document: Document) -> bool:
        """Create an object; false where there is one of that name already."""
        try:
            self.web.call("POST", self._folder(document["apiVersion"], document["kind"]), document)
        except AnswerError as error:
            if error.status != 409:
                raise refused(error, self.namespace) from None
            return False
        return True

    def get(self, api: str, kind: str, name: str) -> Document | None:
        """An object, if it is there."""
        try:
            return cast(Document, self.web.get(f"{self._folder(api, kind)}/{name}"))
        except AnswerError as error:
            if error.status == 404:
                return None
            raise refused(error, self.namespace) from None

    def list(self, api: str, kind: str, selector: str = "") -> list[Document]:
        """The objects of a kind that carry labels such as `a=b`."""
        path = self._folder(api, kind) + (f"?labelSelector={selector}" if selector else "")
        try:
            return list(cast(Document, self.web.get(path)).get("items") or [])
        except AnswerError as error:
            raise refused(error, self.namespace) from None

    def delete(self, api: str, kind: str, name: str) -> None:
        """Delete an object and what belongs to it, if it is there."""
        path = f"{self._folder(api, kind)}/{name}?propagationPolicy=Background"
        try:
            self.web.call("DELETE", path)
        except AnswerError as error:
            if error.status != 404:
                raise refused(error, self.namespace) from None

    def service(self, name: str, port: int, headers: dict[str, str]) -> Web:
        """The way to a service of the namespace, through the API server."""
        path = f"/api/v1/namespaces/{self.namespace}/services/{name}:{port}/proxy"
        return replace(self.web, prefix=path, headers=headers)

    def may(self, verb: str, group: str, plural: str) -> bool:
        """Whether we have a right in the namespace."""
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": plural}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        answer = cast(Document, self.web.call("POST", path, review))
        return bool(answer["status"].get("allowed"))

    def _folder(self, api: str, kind: str) -> str:
        root = f"/api/{api}" if api == "v1" else f"/apis/{api}"
        if (api, kind) not in self._plurals:
            self._discover(api, root)
        if (api, kind) not in self._plurals:
            raise UserError(f"--to: {self.web.where}: knows no {kind} of {api}")
        return f"{root}/namespaces/{self.namespace}/{self._plurals[api, kind]}"

    def _discover(self, api: str, root: str) -> None:
        """Learn what the kinds of an API group are called in paths."""
        try:
            answer = cast(Document, self.web.get(root))
        except AnswerError as error:
            if error.status == 404 and api.startswith("ray.io/"):
                raise UserError(
                    f"--to: {self.web.where}: {api} is not there: KubeRay is not installed, or too "
                    "old; helm install kuberay-operator, version 1.6 or later"
                ) from None
            raise refused(error, self.namespace) from None
        for one in answer.get("resources") or []:
            if "/" not in one["name"]:
                self._plurals[api, one["kind"]] = one["name"]


def refused(error: AnswerError, namespace: str) -> Exception:
    """What an API server that does not let us is told as."""
    if error.status in (401, 403):
        return UserError(
            f"--to: {error}; ask for rights in the namespace {namespace}, or log in again"
        )
    return error


def problems(pods: Iterable[Document]) -> Iterator[str]:
    """What keeps pods from running: images that cannot be pulled, nodes that are not there."""
    for pod in pods:
        status = pod.get("status", {})
        for container in status.get("containerStatuses") or []:
            waiting = container.get("state", {}).get("waiting") or {}
            if waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
                yield (
                    f"image {container.get('image')} cannot be pulled; see images.registry, tag and "
                    "pullSecrets of the chart"
                )
        for condition in status.get("conditions") or []:
            if condition.get("reason") == "Unschedulable":
                yield f"no node has room for {pod['metadata']['name']}: {condition.get('message')}"
