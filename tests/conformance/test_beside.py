"""Another container beside the stack, such as a chat page: it reaches the edge by a network on which no
engine is, as the guide says."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import ROOT
from components import pins, plan
from tests.conformance.asking import ask
from tests.support import fast_engine
from tests.support.load import LoadGenerator
from tests.support.project import docker, free_port
from tests.support.way import Way, eventually

pytestmark = pytest.mark.engine

GUIDE = ROOT / "docs/clients.md"
NETWORK, PAGE, PUBLISHED = "changeover-local-clients", "chat", "3000:8080"
"""What the guide calls the network and the page, and where it publishes that."""
IMAGE = "ghcr.io/open-webui/open-webui:main"
STAND_IN = """
import json, os, time, urllib.request

def ask(path, body=None):
    asked = urllib.request.Request(os.environ["OPENAI_API_BASE_URL"] + path, body)
    asked.add_header("Authorization", "Bearer " + os.environ["OPENAI_API_KEY"])
    asked.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)

(model,) = [each["id"] for each in ask("/models")["data"]]
body = {"model": model, "messages": [{"role": "user", "content": "Hello."}]}
print(json.dumps(ask("/chat/completions", json.dumps(body).encode())), flush=True)
time.sleep(600)
"""
"""What such a page does with its two settings."""
REACHES = """
import socket, sys
for name, port in (each.rsplit(":", 1) for each in sys.argv[1:]):
    try:
        socket.create_connection((name, int(port)), timeout=2).close()
        print(name)
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def way() -> Iterator[Way]:
    with Way() as way:
        way.start_engine("vllm", Path(fast_engine.__file__), FAST_TOKENS="0.02")
        way.start()
        eventually(lambda: ask(way.port, "GET", "/v1/models").status == 200)
        docker("network", "create", "--label", f"test={way.run}", clients(way))
        yield way


def clients(way: Way) -> str:
    return f"{way.run}-clients"


def do(way: Way, program: str) -> None:
    told = {**os.environ, "EDGE": way.container("edge"), "NETWORK": clients(way)}
    subprocess.run(["sh", "-c", program], check=True, env=told)


def commands() -> list[str]:
    """What the guide has people type for a container beside."""
    (part,) = re.findall(r"^## Open WebUI.*?(?=^## )", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^```\n(.*?)^```", part, re.MULTILINE | re.DOTALL)


def test_the_edge_gets_one_more_network_while_requests_run_and_none_is_cut(way: Way) -> None:
    with LoadGenerator(f"http://127.0.0.1:{way.port}/v1", way.name) as load:
        load.wait_for_answers(8)
        for program in (plan.ATTACH, plan.ATTACH, plan.DETACH, plan.ATTACH):
            do(way, program)
            load.wait_for_answers(8)
    assert not load.bad, load.summary()


def test_a_container_beside_is_answered_as_the_guide_says_and_reaches_nothing_else(way: Way) -> None:
    do(way, plan.ATTACH)
    run, connect = commands()
    assert all(word in run for word in (NETWORK, f"--name {PAGE} ", PUBLISHED, IMAGE))
    page = way.container("page")
    text = run.replace(NETWORK, clients(way)).replace(f"--name {PAGE} ", f"--name {page} ")
    text = text.replace(PUBLISHED, f"127.0.0.1:{free_port()}:8080")
    stand_in = f"--label test={way.run} {pins.SWITCH.offline} python3 -c {shlex.quote(STAND_IN)}"
    subprocess.run(["bash", "-euc", text.replace(IMAGE, stand_in)], check=True, stdout=subprocess.DEVNULL)
    eventually(lambda: docker("logs", page).strip(), 30, "the page is answered")
    answer = json.loads(docker("logs", page))
    assert answer["model"] == way.name and answer["choices"][0]["message"]["content"].startswith("w0")

    others = [way.container(name) for name in ("proxy-1", "vllm", "gateway-1")]
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    addresses = docker("inspect", "-f", form, *others).split()
    places = [f"{each}:8000" for each in (*others, *addresses, way.specs["vllm"].name, "proxy")]
    places += [f"{each}:{port}" for each in addresses for port in (3000, 8080, 8081)]
    reached = docker("exec", page, "python3", "-c", REACHES, "edge:8080", "edge:2019", *places)
    assert reached.split() == ["edge"], "its own port, and nothing of what is behind it"

    other = way.container("other")  # one that is there already
    docker("run", "-d", "--name", other, f"--label=test={way.run}", pins.SWITCH.offline, "sleep", "600")
    text = connect.replace(NETWORK, clients(way)).replace(f" {PAGE}\n", f" {other}\n")
    subprocess.run(["bash", "-euc", text], check=True)
    assert docker("exec", other, "python3", "-c", REACHES, "edge:8080").split() == ["edge"]


def test_a_page_of_another_site_still_gets_nothing_by_that_name(way: Way) -> None:
    for headers, status in (
        ({"Host": "edge:8080"}, 200),
        ({"Host": "edge:8080", "Origin": "https://attacker.example"}, 403),
        ({"Host": "edge.attacker.example:8080"}, 403),
    ):
        assert ask(way.port, "GET", "/v1/models", headers=headers).status == status, headers
