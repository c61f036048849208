"""What Amazon refuses to take away because something uses it, where the emulator takes it away.

The codes are those of https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html and of the
page of each operation, and the words those that Amazon answers with. What the emulator refuses by itself is
a volume that is attached, and a role or an instance profile with something in it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from moto.ec2.exceptions import DependencyViolationError, EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.responses import EC2Response

ENDED = "terminated"
"""The state of an instance that has ended. The emulator keeps its interfaces and its address."""


def _all(found: Mapping[str, Any]) -> list[Any]:
    """The values at this moment: other requests change them meanwhile."""
    return [*found.values()]


def _interfaces(backend: Any) -> list[Any]:
    """The network interfaces that there are."""
    return [each for each in _all(backend.enis) if not (each.instance and each.instance.state == ENDED)]


def _depends(what: str, name: str) -> DependencyViolationError:
    return DependencyViolationError(f"The {what} '{name}' has dependencies and cannot be deleted.")


def _group(backend: Any, name: str) -> None:
    found = backend.get_security_group_from_id(name)
    if found and found.name == "default":
        words = f'the specified group: "{name}" name: "default" cannot be deleted by a user'
        raise EC2ClientError("CannotDelete", words)
    used = any(name in [each.id for each in interface.group_set] for interface in _interfaces(backend))
    groups = [group for of_vpc in _all(backend.groups) for group in _all(of_vpc) if group.id != name]
    named = any(
        rule.source_group.get("GroupId") == name
        for group in groups
        for rule in [*group.ingress_rules, *group.egress_rules]
    )
    if used or named:
        raise DependencyViolationError(f"resource {name} has a dependent object")


def _subnet(backend: Any, name: str) -> None:
    if any(each.subnet_id == name for each in _interfaces(backend)):
        raise _depends("subnet", name)


def _vpc(backend: Any, name: str) -> None:
    within = [subnet for of_zone in _all(backend.subnets) for subnet in _all(of_zone)]
    within += [group for group in _all(backend.groups.get(name, {})) if group.name != "default"]
    within += [table for table in _all(backend.route_tables) if table.main_association_id is None]
    attached = any(each.vpc and each.vpc.id == name for each in _all(backend.internet_gateways))
    if attached or any(each.vpc_id == name for each in within):
        raise _depends("vpc", name)


def _gateway(backend: Any, name: str) -> None:
    found = backend.internet_gateways.get(name)
    if found and found.vpc:
        raise _depends("internetGateway", name)


def _public(backend: Any, interface: Any) -> bool:
    """Whether it has a public address; one of its own stays when its instance is stopped."""
    return bool(interface.public_ip) or any(each.eni is interface for each in backend.addresses)


def _attached_gateway(backend: Any, name: str) -> None:
    found = backend.internet_gateways.get(name)
    if found and found.vpc:
        within = [each for each in _interfaces(backend) if each.vpc_id == found.vpc.id]
        if any(_public(backend, each) for each in within):
            raise DependencyViolationError(
                f"Network {found.vpc.id} has some mapped public address(es). "
                "Please unmap those public address(es) before detaching the gateway."
            )


def _table(backend: Any, name: str) -> None:
    found = backend.route_tables.get(name)
    if found and found.associations:
        raise _depends("routeTable", name)


def _interface(backend: Any, name: str) -> None:
    found = backend.enis.get(name)
    if found and found.instance and found.instance.state != ENDED:
        raise EC2ClientError("InvalidParameterValue", f"Network interface '{name}' is currently in use.")


def _address(backend: Any, name: str) -> None:
    for each in backend.addresses:
        holder = each.instance or (each.eni and each.eni.instance)
        if each.allocation_id == name and (holder or each.eni) and not (holder and holder.state == ENDED):
            raise EC2ClientError("InvalidIPAddress.InUse", f"Address {each.public_ip} is in use.")


CHECKS: dict[str, tuple[str, Callable[[Any, str], None]]] = {
    "delete_security_group": ("GroupId", _group),
    "delete_subnet": ("SubnetId", _subnet),
    "delete_vpc": ("VpcId", _vpc),
    "delete_internet_gateway": ("InternetGatewayId", _gateway),
    "detach_internet_gateway": ("InternetGatewayId", _attached_gateway),
    "delete_route_table": ("RouteTableId", _table),
    "delete_network_interface": ("NetworkInterfaceId", _interface),
    "release_address": ("AllocationId", _address),
}
"""The operations, each with the parameter that names the resource, and what refuses it."""


class InUse:
    """Puts this into the emulator while it is entered."""

    def __enter__(self) -> "InUse":
        for name, (parameter, check) in CHECKS.items():
            setattr(EC2Response, name, _checked(getattr(EC2Response, name), parameter, check))
        self._modify = EC2Backend.modify_instance_security_groups
        setattr(EC2Backend, "modify_instance_security_groups", _modified(self._modify))  # noqa: B010
        return self

    def __exit__(self, *_: object) -> None:
        for name in CHECKS:
            delattr(EC2Response, name)  # what it inherits is back
        setattr(EC2Backend, "modify_instance_security_groups", self._modify)  # noqa: B010


def _checked(
    before: Callable[[Any], Any], parameter: str, check: Callable[[Any, str], None]
) -> Callable[[Any], Any]:
    def call(response: Any) -> Any:
        if name := response._get_param(parameter):
            check(response.ec2_backend, name)
        return before(response)

    return call


def _modified(before: Callable[..., Any]) -> Callable[..., Any]:
    """Takes the groups that an instance had from its interface, too, where the emulator leaves them."""

    def call(backend: Any, instance_id: str, new_group_id_list: list[str]) -> Any:
        instance = before(backend, instance_id, new_group_id_list)
        instance.nics[0]._group_set = list(instance.security_groups)
        return instance

    return call


def on_internet(backend: Any, instance: str) -> bool:
    """Whether packets find their way between the internet and this instance.

    It needs a public address, and a route to the internet gateway of its VPC in the route table of its
    subnet, or in that of the VPC where the subnet has none of its own.
    """
    (interface, *_) = backend.get_instance(instance).nics.values()
    tables = [each for each in _all(backend.route_tables) if each.vpc_id == interface.vpc_id]
    own = [each for each in tables if interface.subnet_id in _all(each._associations)]
    (table,) = own or [each for each in tables if each.main_association_id]
    ways = [each.gateway for each in table.routes if each.destination_cidr_block == "0.0.0.0/0"]
    gateways = [backend.internet_gateways.get(each.id) for each in ways if each]
    routed = any(each and each.vpc and each.vpc.id == interface.vpc_id for each in gateways)
    return routed and _public(backend, interface)
