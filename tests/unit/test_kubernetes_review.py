"""What a review says of a change on a cluster."""

from dataclasses import replace
from typing import Any

import pytest

from components.facts import POD_BY_POD
from components.kubernetes.looked import read_plan
from review import cluster
from review.drift import drift
from review.events import Preview, ResourceChange
from review.markdown import render
from review.sentence import sentence
from review.warnings import warnings
from tests.support.objects import plan
from tests.unit.test_kubernetes_stack import build, things

STEP = "command:local:Command"
DEPLOYMENT = "kubernetes:apps/v1:Deployment"
OLD, NEW = "ollama-0a1b2c3d", "vllm-4e5f6a7b"


def changed(kind: str, name: str, before: Any = None, after: Any = None) -> ResourceChange:
    return ResourceChange(op="changed", type=kind, name=name, before=before or {}, after=after or {})


def preview(*changes: ResourceChange, engine: tuple[str, str] = ("ollama", "vllm")) -> Preview:
    outputs = {"cutover": POD_BY_POD, "endpoint": "http://fleet", "model": "chat"}
    return Preview(
        stack="fleet",
        config={},
        changes=changes,
        drift=(),
        resources=(),
        outputs_before={**outputs, "engine": engine[0]},
        outputs_after={**outputs, "engine": engine[1]},
        notes=(),
        warned=(),
    )


def step(before: str, after: str) -> ResourceChange:
    return changed(
        STEP, "prepare-step", {"environment": {"ENGINE": before}}, {"environment": {"ENGINE": after}}
    )


FOLLOW = (
    replace(changed("kubernetes:core/v1:ConfigMap", "configmap-routing-0a1b2c3d"), op="created"),
    changed(DEPLOYMENT, "deployment-proxy"),
    changed(STEP, "served"),
)


def test_a_flip_is_said_as_one_with_what_it_costs() -> None:
    said = sentence(preview(step(OLD, NEW), *FOLLOW))
    assert said.startswith("Engine of `fleet`: Ollama → vLLM, pod by pod, and no request waits as long as")
    assert said.endswith("back with `make rollback STACK=fleet`")


def test_other_settings_of_the_same_engine_are_no_flip() -> None:
    said = sentence(preview(step(OLD, "ollama-ffffffff"), *FOLLOW, engine=("ollama", "ollama")))
    assert said.startswith("Engine of `fleet`: Ollama stays and moves to")
    assert "pod by pod" in said


@pytest.mark.parametrize("change", FOLLOW)
def test_what_is_no_change_of_the_engine_says_that_it_stays(change: ResourceChange) -> None:
    said = sentence(preview(change, engine=("vllm", "vllm")))
    assert "the engine stays vLLM" in said


def told(name: str, **sides: tuple[str, str]) -> ResourceChange:
    """A step of which these variables differ."""
    before, after = ({key: both[side] for key, both in sides.items()} for side in (0, 1))
    return changed(STEP, name, {"environment": before}, {"environment": after})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (told("prepare-step", HOSTS=("3", "4"), ENGINE=(NEW, NEW)), "4 hosts serve instead of 3"),
        (told("prepare-step", AT_ONCE=("1", "2"), ENGINE=(NEW, NEW)), "takes 2 of them away at a time"),
        (
            told("weights", NODES=("a, b", "a, c, d")),
            "waited for on `c`, `d`; no longer among its nodes: `b`",
        ),
        (
            changed("kubernetes:apps/v1:DaemonSet", "daemonset-weights"),
            "each node gets other images or weights",
        ),
        (changed("kubernetes:apps/v1:Deployment", "deployment-proxy"), "the proxies are replaced one by one"),
        (told("files", CODE=("proxy 1", "proxy 2")), "the pods get other code of this project"),
    ],
)
def test_what_changes_besides_the_engine_is_said(change: ResourceChange, words: str) -> None:
    said = sentence(preview(change, engine=("vllm", "vllm")))
    assert words in said and "the engine stays vLLM" in said


def test_pods_that_were_changed_by_hand_are_said_to_be_and_are_drift() -> None:
    seen = preview(told("served", LIVE=("a: 3", "a: 2")), engine=("vllm", "vllm"))
    back = "each engine gets back the pods that it had (now: a: 2)"
    assert sentence(seen) == f"`fleet`: what was changed by hand is put right; {back}"
    assert drift(seen) == ["the number of pods wanted was changed: now a: 2; Pulumi left a: 3"]
    assert drift(preview(told("served", LIVE=("a: 3", "")))) == [
        "the number of pods wanted was changed: now none; Pulumi left a: 3"
    ]


