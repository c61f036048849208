"""What the program declares of a stack on a cluster: in which order, with which options, and no secret."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pytest

from components import api_keys, pins
from components.kubernetes import files, nodes
from components.kubernetes.looked import read_plan
from components.kubernetes.objects import objects
from components.kubernetes.stack import SEEN, ClusterStack, ClusterStackArgs
from components.labels import Labels
from stacks.cluster import cluster, flip_plan, nodes_plan
from tests.support.objects import plan
from tests.support.recorder import SAID, Recorder

FLIP = "prepare-step"
"""As on one host: so a review knows it."""
KEY = "0123456789abcdef-secret"


def build(
    code: str = "2",
    gone: Sequence[str] = (),
    state: Mapping[str, Mapping[str, Any]] | None = None,
    **settings: Any,
) -> Recorder:
    """The stack `t4` with these settings changed, all that was registered of it. `gone` is not there of its
    files, and `state` is what Pulumi has of its steps."""
    recorder = Recorder.start("t4")

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def program() -> None:
        blueprint = plan("t4", **settings)
        args = cluster(blueprint, Labels(project="changeover", stack="t4"))
        document = api_keys.document({"acme": KEY}, never_open=True)
        ClusterStack(
            "cluster",
            ClusterStackArgs(
                labels=args.labels,
                namespace=args.settings.namespace,
                context=args.settings.context,
                objects=objects(args),
                files=files.Names(code={"switch": code, "proxy": "1"}, packages=("0-0", "0-1")),
                gone=gone,
                state=state or {},
                flip=flip_plan(blueprint, args),
                nodes=nodes_plan(args),
                names=("node-b", "node-a"),
                weights={"WEIGHTS": "vllm: here; ollama: there", "MOVING": "here"},
                routing=args.routing,
                keys=pulumi.Output.secret(document),
                tenants=("acme",),
                port=args.port,
            ),
        )

    program()
    return recorder


def things(recorder: Recorder) -> dict[str, dict[str, Any]]:
    """Inputs of every object of the cluster, by its resource's name."""
    return {each.name: each.inputs for each in recorder.resources if each.typ.startswith("kubernetes:")}


def needs(recorder: Recorder, name: str) -> set[str]:
    """The names of what a resource waits for, and what that waits for, and so on."""
    requests = {each.name: each for each in recorder.requests}
    found, more = set[str](), [name]
    while more:
        for urn in requests[more.pop()].dependencies:
            other = urn.rpartition("::")[2]
            if other not in found:
                found.add(other)
                more.append(other)
    return found


def engines(recorder: Recorder) -> list[str]:
    return [name for name in things(recorder) if name.startswith(("deployment-vllm", "deployment-ollama"))]


def test_every_object_that_is_reviewed_is_declared_as_it_is() -> None:
    made = objects(cluster(plan("t4"), Labels(project="changeover", stack="t4")))
    declared = things(build())
    assert len(declared) == len(made) + 1, "and the keys"
    for each in made:
        name = f"{each['kind'].lower()}-{each['metadata']['name'].removeprefix('t4-')}"
        there = declared[name]
        assert there["kind"] == each["kind"] and there["metadata"]["name"] == each["metadata"]["name"]
        for part in ("spec", "data", "immutable"):
            assert there.get(part) == numbers(each.get(part))


