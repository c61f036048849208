"""Every difference that is seeded into an engine is found, exactly; and what a stack may demand."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common import ROOT, StepFailed
from parity.probes import PROBES, Reply, Subject, chosen, run
from parity.table import differences, markdown, problem, read, table
from stacks.blueprint import Blueprint, blueprint_of
from stacks.parity import no_flip
from stacks.settings import SettingsError, from_values
from switch.exchange import exchange
from switch.plan import parse
from tests.support import faulty_engine
from tests.support.faulty_engine import FaultyEngine
from tests.support.listening import listening
from tools import parity, standby

BASE = {"engine": "ollama", "target": "docker", "model": "qwen-2.5-coder-0.5b"}
SUBJECT = Subject(model=faulty_engine.MODEL, context=faulty_engine.CONTEXT)
ENGINES = {kind: {"name": f"{kind}-1", "version": f"{kind} 1"} for kind in ("ollama", "vllm")}
NAMES = {kind: each["name"] for kind, each in ENGINES.items()}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(FaultyEngine) as server:
        yield server.server_port


def found(port: int) -> dict[str, str]:
    def send(path: str, body: str) -> Reply:
        return exchange({"container": "127.0.0.1", "port": port, "path": path, "body": body, "timeout": 10})

    return {probe.name: run(probe, SUBJECT, send) for probe in chosen(able=True)}


@pytest.fixture(scope="module")
def good(port: int) -> dict[str, str]:
    return found(port)


def test_a_good_engine_does_in_each_probe_what_openai_says(good: dict[str, str]) -> None:
    refused = "HTTP 400, error with code, message, param, type"
    assert good == {
        "max-tokens": "honoured",
        "max-tokens-one": "honoured",
        "context-fits": "HTTP 200, the whole prompt",
        "context-overlong": refused,
        "stop-string": "stops before it",
        "finish-stop": "stop",
        "finish-length": "length",
        "prompt-tokens": "4, 8, 9",
        "usage": "completion_tokens, prompt_tokens, total_tokens; the total is the sum",
        "answer-fields": "choices, created, id, model, object, usage; message: content, role",
        "stream-order": "role, content, finish, usage, [DONE]",
        "stream-fields": "choices, created, id, model, object; role: assistant",
        "stream-usage": "only when asked for",
        "stream-finish": "length",
        "json-mode": "JSON",
        "json-mode-stream": "JSON",
        "json-schema": "JSON",
        "json-schema-stream": "JSON",
        "tools": "HTTP 200",
        "tools-stream": "HTTP 200, a whole stream",
        "tool-named": "calls weather",
        "tool-named-stream": "calls weather",
        "tool-result": "HTTP 200",
        "tool-result-stream": "HTTP 200, a whole stream",
        "tool-argument": "calls weather with the right argument",
        "needle": "found",
        "recall": "5 of 5 right",
        "temperature-zero": "the same text each time",
        "unknown-model": refused.replace("400", "404"),
        "empty-messages": refused,
        "wrong-type": refused,
        "malformed-json": refused,
        "negative-max-tokens": refused,
        "completions": "length",
        "completions-stream": "length",
        "responses": "incomplete",
        "responses-stream": "incomplete",
        "messages": "max_tokens",
        "messages-stream": "max_tokens",
        "count-tokens": "counts",
    }


@pytest.mark.parametrize("fault", PROBES)
def test_exactly_the_seeded_difference_is_found(
    port: int, good: dict[str, str], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaultyEngine, "fault", fault)
    assert differences(table("tiny", ENGINES, {"ollama": good, "vllm": found(port)})) == [fault]


def test_an_engine_that_does_not_answer_is_a_difference_in_everything(good: dict[str, str]) -> None:
    assert differences(table("tiny", ENGINES, {"ollama": good, "vllm": found(1)})) == list(PROBES)


def test_of_two_engines_that_give_no_answer_it_is_not_known_that_they_do_the_same(
    good: dict[str, str],
) -> None:
    late = {**good, "context-fits": "no answer: no whole answer within 120 s"}
    content = table("tiny", ENGINES, {"ollama": late, "vllm": late})
    assert differences(content) == ["context-fits"]
    assert markdown(content, ()).count("**no**") == 1
    assert "differ in context-fits " in problem(content, NAMES, (), "dev", able=True)


@pytest.mark.parametrize("name", ["tools", "unknown-model"])
def test_an_answer_that_is_cut_is_not_a_whole_one(name: str) -> None:
    whole: Reply = {"status": 200, "body": "{}"}
    cut: Reply = {**whole, "error": "no whole answer within 120 s"}
    assert run(PROBES[name], SUBJECT, lambda path, body: whole) == "HTTP 200"
    assert run(PROBES[name], SUBJECT, lambda path, body: cut) == "HTTP 200, an answer that is cut"


@pytest.mark.parametrize("name", ["needle", "recall"])
@pytest.mark.parametrize("context", [256, 512, 1024, 2048, 3072, 4096, 32768])
def test_what_is_asked_about_a_long_prompt_fits_into_the_context(name: str, context: int) -> None:
    asked = json.loads(next(PROBES[name].steps(replace(SUBJECT, context=context))))
    words = asked["messages"][0]["content"]
    # as Qwen counts: each word, digit and sign is a token; its template has some 30 of its own
    tokens = len(re.findall(r"[A-Za-z]+|\S", words)) + 30 + asked["max_tokens"]
    assert tokens <= context


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize(("name", "says"), [("needle", "found"), ("recall", "5 of 5 right")])
def test_a_model_that_reasons_first_is_heard_to_its_answer(name: str, says: str, apart: bool) -> None:
    """Else both engines find nothing, and no difference is ever seen."""

    def reasons(path: str, body: str) -> Reply:
        asked = json.loads(body)
        codes = re.findall(r"\d{4}", asked["messages"][0]["content"])
        thought = "Okay, the user wants to know the code. " * 25
        if asked["max_tokens"] < 250:
            codes = []
        said = (
            {"reasoning": thought, "content": " ".join(codes)}
            if apart
            else {"content": thought + " ".join(codes)}
        )
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"message": {"role": "assistant", **said}, "finish_reason": "stop"}
        return {"status": 200, "body": json.dumps({"choices": [choice], "usage": usage})}

    assert run(PROBES[name], replace(SUBJECT, context=4096), reasons) == says


def test_a_model_that_is_not_able_is_not_asked_for_meaning() -> None:
    left = {probe.name for probe in chosen(able=True)} - {probe.name for probe in chosen(able=False)}
    assert left == {"needle", "recall", "tool-argument"}


def test_the_table_says_which_kv_cache_each_engine_had(good: dict[str, str]) -> None:
    settings = from_values("local", {**BASE, "vllmFlags": ["--kv-cache-dtype int8_per_token_head"]}, ROOT)
    types: dict[str, str] = {spec.kind: spec.kv_cache for spec in blueprint_of(settings).specs}
    assert types == {"ollama": "16 bits", "vllm": "int8_per_token_head"}
    assert {spec.kv_cache for spec in blueprint_of(from_values("local", BASE, ROOT)).specs} == {"16 bits"}
    engines = {kind: {**ENGINES[kind], "kv_cache": said} for kind, said in types.items()}
    worse = {**good, "recall": "3 of 5 right"}
    text = markdown(table("tiny", engines, {"ollama": good, "vllm": worse}), ())
    assert "(`ollama-1`, KV cache: 16 bits) and vllm 1 (`vllm-1`, KV cache: int8_per_token_head)" in text
    assert "| 5 of 5 right | 3 of 5 right | **no** |" in text
    assert "KV cache:" not in markdown(table("tiny", ENGINES, {"ollama": good, "vllm": good}), ())


def test_a_stack_that_demands_parity_is_told_what_is_wrong_and_what_to_type(good: dict[str, str]) -> None:
    other = {**good, "usage": "none", "needle": "not found"}
    content = read(json.dumps(table("tiny", ENGINES, {"ollama": good, "vllm": other})))
    assert "make parity STACK=dev" in problem(None, NAMES, (), "dev", able=True)
    assert "ollama-1 and vllm-9" in problem(content, {**NAMES, "vllm": "vllm-9"}, (), "dev", able=True)
    said = problem(content, NAMES, ("usage",), "dev", able=True)
    assert "differ in needle " in said and "'acceptedDifferences[1]' needle" in said
    assert problem(content, NAMES, ("usage", "needle"), "dev", able=True) == ""
    text = markdown(content, ("usage",))
    assert text.count("no, accepted") == 1 and text.count("**no**") == 1


def test_a_table_without_a_probe_that_there_is_now_says_nothing_of_it(good: dict[str, str]) -> None:
    """As an older version has written it, or as it was before the model could follow an instruction."""
    older = {name: said for name, said in good.items() if name not in ("needle", "recall", "tool-argument")}
    content = table("tiny", ENGINES, {"ollama": older, "vllm": older})
    assert problem(content, NAMES, (), "dev", able=False) == ""
    said = problem(content, NAMES, (), "dev", able=True)
    assert said.endswith("have the probes tool-argument, needle, recall. Run: make parity STACK=dev")
    assert "make parity" in problem({**content, "probes": []}, NAMES, (), "dev", able=False)


def test_what_the_endpoint_does_otherwise_is_named_and_is_no_difference_of_the_engines(
    good: dict[str, str],
) -> None:
    found = {"ollama": good, "vllm": good}
    content = read(json.dumps(table("tiny", ENGINES, found, {"vllm": {**good, "usage": "none"}})))
    assert [row["probe"] for row in content["probes"] if "endpoint" in row] == ["usage"]
    assert problem(content, NAMES, (), "dev", able=True) == ""
    text = markdown(content, ())
    assert f"Asked through the endpoint, vllm did the same in {len(good) - 1} of {len(good)} probes." in text
    assert f"- usage: none, and asked directly: {good['usage']}" in text
    # as it was written before the endpoint was asked
    assert "endpoint" not in markdown(table("tiny", ENGINES, found), ())


@pytest.mark.parametrize("keys", [{}, {"acme": "a-key-of-acme-1234", "other": "another-key-12345"}])
def test_the_endpoint_is_asked_as_its_clients_do_and_no_key_is_shown(
    port: int,
    good: dict[str, str],
    keys: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = {
        "stack": {"endpoint": f"http://127.0.0.1:{port}/v1"},
        "config": {"changeover:apiKeys": {"objectValue": keys, "secret": True}} if keys else {},
    }
    given = list[str | None]()
    monkeypatch.setattr(parity, "pulumi", lambda *words, **_: json.dumps(said[words[0]]))
    post = FaultyEngine.do_POST

    def do_post(engine: FaultyEngine) -> None:
        given.append(engine.headers.get("Authorization"))
        post(engine)

    monkeypatch.setattr(FaultyEngine, "do_POST", do_post)
    assert parity.probe(parity.endpoint("dev", ROOT), SUBJECT, True, "the endpoint") == good
    assert set(given) == {f"Bearer {keys['acme']}" if keys else None}
    assert "key" not in capsys.readouterr().out


def planned(root: Path, **values: object) -> Blueprint:
    return blueprint_of(from_values("dev", {**BASE, "requireParity": True, **values}, ROOT))


def test_a_flip_is_refused_until_the_table_allows_it(tmp_path: Path, good: dict[str, str]) -> None:
    plan = planned(tmp_path)
    assert "make parity STACK=dev" in no_flip(plan, tmp_path)
    engines = {str(spec.kind): {"name": spec.name, "version": ""} for spec in plan.specs}
    found = {"ollama": good, "vllm": {**good, "usage": "none"}}
    file = tmp_path / "rendered" / "dev" / "parity.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(table("tiny", engines, found)))
    assert re.search(r"differ in usage .*acceptedDifferences", no_flip(plan, tmp_path))
    for engine in ("ollama", "vllm"):
        accepted = planned(tmp_path, acceptedDifferences=["usage"], engine=engine)
        assert no_flip(accepted, tmp_path) == ""
    assert no_flip(planned(tmp_path, requireParity=False), tmp_path) == ""
    assert "the settings give" in no_flip(
        planned(tmp_path, acceptedDifferences=["usage"], context=512), tmp_path
    )
    file.write_text("{}")
    assert "can't be read" in no_flip(plan, tmp_path)


def test_only_the_plan_to_prepare_says_why_the_engine_must_not_change(tmp_path: Path) -> None:
    plan = planned(tmp_path).plan().leading_to("vllm-1")
    prepare = parse(json.loads(replace(plan, no_flip="no table").text), "prepare")
    commit = parse(json.loads(plan.leading_to("vllm-1", "gateway-1").text), "commit")
    assert (prepare.no_flip, commit.no_flip) == ("no table", "")


DOCKER = """#!/bin/sh
# a test double: the Docker CLI with a switch that takes a prepared change back, as if its lease had run out
cd {folder}
case "$*" in
    *role=switch*) echo switch ;;
    *role=engine*) echo {engine}-1 ;;
    *" prepare "*) echo "$*" >>asked ;;
    *" abandon "*) echo "$*" >>asked ;;
    *" follow "*) [ -e sent ] || exit 0; echo "the lease has run out"; touch lost; exit 1 ;;
    *" exchange") while read -r line; do
        echo "$line" >>sent
        until [ -e lost ]; do sleep 0.02; done
        sleep 0.1
        echo '{{"error": "refused"}}'
    done ;;
    *" status --json") echo '{status}' ;;
    *) echo "unknown: $*" >&2; exit 2 ;;
