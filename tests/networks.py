"""Network namespaces: nodes on one machine that reach one another by addresses of their own alone."""

import os
import shutil
import subprocess

BITS = 24


class Network:
    """A switch, and a namespace for each host that is plugged into it."""

    def __init__(self) -> None:
        self._name = f"troupe-{os.getpid()}"
        self._hosts: list[str] = []
        self._ip("netns", "add", self._name)
        self._ip("-n", self._name, "link", "add", "switch", "type", "bridge")
        self._ip("-n", self._name, "link", "set", "switch", "up")

    @staticmethod
    def possible() -> bool:
        """Whether we may make namespaces, and have a store that speaks TLS for a network."""
        if os.geteuid() or not all(shutil.which(name) for name in ("ip", "redis-server")):
            return False
        name = f"troupe-{os.getpid()}-probe"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True)
        if made.returncode == 0:
            subprocess.run(["ip", "netns", "del", name], check=True)
        return made.returncode == 0

    def plug(self, address: str) -> list[str]:
        """Add a host; the beginning of commands that run there."""
        number = len(self._hosts)
        host = f"{self._name}-{number}"
        self._ip("netns", "add", host)
        self._hosts.append(host)
        peer = ("peer", "name", f"port{number}", "netns", self._name)
        self._ip("-n", host, "link", "add", "eth0", "type", "veth", *peer)
        self._ip("-n", self._name, "link", "set", f"port{number}", "master", "switch", "up")
        self._ip("-n", host, "addr", "add", f"{address}/{BITS}", "dev", "eth0")
        for link in ("lo", "eth0"):
            self._ip("-n", host, "link", "set", link, "up")
        return ["ip", "netns", "exec", host]

    def close(self) -> None:
        for name in (*self._hosts, self._name):
            self._ip("netns", "del", name)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)
