"""What a preview says of the instance that there is: pure, from what AWS answered."""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from components.aws.settings import AwsSettings
from components.labels import Labels
from stacks import aws_cli, aws_target
from stacks.aws_cli import AwsError, FoundOnAws, found
from stacks.owner import known
from stacks.settings import from_values
from stacks.target_error import TargetError
from tests.unit.test_aws_settings import GOOD, PUBLIC

IDENTITY = {
    "Boot": "0123456789ab",
    "Image": "pinned",
    "Data": "empty",
    "Spot": "no",
    "Network": "subnet-0123456789abcdef0",
    "Key": "ba9876543210",
}
HERE = FoundOnAws(
    instance="i-0123456789abcdef0",
    state="running",
    type="g4dn.xlarge",
    zone="us-east-1a",
    address="198.51.100.7",
    tags=IDENTITY,
    volumes=("vol-1", "vol-2"),
    size_gib=280,
    data=(aws_cli.Volume(id="vol-2", gib=200, zone="us-east-1a", snapshot=""),),
)
NOTHING = replace(HERE, instance=None, state="", type="", zone="", tags={}, volumes=(), size_gib=0, data=())
FETCH = "first fetch: 9 min"


def wanted(**values: object) -> AwsSettings:
    aws = from_values("prod", {**GOOD, **values}, ROOT).aws
    assert aws is not None
    return aws


def notes(there: FoundOnAws, identity: dict[str, str] = IDENTITY, **values: object) -> list[str]:
    return aws_target.check(there, wanted(**values), identity, "prod", FETCH)


def test_nothing_is_said_where_nothing_changes_or_exists() -> None:
    assert notes(HERE) == []
    assert notes(NOTHING) == []


def test_a_stopped_instance_is_an_error_with_what_starts_it() -> None:
    with pytest.raises(TargetError, match=r"is stopped; nothing was changed.*: make wake STACK=prod"):
        notes(replace(HERE, state="stopped"))
    spot = replace(HERE, state="stopped", tags={**IDENTITY, "Spot": "yes"})
    with pytest.raises(
        TargetError, match=r"make wake STACK=prod \(if a spot interruption stopped it, only AWS"
    ):
        notes(spot)


def test_a_volume_without_its_instance_is_a_note_with_what_brings_it_back() -> None:
    (note,) = notes(replace(NOTHING, volumes=("vol-1",)))
    assert "make recover STACK=prod" in note


@pytest.mark.parametrize(
    ("identity", "values", "reason"),
    [
        (IDENTITY | {"Boot": "fff"}, {}, "the boot script changed"),
        (IDENTITY | {"Image": "pinned-2027"}, {}, "the machine image changes from pinned to pinned-2027"),
        (IDENTITY | {"Spot": "yes"}, {}, "`spot` changed"),
        (IDENTITY | {"Data": "snap-0123456789"}, {}, "the data volume is created again"),
        (IDENTITY | {"Network": "own"}, {}, "the subnet changes from subnet-0123456789abcdef0 to own"),
        (IDENTITY | {"Key": "fff"}, {}, "the deployer's SSH key changed"),
        (IDENTITY, {"zone": "us-east-1b"}, "the zone changes from us-east-1a to us-east-1b"),
    ],
)
def test_a_replacement_is_said_in_words_and_refused_where_protected(
    identity: dict[str, str], values: dict[str, Any], reason: str
) -> None:
    (note,) = notes(HERE, identity, **{"protect": False, **values})
    assert "this replaces the instance i-0123456789abcdef0" in note
    assert reason in note
    assert (FETCH in note) == ("zone" in values), "of a data volume that is new and empty"
    with pytest.raises(TargetError) as error:
        notes(HERE, identity, **values)
    assert reason in str(error.value)
    assert "pulumi config set protect false && pulumi up" in str(error.value)
    assert "nothing was changed" in str(error.value)


def test_a_volume_that_was_made_from_a_snapshot_stays_when_the_setting_goes() -> None:
    made = replace(HERE, tags={**IDENTITY, "Data": "snap-0123456789"})
    assert notes(made, IDENTITY) == []
    (note,) = notes(made, IDENTITY | {"Data": "snap-9876543210"}, protect=False)
    assert "the data volume is created again" in note


