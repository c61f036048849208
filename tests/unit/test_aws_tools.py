"""`make keys`, `make wake` and `make recover` against doubles of AWS and the CLI."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import StepFailed
from components.aws.settings import AwsSettings
from stacks.aws_cli import AwsError, FoundOnAws
from stacks.aws_settings import PUBLIC_KEY
from stacks.owner import known
from tests.unit.test_aws_target import HERE, NOTHING, wanted
from tests.unit.test_review import mail, preview
from tools import down, host, keys, owner, port, recover, review, wake

INSTANCE = "urn:pulumi:prod::changeover::changeover:index:GpuHost$aws:ec2/instance:Instance::instance"
DATA = "urn:pulumi:prod::changeover::changeover:index:GpuHost$aws:ebs/volume:Volume::data"
EDGE = "urn:pulumi:prod::changeover::docker:index/container:Container::changeover-prod-edge"
ALARM = "urn:pulumi:prod::changeover::aws:cloudwatch/metricAlarm:MetricAlarm::changeover-prod-alarms-disk"
STATE: dict[str, Any] = {
    "version": 3,
    "deployment": {
        "resources": [
            {"urn": DATA, "type": recover.DATA, "id": "vol-1", "protect": True},
            {
                "urn": INSTANCE,
                "type": recover.INSTANCE,
                "id": HERE.instance,
                "protect": True,
                "dependencies": [DATA],
            },
            {
                "urn": EDGE,
                "type": "docker:index/container:Container",
                "id": "abc",
                "deletedWith": INSTANCE,
                "replaceWith": [INSTANCE],
            },
            {
                "urn": ALARM,
                "type": "aws:cloudwatch/metricAlarm:MetricAlarm",
                "id": "disk",
                "dependencies": [INSTANCE, DATA],
                "propertyDependencies": {"dimensions": [INSTANCE], "tags": None},
            },
        ]
    },
}


class World:
    """Doubles of AWS, of the Pulumi CLI and of the person, with what they were asked for."""

    def __init__(self) -> None:
        self.found: FoundOnAws = NOTHING
        self.settings: AwsSettings | None = wanted()
        self.snapshots: list[list[str]] = []
        self.failing = ""
        self.aws: list[str] = []
        self.pulumi: list[str] = []
        self.imported: dict[str, Any] = {}
        self.states: list[dict[str, Any]] = [STATE]
        """Each is exported once, and the last again and again."""
        self.state = replace(known({}), instance=HERE.instance)

    def look(self, stack: str, settings: AwsSettings, mine: str | None) -> FoundOnAws:
        there = self.found
        if mine in (None, there.instance) or there.instance is None:
            return there
        return replace(there, instance=None, state="", strangers=(there.instance,))

    def ask_aws(self, region: str, *words: str, seconds: float = 60) -> Any:
        self.aws.append(" ".join(words[1:3]))
        if self.failing and self.failing in words:
            raise AwsError(f"`aws ec2 {self.failing}` failed: InsufficientInstanceCapacity")
        return self.snapshots if words[1] == "describe-snapshots" else None

    def run_pulumi(self, *words: str, capture: bool = False, stdin: str = "") -> str:
        self.pulumi.append(" ".join(words[:2]))
        if words[:2] == ("stack", "import"):
            self.imported = json.loads(stdin)
        if words[:2] != ("stack", "export"):
            return ""
        return json.dumps(self.states.pop(0) if len(self.states) > 1 else self.states[0])


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.delenv("REPLACE", raising=False)
    monkeypatch.delenv("DATA", raising=False)
    monkeypatch.setenv("YES", "1")
    for module in (recover, review, wake):
        monkeypatch.setattr(module, "on_aws", lambda stack: world.settings)
    monkeypatch.setattr(recover, "look", world.look)
    monkeypatch.setattr(owner, "look_at", world.look)
    for module in (recover, wake):
        monkeypatch.setattr(module, "aws", world.ask_aws)
    monkeypatch.setattr(recover, "pulumi", world.run_pulumi)
    monkeypatch.setattr(owner, "state_of", lambda stack: world.state)
    return world


# recover


def test_what_ended_with_the_instance_leaves_the_state_and_nothing_else() -> None:
    resources = STATE["deployment"]["resources"]
    before = copy.deepcopy(resources)
    kept = recover.without(resources, [INSTANCE])
    assert [each["urn"] for each in kept] == [DATA, ALARM]
    assert kept[1]["dependencies"] == [DATA]
    assert kept[1]["propertyDependencies"] == {"dimensions": [], "tags": []}
    assert resources == before


def test_a_terminated_instance_is_made_again_and_what_was_lost_is_said(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.found = replace(NOTHING, volumes=("vol-1",))
    recover.recover("prod")
    assert world.pulumi == ["stack export", "stack export", "stack import", "up --yes"]
    assert [each["urn"] for each in world.imported["deployment"]["resources"]] == [DATA, ALARM]
    said = capsys.readouterr().out
    assert "Lost: the instance, and requests until it is back. The data volume" in said
    assert "Removing 2 resources" in said


def test_an_update_that_ran_while_this_asked_is_not_lost(world: World) -> None:
    world.found = replace(NOTHING, volumes=("vol-1",))
    world.states = [STATE, {**STATE, "version": 4}]
    with pytest.raises(StepFailed, match="an update ran while this waited; its state was left as it is"):
        recover.recover("dev")
    assert "stack import" not in world.pulumi


def test_an_instance_that_still_ends_is_waited_for_since_it_holds_the_volume(world: World) -> None:
    world.found = replace(HERE, state="shutting-down", volumes=("vol-1",))
    recover.recover("prod")
    assert world.aws == ["wait instance-terminated"]
    assert world.pulumi == ["stack export", "stack export", "stack import", "up --yes"]


def test_nothing_is_changed_where_nobody_can_be_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.found = replace(NOTHING, volumes=("vol-1",))
    monkeypatch.delenv("YES")
    with pytest.raises(StepFailed, match="YES=1 make recover STACK=prod"):
        recover.recover("prod")
    assert world.pulumi == ["stack export"]


def test_a_lost_volume_is_not_replaced_by_an_empty_one_unless_that_is_meant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.snapshots = [["snap-1", "2026-11-01"], ["snap-2", "2026-11-02"]]
    with pytest.raises(StepFailed) as error:
        recover.recover("prod")
    assert "pulumi config set dataSnapshot snap-2" in str(error.value)
    assert "DATA=new make recover STACK=prod" in str(error.value)
    assert world.pulumi == ["stack export"]
    monkeypatch.setenv("DATA", "new")
    recover.recover("prod")
    assert [each["urn"] for each in world.imported["deployment"]["resources"]] == [ALARM]


def test_a_lost_volume_comes_back_from_the_snapshot_that_is_set(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.settings = wanted(dataSnapshot="snap-0123456789")
    recover.recover("prod")
    assert "made from snap-0123456789" in capsys.readouterr().out
    assert [each["urn"] for each in world.imported["deployment"]["resources"]] == [ALARM]


def test_a_dead_host_is_stopped_and_started_first(world: World) -> None:
    world.found = HERE
    recover.recover("prod")
    assert world.aws == [
        "stop-instances --force",
        "wait instance-stopped",
        "start-instances --instance-ids",
        "wait instance-status-ok",
    ]
    assert world.pulumi == ["stack export"]


def test_a_host_that_stays_dead_is_terminated_only_when_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.found = replace(HERE, volumes=("vol-1",))
    monkeypatch.setenv("REPLACE", "1")
    recover.recover("prod")
    assert world.aws == [
        "modify-instance-attribute --instance-id",
        "terminate-instances --instance-ids",
        "wait instance-terminated",
    ]
    assert world.pulumi == ["stack export", "stack export", "stack import", "up --yes"]


def test_a_spot_instance_that_is_terminated_takes_its_request_and_what_is_left_over_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The request goes first. AWS has no protection for a spot instance, and refuses to take it away."""
    requests = {"sir-1": str(HERE.instance), "sir-0": "i-stray"}
    tags = {**HERE.tags, "Spot": "yes"}
    world.found = replace(HERE, volumes=("vol-1",), tags=tags, requests=requests, others=("i-stray",))
    monkeypatch.setenv("REPLACE", "1")
    recover.recover("prod")
    assert world.aws == [
        "cancel-spot-instance-requests --spot-instance-request-ids",
        "terminate-instances --instance-ids",
        "wait instance-terminated",
    ]
    assert "AWS also has i-stray of this stack" in capsys.readouterr().out


