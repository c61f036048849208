"""What is looked at on this machine's Docker engine before anything is changed."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from components import pins
from components.labels import Labels
from stacks import targets
from stacks.blueprint import Blueprint, blueprint_of
from stacks.origin import docker_plugin_origin
from stacks.owner import DockerObject, FoundOnHost, known
from stacks.settings import from_values
from stacks.target_error import TargetError
from stacks.targets import current_docker_host, docker_target
from tests.support.project import free_port

LABELS = Labels(project="changeover", stack="local")
NETWORK = "0123456789abcdef"
FULL = shutil.disk_usage("/")._replace(free=2**20)
PINNED = (pins.GATEWAY, pins.EDGE, pins.SWITCH, pins.OLLAMA, pins.VLLM_CPU)


class DockerEngine:
    """A Docker engine that has what it is given, and can pull what is in `registry`."""

    def __init__(
        self,
        *,
        images: list[str],
        volumes: tuple[str, ...] = (),
        registry: tuple[str, ...] = (),
        plugin: str = "",
    ):
        self.images, self.volumes, self.registry, self.plugin = images, volumes, registry, plugin

    def stack(self, labels: Labels) -> FoundOnHost:
        things = [DockerObject("volume", name, name, "", {}) for name in self.volumes]
        if self.plugin:
            more = {"changeover.plugin": self.plugin}
            things.append(DockerObject("network", NETWORK, labels.prefix, "network", more))
        return FoundOnHost(things=tuple(things), owner=None, serves="")

    def __call__(self, url: str, **filters: str) -> Any:
        match url.split("/")[1:]:
            case ["info"]:
                return {"MemTotal": 2**35, "Runtimes": {}, "DockerRootDir": "/"}
            case ["images", "json"]:
                return [
                    {"RepoTags": [], "RepoDigests": [name]} if "@" in name else {"RepoTags": [name]}
                    for name in self.images
                ]
            case ["containers", "json"]:
                return []
            case ["distribution", *name, "json"] if "/".join(name) in self.registry:
                return {}
        raise TargetError(f"{url}: no route to the registry")


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Looks at an engine with these settings; raises what the target raises."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///var/run/docker.sock")
    monkeypatch.setattr("stacks.targets.docker.Provider", lambda name, host: None)

    def look(engine: DockerEngine, **values: object) -> None:
        monkeypatch.setattr(targets, "DockerLook", lambda path: contextlib.nullcontext(engine))
        network = {"id": NETWORK, "name": LABELS.prefix}
        made = {"urn:x::network": {"type": "docker:index/network:Network", "outputs": network}}
        docker_target(plan(**values), LABELS, known(made if engine.plugin else {}))

    return look


def plan(**values: object) -> Blueprint:
    base = {"engine": "ollama", "target": "docker", "model": "qwen-2.5-coder-0.5b", "port": free_port()}
    return blueprint_of(from_values("local", {**base, **values}, ROOT))


def test_public_images_that_are_here_or_in_their_registry_will_do(look: Callable[..., None]) -> None:
    names = [image.pulled for image in PINNED]
    look(DockerEngine(images=names))
    look(DockerEngine(images=names[1:], registry=(pins.GATEWAY.public,)))


def test_a_stack_of_another_plugin_is_left_to_that_plugin(look: Callable[..., None]) -> None:
    images = [image.pulled for image in PINNED]
    with pytest.raises(
        TargetError, match="was made with a Docker plugin that is built on another planet"
    ) as refused:
        look(DockerEngine(images=images, plugin="built on another planet"))
    assert "make down" in str(refused.value)
    look(DockerEngine(images=images, plugin=docker_plugin_origin()))


def test_a_gateway_that_is_not_wanted_need_not_be_had(look: Callable[..., None]) -> None:
    without = [image.pulled for image in PINNED if image != pins.GATEWAY]
    look(DockerEngine(images=without), gateway="none")


def test_a_public_image_that_can_not_be_had_is_named_with_the_reason(look: Callable[..., None]) -> None:
    with pytest.raises(TargetError) as refused:
        look(DockerEngine(images=[image.pulled for image in PINNED if image != pins.EDGE]))
    assert "the image caddy:2.11.9 is not on the Docker host and can't be pulled" in str(refused.value)
    assert "no route to the registry" in str(refused.value) and "IMAGES=offline" in str(refused.value)


def test_too_little_disk_for_the_first_weights_is_found_before_anything_is_made(
    look: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = DockerEngine(images=[image.pulled for image in PINNED])
    monkeypatch.setattr("shutil.disk_usage", lambda path: FULL)
    with pytest.raises(TargetError, match=r"need \d+\.\d GiB, and 0\.0 GiB are free for Docker's volumes"):
        look(engine)


def test_what_has_to_be_fetched_first_is_said_with_how_long_it_takes(
    look: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("stacks.targets.pulumi.info", said.append)
    here = [image.pulled for image in PINNED if image != pins.VLLM_CPU]
    volumes = tuple(LABELS.name(f"{kind}-weights") for kind in ("ollama", "vllm"))
    look(DockerEngine(images=here, registry=(pins.VLLM_CPU.public,), volumes=volumes))
    assert said == ["first fetch: 4 min = 3.0 GB of images at 12.5 MB/s (estimate)"]
    look(DockerEngine(images=[*here, pins.VLLM_CPU.pulled], volumes=volumes[:1]))
    assert said[1].startswith("first fetch: ") and "of weights" in said[1] and "of images" not in said[1]
    look(DockerEngine(images=[*here, pins.VLLM_CPU.pulled], volumes=volumes))
    assert len(said) == 2


def test_weights_that_have_a_volume_need_no_more_disk_to_look(
    look: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: FULL)
    volumes = tuple(LABELS.name(f"{kind}-weights") for kind in ("ollama", "vllm"))
    look(DockerEngine(images=[image.pulled for image in PINNED], volumes=volumes))


DOCKER = """\
#!/bin/sh
[ "$1 $2" = "context inspect" ] && echo "unix:///run/user/1000/docker.sock"
"""


def test_the_host_of_the_current_context_is_used_and_docker_host_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert current_docker_host() == "unix:///run/user/1000/docker.sock"
    monkeypatch.setenv("DOCKER_HOST", "ssh://somebody@elsewhere")
    assert current_docker_host() == "ssh://somebody@elsewhere"
    with pytest.raises(TargetError, match=r"means the Docker engine of this machine.*docker context use"):
        docker_target(plan(), LABELS, known({}))