def test_another_instance_type_stops_the_instance_and_is_not_refused() -> None:
    (note,) = notes(HERE, instanceType="g4dn.2xlarge")
    assert (
        "this stops the instance i-0123456789abcdef0, a g4dn.xlarge, and starts it as g4dn.2xlarge." in note
    )


def test_another_type_of_a_spot_instance_is_another_instance() -> None:
    spot = IDENTITY | {"Spot": "yes"}
    (note,) = notes(replace(HERE, tags=spot), spot, instanceType="g4dn.2xlarge", spot=True, protect=False)
    assert "this replaces the instance" in note
    assert "a spot instance can't change its type (g4dn.xlarge to g4dn.2xlarge)" in note


def test_the_price_comes_with_the_difference_that_a_change_makes() -> None:
    assert "this update" not in aws_target.price(HERE, wanted())
    assert aws_target.price(NOTHING, wanted()) == f"cost: {wanted().cost}"
    assert "; this update: +$0.226 an hour, +$165 a month" in aws_target.price(
        HERE, wanted(instanceType="g4dn.2xlarge")
    )
    assert "; this update: -$0.226 an hour, -$165 a month" in aws_target.price(
        replace(HERE, type="g4dn.2xlarge"), wanted()
    )


def instance(name: str, state: str, stack: str = "prod") -> dict[str, Any]:
    return {
        "InstanceId": name,
        "State": {"Name": state},
        "InstanceType": "g4dn.xlarge",
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "Tags": [{"Key": "Boot", "Value": "abc"}, {"Key": "Stack", "Value": stack}] if stack else [],
    }


def test_of_two_instances_the_one_that_runs_counts() -> None:
    volumes = [{**volume(80), "Tags": []}, {**volume(200), "VolumeId": "vol-2"}]
    both = found([instance("i-old", "shutting-down"), instance("i-new", "running")], volumes)
    assert (both.instance, both.tags, both.size_gib, both.volumes) == (
        "i-new",
        {"Boot": "abc", "Stack": "prod"},
        280,
        ("vol-1", "vol-2"),
    )
    assert found([], []).instance is None
    assert both.others == (), "one that ends is nobody's"


def request(name: str, instance: str = "") -> dict[str, Any]:
    return {"SpotInstanceRequestId": name} | ({"InstanceId": instance} if instance else {})


def test_of_several_instances_it_is_the_one_that_the_state_knows() -> None:
    instances = [instance("i-stray", "running", ""), instance("i-mine", "stopped")]
    requests = [request("sir-mine", "i-mine"), request("sir-old", "i-stray"), request("sir-open")]
    there = found(instances, [], requests, mine="i-mine")
    assert (there.instance, there.state, there.others) == ("i-mine", "stopped", ("i-stray",))
    assert there.left_over() == ("sir-old", "sir-open", "i-stray")
    said = aws_target.left_over(there)
    assert "the spot request sir-old, which has started i-stray; the spot request sir-open. They cost" in said
    assert "i-mine" not in said
    assert aws_target.left_over(found(instances[1:], [], requests[:1], mine="i-mine")) == ""
    new = found(instances, [], requests)
    assert (new.instance, new.others) == ("i-mine", ("i-stray",)), "what AWS started by itself is nobody's"


