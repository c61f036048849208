"""Whose a stack is, what is missing of it, and when a `pulumi` makes it again: decided from what is known."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from components.labels import Labels
from stacks import ours
from stacks.blueprint import blueprint_of
from stacks.owner import (
    UNKNOWN,
    DockerObject,
    FoundOnHost,
    Known,
    fill_again,
    gone,
    known,
    missing,
    of_export,
    refusal,
    whose,
)
from stacks.settings import from_values
from switch import owner
from switch.checks import Failed
from switch.owner import OwnerRecord

LABELS = Labels(project="changeover", stack="local")
HERE, THERE = ("/home/ann/changeover", "one"), ("/home/bob/changeover", "two")


def thing(role: str, id: str, kind: Any = "container") -> DockerObject:
    return DockerObject(kind, id, f"changeover-local-{role}-{id}" if kind == "container" else id, role)


NETWORK = DockerObject("network", "n1", "changeover-local", "network")
SWITCH, PROXY, EDGE = (thing(role, f"{role}1") for role in ("switch", "proxy", "edge"))
ALL = (NETWORK, SWITCH, PROXY, EDGE)


def state(id: str | None = "aaaa", changes: int | None = 3, things: Sequence[DockerObject] = ALL) -> Known:
    return Known(id=id, changes=changes, things=tuple(things), again={})


def record(id: str = "aaaa", changes: int = 3, place: tuple[str, str] = THERE) -> OwnerRecord:
    return OwnerRecord(id, *place, since=0.0, at=86400.0, changes=changes)


def host(owner: OwnerRecord | None, things: Sequence[DockerObject] = ALL) -> FoundOnHost:
    return FoundOnHost(things=tuple(things), owner=owner, serves="ollama serves tiny")


def may(state: Known, host: FoundOnHost, instead: str = "") -> bool:
    return not refusal(state, host, LABELS, instead=instead)


NEW = state(None, None, ())


def test_a_host_with_nothing_of_the_stack_or_with_weights_alone_is_everybodys() -> None:
    weights = DockerObject("volume", "changeover-local-ollama-weights", "changeover-local-ollama-weights", "")
    for mine in (NEW, state()):
        assert may(mine, host(None, ()))
        assert may(mine, host(None, [weights]))


def test_who_has_the_id_and_all_changes_may_and_nobody_else() -> None:
    """Over every pair of an id and a count, only its own state may that counts as many or more."""
    for (id, changes), (theirs, kept) in itertools.product(
        itertools.product(("aaaa", "bbbb", None), (None, 2, 3, 4)),
        itertools.product(("aaaa", "bbbb"), (2, 3)),
    ):
        mine = state(id, changes)
        expected = id == theirs and (changes or 0) >= kept
        assert may(mine, host(record(theirs, kept))) is expected, (id, changes, theirs, kept)
        assert may(mine, host(record(theirs, kept)), instead=theirs)
        older = id == theirs and (changes or 0) < kept
        assert may(mine, host(record(theirs, kept)), instead=owner.ANY) is not older
        assert may(mine, host(record(theirs, kept)), instead="cccc") is expected


def test_a_stack_of_before_owners_is_whose_state_holds_one_of_its_containers() -> None:
    old = state(None, None)
    assert may(old, host(None)) and whose(old, host(None)) == ""
    assert may(old, host(None, [SWITCH])) and may(old, host(None, [NETWORK]))
    others = [thing("switch", "other")]
    assert whose(old, host(None, others)) == UNKNOWN
    text = refusal(NEW, host(None), LABELS)
    assert "was not recorded" in text and "make down STACK=local OWNER=unknown" in text


@pytest.mark.parametrize("role", ["switch", "proxy", "edge"])
def test_a_copy_that_does_not_know_what_a_newer_one_has_made_is_refused(role: str) -> None:
    newer = [thing(role, "newer") if each.role == role else each for each in ALL]
    kept = replace(record(), containers=[each.id for each in newer])
    assert not may(state(), host(kept, newer))
    assert may(state(), host(kept, [each for each in ALL if each.role != role])), "it is missing"
    assert may(state(), host(record(), newer)), "made by an update of its own that was killed"
    assert may(state(things=newer), host(kept, newer))


def test_a_renamed_stack_is_told_its_name() -> None:
    text = refusal(state(), host(None, ()), Labels(project="changeover", stack="prod"))
    assert "pulumi stack rename local" in text


def test_of_the_networks_on_the_host_those_are_taken_over_that_the_state_does_not_have() -> None:
    clients = DockerObject("network", "n2", "changeover-local-clients", "clients")
    there = host(None, (NETWORK, clients, SWITCH))
    assert ours.adopted_networks(NEW, there) == {"network": "n1", "clients": "n2"}
    assert ours.adopted_networks(state(), there) == {"clients": "n2"}
    assert ours.adopted_networks(NEW, host(None, (SWITCH,))) == {}


def test_a_refusal_says_where_since_when_what_serves_and_each_thing_to_type() -> None:
    text = refusal(NEW, host(record()), LABELS)
    for part in (
        "belongs to another state, aaaa, since 1970-01-01 00:00 UTC",
        "last changed from /home/bob/changeover on two at 1970-01-02 00:00 UTC",
        "On it, ollama serves tiny. Nothing was changed.",
        "and run make up STACK=mine",
        "make adopt STACK=local",
        "make down STACK=local OWNER=aaaa",
    ):
        assert part in text


def test_what_is_missing_is_named_with_the_weights_that_are_fetched_again() -> None:
    lost = DockerObject("volume", "changeover-local-vllm-weights", "changeover-local-vllm-weights")
    mine = state(things=[*ALL, lost])
    assert missing(mine, host(None)) == (lost,)
    assert missing(mine, host(None, [*ALL, lost])) == ()
    settings = {"engine": "ollama", "target": "docker", "model": "qwen-2.5-coder-0.5b"}
    weights = [spec.weights for spec in blueprint_of(from_values("local", settings, ROOT)).specs]
    (size,) = [each.need_bytes / 2**30 for each in weights if each.kind == "vllm"]
    said = gone([EDGE, lost], weights, LABELS)
    assert said.startswith("Missing on the Docker host: container changeover-local-edge-edge1, volume ")
    assert f"the weights of vllm, {size:.1f} GiB to fetch" in said
    assert "fetch" not in gone([EDGE], weights, LABELS)


def test_a_step_fills_again_only_what_no_container_uses() -> None:
    users = {"proxy-files": "changeover-local-proxy-", "ollama-1-weights": "changeover-local-ollama-1-"}
    mine = Known(id="aaaa", changes=1, things=(), again={"proxy-files": "", "ollama-1-weights": "2"})
    assert fill_again(mine, host(None, [PROXY]), users) == {"ollama-1-weights": "3"}
    engine = DockerObject("container", "e", "changeover-local-ollama-1-abc", "engine")
    assert fill_again(mine, host(None, [PROXY, engine]), users) == {"ollama-1-weights": "2"}
    assert fill_again(NEW, host(None, ()), users) == {}, "what was never filled is not lost"


def resource(type: str, **outputs: Any) -> dict[str, Any]:
    return {"type": type, "outputs": outputs}


def test_a_state_is_read_alike_from_the_engine_and_from_an_export() -> None:
    urn = "urn:pulumi:local::changeover::changeover:index:Endpoint$x::"
    command = "command:local:Command"
    resources = {
        f"{urn}identity": resource(command, stdout="0a1b\n"),
        f"{urn}commit-step": resource(
            command, stdout="gateway answers\nchange 12 of this stack\ncertificate: x"
        ),
        f"{urn}proxy-files": resource(command, stdout="", environment={"AGAIN": "1"}),
        f"{urn}switch": resource(
            "docker:index/container:Container", id="1", name="changeover-local-switch-1"
        ),
        f"{urn}live": resource(
            "docker:index/volume:Volume", id="changeover-local-live", name="changeover-local-live"
        ),
    }
    read = known(resources)
    assert (read.id, read.changes, read.again["proxy-files"]) == ("0a1b", 12, "1")
    assert {each.kind for each in read.things} == {"container", "volume"}
    exported = [{"urn": key, **each} for key, each in resources.items()]
    replaced = {"urn": f"{urn}switch", "delete": True, **resource("docker:index/container:Container", id="0")}
    assert of_export({"deployment": {"resources": [*exported, replaced]}}) == read
    assert of_export({"deployment": {}}) == of_export({}) == known({})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("up", False),
        ("up --refresh", True),
        ("up -r", True),
        ("up -yfr", True),
        ("up --refresh=true --yes", True),
        ("up --refresh=false", False),
        ("up --yes --skip-preview --stack refresher", False),
        ("preview --diff --refresh", True),
        ("refresh --run-program", True),
        ("up -m refreshed -y", False),
    ],
)
def test_a_pulumi_that_refreshes_is_known_by_its_words(line: str, expected: bool) -> None:
    assert ours.asked(line.split()) is expected


def test_a_record_is_kept_for_its_owner_and_goes_to_another_only_in_the_place_of_the_first(
    tmp_path: Path,
) -> None:
    assert owner.read(tmp_path) is None
    owner.write(tmp_path, record(changes=1), "")
    later = OwnerRecord("aaaa", *HERE, since=5.0, at=6.0, changes=2)
    owner.write(tmp_path, later, "")
    assert owner.read(tmp_path) == OwnerRecord("aaaa", *HERE, since=0.0, at=6.0, changes=2)
    other = OwnerRecord("bbbb", *THERE, since=7.0, at=8.0, changes=3)
    for instead in ("", "cccc", "unknown"):
        with pytest.raises(Failed, match="belongs to the state aaaa"):
            owner.write(tmp_path, other, instead)
    owner.write(tmp_path, other, "aaaa")
    assert owner.read(tmp_path) == other
    owner.write(tmp_path, later, owner.ANY)
    assert owner.read(tmp_path) == later


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"id": 1}', "nonsense"])
def test_a_record_that_says_nothing_is_none_and_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / owner.FILE).write_text(text)
    assert owner.read(tmp_path) is None
    owner.write(tmp_path, record(), "")
    assert owner.read(tmp_path) == record()


def test_the_count_in_a_steps_output_is_found_and_nothing_like_it() -> None:
    assert owner.count(f"gateway answers\n{owner.counted(7)}\ncertificate: change 9 of this stack?") == 7
    assert owner.count("certificate: x") is None
    assert json.dumps(owner.counted(7)) == '"change 7 of this stack"'


def test_the_machine_on_aws_is_known_by_its_id_or_its_arn() -> None:
    kind, arn = "aws:ec2/instance:Instance", "arn:aws:ec2:us-east-1:123456789012:instance/i-0123"
    for outputs in ({"id": "i-0123"}, {"arn": arn}):
        assert known({"urn::instance": {"type": kind, "outputs": outputs}}).instance == "i-0123"
    assert known({"urn::instance": {"type": kind, "outputs": {}}}).instance is None
