"""The real engines on a cluster of three machines: a flip under a load, and the conversations of vLLM, which
come back to the pod that has their beginning in its cache."""

import json
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from components import engines
from components.kubernetes.rolling import PLACE_SECONDS, START_SECONDS
from tests.support.cluster.project import KEY, ClusterProject, load, on_cluster

pytestmark = [pytest.mark.engine, pytest.mark.long]

CLIENTS, CONVERSATIONS, TURNS = 2, 6, 4
LOAD = 330
"""Seconds that an engine may take: three of them start on the cores of one machine, while clients ask."""
FLIP_SECONDS = 3 * (PLACE_SECONDS + LOAD + START_SECONDS)
"""So long a flip that ends well may take: nothing else bounds it, and on two cores 620 s were not enough."""
WORDS = 150
"""Of the first thing that is said in a conversation: some eight tokens each, of a context of 2,048."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProject]:
    folder = tmp_path_factory.mktemp("project")
    with on_cluster(folder, "engines", real=True, context=2048, loadSeconds=LOAD) as project:
        yield project


def kinds(project: ClusterProject) -> dict[str, int]:
    return {engine.partition("-")[0]: count for engine, count in project.serving().items()}


def test_a_flip_of_the_real_engines_loses_nothing(project: ClusterProject) -> None:
    assert kinds(project) == {"ollama": 3}
    project.configure(engine="vllm")
    with load(project, clients=CLIENTS, max_tokens=(8, 32)) as there:
        there.wait_for_answers(there.round, timeout=300)
        project.pulumi("up", "--yes", "--skip-preview", timeout=FLIP_SECONDS)
        there.wait_for_answers(there.round, timeout=300)
    assert kinds(project) == {"vllm": 3}
    assert not there.bad, there.summary()
    assert project.certificates()[-1]["fewest"] == 2 and project.changes() == {}


def test_a_conversation_finds_its_beginning_in_the_cache_of_its_pod(project: ClusterProject) -> None:
    assert kinds(project) == {"vllm": 3}

    def there() -> tuple[float, float]:
        """Of all tokens of prompts, how many were looked for in a cache, and found there."""
        project.cluster.on_network()
        before = counted(project)
        said: list[list[dict[str, str]]] = [[] for _ in range(CONVERSATIONS)]
        for turn in range(TURNS):
            for number, messages in enumerate(said):
                text = " ".join(f"{number}-{turn}-{word}" for word in range(WORDS if not turn else 5))
                messages.append({"role": "user", "content": text})
                messages.append({"role": "assistant", "content": ask(project, messages)})
        asked, found = (after - old for after, old in zip(counted(project), before, strict=True))
        return asked, found

    with ThreadPoolExecutor(1) as pool:
        asked, found = pool.submit(there).result()
    # Every turn but the first begins as the one before it, which makes 0.74 of all tokens where each finds
    # that. Where every turn went to any pod it would be 0.39, and more than a half in 2 of 100 runs.
    assert asked > 0 and found / asked > 0.5, (asked, found)


def ask(project: ClusterProject, messages: list[dict[str, str]]) -> str:
    body = {"model": "tiny", "messages": messages, "max_tokens": 4, "temperature": 0}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    to = f"{project.endpoint}/chat/completions"
    request = urllib.request.Request(to, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def counted(project: ClusterProject) -> tuple[float, float]:
    """Tokens of prompts that all pods have looked for in their caches, and found."""
    sums = {"queries": 0.0, "hits": 0.0}
    for pod in project.pods("engine"):
        project.cluster.on_network(pod["spec"]["nodeName"])  # nobody else may ask it
        address = f"http://{pod['status']['podIP']}:{engines.PORT}/metrics"
        with urllib.request.urlopen(address, timeout=60) as answer:
            text = answer.read().decode()
        for name in sums:
            values = re.findall(rf"^vllm:prefix_cache_{name}_total(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
            assert values, name
            sums[name] += sum(map(float, values))
    project.cluster.on_network()
    return sums["queries"], sums["hits"]