def test_what_an_update_has_made_is_never_left_over_whatever_the_state_says() -> None:
    """Of a copied or an older state, say: the instance that it does not know serves."""
    instances = [instance("i-serves", "running"), instance("i-stray", "running", "")]
    requests = [request("sir-serves", "i-serves"), request("sir-open")]
    there = found(instances, [], requests, mine="i-gone")
    assert (there.instance, there.strangers) == (None, ("i-serves",))
    assert there.left_over() == ("sir-open", "i-stray")
    older = replace(known({}), instance="i-gone", key="changeover-prod-deployer-ba9876543210")
    with pytest.raises(TargetError, match=r"prod`, i-serves, and this state does not know it") as error:
        aws_target.check_known(there, older, "us-east-1", "prod")
    assert "was interrupted" in str(error.value)
    assert "sh components/aws/spot.sh these us-east-1 i-serves sir-…" in str(error.value)


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A double of the `aws` command: prints the file `answer`, or fails with the file `error`."""
    program = tmp_path / "bin" / "aws"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n'
        f"[ ! -f {tmp_path}/error ] || {{ cat {tmp_path}/error >&2; exit 253; }}\ncat {tmp_path}/answer\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return tmp_path


def test_aws_is_asked_for_what_has_the_stacks_key_and_tags(aws: Path) -> None:
    """An instance that a spot request starts by itself has the key and no tags."""
    (aws / "answer").write_text(json.dumps({"Reservations": [], "Volumes": [], "SpotInstanceRequests": []}))
    assert aws_cli.look("eu-west-1", Labels(project="changeover", stack="dev"), None).instance is None
    first, third, second = sorted((aws / "calls").read_text().splitlines())  # they are asked at once
    key = "changeover-dev-deployer-????????????"
    assert first.startswith(f"ec2 describe-instances --filters Name=key-name,Values={key} ")
    assert "Name=tag:Project,Values=changeover Name=tag:Stack,Values=dev" in second
    assert f"describe-spot-instance-requests --filters Name=launch.key-name,Values={key} " in third
    assert "Values=open,active,disabled" in third
    assert "--region eu-west-1" in first


NAMES = ("/changeover/prod/ami", "/newest")
"""The parameters that name a machine image: the stack's own, and the newest one's."""


def image(aws: Path, size: int) -> None:
    """What the double answers of a machine image whose root volume has this size."""
    disk = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": size}}
    one = {"RootDeviceName": "/dev/sda1", "BlockDeviceMappings": [disk, {"DeviceName": "/dev/sdb"}]}
    (aws / "answer").write_text(json.dumps({"Images": [one], "Parameter": {"Value": "ami-0newest"}}))


def test_an_image_larger_than_the_root_volume_is_refused_before_the_old_instance_goes(aws: Path) -> None:
    image(aws, 80)
    aws_target.check_image(NOTHING, wanted(), IDENTITY, NAMES)
    image(aws, 105)
    with pytest.raises(
        TargetError, match=r"ami-0newest needs a root volume of 105 GiB, and a stack's has 80; no"
    ):
        aws_target.check_image(NOTHING, wanted(), IDENTITY, NAMES)
    with pytest.raises(TargetError, match="105 GiB"):
        aws_target.check_image(HERE, wanted(), {**IDENTITY, "Image": "pinned-2027"}, NAMES)
    with pytest.raises(TargetError, match="ami-0123456789abcdef0 needs"):
        aws_target.check_image(NOTHING, wanted(ami="ami-0123456789abcdef0"), IDENTITY, NAMES)
    before = (aws / "calls").read_text()
    aws_target.check_image(HERE, wanted(), IDENTITY, NAMES)
    assert (aws / "calls").read_text() == before, "of the image that runs nobody is asked"


BOTH = """#!/bin/sh
# a double of `aws`: the stack's own image has 75 GiB, and the newest 105
[ ! -f {folder}/error ] || {{ cat {folder}/error >&2; exit 254; }}
case "$*" in
  *get-parameter*/changeover/*)
    [ ! -f {folder}/new ] || {{ echo '(ParameterNotFound)' >&2; exit 254; }}
    name=ami-0own ;;
  *get-parameter*) name=ami-0newest ;;
  *ami-0own*) size=75 ;;
  *ami-0newest*) size=105 ;;
esac
disk='{{"DeviceName": "/dev/sda1", "Ebs": {{"VolumeSize": '$size'}}}}'
case "$*" in
  *get-parameter*) echo '{{"Parameter": {{"Value": "'$name'"}}}}' ;;
  *) echo '{{"Images": [{{"RootDeviceName": "/dev/sda1", "BlockDeviceMappings": ['$disk']}}]}}' ;;
esac
"""


def test_an_instance_that_is_gone_is_made_from_the_stacks_own_image_whatever_the_newest_is(
    aws: Path,
) -> None:
    """`make recover`: the newest image may have grown since."""
    (aws / "bin" / "aws").write_text(BOTH.format(folder=aws))
    aws_target.check_image(NOTHING, wanted(), IDENTITY, NAMES)
    (aws / "new").touch()
    with pytest.raises(TargetError, match="ami-0newest needs a root volume of 105"):
        aws_target.check_image(NOTHING, wanted(), IDENTITY, NAMES)
    (aws / "error").write_text("AccessDeniedException")
    with pytest.raises(TargetError, match="AccessDeniedException"):
        aws_target.check_image(NOTHING, wanted(), IDENTITY, NAMES)


def volume(gib: int, zone: str = "us-east-1a", snapshot: str = "") -> dict[str, Any]:
    """A volume for data, as AWS answers it."""
    name = [{"Key": "Name", "Value": "changeover-prod-data"}]
    return {
        "VolumeId": "vol-1",
        "Size": gib,
        "AvailabilityZone": zone,
        "SnapshotId": snapshot,
        "Tags": name,
    }


def with_volumes(*volumes: dict[str, Any]) -> FoundOnAws:
    root = {**volume(80), "Tags": [{"Key": "Name", "Value": "changeover-prod-root"}]}
    return found([instance("i-1", "running")], [root, *volumes], data="changeover-prod-data")


SNAPSHOT, OTHER_SNAPSHOT = "snap-0123456789abcdef0", "snap-0fedcba9876543210"


def test_a_data_volume_is_never_made_smaller(aws: Path) -> None:
    for there in (volume(300), volume(300, snapshot=SNAPSHOT)):
        aws_target.check_volume(with_volumes(there), wanted(dataVolumeGiB=300))
        with pytest.raises(
            TargetError,
            match=r"dataVolumeGiB: 299 cannot work; the volume vol-1 has 300 GiB, .*nothing was changed",
        ) as error:
            aws_target.check_volume(with_volumes(there), wanted(dataVolumeGiB=299))
        assert "pulumi config set dataVolumeGiB 300" in str(error.value)
    aws_target.check_volume(with_volumes(volume(300, "us-east-1b")), wanted(dataVolumeGiB=200))
    aws_target.check_volume(with_volumes(), wanted(dataVolumeGiB=200))
    assert not (aws / "calls").exists()


def test_a_data_volume_is_never_smaller_than_the_snapshot_that_it_is_made_from(aws: Path) -> None:
    (aws / "answer").write_text(json.dumps({"Snapshots": [{"VolumeSize": 250}]}))
    for there in (NOTHING, with_volumes(volume(300, snapshot=OTHER_SNAPSHOT))):
        aws_target.check_volume(there, wanted(dataVolumeGiB=250, dataSnapshot=SNAPSHOT))
        with pytest.raises(
            TargetError, match=f"dataVolumeGiB: 249 cannot work; the snapshot {SNAPSHOT} has 250 GiB,"
        ):
            aws_target.check_volume(there, wanted(dataVolumeGiB=249, dataSnapshot=SNAPSHOT))
    assert f"ec2 describe-snapshots --snapshot-ids {SNAPSHOT} " in (aws / "calls").read_text()
    (aws / "error").write_text("InvalidSnapshot.NotFound")
    with pytest.raises(TargetError, match=r"dataSnapshot: .*NotFound\nNothing was changed"):
        aws_target.check_volume(NOTHING, wanted(dataSnapshot=SNAPSHOT))


@pytest.mark.parametrize(
    ("spot", "has", "said"),
    [
        (False, 4, "`Running On-Demand G and VT instances` in us-east-1; the account has 4"),
        (False, 0, "and the account has 0: AWS will refuse the instance"),
        (True, 8, "`All G and VT Spot Instance Requests` in us-east-1; the account has 8"),
    ],
)
def test_the_first_preview_says_which_quota_is_needed_and_what_there_is(
    aws: Path, spot: bool, has: int, said: str
) -> None:
    named = [{"QuotaName": name, "Value": has} for name in aws_target.QUOTAS.values()]
    (aws / "answer").write_text(json.dumps({"Quotas": named}))
    text = aws_target.quota(wanted(spot=spot, protect=not spot))
    assert text.startswith("quota: g4dn.xlarge needs 4 vCPUs of ")
    assert said in text
    (aws / "error").write_text("AccessDeniedException")
    assert "these credentials may not read" in aws_target.quota(wanted())


SUBNET, VPC = "subnet-0123456789abcdef0", "vpc-0123456789abcdef0"
WAY_OUT = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-0123456789abcdef0", "State": "active"}
LOCAL = {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local", "State": "active"}
NAT = {"DestinationCidrBlock": "0.0.0.0/0", "NatGatewayId": "nat-0123456789abcdef0", "State": "active"}
OWN, MAIN, ANOTHERS = (
    {"Main": False, "SubnetId": SUBNET},
    {"Main": True},
    {"Main": False, "SubnetId": "subnet-1"},
)


def routed(*tables: tuple[list[dict[str, str]], Mapping[str, object]]) -> dict[str, object]:
    """What `describe-route-tables` answers: each table's routes, and what it is of."""
    return {"RouteTables": [{"Routes": routes, "Associations": [bound]} for routes, bound in tables]}


ROUTED = routed(([LOCAL, WAY_OUT], OWN))


def subnet_in(zone: str = "us-east-1a", vpc: str = VPC) -> dict[str, Any]:
    return {"Subnets": [{"AvailabilityZone": zone, "VpcId": vpc}]}


@pytest.mark.parametrize(
    ("zone", "vpc", "said"),
    [
        (
            "us-east-1c",
            VPC,
            r"is in us-east-1c, but the setting zone is us-east-1a; .* pulumi config set zone us-east-1c",
        ),
        (
            "us-east-1a",
            "vpc-0f",
            r"is in vpc-0f, but the setting vpcId is vpc-0123.* pulumi config set vpcId vpc-0f",
        ),
    ],
)
def test_an_existing_subnet_that_is_elsewhere_is_refused(aws: Path, zone: str, vpc: str, said: str) -> None:
    settings = wanted(vpcId=VPC, subnetId=SUBNET)
    (aws / "answer").write_text(json.dumps(subnet_in(zone, vpc) | ROUTED))
    with pytest.raises(TargetError, match=said) as error:
        aws_target.check_subnet(settings)
    assert "nothing was changed" in str(error.value)
    (aws / "answer").write_text(json.dumps(subnet_in() | ROUTED))
    aws_target.check_subnet(settings)
    assert f"describe-subnets --subnet-ids {SUBNET}" in (aws / "calls").read_text()


@pytest.mark.parametrize(
    "routes",
    [[LOCAL], [LOCAL, NAT], [WAY_OUT | {"State": "blackhole"}], [WAY_OUT | {"GatewayId": "vgw-0"}]],
)
def test_an_existing_subnet_that_nobody_would_reach_is_refused(
    aws: Path, routes: list[dict[str, str]]
) -> None:
    (aws / "answer").write_text(json.dumps(subnet_in() | routed((routes, OWN), ([LOCAL, WAY_OUT], MAIN))))
    with pytest.raises(TargetError, match=r"has no route to an internet gateway, .*; nothing was changed"):
        aws_target.check_subnet(wanted(vpcId=VPC, subnetId=SUBNET))


@pytest.mark.parametrize(
    ("main", "public"), [([LOCAL, WAY_OUT], True), ([LOCAL], False)], ids=["public", "private"]
)
def test_a_subnet_without_a_route_table_of_its_own_has_the_main_one_of_its_vpc(
    aws: Path, main: list[dict[str, str]], public: bool
) -> None:
    others = [LOCAL] if public else [LOCAL, WAY_OUT]
    (aws / "answer").write_text(json.dumps(subnet_in() | routed((others, ANOTHERS), (main, MAIN))))
    refused = pytest.raises(TargetError, match="has no route to an internet gateway")
    with contextlib.nullcontext() if public else refused:
        aws_target.check_subnet(wanted(vpcId=VPC, subnetId=SUBNET))
    _, tables = (aws / "calls").read_text().splitlines()
    assert f"describe-route-tables --filters Name=vpc-id,Values={VPC} " in tables


def test_a_subnet_that_is_not_there_is_an_error_in_awss_words_and_none_is_not_asked_for(aws: Path) -> None:
    aws_target.check_subnet(wanted())
    assert not (aws / "calls").exists()
    (aws / "error").write_text("InvalidSubnetID.NotFound")
    with pytest.raises(TargetError, match=r"subnetId: .*InvalidSubnetID\.NotFound\nNothing was changed"):
        aws_target.check_subnet(wanted(vpcId=VPC, subnetId=SUBNET))


def test_missing_credentials_are_said_with_what_to_do(aws: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (aws / "error").write_text("Unable to locate credentials. You can configure credentials…\n")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(TargetError) as error:
        aws_target._look(wanted(), Labels(project="changeover", stack="prod"), None)
    text = str(error.value)
    assert "Unable to locate credentials" in text
    assert "Nothing was changed" in text
    assert "aws sso login" in text


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(TargetError, match="ssh, docker, session-manager-plugin"):
        aws_target._look(wanted(), Labels(project="changeover", stack="prod"), None)
    with pytest.raises(AwsError, match="no `aws` command"):
        aws_cli.aws("us-east-1", "sts", "get-caller-identity")


def test_ssh_gets_its_files_and_the_private_key_is_for_this_user_only(tmp_path: Path) -> None:
    settings = from_values("prod", GOOD, ROOT)
    folder = tmp_path / "ssh" / "prod"
    aws_target.write_ssh_files(settings, folder, "the key\n\n")
    assert (folder / "client_key").read_text() == "the key\n"
    assert stat.S_IMODE((folder / "client_key").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "known_hosts").read_text() == f"changeover-prod {PUBLIC}\n"
    config = (folder / "config").read_text()
    assert "StrictHostKeyChecking yes" in config
    assert f"UserKnownHostsFile {folder}/known_hosts" in config
    assert "ProxyCommand aws ssm start-session --region us-east-1 --target %h" in config


def test_a_mail_that_nobody_has_confirmed_yet_is_said_in_the_preview() -> None:
    mail = {"endpoint": "ops@example.com", "pendingConfirmation": True}
    urn, kind = "urn:pulumi:prod::changeover::mail", "aws:sns/topicSubscription:TopicSubscription"
    said = aws_target.unconfirmed(known({urn: {"type": kind, "outputs": mail}}))
    assert "AWS waits for ops@example.com to confirm the subscription to the alarms" in said
    sure = known({urn: {"type": kind, "outputs": {**mail, "pendingConfirmation": False}}})
    assert aws_target.unconfirmed(sure) == ""


def test_another_region_is_refused_since_nothing_of_the_stack_can_go_there() -> None:
    """In another region AWS is asked in vain for what there is, and the preview says nothing."""
    arn = "arn:aws:ec2:us-east-1:123456789012:instance/i-0123"
    kind = "aws:ec2/instance:Instance"
    state = known({"urn::instance": {"type": kind, "outputs": {"id": "i-0123", "arn": arn}}})
    aws_target.check_known(NOTHING, state, "us-east-1", "dev")
    with pytest.raises(TargetError, match="address, data volume and snapshots stay") as refused:
        aws_target.check_known(NOTHING, state, "us-west-2", "dev")
    assert "i-0123 of stack `dev` is in us-east-1" in str(refused.value)
    assert "nothing was changed. Run: pulumi config set zone us-east-1a" in str(refused.value)


def test_an_instance_that_this_state_did_not_make_is_refused() -> None:
    new = known({})
    aws_target.check_known(NOTHING, new, "us-east-1", "dev")
    aws_target.check_known(HERE, replace(new, instance="i-0"), "us-east-1", "dev")
    with pytest.raises(TargetError, match=r"belongs to another state, .*\. Nothing was changed") as refused:
        aws_target.check_known(HERE, new, "us-east-1", "dev")
    assert HERE.instance is not None and HERE.instance in str(refused.value)
    assert "was interrupted" not in str(refused.value), "this state has not begun to make it"