def numbers(value: Any) -> Any:
    """As Pulumi hands numbers over."""
    if isinstance(value, dict):
        return {key: numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [numbers(each) for each in value]
    return float(value) if type(value) is int else value


def test_the_plugin_is_the_pinned_one_for_each_object_and_asks_the_cluster_of_the_settings() -> None:
    recorder = build(kubeContext="prod", namespace="llm")
    (provider,) = (each for each in recorder.requests if each.type == "pulumi:providers:kubernetes")
    assert provider.version == pins.KUBERNETES_PLUGIN
    (inputs,) = (each.inputs for each in recorder.resources if each.typ == "pulumi:providers:kubernetes")
    assert inputs == {
        "context": "prod",
        "namespace": "llm",
        "enableConfigMapMutable": "true",
        "enableSecretMutable": "true",
    }
    of_objects = [each for each in recorder.requests if each.type.startswith("kubernetes:")]
    assert of_objects and all(each.version == pins.KUBERNETES_PLUGIN for each in of_objects)
    assert all("pulumi:providers:kubernetes::cluster" in each.provider for each in of_objects)
    assert all(inputs["metadata"]["namespace"] == "llm" for inputs in things(recorder).values())


def test_nothing_is_flipped_before_images_weights_and_engines_are_there_and_proxies_follow() -> None:
    recorder = build()
    before = needs(recorder, FLIP)
    assert {"files", "daemonset-weights", "service-engines", "configmap-live", *engines(recorder)} <= before
    assert not before & {"deployment-proxy", "secret-keys"}
    for name in ("deployment-proxy", "service-endpoint"):
        assert {FLIP, "served", "secret-keys"} <= needs(recorder, name)


def told(recorder: Recorder) -> set[str]:
    """The ConfigMaps, by their resources' names, in which a proxy's pod has its routing and its gateway's
    TOML."""
    pod = things(recorder)["deployment-proxy"]["spec"]["template"]["spec"]
    named = [volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "gateway"]
    for volume in pod["volumes"]:
        sources = volume.get("projected", {}).get("sources", [])
        named += [each["configMap"]["name"] for each in sources if "configMap" in each]
    called = [f"configmap-{name.removeprefix('t4-')}" for name in named]
    return {name for name in called if name.startswith(("configmap-routing", "configmap-gateway"))}


@pytest.mark.parametrize(
    "setting", [{"name": "chat", "aliases": ["qwen-2.5-coder-7b"]}, {"model": "qwen-2.5-coder-0.5b"}]
)
def test_proxies_hear_of_another_name_only_together_with_their_gateways(setting: dict[str, Any]) -> None:
    """What the pods of before have stays as it is until they have gone: they are other ConfigMaps."""
    before, after = build(), build(**setting)
    one, other = things(before), things(after)
    assert len(told(before)) == len(told(after)) == 2 and not told(before) & told(after)
    assert told(before) <= one.keys() and not told(before) & other.keys(), "Pulumi deletes it at the end"
    for name in told(after):
        assert other[name]["immutable"] is True and name in needs(after, "deployment-proxy")
    both = one.keys() & other.keys()
    changed = {name for name in both if name.startswith("configmap") and one[name] != other[name]}
    assert changed <= {"configmap-live"}, "whose data is ignored"


def test_an_update_of_a_stack_with_one_routing_by_a_fixed_name_leaves_that_to_the_end() -> None:
    """A version before changed the routing in place, in `configmap-routing`, below the pods that have it."""
    assert "configmap-routing" not in things(build())


def test_what_is_live_is_not_pulumis() -> None:
    recorder = build()
    assert len(engines(recorder)) == 2
    for name in engines(recorder):
        request = recorder.options("Deployment", name)
        assert list(request.ignoreChanges) == ["spec.replicas"]
        annotations = things(recorder)[name]["metadata"]["annotations"]
        assert annotations["pulumi.com/skipAwait"] == "true" and annotations["changeover.parallel"]
    live = recorder.options("ConfigMap", "configmap-live")
    assert list(live.ignoreChanges) == ["data", "metadata.annotations"]
    proxy = recorder.options("Deployment", "deployment-proxy")
    assert not proxy.ignoreChanges and "annotations" not in things(recorder)["deployment-proxy"]["metadata"]


def test_a_step_waits_for_images_and_weights_and_not_the_plugin() -> None:
    recorder = build()
    annotations = things(recorder)["daemonset-weights"]["metadata"]["annotations"]
    assert annotations == {"pulumi.com/skipAwait": "true"}
    assert {"daemonset-weights", "files"} <= needs(recorder, "weights") and "weights" in needs(recorder, FLIP)
    step = recorder.of("Command")["weights"]
    assert step["environment"]["NODES"] == "node-a, node-b", "another one has it run again"
    assert step["environment"]["WEIGHTS"] == "vllm: here; ollama: there"
    told = nodes.read_plan(step["stdin"])
    assert told.daemon_set == "t4-weights" and told.sent == ()


def test_what_a_node_gets_has_the_step_run_again_and_a_flip_does_not() -> None:
    def told(**settings: Any) -> str:
        return str(build(**settings).of("Command")["weights"]["stdin"])

    assert told() == told(engine="ollama") != told(model="qwen-2.5-coder-0.5b")


def test_the_step_is_told_the_plan_and_shows_a_line_of_the_routing() -> None:
    steps = build().of("Command")
    flip = steps[FLIP]
    told = read_plan(flip["stdin"])
    assert told.to.startswith(f"t4-{told.engine}-") and told.hosts == 3
    assert flip["environment"]["ENGINE"] == told.engine and "engines = [" in flip["environment"]["ROUTING"]
    assert "delete" not in flip, "the pods go with their Deployments"
    assert steps["files"]["delete"].endswith("files remove")
    assert all(step["create"] == step["update"] for step in steps.values())


def test_other_code_is_brought_before_anything_mounts_it() -> None:
    def told(code: str) -> dict[str, str]:
        return dict(build(code).of("Command")["files"]["environment"])

    assert told("2")["CODE"] == "proxy 1, switch 2" and told("2")["LOCK"] == "0-0, 0-1"
    assert told("2") != told("3")


def test_no_key_is_anywhere_and_its_digest_only_where_it_is_secret() -> None:
    recorder = build()
    assert recorder.holders(KEY) == []
    (digest,) = json.loads(api_keys.document({"acme": KEY}, never_open=True))["keys"]
    assert sorted(recorder.holders(digest)) == ["keys-step", "secret-keys"]


def test_a_flip_changes_its_step_and_what_proxies_and_gateway_are_told() -> None:
    before, after = (build(engine=engine) for engine in ("ollama", "vllm"))
    one, other = ({each.name: each.inputs for each in of.resources} for of in (before, after))
    changed = {name for name in one.keys() & other.keys() if one[name] != other[name]}
    live = {"configmap-live"}  # whose data is ignored
    assert changed == {FLIP, "served", "deployment-proxy", *live}
    for_one_only = {name.rpartition("-")[0] for name in one.keys() ^ other.keys()}
    assert for_one_only == {"configmap-gateway", "configmap-routing"}


@pytest.mark.parametrize("setting", [{"hosts": 4}, {"atOnce": 2}])
def test_more_hosts_change_no_engine(setting: dict[str, Any]) -> None:
    before, after = build(), build(**setting)
    one, other = ({each.name: each.inputs for each in of.resources} for of in (before, after))
    changed = {name for name in one if one[name] != other[name]}
    assert changed - {"poddisruptionbudget-engines"} == {FLIP, "served"}


def test_pods_that_were_changed_by_hand_show_in_a_preview_and_are_put_right() -> None:
    recorder = build()
    served = recorder.of("Command")["served"]
    assert served["environment"]["LIVE"] == "t4-vllm-00000001-0a1b2c3d: 3"
    assert served["update"] == recorder.of("Command")[FLIP]["update"]
    assert served["stdin"] == recorder.of("Command")[FLIP]["stdin"]
    assert FLIP in needs(recorder, "served")
    (call,) = (each for each in recorder.calls if each.token == "command:local:run")
    assert call.args["command"].endswith("change seen")


def test_files_that_are_gone_have_their_step_run_again_and_once_they_are_there_nothing() -> None:
    lost = ["t4-packages-0-0", "t4-proxy-1"]
    before = build().of("Command")
    assert build(state=before).of("Command")["files"] == before["files"], "nothing is gone"
    assert build(gone=lost).of("Command")["files"] == before["files"], "they were never there"
    after = build(gone=lost, state=before).of("Command")
    told = {**before["files"]["environment"], "LOST": "1: t4-packages-0-0, t4-proxy-1"}
    assert after["files"] == {**before["files"], "environment": told}
    assert build(state=after).of("Command")["files"] == after["files"], "they are back"
    again = build(gone=lost, state=after).of("Command")
    assert again["files"]["environment"]["LOST"] == "2: t4-packages-0-0, t4-proxy-1"


def test_files_of_other_code_are_not_lost_before_they_were_brought() -> None:
    before = build().of("Command")
    after = build("3", gone=["t4-switch-3"], state=before).of("Command")
    assert after["files"]["environment"]["CODE"] == "proxy 1, switch 3"
    assert "LOST" not in after["files"]["environment"]


def test_a_preview_is_empty_once_what_was_changed_by_hand_is_put_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seen(words: str, state: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        monkeypatch.setitem(SAID, SEEN, words)
        return build(state=state).of("Command")

    right = read_plan(build().of("Command")["served"]["stdin"]).served
    first = seen(right, {})
    assert (
        first["served"]["environment"]["LIVE"] == right == seen(right, first)["served"]["environment"]["LIVE"]
    )
    edited = f"{right}; what the proxies are told can't be read"
    second = seen(edited, first)
    assert second["served"]["environment"]["LIVE"] == edited
    assert seen(right, second) == second
    third = seen(edited, second)
    assert third["served"] != second["served"], "the same again is seen"
    assert seen(right, third) == third != seen(edited, third)
    moved = {**third, "served": {**third["served"], "stdin": "that of before a flip"}}
    assert seen(right, moved) == first
