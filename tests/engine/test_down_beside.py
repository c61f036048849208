"""`make down` with a container of somebody else's on the stack's network: it says which, and goes on."""

import uuid
from collections.abc import Iterator

import pytest

from components.labels import Labels
from components.pins import SWITCH
from stacks.settings import PROJECT
from tests.support.containers import remove_labelled
from tests.support.project import docker
from tools import down

pytestmark = pytest.mark.engine


@pytest.fixture
def run() -> Iterator[str]:
    name = f"beside-{uuid.uuid4().hex[:8]}"
    yield name
    remove_labelled(f"test={name}")


def test_what_is_attached_is_named_and_lives_on_without_the_network(
    run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = Labels(project=PROJECT, stack=run)

    def labelled(role: str) -> list[str]:
        of_stack = [f"--label={key}={value}" for key, value in labels.of(role).items()]
        return [f"--label=test={run}", *of_stack]

    docker("network", "create", *labelled("network"), labels.prefix)
    there = ("--network", labels.prefix, SWITCH.offline, "sleep", "60")
    docker("run", "-d", "--name", labels.name("edge"), *labelled("edge"), *there)
    docker("run", "-d", "--name", f"{run}-page", f"--label=test={run}", *there)
    down._clear(run, "")
    said = capsys.readouterr().out
    assert f"Still attached to the network {labels.prefix}: {run}-page." in said
    assert docker("network", "ls", "-q", "--filter", f"name={labels.prefix}") == ""
    left = docker("ps", "--filter", f"label=test={run}", "--format", "{{.Names}} {{.State}}")
    assert left.split() == [f"{run}-page", "running"]
