"""What is looked at in a cluster before anything is changed, and how it is refused."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from common import ROOT
from components.kubernetes import rights
from components.kubernetes.files import Names
from components.kubernetes.kubectl import ClusterError, Missing
from components.kubernetes.looked import ACTIVE
from components.kubernetes.objects import objects
from components.labels import Labels
from stacks.cluster import cluster
from stacks.kubernetes_target import ENFORCED, KINDS, FoundOnCluster, look
from stacks.target_error import TargetError
from tests.support.objects import plan

Object = dict[str, Any]
FILES = Names(code={"proxy": "1", "switch": "2"}, packages=("0-0", "0-1"))


def node(name: str, *, gpus: int = 1, ready: str = "True", taken: bool = False) -> Object:
    return {
        "metadata": {"name": name},
        "spec": {"unschedulable": True} if taken else {},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "allocatable": {"cpu": "4", **({"nvidia.com/gpu": str(gpus)} if gpus else {})},
        },
    }


@dataclass
class Cluster:
    """What `kubectl` says of one that is good for the stack, unless it is made otherwise."""

    version: str = "v1.35.4"
    labels: dict[str, str] | None = None
    nodes: list[Object] = field(default_factory=lambda: [node(name) for name in "abc"])
    namespace: bool = True
    answers: bool = True
    live: Object | None = None
    rules: list[Object] | None = None
    """What whoever asks may do in the namespace; None: the cluster does not say it."""
    otherwise: tuple[str, ...] = ()
    """What may be done all the same that the rules do not show."""
    asked: list[str] = field(default_factory=list)
    files: tuple[str, ...] = ("t4-proxy-1", "t4-switch-2", "t4-packages-0-0", "t4-packages-0-1")

    def run(self, words: Sequence[str], stdin: str) -> str:
        if not self.answers:
            raise ClusterError("Unable to connect to the server: dial tcp 127.0.0.1:6443: connection refused")
        match list(words):
            case ["version", *_]:
                return json.dumps({"serverVersion": {"gitVersion": self.version}})
            case ["get", "namespace", name, *_]:
                if not self.namespace:
                    raise Missing(f'Error from server (NotFound): namespaces "{name}" not found')
                return json.dumps({"metadata": {"name": name, "labels": self.labels}})
            case ["get", "configmap", "t4-live", *_]:
                if self.live is None:
                    raise Missing('Error from server (NotFound): configmaps "t4-live" not found')
                return json.dumps({"metadata": {"creationTimestamp": "2026-11-29T10:00:00Z", **self.live}})
            case ["get", "configmaps", "--selector", told, "--output", "name"]:
                assert told.endswith("changeover.stack=t4,changeover.role=code")
                return "".join(f"configmap/{name}\n" for name in self.files)
            case ["create", "--validate=false", "--filename", "-", "--output", "json"]:
                return self.reviewed(json.loads(stdin)["items"])
            case ["get", "nodes", "--selector", "changeover.stack=t4", *_]:
                return json.dumps({"items": self.nodes})
        raise AssertionError(words)

    def reviewed(self, asked: list[Object]) -> str:
        """One document after the other, as `kubectl` writes them."""
        if self.rules is None:
            raise ClusterError("Error from server (Forbidden): selfsubjectrulesreviews is forbidden")
        said = []
        for each in asked:
            assert each["apiVersion"] == "authorization.k8s.io/v1"
            if each["kind"] == "SelfSubjectRulesReview":
                said.append({**each, "status": {"resourceRules": self.rules, "incomplete": False}})
            else:
                its = each["spec"]["resourceAttributes"]
                self.asked.append(f"{its['verb']} {its['resource']}/{its['subresource']}")
                said.append({**each, "status": {"allowed": its["resource"] in self.otherwise}})
        return "".join(f"{json.dumps(each, indent=4)}\n" for each in said)

    def look(self, **settings: object) -> FoundOnCluster:
        return look(plan("t4", **settings).settings, FILES, self.run, frozenset({"our-uid"}))


@pytest.mark.parametrize("version", ["v1.29.0", "v1.35.4", "v1.33.5-eks-113cf36", "v2.0.0"])
def test_a_cluster_that_can_have_the_stack_is_taken(version: str) -> None:
    Cluster(version=version).look()
    Cluster(labels={ENFORCED: "privileged"}).look()


def test_the_nodes_are_named() -> None:
    assert Cluster(nodes=[node(name) for name in "cab"]).look().names == ["a", "b", "c"]


def test_files_that_are_not_there_are_named() -> None:
    assert Cluster().look().gone == []
    there = ("t4-proxy-0", "t4-switch-2", "t4-packages-0-1")
    assert Cluster(files=there).look().gone == ["t4-packages-0-0", "t4-proxy-1"]


SERVES = {ACTIVE: "t4-vllm-00000001"}


def test_a_stack_of_this_state_is_changed_and_so_is_what_a_killed_first_update_has_left() -> None:
    Cluster(live={"uid": "our-uid", "annotations": SERVES}).look()
    Cluster(live={"uid": "another"}).look()
    Cluster(live={"uid": "another", "annotations": {ACTIVE: ""}}).look()


def test_a_stack_of_another_state_is_not_touched_and_each_way_on_is_said() -> None:
    text = refusal(Cluster(live={"uid": "another", "annotations": SERVES}), namespace="llm")
    assert "`t4` in the namespace llm of this cluster belongs to another state" in text
    assert "t4-vllm-00000001 serves there since 2026-11-29T10:00:00Z or later. Nothing was changed." in text
    assert "CHANGEOVER_BACKEND" in text and "pulumi config set namespace NAME" in text
    assert text.endswith("--selector changeover.project=changeover,changeover.stack=t4")


def test_what_removes_a_stack_names_every_kind_that_it_has() -> None:
    kinds = {each["kind"] for each in objects(cluster(plan("t4"), Labels(project="p", stack="t4")))}
    assert {plural(kind) for kind in kinds} | {"secrets", "leases"} == set(KINDS.split(","))


def plural(kind: str) -> str:
    """A kind as its API calls it."""
    return f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"


def refusal(cluster: Cluster, **settings: object) -> str:
    with pytest.raises(TargetError) as error:
        cluster.look(**settings)
    return str(error.value)


ROLE, IN_CLUSTER = rights.roles()
ALL: list[Object] = ROLE["rules"]


def without(resource: str) -> list[Object]:
    return [rule for rule in ALL if resource not in rule["resources"]]


@pytest.mark.parametrize("rules", [None, ALL, [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]])
def test_who_has_all_rights_is_asked_once_and_who_is_not_told_is_not_refused(
    rules: list[Object] | None,
) -> None:
    at = Cluster(rules=rules)
    at.look()
    assert at.asked == []


@pytest.mark.parametrize(("resource", "verbs"), [(each, verbs) for _, each, verbs in rights.NEEDED])
def test_each_right_that_is_lacking_is_refused_with_who_can_give_it(resource: str, verbs: str) -> None:
    named = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"], "resourceNames": ["another"]}
    text = refusal(Cluster(rules=[*without(resource), named]), namespace="llm")
    lacks = f"{', '.join(verbs.split())} {resource}"
    assert (
        f"in the namespace llm you may not do all that an update does there. What is lacking: {lacks}. "
        in text
    )
    assert f"kubectl --namespace llm apply --filename {rights.FILE}" in text
    assert text.endswith("create rolebinding changeover-deployer --role changeover-deployer --user NAME")


def test_rights_that_no_rule_shows_are_asked_for_one_by_one() -> None:
    at = Cluster(rules=without("pods/exec"), otherwise=("pods",))
    at.look()
    assert at.asked == ["create pods/exec"]
    assert "lacking: create pods/exec. " in refusal(Cluster(rules=without("pods/exec")))


def test_the_right_to_what_is_only_useful_refuses_nobody() -> None:
    Cluster(rules=without("events")).look()


def test_who_deploys_may_do_with_each_kind_of_the_stack_what_the_plugin_does() -> None:
    """It lists and watches what it has deleted, and else waits forever."""
    of = objects(cluster(plan("t4"), Labels(project="p", stack="t4")))
    groups = {(each["kind"], each["apiVersion"].rpartition("/")[0]) for each in of} | {("Secret", "")}
    made = {(group, plural(kind)) for kind, group in groups}
    assert {(group, resource) for group, resource, verbs in rights.NEEDED if verbs == rights.MADE} == made


def test_the_role_is_rendered_as_it_is_and_the_guide_has_it_applied_and_bound() -> None:
    assert list(yaml.safe_load_all((ROOT / rights.FILE).read_text())) == [ROLE, IN_CLUSTER], (
        "Run: make render"
    )
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert f"apply --filename {rights.FILE}\n" in page
    assert f"create rolebinding {rights.ROLE} --role {rights.ROLE} --user NAME\n" in page
    assert f"create clusterrolebinding {rights.ROLE} --clusterrole {rights.ROLE} --user NAME\n" in page


@pytest.mark.parametrize("version", ["v1.28.15", "v0.36.0", "next"])
def test_one_that_is_too_old_is_refused(version: str) -> None:
    said = f"the cluster runs Kubernetes {version}; it must be 1.29 or newer"
    assert said in refusal(Cluster(version=version))


def test_one_that_can_not_be_reached_is_named_with_how_to_choose_another() -> None:
    text = refusal(Cluster(answers=False))
    assert "context (the current one) can't be looked at: Unable to connect" in text
    assert "Nothing was changed" in text and "pulumi config set kubeContext NAME" in text
    assert "context (prod)" in refusal(Cluster(answers=False), kubeContext="prod")


def test_a_namespace_that_is_not_there_is_refused_with_what_makes_it() -> None:
    text = refusal(Cluster(namespace=False), namespace="llm")
    assert text.endswith("there is no namespace llm in the cluster. Run: kubectl create namespace llm")


@pytest.mark.parametrize("level", ["restricted", "baseline"])
def test_a_namespace_that_takes_no_engine_is_refused_with_what_lets_it(level: str) -> None:
    text = refusal(Cluster(labels={ENFORCED: level}))
    assert f"meet the standard `{level}`" in text and f"{ENFORCED}=privileged --overwrite" in text


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            [],
            "for 0 engines (there is none). Add nodes: kubectl label node NAME changeover.stack=t4",
        ),
        ([node("a"), node("b")], "for 2 engines (a 1, b 1)"),
        ([node("a"), node("b"), node("c", ready="False")], "for 2 engines (a 1, b 1, c 0)"),
        ([node("a"), node("b"), node("c", taken=True)], "for 2 engines (a 1, b 1, c 0)"),
        ([node("a"), node("b"), node("c", gpus=0)], "or run: pulumi config set hosts 2"),
    ],
)
def test_fewer_places_than_hosts_are_refused_with_those_that_there_are(
    nodes: list[Object], said: str
) -> None:
    assert said in refusal(Cluster(nodes=nodes))


@pytest.mark.parametrize("away", [node("c", ready="Unknown"), node("c", taken=True)])
def test_a_node_that_is_away_is_said_where_the_stack_serves_and_refuses_nothing(away: Object) -> None:
    two, live = [node("a"), node("b")], {"uid": "our-uid", "annotations": SERVES}
    found = Cluster(nodes=[*two, away], live=live).look()
    assert found.names == ["a", "b", "c"]
    assert found.warning == (
        "these nodes take no pods now: c. The others have places for 2 of 3 engines, so a change to another "
        "one is refused until they do"
    )
    assert Cluster(nodes=[*two, away, node("d")], live=live).look().warning == ""
    assert "for 2 engines (a 1, b 1)" in refusal(Cluster(nodes=two, live=live)), "one that was never there"
    first = {"uid": "our-uid", "annotations": {ACTIVE: ""}}
    assert "for 2 engines (a 1, b 1, c 0)" in refusal(Cluster(nodes=[*two, away], live=first))


def test_a_node_has_as_many_engines_as_its_cards_make() -> None:
    Cluster(nodes=[node("a", gpus=8)]).look()
    assert "for 2 engines (a 2)" in refusal(Cluster(nodes=[node("a", gpus=8)]), gpuCount=4)


def test_without_cards_each_node_has_one_engine() -> None:
    cards = {"gpu": "none", "model": "qwen-2.5-coder-0.5b", "context": 4096}
    Cluster(nodes=[node(name, gpus=0) for name in "abc"]).look(**cards)
    assert "for 2 engines" in refusal(Cluster(nodes=[node("a", gpus=8), node("b")]), **cards)
