"""The images: what their recipe promises, and that it builds where there is something to build it with."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "deploy" / "Dockerfile"
TARGETS = ("actor", "control", "learner", "rollout")
BUILT = ("actor", "control", "learner")
"""vLLM and its CUDA are gigabytes: what is built here leaves them to a real machine."""


def _stages() -> dict[str, list[str]]:
    """The instructions of each stage, continuation lines joined; those before the first under ``."""
    stages: dict[str, list[str]] = {"": []}
    name = ""
    for line in re.sub(r"\\\n", " ", RECIPE.read_text()).splitlines():
        if line and not line.startswith("#"):
            if line.startswith("FROM "):
                name = line.rpartition(" AS ")[2]
                stages[name] = []
            stages[name].append(" ".join(line.split()))
    return stages


def test_the_base_is_an_argument_and_pinned() -> None:
    (first,) = _stages()[""]
    assert re.fullmatch(r"ARG BASE_IMAGE=\S+:\d+\.\d+\.\d+-\S+", first)
    assert _stages()["base"][0] == "FROM ${BASE_IMAGE} AS base"


@pytest.mark.parametrize("target", TARGETS)
def test_each_image_holds_only_what_it_runs_and_is_nobody(target: str) -> None:
    stage = _stages()[target]
    assert stage[0] == f"FROM base AS {target}"
    assert "USER 10001:10001" in stage
    assert 'ENTRYPOINT ["troupe"]' in stage
    assert [line for line in stage if line.startswith(("RUN", "ADD"))] == []
    assert [line for line in stage if line.startswith("COPY")] == [
        f"COPY --from={target}-packages /opt/troupe /opt/troupe"
    ]


def test_packages_are_those_of_the_constraints() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, stage in _stages().items():
        for line in stage:
            if line.startswith("RUN pip install") and name != "rollout-packages":
                assert "--constraint constraints.txt" in line
            if found := re.fullmatch(r"ARG \w+_EXTRAS=(\S+)", line):
                assert set(found[1].split(",")) <= known.keys()


def test_the_compose_file_is_confined_and_pinned() -> None:
    found = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert found["services"].keys() == {"store", "learn", "learn-on-gpu"}
    for service in found["services"].values():
        assert re.search(r":\d+\.\d+\.\d+$", service["image"])
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "ports" not in service
        secrets = [v for k, v in service["environment"].items() if re.search("PASSWORD|AUTH", k)]
        assert secrets
        assert all(value.startswith("${TROUPE_STORE_PASSWORD:?") for value in secrets)
    assert found["services"]["learn-on-gpu"]["build"]["target"] == "learner"


# Building. The base is made of this machine's own programs: empty folders, into which they are mounted.

BUILDAH = shutil.which("buildah")
buildable = pytest.mark.skipif(BUILDAH is None, reason="buildah is not installed")
PACKAGES = "/packages"
BASE = "localhost/base:1"
MOUNTED = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ssl")


class Builder:
    """buildah with images of its own, all gone with its folder."""

    def __init__(self, folder: Path) -> None:
        self._places = [f"--root={folder / 'images'}", f"--runroot={folder / 'running'}"]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [BUILDAH, *self._places, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()


def _mounts() -> list[str]:
    packages, home = sysconfig.get_path("purelib"), sys.base_prefix
    pairs = {path: path for path in MOUNTED if Path(path).exists()} | {
        home: home,
        packages: PACKAGES,
    }
    return [f"--volume={here}:{there}:ro" for here, there in pairs.items()]


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    """With a base image that has Python and every package of this environment, by way of mounts."""
    folder = tmp_path_factory.mktemp("buildah")
    root = folder / "base"
    for path in ("etc", "tmp", "dev", "proc", "sys", "opt", PACKAGES, *MOUNTED, sys.base_prefix):
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for path in ("/etc/passwd", "/etc/group"):
        shutil.copy(path, root / path.lstrip("/"))
    (root / "tmp").chmod(0o1777)
    buildah = Builder(folder)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(root), "/")
    # How this machine reaches its package index goes along: the wheel's build backend comes from it.
    variables = {key: text for key, text in os.environ.items() if key.startswith("PIP_")}
    variables |= {"PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin", "PYTHONPATH": PACKAGES}
    buildah("config", *(f"--env={key}={text}" for key, text in variables.items()), container)
    buildah("commit", "--rm", "--quiet", container, BASE)
    yield buildah
    buildah("rm", "--all")
    buildah("rmi", "--all", "--force")


@buildable
@pytest.mark.timeout(900)
@pytest.mark.parametrize("target", BUILT)
def test_an_image_builds_and_its_entry_point_answers(target: str, buildah: Builder) -> None:
    buildah(
        "bud", "--layers", "--isolation=chroot", f"--file={RECIPE}", f"--build-arg=BASE_IMAGE={BASE}",
        *(f"--build-arg={name.upper()}_EXTRAS=tls" for name in BUILT), *_mounts(),
        f"--target={target}", f"--tag={target}", str(ROOT),
    )  # fmt: skip
    shown = "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}"
    assert buildah("inspect", "--type=image", f"--format={shown}", target) == "10001:10001 [troupe]"
    run = ("run", "--isolation=chroot", *_mounts(), buildah("from", target))
    assert re.fullmatch(r"troupe \d+\.\d+\.\d+", buildah(*run, "troupe", "--version"))
    assert buildah(*run, "python3", "-c", "import os; print(os.getuid())") == "10001"
    told = buildah(*run, "python3", "-c", "import troupe; print(troupe.__file__)")
    assert told.startswith("/opt/troupe/lib/")
