"""`troupe weights`: a weight server by itself, which probes can ask how it is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from troupe import cli
from troupe.jobs.weight_server import certificates
from troupe.weights.certificates import self_signed
from troupe.weights.client import WeightsClient
from troupe.weights.credentials import Tls
from troupe.weights.health import NOT_SERVING, SERVICE, SERVING

TOKEN = "a token for tests"
NAMED = b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode()


@contextmanager
def running(
    folder: Path, environment: Mapping[str, str]
) -> Iterator[tuple["subprocess.Popen[str]", str, str]]:
    """The command as a process of its own, with its two addresses."""
    command = [sys.executable, "-m", "troupe.cli", "weights", "--listen", "127.0.0.1:0"]
    options = ["--health", "127.0.0.1:0", "--folder", str(folder / "newest")]
    given = {**os.environ, "TROUPE_WEIGHTS_TOKEN": TOKEN, **environment}
    with subprocess.Popen(
        [*command, *options], env=given, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            lines = dict(process.stdout.readline().strip().split(": ") for _ in range(2))
            yield process, lines["Weights"], lines["Health"]
        finally:
            process.kill()


def _check(address: str, request: bytes = b"") -> bytes:
    with grpc.insecure_channel(address) as channel:
        return channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=10)


def _travels(address: str, folder: Path, tls: Tls | None) -> bool:
    client = WeightsClient(lambda: address, token=TOKEN, folder=folder, tls=tls)
    try:
        client.publish("agent", 1, {"layer": np.arange(6, dtype=np.float32)})
        return bool((client.fetch("agent").tensors["layer"] == np.arange(6)).all())
    finally:
        client.close()


@pytest.fixture
def tls_folder(tmp_path: Path) -> Path:
    made = self_signed()
    for name, part in (
        ("tls.crt", made.certificate),
        ("tls.key", made.key),
        ("ca.crt", made.authority),
    ):
        (tmp_path / name).write_bytes(part)
    return tmp_path


def test_it_serves_says_how_it_is_and_ends_in_order(tmp_path: Path) -> None:
    with running(tmp_path, {}) as (process, address, health):
        assert _check(health) == SERVING
        assert _check(health, NAMED) == SERVING
        with pytest.raises(grpc.RpcError) as refused:
            _check(health, b"\x0a\x05other")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert _travels(address, tmp_path / "node", None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_with_certificates_only_those_who_have_them_are_answered(
    tls_folder: Path, tmp_path: Path
) -> None:
    with running(tmp_path, {"TROUPE_TLS": str(tls_folder)}) as (_, address, health):
        assert _check(health) == SERVING
        assert _travels(address, tmp_path / "node", certificates(str(tls_folder)))
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10)


def test_the_weights_port_is_no_way_around_the_token(tmp_path: Path) -> None:
    with running(tmp_path, {}) as (_, address, health):
        with pytest.raises(grpc.RpcError) as refused:
            _check(address)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with grpc.insecure_channel(health) as channel, pytest.raises(grpc.RpcError) as unknown:
            channel.unary_unary("/troupe.wire.Weights/Put")(b"", timeout=10)
        assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_answers_are_those_of_the_protocol() -> None:
    """Field 1, a varint: SERVING is 1 and NOT_SERVING is 2."""
    assert [*SERVING, *NOT_SERVING] == [1 << 3 | 0, 1, 1 << 3 | 0, 2]


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        ([], {}, "TROUPE_WEIGHTS_TOKEN: not set"),
        (["--listen", "0.0.0.0:0"], {"TROUPE_WEIGHTS_TOKEN": TOKEN}, "give a TLS certificate"),
        (["--listen", "here"], {"TROUPE_WEIGHTS_TOKEN": TOKEN}, "'here' is not host:port"),
        (["--health", "127.0.0.1:x"], {"TROUPE_WEIGHTS_TOKEN": TOKEN}, "--health: '127.0.0.1:x'"),
        ([], {"TROUPE_WEIGHTS_TOKEN": TOKEN, "TROUPE_TLS": "/nowhere"}, "TROUPE_TLS: /nowhere/tls.crt"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_remedy(
    arguments: list[str],
    environment: Mapping[str, str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("TROUPE_WEIGHTS_TOKEN", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["weights", "--folder", str(tmp_path), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