def test_an_older_state_recovers_nothing_beside_an_instance_that_serves(world: World) -> None:
    world.found = replace(HERE, instance="i-serves")
    with pytest.raises(StepFailed, match="AWS has i-serves of stack `prod` as well, which an update made"):
        recover.recover("prod")
    assert world.aws == []


def test_a_sleeping_instance_is_not_gone(world: World) -> None:
    world.found = replace(HERE, state="stopped")
    with pytest.raises(
        StepFailed, match=r"not gone.*make wake STACK=prod. .*REPLACE=1 make recover STACK=prod"
    ):
        recover.recover("prod")
    assert world.aws == []


@pytest.mark.parametrize("state", ["stopping", "stopped"])
def test_a_stopped_instance_that_cannot_start_is_replaced_when_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    world.found = replace(HERE, state=state, volumes=("vol-1",))
    monkeypatch.setenv("REPLACE", "1")
    recover.recover("prod")
    assert "terminate-instances --instance-ids" in world.aws
    assert "start-instances --instance-ids" not in world.aws
    assert world.pulumi == ["stack export", "stack export", "stack import", "up --yes"]


def test_no_capacity_says_what_else_there_is(world: World) -> None:
    world.found = HERE
    world.failing = "start-instances"
    with pytest.raises(StepFailed, match="InsufficientInstanceCapacity"):
        recover.recover("prod")


