"""`spot.sh` on the emulator, whose persistent requests live on as Amazon's do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from components.aws import spot
from components.labels import Labels
from stacks import aws_cli
from tests.support.aws.emulator import Emulator
from tests.support.aws.project import DEPLOYER

LABELS = Labels(project="changeover", stack="dev")
KEY = spot.key_name(LABELS, "0123456789ab")
OTHER = spot.key_name(Labels(project="changeover", stack="dev-two"), "0123456789ab")


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Emulator]:
    with Emulator() as emulator:
        for name, value in emulator.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CHANGEOVER_TEST_AWS_CALLS", str(tmp_path / "calls"))
        monkeypatch.setenv("PATH", f"{DEPLOYER}:{Path(sys.executable).parent}", prepend=os.pathsep)
        yield emulator


def run_instance(emulator: Emulator, key: str = KEY, *, on_spot: bool = True) -> str:
    api = emulator.client("ec2")
    (image, *_) = api.describe_images(Owners=["self"])["Images"]
    market = {"InstanceMarketOptions": {"MarketType": "spot"}} if on_spot else {}
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Stack", "Value": "dev"}]}]
    made = api.run_instances(
        ImageId=image["ImageId"], MinCount=1, MaxCount=1, KeyName=key, TagSpecifications=tags, **market
    )
    return str(made["Instances"][0]["InstanceId"])


def running(emulator: Emulator) -> set[str]:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    groups = emulator.client("ec2").describe_instances(Filters=states)["Reservations"]
    return {each["InstanceId"] for group in groups for each in group["Instances"]}


def requests(emulator: Emulator) -> dict[str, str]:
    found = emulator.client("ec2").describe_spot_instance_requests()["SpotInstanceRequests"]
    return {each["InstanceId"]: each["State"] for each in found}


def step(command: str) -> str:
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_emulator_starts_another_instance_for_a_request_that_lives(emulator: Emulator) -> None:
    api, first = emulator.client("ec2"), run_instance(emulator)
    api.stop_instances(InstanceIds=[first])
    assert requests(emulator) == {first: "disabled"}
    api.start_instances(InstanceIds=[first])
    assert requests(emulator) == {first: "active"}
    api.terminate_instances(InstanceIds=[first])
    (second,) = running(emulator)
    assert second != first
    assert requests(emulator) == {second: "active"}
    (found,) = api.describe_instances(InstanceIds=[second])["Reservations"][0]["Instances"]
    assert (found["KeyName"], found.get("Tags", [])) == (KEY, []), "without tags"


def test_the_request_of_an_instance_is_cancelled_and_then_nothing_comes_after_it(emulator: Emulator) -> None:
    first, other = run_instance(emulator), run_instance(emulator, OTHER)
    assert step(spot.cancel_own("us-east-1", first)).startswith("cancelled: sir-")
    assert requests(emulator) == {first: "cancelled", other: "active"}
    emulator.client("ec2").terminate_instances(InstanceIds=[first])
    assert running(emulator) == {other}
    assert step(spot.cancel_own("us-east-1", first)) == ""


def test_an_instance_on_demand_has_nothing_to_cancel(emulator: Emulator) -> None:
    assert step(spot.cancel_own("us-east-1", run_instance(emulator, on_spot=False))) == ""


def test_a_stopped_instance_ends_with_its_request_and_one_that_runs_does_not(emulator: Emulator) -> None:
    api = emulator.client("ec2")
    runs, stopped = run_instance(emulator), run_instance(emulator)
    api.stop_instances(InstanceIds=[stopped])
    for each in (runs, stopped):
        step(spot.cancel_own("us-east-1", each))
    assert running(emulator) == {runs}


def test_all_of_a_stack_is_cancelled_and_ended_and_nothing_else(emulator: Emulator) -> None:
    own, other, plain = (
        run_instance(emulator),
        run_instance(emulator, OTHER),
        run_instance(emulator, on_spot=False),
    )
    emulator.client("ec2").terminate_instances(InstanceIds=[own])
    said = step(spot.cancel_all("us-east-1", LABELS))
    assert "cancelled: sir-" in said and "ended: i-" in said
    assert running(emulator) == {other, plain}
    assert step(spot.cancel_all("us-east-1", LABELS)) == ""


@pytest.mark.parametrize("stopped", [False, True])
def test_an_instance_that_an_update_has_made_is_ended_by_no_other_state_and_keeps_its_request(
    emulator: Emulator, stopped: bool
) -> None:
    """Where an older state is destroyed. AWS ends a stopped one with its request."""
    api = emulator.client("ec2")
    others, left = run_instance(emulator), run_instance(emulator)
    api.terminate_instances(InstanceIds=[left])
    if stopped:
        api.stop_instances(InstanceIds=[others])
    said = step(spot.cancel_all("us-east-1", LABELS))
    assert "cancelled: sir-" in said and "ended: i-" in said
    assert running(emulator) == {others}
    assert requests(emulator)[others] == ("disabled" if stopped else "active")
    assert step(spot.cancel_all("us-east-1", LABELS)) == ""


def test_what_the_look_finds_left_over_is_ended_by_its_ids(emulator: Emulator) -> None:
    stray, mine = run_instance(emulator), run_instance(emulator)
    emulator.client("ec2").terminate_instances(InstanceIds=[stray])
    found = aws_cli.look("us-east-1", LABELS, mine)
    assert (found.instance, found.strangers) == (mine, ())
    assert len(found.left_over()) == 2
    assert stray not in found.left_over()
    assert set(found.others) == running(emulator) - {mine}
    command = spot.cancel_these("us-east-1", [*found.left_over(), "sir-00000000"])
    said = step(command)
    assert "cancelled: sir-" in said and "ended: i-" in said
    assert running(emulator) == {mine}
    assert aws_cli.look("us-east-1", LABELS, mine).left_over() == ()
    assert step(command) == "", "typed again, there is nothing to do"
    assert step(spot.cancel_these("us-east-1", [])) == ""


def test_aws_in_a_shell_says_what_kept_it(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    command: Any = spot.cancel_own("us-east-1", "i-0")
    done = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Could not connect" in done.stderr
