"""Persistent spot requests as Amazon keeps them, which the emulator does not have.

`run_instances` with a spot market makes a request. It lives until it is cancelled: stopping its instance
disables it, and for an instance that ends it starts another one, without tags. Cancelling one whose instance
is stopped ends that, too, and one that runs it leaves alone
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/interruption-behavior.html). Every request is persistent,
since the program makes no other.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from moto.ec2 import utils
from moto.ec2.models import EC2Backend
from moto.ec2.utils import random_spot_request_id

REQUEST = "spot_instance_request_id"
FILTERS = {"state": "state", "spot-instance-request-id": "id", "instance-id": "instance_id"}
"""What Amazon filters requests by, beside the key of their instances, as our attributes."""


class SpotRequest:
    """A request that an instance was started for. Its attributes are what the emulator answers."""

    def __init__(self, instance: Any, launch: Callable[[], Any]) -> None:
        self.instance, self.launch = instance, launch
        self.id = random_spot_request_id()
        self.state = "active"
        self.type, self.instance_interruption_behavior = "persistent", "stop"
        setattr(instance, REQUEST, self.id)

    @property
    def spot_instance_request_id(self) -> str:
        return self.id

    @property
    def instance_id(self) -> str:
        return str(self.instance.id)

    def filtered_by(self, filter_name: str) -> Any:
        """What Amazon compares with the values of this filter."""
        if filter_name == "launch.key-name":
            return self.instance.key_name
        return getattr(self, FILTERS[filter_name])

    def replace(self) -> None:
        """Another instance for the one that has ended."""
        self.instance = self.launch()
        setattr(self.instance, REQUEST, self.id)


def requests_of(backend: Any) -> list[SpotRequest]:
    return [each for each in backend.spot_instance_requests.values() if isinstance(each, SpotRequest)]


class SpotMarket:
    """Puts this into the emulator while it is entered."""

    def __enter__(self) -> "SpotMarket":
        self._before = {
            name: getattr(EC2Backend, name)
            for name in (
                "run_instances",
                "terminate_instances",
                "stop_instances",
                "start_instances",
                "describe_spot_instance_requests",
                "cancel_spot_instance_requests",
            )
        }
        before = self._before

        def run(backend: Any, image_id: str, count: int, *more: Any, **options: Any) -> Any:
            made = before["run_instances"](backend, image_id, count, *more, **options)
            if options.get("instance_market_options"):
                untagged = {**options, "tags": {}}

                def again() -> Any:
                    instance = before["run_instances"](backend, image_id, 1, *more, **untagged).instances[0]
                    profile = {
                        key: options[key]
                        for key in ("iam_instance_profile_name", "iam_instance_profile_arn")
                        if options.get(key)
                    }
                    if profile:
                        backend.associate_iam_instance_profile(instance.id, **profile)
                    return instance

                for instance in made.instances:
                    setattr(instance, "lifecycle", "spot")  # noqa: B010
                    request = SpotRequest(instance, again)
                    backend.spot_instance_requests[request.id] = request
            return made

        def terminate(backend: Any, instance_ids: list[str]) -> Any:
            answer = before["terminate_instances"](backend, instance_ids)
            for each in requests_of(backend):
                if each.instance_id in instance_ids and each.state in ("open", "active", "disabled"):
                    each.replace()
                    each.state = "active"
            return answer

        def follow(name: str, state: str) -> Callable[..., Any]:
            def call(backend: Any, instance_ids: list[str]) -> Any:
                answer = before[name](backend, instance_ids)
                for each in requests_of(backend):
                    if each.instance_id in instance_ids and each.state != "cancelled":
                        each.state = state
                return answer

            return call

        def describe(backend: Any, filters: Any = None, spot_instance_ids: Any = None) -> list[SpotRequest]:
            found = requests_of(backend)
            if spot_instance_ids:
                found = [each for each in found if each.id in spot_instance_ids]
            return [
                each
                for each in found
                if all(
                    any(fnmatchcase(str(each.filtered_by(name)), value) for value in values)
                    for name, values in (filters or {}).items()
                )
            ]

        def cancel(backend: Any, request_ids: list[str]) -> list[SpotRequest]:
            found = [backend.spot_instance_requests[each] for each in request_ids]
            for each in found:
                each.state = "cancelled"
            stopped = [each.instance_id for each in found if each.instance.state == "stopped"]
            if stopped:
                before["terminate_instances"](backend, stopped)
            return found

        for name, call in {
            "run_instances": run,
            "terminate_instances": terminate,
            "stop_instances": follow("stop_instances", "disabled"),
            "start_instances": follow("start_instances", "active"),
            "describe_spot_instance_requests": describe,
            "cancel_spot_instance_requests": cancel,
        }.items():
            setattr(EC2Backend, name, call)
        # Amazon's filters know * and ?, and instances by their request
        self._match = utils.instance_value_in_filter_values
        utils.filter_dict_attribute_mapping["spot-instance-request-id"] = REQUEST
        setattr(utils, "instance_value_in_filter_values", _matches)  # noqa: B010
        return self

    def __exit__(self, *_: object) -> None:
        for name, call in self._before.items():
            setattr(EC2Backend, name, call)
        del utils.filter_dict_attribute_mapping["spot-instance-request-id"]
        setattr(utils, "instance_value_in_filter_values", self._match)  # noqa: B010


def _matches(value: Any, patterns: list[str]) -> bool:
    values = value if isinstance(value, list) else [str(value).lower() if isinstance(value, bool) else value]
    return any(fnmatchcase(str(each), pattern) for each in values for pattern in patterns)