def test_what_the_proxies_were_told_by_hand_is_drift_in_words_of_its_own() -> None:
    seen = preview(told("served", LIVE=("a: 3", "a: 3; what the proxies are told can't be read; once more")))
    assert drift(seen) == ["what the proxies are told can't be read"]
    assert "put right; the proxies are told again what serves" in sentence(
        replace(seen, outputs_before=seen.outputs_after)
    )


def test_what_is_seen_is_compared_with_what_is_to_be_and_not_with_what_was_put_right_before() -> None:
    steps = build().of("Command")
    right = read_plan(steps["served"]["stdin"]).served
    sides = [{"stdin": steps["served"]["stdin"], "environment": {"LIVE": each}} for each in ("a: 2", "a: 1")]
    assert drift(preview(changed(STEP, "served", *sides))) == [
        f"the number of pods wanted was changed: now a: 1; Pulumi left {right}"
    ]
    sides[1]["environment"] = {"LIVE": f"{right}; what serves is not written down"}
    assert drift(preview(changed(STEP, "served", *sides))) == ["what serves is not written down"]


def test_files_that_are_gone_are_drift_with_their_names() -> None:
    seen = preview(
        told("files", LOST=("1: a", "2: fleet-proxy-1, fleet-switch-2"), CODE=("x", "x")),
        engine=("vllm", "vllm"),
    )
    assert drift(seen) == [
        "code and packages that every new pod needs are gone: `fleet-proxy-1`, `fleet-switch-2`"
    ]
    assert sentence(seen) == (
        "`fleet`: what was changed by hand is put right; the code and packages of the pods that are gone are "
        "brought again"
    )
    assert drift(preview(told("files", LOST=("1: a", "1: a"), CODE=("x", "y")))) == []


def test_the_step_that_follows_a_flip_says_nothing_of_hands() -> None:
    seen = preview(step(OLD, NEW), told("served", LIVE=("a: 3", "")), *FOLLOW[:2])
    said = sentence(seen)
    assert "by hand" not in said and "the proxies are replaced one by one" in said
    assert drift(seen) == []


def test_a_review_has_what_the_program_says_of_time_and_of_what_is_left_and_no_price_of_its_own() -> None:
    lines = plan("t4").lines
    seen = replace(preview(step(OLD, NEW), *FOLLOW), notes=("\n".join(lines),))
    said = render(seen)
    assert "Mode and memory:\n\n```\nhosts: 3; a flip takes 1 of them away at a time" in said
    assert "in a flip 2 hosts go on serving" in said and "time of a flip to vllm: " in said
    assert "Price: that of the cluster's hosts, which this program does not make." in said


def test_a_docker_host_has_none_of_this() -> None:
    assert cluster.said(replace(preview(*FOLLOW), outputs_after={"cutover": "hold"})) == []


def test_the_names_are_those_of_the_program() -> None:
    recorder = build()
    assert {cluster.FLIP, cluster.SERVED, cluster.WEIGHTS, cluster.FILES} <= recorder.of("Command").keys()
    assert {cluster.PROXIES, cluster.NODES} <= things(recorder).keys()


def test_what_is_not_ready_is_said_to_be_waited_for_and_not_to_change() -> None:
    waits = replace(changed(DEPLOYMENT, "deployment-proxy"), unready=("no pod is there", "none for long"))
    seen = preview(waits, engine=("ollama", "ollama"))
    assert drift(seen) == [] and cluster.said(seen) == []
    assert sentence(seen).startswith("`fleet`: nothing changes; the update waits for what is not ready; ")
    said = "`deployment-proxy` (Deployment) is not ready, and the update waits until it is: no pod is there;"
    assert f"- {said} none for long\n" in render(seen)
    assert "| unchanged, waited for until ready | `deployment-proxy` (Deployment) |" in render(seen)
    by_hand = replace(waits, paths=("metadata",), unready=())
    assert drift(replace(seen, drift=(by_hand,))) == [], "an update that waits puts nothing right"
    assert len(drift(replace(seen, drift=(by_hand,), changes=(by_hand,)))) == 1
    warned = ("Refreshed resource is in an unhealthy state:\n* none for long", "none for long", "look!")
    assert warnings(replace(seen, warned=warned)) == ["look!", f"{said} none for long"]
    flip = sentence(preview(step(OLD, NEW), *FOLLOW))
    assert sentence(preview(step(OLD, NEW), *FOLLOW, replace(waits, name="deployment-old"))) == flip
