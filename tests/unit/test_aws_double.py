"""Where the test plugin `aws` follows the published one and a reader would not expect it."""

from typing import Any

from pulumi.runtime.proto import provider_pb2

from tests.support.aws.plugin import Plugin, packed

URN = "urn:pulumi:dev::changeover::changeover:index:GpuHost$aws:ec2/instance:Instance::instance"
SPOT = {"marketType": "spot"}


def replaces(old: dict[str, Any], new: dict[str, Any], urn: str = URN) -> list[str]:
    asked = provider_pb2.DiffRequest(urn=urn, old_inputs=packed(old), news=packed(new))
    answer = Plugin().Diff(asked, None)
    assert answer.diffs or not answer.replaces
    return [*answer.replaces] if answer.diffs else ["no change"]


def test_what_is_optional_and_computed_is_no_change_when_it_goes() -> None:
    """So of a volume made from a snapshot, when the program names the snapshot no more."""
    assert replaces({"iamInstanceProfile": "host"}, {}) == ["no change"]
    volume = URN.replace("ec2/instance:Instance", "ebs/volume:Volume")
    assert replaces({"snapshotId": "snap-1"}, {}, volume) == ["no change"]
    assert replaces({"snapshotId": "snap-1"}, {"snapshotId": "snap-2"}, volume) == ["snapshotId"]


def test_spot_taken_away_is_no_change_and_added_or_another_one_replaces() -> None:
    assert replaces({"instanceMarketOptions": SPOT}, {}) == ["no change"]
    assert replaces({}, {"instanceMarketOptions": SPOT}) == ["instanceMarketOptions"]
    other = {"marketType": "capacity-block"}
    assert replaces({"instanceMarketOptions": SPOT}, {"instanceMarketOptions": other}) == [
        "instanceMarketOptions.marketType"
    ]


def of(kind: str) -> str:
    return URN.replace("ec2/instance:Instance", kind)


def test_what_the_providers_files_say_of_a_change_is_what_it_does() -> None:
    policy, schedule = of("dlm/lifecyclePolicy:LifecyclePolicy"), {"name": "daily", "copyTags": True}
    given = {"policyDetails": {"schedules": [schedule]}}
    other = {"policyDetails": {"schedules": [{**schedule, "copyTags": False}]}}
    assert replaces(given, other, policy) == ["policyDetails.schedules[0].copyTags"]
    renamed = {"policyDetails": {"schedules": [{**schedule, "name": "nightly"}]}}
    assert replaces(given, renamed, policy) == []
    assert replaces({"tags": {"a": "1"}}, {"tags": {"a": "2"}}, policy) == []
    record = of("route53/record:Record")
    assert replaces({"type": "A", "ttl": 60}, {"type": "AAAA", "ttl": 30}, record) == []
    assert replaces({"name": "a.example.com"}, {"name": "b.example.com"}, record) == ["name"]
    role = of("iam/role:Role")
    assert replaces({"description": "one"}, {"description": "two"}, role) == []
    key = of("ec2/keyPair:KeyPair")
    assert replaces({"publicKey": "one"}, {"publicKey": "two"}, key) == ["publicKey"]


def test_a_rule_that_goes_is_a_change_and_so_is_none_that_is_the_default() -> None:
    group, rule = of("ec2/securityGroup:SecurityGroup"), {"fromPort": 22, "toPort": 22}
    assert replaces({"ingress": [rule, rule]}, {"ingress": [rule]}, group) == []
    network = of("ec2/vpc:Vpc")
    assert replaces({"enableDnsSupport": True}, {}, network) == ["no change"]
    assert replaces({"enableDnsSupport": False}, {}, network) == []
    alarm = of("cloudwatch/metricAlarm:MetricAlarm")
    assert replaces({}, {"treatMissingData": "missing"}, alarm) == ["no change"]
    assert replaces({}, {"treatMissingData": "breaching"}, alarm) == []
