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
