"""The README's commands as a newcomer types them, in a copy of the checkout with a stack of its own."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components.pins import PULUMI
from tests.support.project import docker, free_port
from tools.environment import ROOT

pytestmark = pytest.mark.engine

STACK = "newcomer"
FILTERS = ("--filter", f"label=changeover.stack={STACK}")


def shell(checkout: Path, line: str, *, fails: bool = False) -> str:
    """What a line prints in a shell that knows nothing of this test's own environment."""
    keep = ("PATH", "HOME", "LANG", "DOCKER_HOST", "CHANGEOVER_CACHE", "IMAGES", "SSL_CERT_FILE")
    clean = {key: os.environ[key] for key in keep if key in os.environ}
    clean |= {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "UV_"))}
    clean["PATH"] = os.pathsep.join(
        folder for folder in clean["PATH"].split(os.pathsep) if not folder.startswith(str(ROOT))
    )
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=checkout,
        env={**clean, "STACK": STACK},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) is fails, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("checkout")
    subprocess.run(
        f"git ls-files -co --exclude-standard -z | tar --null -T - -cf - | tar -C {folder} -xf -",
        shell=True,
        cwd=ROOT,
        check=True,
    )
    config = yaml.safe_load((folder / "Pulumi.local.yaml").read_text())["config"]
    config = {**config, "changeover:port": free_port(), "changeover:context": 1024}
    (folder / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump({"config": config}))
    yield folder
    subprocess.run(["bash", "-c", "WEIGHTS=delete make down"], cwd=folder, check=False)


def test_make_cli_sets_up_pulumi_and_deploys_nothing(checkout: Path) -> None:
    shell(checkout, "make cli")
    assert PULUMI in shell(checkout, "source .venv/bin/activate && pulumi version && pulumi stack ls")
    assert docker("ps", "--all", "--quiet", *FILTERS) == ""


def test_make_up_ends_with_an_answer_and_says_how_to_go_on(checkout: Path) -> None:
    text = shell(checkout, "make up")
    assert "Images: " in text
    assert "It answers: " in text
    assert "Ready after " in text
    assert "pulumi config set engine vllm && pulumi up" in text


def test_make_up_again_changes_nothing(checkout: Path) -> None:
    text = shell(checkout, "make up")
    assert "unchanged" in text
    assert "created" not in text
    assert "updated" not in text


def test_after_make_up_plain_pulumi_commands_work(checkout: Path) -> None:
    activate = "source .venv/bin/activate && "
    assert "unchanged" in shell(checkout, activate + "pulumi preview --expect-no-changes")
    outputs = json.loads(shell(checkout, activate + "pulumi stack output --json"))
    texts = {"routing", "gateway_config"}
    assert set(outputs) == {"endpoint", "engine", "model", "cutover", "certificate", *texts}
    assert "none-to-ollama: committed by hold" in outputs["certificate"]
    assert outputs["endpoint"].endswith("/v1")
    assert "wrong" in shell(
        checkout, activate + "pulumi config set engine wrong && pulumi preview", fails=True
    )
    shell(checkout, activate + "pulumi config set engine ollama && pulumi preview --expect-no-changes")


def test_the_curl_line_that_make_up_prints_works(checkout: Path) -> None:
    text = shell(checkout, "make up")
    curl = text[text.index("  curl ") : text.index("\n\nChange the engine")]
    answer = json.loads(shell(checkout, curl.replace("curl ", "curl -sS ", 1)))
    assert answer["choices"][0]["message"]["content"]


def test_make_status_shows_what_serves(checkout: Path) -> None:
    assert "engine    ollama" in shell(checkout, "make status")


def test_make_gc_asks_and_frees_what_nobody_needs_and_nothing_else(checkout: Path) -> None:
    assert "nothing to free" in shell(checkout, "make gc")
    switch = docker(
        "ps", *FILTERS, "--filter", "label=changeover.role=switch", "--format", "{{.Names}}"
    ).strip()
    left = "/weights/vllm/left-over-00000000"
    docker("exec", switch, "sh", "-c", f"mkdir {left} && echo weights >{left}/file")
    text = shell(checkout, "make gc", fails=True)
    assert "can go weights vllm/left-over-00000000" in text
    assert "nothing was freed: nobody can be asked here" in text
    assert "freed  weights vllm/left-over-00000000" in shell(checkout, "YES=1 make gc")
    text = shell(checkout, "make gc")
    assert "nothing to free" in text and "kept   weights ollama/tiny-" in text


def test_clean_all_refuses_while_a_stack_exists(checkout: Path) -> None:
    assert "make down" in shell(checkout, "make clean-all", fails=True)


def test_make_down_keeps_the_weights_until_asked(checkout: Path) -> None:
    assert "weights" in shell(checkout, "make down")
    assert docker("ps", "--all", "--quiet", *FILTERS) == ""
    assert docker("network", "ls", "--quiet", *FILTERS) == ""
    assert docker("volume", "ls", "--quiet", *FILTERS) != ""
    shell(checkout, "WEIGHTS=delete make down")
    assert docker("volume", "ls", "--quiet", *FILTERS) == ""
