"""A model's name as Ollama's and Hugging Face's: what is one, and that it arrives whole wherever it goes."""

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from common import ROOT
from components import engines, model_names, tensorzero
from components.catalogue import MODELS
from components.gpu_memory import Load, both
from parity.probes import PROBES, Reply, Subject, run
from proxy import gateway
from proxy.records import RequestRecord
from stacks.blueprint import blueprint_of
from stacks.settings import Settings, SettingsError, from_values
from switch.gate import complete
from tests.parts.test_proxy_protocols import content
from tests.parts.test_proxy_serving import Bench, request
from tests.parts.test_proxy_serving import run as on_a_bench
from tests.support import fast_engine
from tests.support.listening import listening
from tests.support.recorder import Recorder
from tests.unit import test_program, test_watch
from tools import rates, up
from tools.render import files

NAMES = (
    "chat",
    "qwen2.5-coder:7b",
    "Qwen/Qwen2.5-Coder-7B-Instruct",
    "acme/tiny:latest",
    "hf.co/Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M",
)
TIMEOUTS = tensorzero.Timeouts(total=1, first_token=1, stream=1)
DOCKERS = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
"""What Docker takes as the name of a container, a volume or a network."""


def settings(**values: object) -> Settings:
    base = {"engine": "ollama", "target": "docker", "model": "tiny", "images": "offline"}
    return from_values("local", {**base, **values}, ROOT)


def load() -> Load:
    return Load(model=MODELS["tiny"], context=1024, parallel=both(1), gpu=None)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_clients_know_already_is_taken_as_name_and_as_alias(name: str) -> None:
    assert settings(name=name).name == name
    assert settings(aliases=[name]).aliases == (name,)


@pytest.mark.parametrize(
    "name",
    ["a::b", "openai::gpt", "/a", "a/", ":a", "a:", "a b", "a\nb", "ü", "-a", "a-", "x" * 129, "a/b:c::d"],
)
def test_no_name_and_no_alias_may_have_what_gateway_or_path_would_misread(name: str) -> None:
    assert not model_names.is_name(name) and not model_names.is_alias(name)
    with pytest.raises(SettingsError) as error:
        settings(name=name, aliases=[name])
    for key in ("name", "aliases"):
        assert f"changeover:{key}: {name!r} cannot work; it must be " in str(error.value)
    assert "[HOST/][NAMESPACE/]MODEL[:TAG]" in str(error.value) and "no '::'" in str(error.value)
    assert "pulumi config set name tiny" in str(error.value)


@pytest.mark.parametrize(
    "name", ["a//b", "a/b/c/d", "a:b:c", "a:b/c", "a.b/c", "a/-b", "a@b", "a/" + "x" * 81]
)
def test_what_ollama_can_not_be_asked_for_can_be_an_alias_and_no_name(name: str) -> None:
    assert settings(aliases=[name]).aliases == (name,)
    with pytest.raises(SettingsError, match="can be one of `aliases`"):
        settings(name=name)
    with pytest.raises(ValueError, match="model name"):
        tensorzero.ChatModel(name=name, providers=(), timeouts=TIMEOUTS)


@pytest.mark.parametrize("name", NAMES)
def test_both_tomls_have_the_name_as_one_key_and_as_what_both_engines_are_asked_for(name: str) -> None:
    written = files(blueprint_of(settings(name=name)))
    (of_gateway,) = tomllib.loads(written["tensorzero.toml"])["models"].items()
    assert of_gateway[0] == name
    assert {each["model_name"] for each in of_gateway[1]["providers"].values()} == {name}
    routes = tomllib.loads(written["routing.toml"])
    assert list(routes["models"]) == [name]
    assert {each["model"] for each in routes["engines"].values()} == {name}
    assert ("[models.chat]" if name == "chat" else f'[models."{name}"]') in written["routing.toml"]
    assert json.loads(gateway.question(name, "1", False))["model"] == tensorzero.qualified(name)


def test_vllm_serves_the_name_and_keeps_its_weights() -> None:
    plain = engines.vllm(load())
    for name in NAMES:
        spec = engines.vllm(load(), name=name)
        assert spec.command[spec.command.index("--served-model-name") + 1] == name
        assert (spec.served, spec.weights) == (name, plain.weights)


MANIFESTS = {
    "chat": "registry.ollama.ai/library/chat/latest",
    "qwen2.5-coder:7b": "registry.ollama.ai/library/qwen2.5-coder/7b",
    "Qwen/Qwen2.5-Coder-7B-Instruct": "registry.ollama.ai/Qwen/Qwen2.5-Coder-7B-Instruct/latest",
    "acme/tiny:latest": "registry.ollama.ai/acme/tiny/latest",
    "hf.co/Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M": ("hf.co/Qwen/Qwen2.5-Coder-7B-Instruct-GGUF/Q4_K_M"),
}