esac
"""
SERVES = {
    "under_way": None,
    "gated": True,
    "gateway": "gateway",
    "containers": {"gateway": "running"},
    "active": {"kind": "ollama"},
}


def test_probing_ends_soon_after_the_change_was_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = blueprint_of(from_values("dev", {**BASE, "engine": "vllm"}, ROOT))
    engine = f"changeover-dev-{other.active.name}"
    file = tmp_path / "docker"
    file.write_text(DOCKER.format(folder=tmp_path, engine=engine, status=json.dumps(SERVES)))
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(standby, "FOLLOW_SECONDS", 0.01)
    with pytest.raises(StepFailed, match=r"undid the change .* Run the same command again"):
        parity.probe_standby(standby.Host("dev"), other, SUBJECT)
    assert len((tmp_path / "sent").read_text().splitlines()) < len(chosen(able=False)) / 2
    prepared, given_up = ((tmp_path / "asked").read_text()).splitlines()
    assert given_up.endswith(f" abandon --engine {engine}-1 {prepared.partition(' prepare ')[2]}")
    said = capsys.readouterr().out
    assert "the lease has run out" in said and said.endswith("ollama serves\n")


def test_a_probe_that_does_not_exist_can_not_be_accepted() -> None:
    with pytest.raises(SettingsError, match="but one is called usage"):
        from_values("dev", {**BASE, "acceptedDifferences": ["usages"]}, ROOT)
