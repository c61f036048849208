"""Where the test plugin `aws` follows the published one and a reader would not expect it."""

from typing import Any

from pulumi.runtime.proto import provider_pb2

from tests.support.aws.plugin import Plugin, packed

URN = "urn:pulumi:dev::changeover::changeover:index:GpuHost$aws:ec2/instance:Instance::instance"
SPOT = {"marketType": "spot"}


def replaces(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    asked = provider_pb2.DiffRequest(urn=URN, old_inputs=packed(old), news=packed(new))
    answer = Plugin().Diff(asked, None)
    assert answer.diffs or not answer.replaces
    return [*answer.replaces] if answer.diffs else ["no change"]


def test_spot_taken_away_is_no_change_and_added_or_another_one_replaces() -> None:
    assert replaces({"instanceMarketOptions": SPOT}, {}) == ["no change"]
    assert replaces({}, {"instanceMarketOptions": SPOT}) == ["instanceMarketOptions"]
    other = {"marketType": "capacity-block"}
    assert replaces({"instanceMarketOptions": SPOT}, {"instanceMarketOptions": other}) == [
        "instanceMarketOptions.marketType"
    ]