@pytest.mark.parametrize("name", NAMES)
def test_ollama_starts_with_its_model_under_that_name_alone(tmp_path: Path, name: str) -> None:
    store, copy = tmp_path / "store", tmp_path / "copy"
    own = store / "manifests/registry.ollama.ai/library/tiny/latest"
    own.parent.mkdir(parents=True)
    own.write_text("layers")
    (store / "blobs").mkdir()
    spec = engines.ollama(load(), name=name)
    (script,) = spec.command
    script = script.replace(engines.STORE, str(copy)).replace("exec /bin/ollama serve", "")
    environment = {**os.environ, "OLLAMA_MODELS": str(store)}
    subprocess.run([*spec.entrypoint, script], env=environment, check=True)
    manifests = copy / "manifests"
    found = [str(each.relative_to(manifests)) for each in manifests.rglob("*") if each.is_file()]
    assert found == [MANIFESTS[name]] and spec.served == name
    assert (manifests / MANIFESTS[name]).read_text() == "layers"


@pytest.mark.parametrize("name", ["tiny", "tiny:latest", "library/tiny", "registry.ollama.ai/library/tiny"])
def test_ollama_knows_its_model_by_each_spelling_of_its_own_name(name: str) -> None:
    plain, spec = engines.ollama(load()), engines.ollama(load(), name=name)
    assert spec.command == ("serve",) and spec.name == plain.name and spec.served == name


@pytest.mark.parametrize("name", NAMES)
def test_no_name_on_the_docker_host_has_the_models_in_it(name: str) -> None:
    recorder = Recorder.start("local")
    test_program.build(settings(name=name, standby=True))
    for kind in ("Container", "Volume", "Network"):
        for what, inputs in recorder.of(kind).items():
            assert DOCKERS.fullmatch(inputs.get("name") or what)
    assert {
        label["value"] for each in recorder.of("Container").values() for label in each["labels"]
    }.isdisjoint({name})


@pytest.mark.parametrize("name", NAMES)
def test_the_proxy_answers_for_the_name_and_for_its_id_encoded_or_not(tmp_path: Path, name: str) -> None:
    async def story(bench: Bench) -> None:
        bench.model = name
        bench.route()
        raw = json.dumps({"model": name}).encode()
        await bench.ask(request(body=raw))
        assert [record.body for record in bench.engine.records] == [raw]
        encoded = quote(name, safe="")
        for path in (name, quote(name), encoded, re.sub("%..", lambda each: each[0].lower(), encoded)):
            one = await bench.ask(request(f"/v1/models/{path}", b"", method="GET"))
            assert (path, json.loads(content(one)).get("id")) == (path, name)
        for path in (f"{name}x", f"x/{name}", name.replace("/", "%252F") + "%2F.."):
            one = await bench.ask(request(f"/v1/models/{path}", b"", method="GET"))
            assert one.startswith(b"HTTP/1.1 404 ")

    on_a_bench(story, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_access_log_and_screen_say_the_name(name: str) -> None:
    record = RequestRecord(0.0, "/v1/chat/completions", model=name)
    assert json.loads(record.line(1.0))["model"] == name
    stack = test_watch.Stack()
    active = {"kind": "ollama", "model": name, "since": 400.0}
    assert f"ollama  {name}" in test_watch.shown(stack.line(active=active), rates.minute([]), width=300)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(fast_engine, "NAMES", list(NAMES))
    with listening(fast_engine.Handler) as server:
        yield server.server_port


@pytest.mark.parametrize("name", NAMES)
def test_the_gate_asks_for_the_name_and_wants_an_answer_from_it(port: int, name: str) -> None:
    ask: dict[str, Any] = {"stream": False, "max_tokens": 8, "timeout": 5}
    assert complete("127.0.0.1", port, "/v1/chat/completions", name, **ask).ok
    plan = blueprint_of(settings(name=name)).plan()
    assert plan.gateway
    assert (plan.engine.model, plan.gateway.model) == (name, tensorzero.qualified(name))


@pytest.mark.parametrize("name", NAMES)
def test_make_parity_and_make_up_ask_for_the_name(port: int, name: str) -> None:
    asked: list[str] = []

    def send(path: str, body: str) -> Reply:
        asked.append(json.loads(body)["model"])
        return {"status": 500, "body": ""}

    run(next(iter(PROBES.values())), Subject(model=name, context=1024), send)
    assert set(asked) == {name}
    assert up.ask(f"http://127.0.0.1:{port}/v1", name, "")