def test_another_target_has_nothing_to_recover_or_wake(world: World) -> None:
    world.settings = None
    with pytest.raises(StepFailed, match="make up"):
        recover.recover("local")
    with pytest.raises(StepFailed, match="nothing to wake"):
        wake.wake("local")


# wake


def test_a_stopped_instance_is_started_and_waited_for(world: World) -> None:
    world.found = replace(HERE, state="stopped")
    wake.wake("dev")
    assert world.aws == [
        "wait instance-stopped",
        "start-instances --instance-ids",
        "wait instance-status-ok",
    ]


def test_a_start_that_fails_names_what_makes_another_instance_and_who_starts_a_spot_one(world: World) -> None:
    world.found = replace(HERE, state="stopped")
    world.failing = "start-instances"
    with pytest.raises(StepFailed, match="REPLACE=1 make recover STACK=dev") as error:
        wake.wake("dev")
    assert "spot" not in str(error.value)
    world.settings = wanted(spot=True, protect=False)
    with pytest.raises(StepFailed, match="Only AWS can start a spot instance that it interrupted"):
        wake.wake("dev")


def test_an_instance_that_this_state_did_not_make_is_let_sleep(world: World) -> None:
    world.found = replace(HERE, state="stopped")
    for other in (None, "i-another"):
        world.state = replace(world.state, instance=other)
        with pytest.raises(
            StepFailed, match=r"belongs to another state, or to a newer copy of this one\. Nothing"
        ):
            wake.wake("dev")
    assert world.aws == []


def test_a_running_instance_is_left_alone_and_a_lost_one_named(world: World) -> None:
    world.found = HERE
    wake.wake("dev")
    assert world.aws == []
    world.found = NOTHING
    with pytest.raises(StepFailed, match="make recover STACK=dev"):
        wake.wake("dev")


# keys


def test_a_key_is_made_by_ssh_keygen_and_its_public_half_is_as_settings_want_it(tmp_path: Path) -> None:
    private, public = keys.make(tmp_path, "host")
    assert private.startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert PUBLIC_KEY.fullmatch(public)


def test_keys_are_made_once_and_the_private_half_is_in_no_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[str, ...], str]] = []

    def pulumi(*words: str, capture: bool = False, stdin: str = "") -> str:
        calls.append((words, stdin))
        return ""

    monkeypatch.setattr(keys, "pulumi", pulumi)
    monkeypatch.setattr(keys, "ROOT", tmp_path)
    file = tmp_path / "Pulumi.dev.yaml"
    file.write_text("config:\n  changeover:target: aws\n")
    keys.keys("dev")
    assert [words[-3] for words, _ in calls if "--secret" in words] == ["sshKeys.host", "sshKeys.client"]
    assert not [words for words, _ in calls if "PRIVATE" in " ".join(words)]
    assert all("PRIVATE KEY" in text for words, text in calls if "--secret" in words)
    calls.clear()
    both = "{host: {secure: a}, client: {secure: b}}"
    file.write_text(f"{file.read_text()}  changeover:sshKeys: {both}\n  changeover:sshPublicKeys: {both}\n")
    keys.keys("dev")
    assert calls == []


@pytest.mark.parametrize("there", ["sshKeys", "sshPublicKeys"])
def test_no_new_key_takes_the_place_of_one_of_which_a_half_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    monkeypatch.setattr(keys, "ROOT", tmp_path)
    monkeypatch.setattr(keys, "pulumi", lambda *words, **_: pytest.fail(" ".join(words)))
    text = f"config:\n  changeover:target: aws\n  changeover:{there}: {{host: a}}\n"
    (tmp_path / "Pulumi.dev.yaml").write_text(text)
    with pytest.raises(StepFailed, match=f"one half of the key `host`, `{there}.host`"):
        keys.keys("dev")


def test_a_stack_on_docker_gets_no_keys_with_which_it_could_not_be_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "ROOT", tmp_path)
    monkeypatch.setattr(keys, "pulumi", lambda *words, **_: pytest.fail(" ".join(words)))
    (tmp_path / "Pulumi.local.yaml").write_text("config:\n  changeover:target: docker\n")
    with pytest.raises(StepFailed, match="`local` is not on AWS"):
        keys.keys("local")


# tools that talk to the host


def test_tools_reach_the_host_over_the_stacks_own_ssh(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(host, "on_aws", lambda stack: world.settings)
    monkeypatch.setattr(host, "look", world.look)
    monkeypatch.setattr(host, "ROOT", tmp_path)
    monkeypatch.setattr(os, "environ", environment := {"PATH": "/usr/bin"})
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    world.found = HERE
    with pytest.raises(StepFailed, match="pulumi preview --stack prod"):
        host.reach("prod", HERE.instance)
    config = tmp_path / ".changeover" / "ssh" / "prod" / "config"
    config.parent.mkdir(parents=True)
    config.touch()
    host.reach("prod", HERE.instance)
    assert environment["DOCKER_HOST"] == "ssh://ubuntu@i-0123456789abcdef0"
    assert environment["CHANGEOVER_SSH_CONFIG"] == str(config)
    assert environment["PATH"].startswith(f"{tmp_path}/components/ssh:")
    world.found = replace(HERE, state="stopped")
    with pytest.raises(StepFailed, match="make wake STACK=prod"):
        host.reach("prod", HERE.instance)


# drift


def test_a_sleeping_instance_is_no_drift_and_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def preview(stack: str) -> None:
        raise AssertionError("a preview of a stopped instance is refused")

    monkeypatch.setattr(review, "preview_of", preview)
    world.found = replace(HERE, state="stopped")
    review.drift("dev")
    assert (
        "`dev` is asleep; nothing was looked at (i-0123456789abcdef0 is stopped)." in capsys.readouterr().out
    )


def test_a_mail_that_nobody_confirmed_fails_no_nightly_look(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = mail("deleted", True)
    seen = replace(preview("nothing"), drift=(gone,), changes=(replace(gone, op="created"),))
    monkeypatch.setattr(review, "preview_of", lambda stack: seen)
    monkeypatch.setattr(review, "reach", lambda stack, mine: None)
    monkeypatch.setattr(port, "trouble", lambda stack: "")
    world.found = HERE
    review.drift("dev")
    said = capsys.readouterr().out
    assert "`dev`: nobody has confirmed the subscription of ops@example.com to the alarms" in said
    assert "`dev`: no drift." in said


# down


def test_a_protected_stack_is_refused_before_anything_of_it_is_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(down, "_stacks", lambda: ["prod"])
    monkeypatch.setattr(down, "pulumi", world.run_pulumi)
    with pytest.raises(StepFailed, match=r"protected \(data, instance\); nothing was changed.*protect false"):
        down.down("prod")
    assert world.pulumi == ["stack export"]


def test_a_stack_that_is_not_there_is_not_said_to_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(down, "_stacks", list)
    monkeypatch.setenv("CHANGEOVER_BACKEND", "s3://here")
    with pytest.raises(StepFailed, match="no stack `prod` in s3://here; nothing was changed"):
        down.down("prod")
