"""The resources of the test plugin: how each is made, read, changed and deleted over the AWS API.

What a change does, whether it replaces or is none, is in `rules.py`, by the provider's own files.
"""

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from tests.support.aws.api import client
from tests.support.aws.schema import Json

ACCOUNT = "123456789012"
"""The emulator's account."""


@dataclass(frozen=True, kw_only=True)
class ResourceKind:
    """One type of resource. The functions get the region first, then what they act on.

    `read` returns the live properties that it knows, or None when the resource is gone; its last argument are
    the inputs. `autoname` is the property that gets a name of the plugin's own when the program gives none.
    """

    create: Callable[[str, Json], str]
    read: Callable[[str, str, Json], Json | None]
    update: Callable[[str, str, Json, Json], None]
    delete: Callable[[str, str, Json], None]
    autoname: str = ""


def merged(mine: Any, live: Any) -> Any:
    """`live` in the form of `mine`: what the program did not ask for stays out, a set keeps its order."""
    if isinstance(mine, dict) and isinstance(live, dict):
        if all(isinstance(value, str) for value in live.values()):
            return live  # a map such as tags: more of it is a change
        return {key: merged(value, live.get(key)) for key, value in mine.items()}
    if isinstance(mine, list) and isinstance(live, list):
        if all(isinstance(each, str) for each in [*mine, *live]):
            return mine if sorted(mine) == sorted(live) else live
        if len(mine) == len(live):
            return [merged(one, other) for one, other in zip(mine, live, strict=True)]
    if isinstance(mine, str) and isinstance(live, str) and _json(mine) == _json(live):
        return mine
    return live


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _gone(call: Callable[[], Any], *codes: str) -> Any:
    """The answer, or None when AWS says that the thing does not exist."""
    try:
        return call()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in codes or "NotFound" in code or "NoSuch" in code or "Malformed" in code:
            return None
        raise


def pascal(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """These inputs under AWS's names: `metricName` is `MetricName`."""
    return {f"{name[0].upper()}{name[1:]}": given[name] for name in names if name in given}


def camel(found: Mapping[str, Any], *names: str) -> Json:
    """AWS's answer under the wire's names; what is missing or empty stays out."""
    values = {name: found.get(f"{name[0].upper()}{name[1:]}") for name in names}
    return {name: value for name, value in values.items() if value not in (None, "", [])}


def tag_list(given: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(given.get("tags", {}).items())]


def tag_map(found: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in found or [] if not each["Key"].startswith("aws:")}


def changed(old: Json, new: Json, *names: str) -> bool:
    return any(old.get(name) != new.get(name) for name in names)


def no_update(region: str, made: str, old: Json, new: Json) -> None:
    raise RuntimeError(f"{made} has nothing that changes in place")


# --- EC2


def ec2(region: str) -> Any:
    return client("ec2", region)


def _spec(kind: str, given: Json) -> dict[str, Any]:
    tags = tag_list(given)
    return {"TagSpecifications": [{"ResourceType": kind, "Tags": tags}]} if tags else {}


def _retag(region: str, made: str, old: Json, new: Json) -> None:
    before, after = old.get("tags", {}), new.get("tags", {})
    if gone := [{"Key": key} for key in before.keys() - after.keys()]:
        ec2(region).delete_tags(Resources=[made], Tags=gone)
    if fresh := [{"Key": key, "Value": value} for key, value in after.items() if before.get(key) != value]:
        ec2(region).create_tags(Resources=[made], Tags=fresh)


def _arn(region: str, kind: str, made: str) -> str:
    return f"arn:aws:ec2:{region}:{ACCOUNT}:{kind}/{made}"


def _vpc_create(region: str, given: Json) -> str:
    made = ec2(region).create_vpc(CidrBlock=given["cidrBlock"], **_spec("vpc", given))["Vpc"]["VpcId"]
    _vpc_update(region, made, {"tags": given.get("tags", {})}, given)
    return str(made)


def _vpc_update(region: str, made: str, old: Json, new: Json) -> None:
    for name in ("enableDnsSupport", "enableDnsHostnames"):
        if name in new and changed(old, new, name):
            ec2(region).modify_vpc_attribute(VpcId=made, **{f"E{name[1:]}": {"Value": new[name]}})
    _retag(region, made, old, new)


def _vpc_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: ec2(region).describe_vpcs(VpcIds=[made])["Vpcs"][0])
    if found is None:
        return None

    def attribute(name: str) -> bool:
        answer = ec2(region).describe_vpc_attribute(VpcId=made, Attribute=name)
        return bool(answer[f"E{name[1:]}"]["Value"])

    return {
        "cidrBlock": found["CidrBlock"],
        "enableDnsSupport": attribute("enableDnsSupport"),
        "enableDnsHostnames": attribute("enableDnsHostnames"),
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "vpc", made),
        "ownerId": ACCOUNT,
    }


def _subnet_create(region: str, given: Json) -> str:
    made = ec2(region).create_subnet(
        **pascal(given, "vpcId", "cidrBlock", "availabilityZone"), **_spec("subnet", given)
    )
    return str(made["Subnet"]["SubnetId"])


def _subnet_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: ec2(region).describe_subnets(SubnetIds=[made])["Subnets"][0])
    if found is None:
        return None
    return {
        **camel(found, "vpcId", "cidrBlock", "availabilityZone", "mapPublicIpOnLaunch"),
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "subnet", made),
        "ownerId": ACCOUNT,
    }


def _subnet_update(region: str, made: str, old: Json, new: Json) -> None:
    if changed(old, new, "mapPublicIpOnLaunch"):
        ec2(region).modify_subnet_attribute(
            SubnetId=made, MapPublicIpOnLaunch={"Value": bool(new.get("mapPublicIpOnLaunch"))}
        )
    _retag(region, made, old, new)


def _gateway_create(region: str, given: Json) -> str:
    made = ec2(region).create_internet_gateway(**_spec("internet-gateway", given))
    name = str(made["InternetGateway"]["InternetGatewayId"])
    if "vpcId" in given:
        ec2(region).attach_internet_gateway(InternetGatewayId=name, VpcId=given["vpcId"])
    return name


def _gateway_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(
        lambda: ec2(region).describe_internet_gateways(InternetGatewayIds=[made])["InternetGateways"][0]
    )
    if found is None:
        return None
    vpcs = [each["VpcId"] for each in found["Attachments"]]
    return {
        **({"vpcId": vpcs[0]} if vpcs else {}),
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "internet-gateway", made),
        "ownerId": ACCOUNT,
    }


def _gateway_update(region: str, made: str, old: Json, new: Json) -> None:
    if changed(old, new, "vpcId"):
        if "vpcId" in old:
            ec2(region).detach_internet_gateway(InternetGatewayId=made, VpcId=old["vpcId"])
        if "vpcId" in new:
            ec2(region).attach_internet_gateway(InternetGatewayId=made, VpcId=new["vpcId"])
    _retag(region, made, old, new)


def _gateway_delete(region: str, made: str, state: Json) -> None:
    if "vpcId" in state:
        ec2(region).detach_internet_gateway(InternetGatewayId=made, VpcId=state["vpcId"])
    ec2(region).delete_internet_gateway(InternetGatewayId=made)


def _routes_create(region: str, given: Json) -> str:
    made = ec2(region).create_route_table(VpcId=given["vpcId"], **_spec("route-table", given))
    name = str(made["RouteTable"]["RouteTableId"])
    _routes_update(region, name, {"tags": given.get("tags", {})}, given)
    return name


def _routes_update(region: str, made: str, old: Json, new: Json) -> None:
    if changed(old, new, "routes"):
        for route in old.get("routes", []):
            ec2(region).delete_route(RouteTableId=made, DestinationCidrBlock=route["cidrBlock"])
        for route in new.get("routes", []):
            ec2(region).create_route(
                RouteTableId=made, DestinationCidrBlock=route["cidrBlock"], GatewayId=route["gatewayId"]
            )
    _retag(region, made, old, new)


def _routes_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: ec2(region).describe_route_tables(RouteTableIds=[made])["RouteTables"][0])
    if found is None:
        return None
    routes = [
        {"cidrBlock": each["DestinationCidrBlock"], "gatewayId": each["GatewayId"]}
        for each in found["Routes"]
        if each.get("GatewayId", "local") != "local"
    ]
    return {
        "vpcId": found["VpcId"],
        "routes": routes,
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "route-table", made),
        "ownerId": ACCOUNT,
    }


def _association_create(region: str, given: Json) -> str:
    made = ec2(region).associate_route_table(**pascal(given, "routeTableId", "subnetId", "gatewayId"))
    return str(made["AssociationId"])


def _association_read(region: str, made: str, given: Json) -> Json | None:
    tables = ec2(region).describe_route_tables()["RouteTables"]
    for table in tables:
        for each in table["Associations"]:
            if each["RouteTableAssociationId"] == made:
                return camel(each, "routeTableId", "subnetId", "gatewayId")
    return None


def _association_update(region: str, made: str, old: Json, new: Json) -> None:
    raise RuntimeError("the emulator would give a replaced route table association another id")


def _group_create(region: str, given: Json) -> str:
    made = ec2(region).create_security_group(
        GroupName=given["name"],
        Description=given.get("description", "Managed by Pulumi"),
        **pascal(given, "vpcId"),
        **_spec("security-group", given),
    )
    name = str(made["GroupId"])
    # AWS adds this rule to a new group; the published plugin takes it away
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2(region).revoke_security_group_egress(GroupId=name, IpPermissions=everything)
    _group_update(region, name, {"tags": given.get("tags", {})}, given)
    return name


def _group_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: ec2(region).describe_security_groups(GroupIds=[made])["SecurityGroups"][0])
    if found is None:
        return None
    return {
        "name": found["GroupName"],
        **camel(found, "description", "vpcId"),
        "ingress": _rules(given.get("ingress", []), found["IpPermissions"]),
        "egress": _rules(given.get("egress", []), found["IpPermissionsEgress"]),
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "security-group", made),
        "ownerId": ACCOUNT,
    }


def _group_update(region: str, made: str, old: Json, new: Json) -> None:
    for way in ("ingress", "egress"):
        before, after = (_networks(side.get(way, [])) for side in (old, new))
        for verb, rules in (("revoke", before - after), ("authorize", after - before)):
            if rules:
                getattr(ec2(region), f"{verb}_security_group_{way}")(
                    GroupId=made, IpPermissions=[_permission(*rule) for rule in sorted(rules)]
                )
    _retag(region, made, old, new)


Rule = tuple[str, int, int, str]
"""Protocol, first and last port, network: what AWS keeps as one rule."""


def _networks(rules: Iterable[Json]) -> set[Rule]:
    return {
        (rule["protocol"], rule["fromPort"], rule["toPort"], network)
        for rule in rules
        for network in rule["cidrBlocks"]
    }


def _permission(protocol: str, first: int, last: int, network: str) -> dict[str, Any]:
    ports = {} if protocol == "-1" else {"FromPort": first, "ToPort": last}
    return {"IpProtocol": protocol, **ports, "IpRanges": [{"CidrIp": network}]}


def _rules(given: list[Json], found: Iterable[Mapping[str, Any]]) -> list[Json]:
    """The live rules: the program's own as it wrote them where they are whole, then the rest by port.

    So does the published plugin.
    """
    live = {
        (each["IpProtocol"], each.get("FromPort", 0), each.get("ToPort", 0), network["CidrIp"])
        for each in found
        for network in each["IpRanges"]
    }
    whole = [rule for rule in given if _networks([rule]) <= live]
    rest: dict[tuple[str, int, int], list[str]] = {}
    for protocol, first, last, network in sorted(live - _networks(whole)):
        rest.setdefault((protocol, first, last), []).append(network)
    return whole + [
        {"protocol": protocol, "fromPort": first, "toPort": last, "cidrBlocks": networks}
        for (protocol, first, last), networks in rest.items()
    ]


def _key_create(region: str, given: Json) -> str:
    ec2(region).import_key_pair(
        KeyName=given["keyName"], PublicKeyMaterial=given["publicKey"].encode(), **_spec("key-pair", given)
    )
    return str(given["keyName"])


def _key_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: ec2(region).describe_key_pairs(KeyNames=[made])["KeyPairs"][0])
    if found is None:
        return None
    return {
        "keyName": made,
        "keyPairId": found["KeyPairId"],
        "fingerprint": found["KeyFingerprint"],
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "key-pair", made),
    }


def _key_update(region: str, made: str, old: Json, new: Json) -> None:
    found = ec2(region).describe_key_pairs(KeyNames=[made])["KeyPairs"][0]
    _retag(region, found["KeyPairId"], old, new)


VOLUME = ("size", "iops", "throughput", "encrypted", "kmsKeyId", "snapshotId")


def _volume_create(region: str, given: Json) -> str:
    made = ec2(region).create_volume(
        **pascal(given, "availabilityZone", *VOLUME),
        **({"VolumeType": given["type"]} if "type" in given else {}),
        **_spec("volume", given),
    )
    return str(made["VolumeId"])


def _volume_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: ec2(region).describe_volumes(VolumeIds=[made])["Volumes"][0])
    if found is None:
        return None
    return {
        **camel(found, "availabilityZone", *VOLUME),
        "type": found["VolumeType"],
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "volume", made),
        "createTime": found["CreateTime"].isoformat(),
    }


def _volume_update(region: str, made: str, old: Json, new: Json) -> None:
    if changed(old, new, "size", "type", "iops", "throughput"):
        kind = {"VolumeType": new["type"]} if "type" in new else {}
        ec2(region).modify_volume(VolumeId=made, **pascal(new, "size", "iops", "throughput"), **kind)
    _retag(region, made, old, new)


METADATA = ("httpEndpoint", "httpTokens", "httpPutResponseHopLimit", "instanceMetadataTags")
ROOT = ("volumeType", "volumeSize", "encrypted", "iops", "throughput", "kmsKeyId", "deleteOnTermination")


def _instance_create(region: str, given: Json) -> str:
    network: dict[str, Any] = pascal(given, "subnetId")
    if "vpcSecurityGroupIds" in given:
        network["SecurityGroupIds"] = given["vpcSecurityGroupIds"]
    if "associatePublicIpAddress" in given:
        network["Groups"] = network.pop("SecurityGroupIds", [])
        network |= {"DeviceIndex": 0, **pascal(given, "associatePublicIpAddress")}
        network = {"NetworkInterfaces": [network]}
    more: dict[str, Any] = {}
    if "metadataOptions" in given:
        more["MetadataOptions"] = pascal(given["metadataOptions"], *METADATA)
    if "rootBlockDevice" in given:
        disk = {"DeleteOnTermination": True, **pascal(given["rootBlockDevice"], *ROOT)}
        more["BlockDeviceMappings"] = [{"DeviceName": "/dev/sda1", "Ebs": disk}]
    if "iamInstanceProfile" in given:
        more["IamInstanceProfile"] = {"Name": given["iamInstanceProfile"]}
    if "instanceMarketOptions" in given:
        market = given["instanceMarketOptions"]
        spot = pascal(
            market.get("spotOptions", {}), "spotInstanceType", "instanceInterruptionBehavior", "maxPrice"
        )
        more["InstanceMarketOptions"] = {**pascal(market, "marketType"), "SpotOptions": spot}
    if "instanceMarketOptions" in given and given.get(
        "disableApiTermination"
    ):  # the emulator takes no notice
        raise RuntimeError("InvalidParameterCombination: no termination protection for Spot Instances")
    made = ec2(region).run_instances(
        ImageId=given["ami"],
        MinCount=1,
        MaxCount=1,
        **pascal(given, "instanceType", "keyName", "userData", "disableApiTermination", "ebsOptimized"),
        **network,
        **more,
        **_spec("instance", given),
    )["Instances"][0]["InstanceId"]
    if given.get("disableApiTermination"):  # the emulator takes no notice of it above
        ec2(region).modify_instance_attribute(InstanceId=made, DisableApiTermination={"Value": True})
    if tags := given.get("rootBlockDevice", {}).get("tags"):
        _retag(region, _root(region, made)[0], {}, {"tags": tags})
    _wait(region, made, "running")
    return str(made)


def _wait(region: str, made: str, state: str) -> None:
    while _instance(region, made)["State"]["Name"] != state:
        time.sleep(0.1)


def _instance(region: str, made: str) -> Any:
    return ec2(region).describe_instances(InstanceIds=[made])["Reservations"][0]["Instances"][0]


def _root(region: str, made: str) -> tuple[str, dict[str, Any]]:
    found = _instance(region, made)
    (volume,) = [
        each["Ebs"]["VolumeId"]
        for each in found["BlockDeviceMappings"]
        if each["DeviceName"] == found["RootDeviceName"]
    ]
    return str(volume), ec2(region).describe_volumes(VolumeIds=[volume])["Volumes"][0]


def _attribute(region: str, made: str, name: str) -> Any:
    answer = ec2(region).describe_instance_attribute(InstanceId=made, Attribute=name)
    return answer[f"{name[0].upper()}{name[1:]}"].get("Value")


def _instance_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: _instance(region, made))
    if found is None or found["State"]["Name"] in ("terminated", "shutting-down"):
        return None
    _, disk = _root(region, made)
    root = {
        **camel(disk, "volumeType", "encrypted", "iops", "throughput", "kmsKeyId"),
        "volumeSize": disk["Size"],
        "tags": tag_map(disk.get("Tags")),
    }
    data = _attribute(region, made, "userData") or ""
    profile = found.get("IamInstanceProfile", {}).get("Arn", "")
    live: Json = {
        "ami": found["ImageId"],
        **camel(found, "instanceType", "keyName", "subnetId", "instanceLifecycle", "spotInstanceRequestId"),
        # the emulator names them on the interface only, Amazon on the instance too
        "vpcSecurityGroupIds": [each["GroupId"] for each in found["NetworkInterfaces"][0]["Groups"]],
        "metadataOptions": camel(found["MetadataOptions"], *METADATA),
        "rootBlockDevice": root,
        "disableApiTermination": bool(_attribute(region, made, "disableApiTermination")),
        "availabilityZone": found["Placement"]["AvailabilityZone"],
        "instanceState": found["State"]["Name"],
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "instance", made),
        "privateIp": found.get("PrivateIpAddress", ""),
        "publicIp": found.get("PublicIpAddress", ""),
        "privateDns": found.get("PrivateDnsName", ""),
        "publicDns": found.get("PublicDnsName", ""),
    }
    if data:
        live["userData"] = base64.b64decode(data).decode()
    if profile:
        live["iamInstanceProfile"] = profile.rsplit("/", 1)[1]
    return live


def _instance_update(region: str, made: str, old: Json, new: Json) -> None:
    api = ec2(region)
    if changed(old, new, "instanceType") and _instance(region, made).get("InstanceLifecycle") == "spot":
        raise RuntimeError(f"UnsupportedOperation: the type of the spot instance {made} can't be modified")
    stopped = [name for name in ("instanceType", "userData") if changed(old, new, name)]
    if stopped:  # AWS changes these only on a stopped instance
        api.stop_instances(InstanceIds=[made])
        _wait(region, made, "stopped")
        for name in stopped:
            api.modify_instance_attribute(
                InstanceId=made, **{name[0].upper() + name[1:]: {"Value": new[name]}}
            )
        api.start_instances(InstanceIds=[made])
        _wait(region, made, "running")
    if changed(old, new, "disableApiTermination"):
        value = {"Value": bool(new.get("disableApiTermination"))}
        api.modify_instance_attribute(InstanceId=made, DisableApiTermination=value)
    if changed(old, new, "vpcSecurityGroupIds"):
        api.modify_instance_attribute(InstanceId=made, Groups=new["vpcSecurityGroupIds"])
    if changed(old, new, "metadataOptions"):
        api.modify_instance_metadata_options(InstanceId=made, **pascal(new["metadataOptions"], *METADATA))
    if changed(old, new, "iamInstanceProfile"):
        found = api.describe_iam_instance_profile_associations(
            Filters=[{"Name": "instance-id", "Values": [made]}]
        )
        api.replace_iam_instance_profile_association(
            AssociationId=found["IamInstanceProfileAssociations"][0]["AssociationId"],
            IamInstanceProfile={"Name": new["iamInstanceProfile"]},
        )
    if changed(old, new, "rootBlockDevice"):
        volume, _ = _root(region, made)
        before, after = old.get("rootBlockDevice", {}), new.get("rootBlockDevice", {})
        if changed(before, after, "volumeSize", "volumeType"):
            api.modify_volume(
                VolumeId=volume, Size=after["volumeSize"], VolumeType=after.get("volumeType", "gp3")
            )
        _retag(region, volume, before, after)
    _retag(region, made, old, new)


def _instance_delete(region: str, made: str, state: Json) -> None:
    if _instance_read(region, made, {}) is None:
        return
    if state.get("forceDestroy") and state.get("disableApiTermination"):
        ec2(region).modify_instance_attribute(InstanceId=made, DisableApiTermination={"Value": False})
    ec2(region).terminate_instances(InstanceIds=[made])
    _wait(region, made, "terminated")


def _attachment_create(region: str, given: Json) -> str:
    zone = _instance(region, given["instanceId"])["Placement"]["AvailabilityZone"]
    (disk,) = ec2(region).describe_volumes(VolumeIds=[given["volumeId"]])["Volumes"]
    if disk["AvailabilityZone"] != zone:  # the emulator takes no notice
        raise RuntimeError(f"InvalidVolume.ZoneMismatch: {given['volumeId']} is not in {zone}")
    ec2(region).attach_volume(
        Device=given["deviceName"], InstanceId=given["instanceId"], VolumeId=given["volumeId"]
    )
    volume: str = given["volumeId"]
    return "vai-" + volume.removeprefix("vol-")


def _attachment_read(region: str, made: str, given: Json) -> Json | None:
    volume = "vol-" + made.removeprefix("vai-")
    found = _gone(lambda: ec2(region).describe_volumes(VolumeIds=[volume])["Volumes"][0])
    attached = [] if found is None else found["Attachments"]
    if not attached or _instance_read(region, attached[0]["InstanceId"], {}) is None:
        return None
    one = attached[0]
    return {"deviceName": one["Device"], "instanceId": one["InstanceId"], "volumeId": volume}


def _attachment_delete(region: str, made: str, state: Json) -> None:
    if state.get("skipDestroy") or _attachment_read(region, made, state) is None:
        return
    if state.get("stopInstanceBeforeDetaching"):
        ec2(region).stop_instances(InstanceIds=[state["instanceId"]])
        _wait(region, state["instanceId"], "stopped")
    if (
        _instance(region, state["instanceId"])["State"]["Name"] == "running"
    ):  # the emulator knows of no mounts
        raise RuntimeError(f"{state['volumeId']} stays busy: it is mounted in {state['instanceId']}")
    ec2(region).detach_volume(VolumeId=state["volumeId"], InstanceId=state["instanceId"])


def _eip_create(region: str, given: Json) -> str:
    made = ec2(region).allocate_address(Domain=given.get("domain", "vpc"), **_spec("elastic-ip", given))
    return str(made["AllocationId"])


def _eip_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: ec2(region).describe_addresses(AllocationIds=[made])["Addresses"][0])
    if found is None:
        return None
    return {
        "domain": found["Domain"],
        "publicIp": found["PublicIp"],
        "allocationId": made,
        "associationId": found.get("AssociationId", ""),
        "tags": tag_map(found.get("Tags")),
        "arn": _arn(region, "elastic-ip", made),
    }


def _eip_delete(region: str, made: str, state: Json) -> None:
    # Amazon refuses while it is associated. The published plugin disassociates what its state knows of, and a
    # state that was never refreshed knows of nothing.
    ec2(region).release_address(AllocationId=made)


def _address_create(region: str, given: Json) -> str:
    made = ec2(region).associate_address(**pascal(given, "instanceId", "allocationId", "allowReassociation"))
    return str(made["AssociationId"])


def _address_read(region: str, made: str, given: Json) -> Json | None:
    filters = [{"Name": "association-id", "Values": [made]}]
    found = ec2(region).describe_addresses(Filters=filters)["Addresses"]
    if not found or not found[0].get("InstanceId"):
        return None
    return camel(found[0], "instanceId", "allocationId", "publicIp")


def _address_delete(region: str, made: str, state: Json) -> None:
    _gone(lambda: ec2(region).disassociate_address(AssociationId=made))


# --- IAM


def iam() -> Any:
    return client("iam", "us-east-1")


def _iam_retag(kind: str, made: str, old: Json, new: Json) -> None:
    before, after = old.get("tags", {}), new.get("tags", {})
    who = {"RoleName" if kind == "role" else "InstanceProfileName": made}
    if gone := sorted(before.keys() - after.keys()):
        getattr(iam(), f"untag_{kind}")(**who, TagKeys=gone)
    if changed(old, new, "tags") and after:
        getattr(iam(), f"tag_{kind}")(**who, Tags=tag_list(new))


def _role_create(region: str, given: Json) -> str:
    iam().create_role(
        RoleName=given["name"],
        AssumeRolePolicyDocument=given["assumeRolePolicy"],
        **pascal(given, "path", "description", "maxSessionDuration"),
        Tags=tag_list(given),
    )
    return str(given["name"])


def _role_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: iam().get_role(RoleName=made)["Role"])
    if found is None:
        return None
    return {
        "name": made,
        "assumeRolePolicy": json.dumps(found["AssumeRolePolicyDocument"]),
        **camel(found, "path", "description", "arn"),
        "uniqueId": found["RoleId"],
        "createDate": found["CreateDate"].isoformat(),
        "tags": tag_map(found.get("Tags")),
    }


def _role_update(region: str, made: str, old: Json, new: Json) -> None:
    if changed(old, new, "assumeRolePolicy"):
        iam().update_assume_role_policy(RoleName=made, PolicyDocument=new["assumeRolePolicy"])
    if changed(old, new, "description", "maxSessionDuration"):
        iam().update_role(RoleName=made, **pascal(new, "description", "maxSessionDuration"))
    _iam_retag("role", made, old, new)


def _attached_create(region: str, given: Json) -> str:
    iam().attach_role_policy(RoleName=given["role"], PolicyArn=given["policyArn"])
    return f"{given['role']}/{given['policyArn']}"


def _attached_read(region: str, made: str, given: Json) -> Json | None:
    role, arn = made.split("/", 1)
    found = _gone(lambda: iam().list_attached_role_policies(RoleName=role)["AttachedPolicies"])
    if not any(each["PolicyArn"] == arn for each in found or []):
        return None
    return {"role": role, "policyArn": arn}


def _policy_create(region: str, given: Json) -> str:
    iam().put_role_policy(RoleName=given["role"], PolicyName=given["name"], PolicyDocument=given["policy"])
    return f"{given['role']}:{given['name']}"


def _policy_read(region: str, made: str, given: Json) -> Json | None:
    role, name = made.split(":", 1)
    found = _gone(lambda: iam().get_role_policy(RoleName=role, PolicyName=name))
    if found is None:
        return None
    return {"role": role, "name": name, "policy": json.dumps(found["PolicyDocument"])}


def _profile_create(region: str, given: Json) -> str:
    name = given["name"]
    iam().create_instance_profile(InstanceProfileName=name, Tags=tag_list(given), **pascal(given, "path"))
    if "role" in given:
        iam().add_role_to_instance_profile(InstanceProfileName=name, RoleName=given["role"])
    return str(name)


def _profile_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: iam().get_instance_profile(InstanceProfileName=made)["InstanceProfile"])
    if found is None:
        return None
    roles = [each["RoleName"] for each in found["Roles"]]
    return {
        "name": made,
        **({"role": roles[0]} if roles else {}),
        **camel(found, "path", "arn"),
        "uniqueId": found["InstanceProfileId"],
        "tags": tag_map(found.get("Tags")),
    }


def _profile_update(region: str, made: str, old: Json, new: Json) -> None:
    if changed(old, new, "role"):
        if "role" in old:
            iam().remove_role_from_instance_profile(InstanceProfileName=made, RoleName=old["role"])
        if "role" in new:
            iam().add_role_to_instance_profile(InstanceProfileName=made, RoleName=new["role"])
    _iam_retag("instance_profile", made, old, new)


def _profile_delete(region: str, made: str, state: Json) -> None:
    if "role" in state:
        iam().remove_role_from_instance_profile(InstanceProfileName=made, RoleName=state["role"])
    iam().delete_instance_profile(InstanceProfileName=made)


# --- SSM, logs, alarms, notifications, budgets, DNS, snapshots


def _parameter_create(region: str, given: Json) -> str:
    client("ssm", region).put_parameter(
        **pascal(given, "name", "type", "value", "description", "tier", "keyId"), Tags=tag_list(given)
    )
    return str(given["name"])


def _parameter_read(region: str, made: str, given: Json) -> Json | None:
    api = client("ssm", region)
    found = _gone(lambda: api.get_parameter(Name=made, WithDecryption=True)["Parameter"])
    if found is None:
        return None
    tags = api.list_tags_for_resource(ResourceType="Parameter", ResourceId=made)["TagList"]
    live = camel(found, "name", "type", "value", "version", "dataType")
    return {**live, "arn": found["ARN"], "tags": tag_map(tags)}


def _parameter_update(region: str, made: str, old: Json, new: Json) -> None:
    api = client("ssm", region)
    if changed(old, new, "value", "type", "description"):
        api.put_parameter(**pascal(new, "name", "type", "value", "description"), Overwrite=True)
    if gone := sorted(old.get("tags", {}).keys() - new.get("tags", {}).keys()):
        api.remove_tags_from_resource(ResourceType="Parameter", ResourceId=made, TagKeys=gone)
    if changed(old, new, "tags") and new.get("tags"):
        api.add_tags_to_resource(ResourceType="Parameter", ResourceId=made, Tags=tag_list(new))


def _log_create(region: str, given: Json) -> str:
    api = client("logs", region)
    tags = {"tags": given["tags"]} if given.get("tags") else {}
    api.create_log_group(logGroupName=given["name"], **tags)
    if given.get("retentionInDays"):
        api.put_retention_policy(logGroupName=given["name"], retentionInDays=given["retentionInDays"])
    return str(given["name"])


def _log_read(region: str, made: str, given: Json) -> Json | None:
    api = client("logs", region)
    found = api.describe_log_groups(logGroupNamePrefix=made)["logGroups"]
    found = [each for each in found if each["logGroupName"] == made]
    if not found:
        return None
    return {
        "name": made,
        "retentionInDays": found[0].get("retentionInDays", 0),
        "arn": found[0]["arn"].removesuffix(":*"),
        "tags": api.list_tags_log_group(logGroupName=made)["tags"],
    }


def _log_update(region: str, made: str, old: Json, new: Json) -> None:
    api = client("logs", region)
    if changed(old, new, "retentionInDays"):
        if new.get("retentionInDays"):
            api.put_retention_policy(logGroupName=made, retentionInDays=new["retentionInDays"])
        else:
            api.delete_retention_policy(logGroupName=made)
    if gone := sorted(old.get("tags", {}).keys() - new.get("tags", {}).keys()):
        api.untag_log_group(logGroupName=made, tags=gone)
    if changed(old, new, "tags") and new.get("tags"):
        api.tag_log_group(logGroupName=made, tags=new["tags"])


ALARM = (
    *("alarmActions", "alarmDescription", "comparisonOperator", "datapointsToAlarm", "evaluationPeriods"),
    *("metricName", "namespace", "okActions", "period", "statistic", "threshold", "treatMissingData", "unit"),
    *("actionsEnabled", "extendedStatistic", "insufficientDataActions"),
)


def _alarm_put(region: str, given: Json, **tags: Any) -> None:
    sizes = [{"Name": name, "Value": value} for name, value in sorted(given.get("dimensions", {}).items())]
    body = {key.replace("OkActions", "OKActions"): value for key, value in pascal(given, *ALARM).items()}
    client("cloudwatch", region).put_metric_alarm(AlarmName=given["name"], Dimensions=sizes, **body, **tags)


def _alarm_create(region: str, given: Json) -> str:
    _alarm_put(region, given, Tags=tag_list(given))
    return str(given["name"])


def _alarm_read(region: str, made: str, given: Json) -> Json | None:
    api = client("cloudwatch", region)
    found = api.describe_alarms(AlarmNames=[made])["MetricAlarms"]
    if not found:
        return None
    tags = api.list_tags_for_resource(ResourceARN=found[0]["AlarmArn"])["Tags"]
    live = camel(found[0], *ALARM)
    if "threshold" in live and float(live["threshold"]).is_integer():
        live["threshold"] = int(live["threshold"])
    return {
        **live,
        "name": made,
        "dimensions": {each["Name"]: each["Value"] for each in found[0]["Dimensions"]},
        "arn": found[0]["AlarmArn"],
        "tags": tag_map(tags),
    }


def _alarm_update(region: str, made: str, old: Json, new: Json) -> None:
    if changed(old, new, "dimensions", *ALARM):
        _alarm_put(region, new)
    api = client("cloudwatch", region)
    arn = api.describe_alarms(AlarmNames=[made])["MetricAlarms"][0]["AlarmArn"]
    if gone := sorted(old.get("tags", {}).keys() - new.get("tags", {}).keys()):
        api.untag_resource(ResourceARN=arn, TagKeys=gone)
    if changed(old, new, "tags") and new.get("tags"):
        api.tag_resource(ResourceARN=arn, Tags=tag_list(new))


def sns(region: str) -> Any:
    return client("sns", region)


def _topic_create(region: str, given: Json) -> str:
    return str(sns(region).create_topic(Name=given["name"], Tags=tag_list(given))["TopicArn"])


def _topic_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: sns(region).get_topic_attributes(TopicArn=made)["Attributes"])
    if found is None:
        return None
    tags = sns(region).list_tags_for_resource(ResourceArn=made)["Tags"]
    return {"name": made.rsplit(":", 1)[1], "arn": made, "owner": ACCOUNT, "tags": tag_map(tags)}


def _topic_update(region: str, made: str, old: Json, new: Json) -> None:
    if gone := sorted(old.get("tags", {}).keys() - new.get("tags", {}).keys()):
        sns(region).untag_resource(ResourceArn=made, TagKeys=gone)
    sns(region).tag_resource(ResourceArn=made, Tags=tag_list(new))


def _mail_create(region: str, given: Json) -> str:
    made = sns(region).subscribe(
        TopicArn=given["topic"],
        Protocol=given["protocol"],
        Endpoint=given["endpoint"],
        ReturnSubscriptionArn=True,
    )
    return str(made["SubscriptionArn"])


def _mail_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(lambda: sns(region).get_subscription_attributes(SubscriptionArn=made)["Attributes"])
    if found is None:
        return None
    pending = found.get("PendingConfirmation") == "true"
    return {
        "topic": found["TopicArn"],
        **camel(found, "protocol", "endpoint"),
        "pendingConfirmation": pending,
        "arn": made,
    }


BUDGET = ("budgetType", "timeUnit")
NOTICE = ("comparisonOperator", "threshold", "thresholdType", "notificationType")


def budgets() -> Any:
    return client("budgets", "us-east-1")


def _budget_create(region: str, given: Json) -> str:
    notices = [
        {
            "Notification": pascal(each, *NOTICE),
            "Subscribers": [
                {"SubscriptionType": "EMAIL", "Address": mail}
                for mail in each.get("subscriberEmailAddresses", [])
            ],
        }
        for each in given.get("notifications", [])
    ]
    budgets().create_budget(
        AccountId=ACCOUNT,
        Budget={
            "BudgetName": given["name"],
            "BudgetLimit": {"Amount": given["limitAmount"], "Unit": given["limitUnit"]},
            "CostFilters": {each["name"]: each["values"] for each in given.get("costFilters", [])},
            **pascal(given, *BUDGET),
        },
        NotificationsWithSubscribers=notices,
    )
    return f"{ACCOUNT}:{given['name']}"


def _budget_read(region: str, made: str, given: Json) -> Json | None:
    name = made.split(":", 1)[1]
    found = _gone(lambda: budgets().describe_budget(AccountId=ACCOUNT, BudgetName=name)["Budget"])
    if found is None:
        return None
    limit = found["BudgetLimit"]
    filters = [{"name": key, "values": values} for key, values in found.get("CostFilters", {}).items()]
    return {
        "name": name,
        "limitAmount": f"{float(limit['Amount']):g}",
        "limitUnit": limit["Unit"],
        **camel(found, *BUDGET),
        **({"costFilters": filters} if filters else {}),
        "arn": f"arn:aws:budgets::{ACCOUNT}:budget/{name}",
        "tags": given.get("tags", {}),  # the emulator keeps none
    }


def _budget_update(region: str, made: str, old: Json, new: Json) -> None:
    _budget_delete(region, made, old)  # the emulator has no UpdateBudget
    _budget_create(region, new)


def _budget_delete(region: str, made: str, state: Json) -> None:
    budgets().delete_budget(AccountId=ACCOUNT, BudgetName=made.split(":", 1)[1])


def _record_change(given: Json, action: str) -> None:
    record = {
        "Name": given["name"],
        "Type": given["type"],
        "TTL": given["ttl"],
        "ResourceRecords": [{"Value": value} for value in given["records"]],
    }
    client("route53", "us-east-1").change_resource_record_sets(
        HostedZoneId=given["zoneId"],
        ChangeBatch={"Changes": [{"Action": action, "ResourceRecordSet": record}]},
    )


def _record_create(region: str, given: Json) -> str:
    _record_change(given, "UPSERT" if given.get("allowOverwrite") else "CREATE")
    return f"{given['zoneId']}_{given['name']}_{given['type']}"


def _record_read(region: str, made: str, given: Json) -> Json | None:
    zone, name, kind = made.split("_")
    sets = _gone(
        lambda: client("route53", "us-east-1").list_resource_record_sets(HostedZoneId=zone)[
            "ResourceRecordSets"
        ]
    )
    for each in sets or []:
        if each["Name"].rstrip(".") == name and each["Type"] == kind:
            records = [record["Value"] for record in each["ResourceRecords"]]
            return {
                "zoneId": zone,
                "name": name,
                "type": kind,
                "fqdn": name,
                "ttl": each["TTL"],
                "records": records,
            }
    return None


def dlm(region: str) -> Any:
    return client("dlm", region)


def _schedule(each: Json) -> dict[str, Any]:
    rule = pascal(each["createRule"], "interval", "intervalUnit")
    if "times" in each["createRule"]:
        rule["Times"] = [each["createRule"]["times"]]
    keep = pascal(each["retainRule"], "count", "interval", "intervalUnit")
    return {**pascal(each, "name", "copyTags"), "CreateRule": rule, "RetainRule": keep}


def _details(given: Json) -> dict[str, Any]:
    details = given["policyDetails"]
    return {
        **pascal(details, "resourceTypes"),
        "TargetTags": [{"Key": key, "Value": value} for key, value in sorted(details["targetTags"].items())],
        "Schedules": [_schedule(each) for each in details["schedules"]],
    }


def _snapshots_create(region: str, given: Json) -> str:
    made = dlm(region).create_lifecycle_policy(
        **pascal(given, "executionRoleArn", "description", "state"),
        PolicyDetails=_details(given),
        Tags=given.get("tags", {}),
    )
    return str(made["PolicyId"])


def _snapshots_read(region: str, made: str, given: Json) -> Json | None:
    found = _gone(
        lambda: dlm(region).get_lifecycle_policy(PolicyId=made)["Policy"], "ResourceNotFoundException"
    )
    if found is None:
        return None
    schedules = [
        {
            **camel(each, "name", "copyTags"),
            "createRule": {
                **camel(each["CreateRule"], "interval", "intervalUnit"),
                "times": each["CreateRule"].get("Times", [""])[0],
            },
            "retainRule": camel(each["RetainRule"], "count", "interval", "intervalUnit"),
        }
        for each in found["PolicyDetails"]["Schedules"]
    ]
    return {
        **camel(found, "executionRoleArn", "description", "state"),
        "policyDetails": {
            "resourceTypes": found["PolicyDetails"]["ResourceTypes"],
            "targetTags": tag_map(found["PolicyDetails"]["TargetTags"]),
            "schedules": schedules,
        },
        "arn": found["PolicyArn"],
        "tags": found.get("Tags", {}),
    }


def _snapshots_update(region: str, made: str, old: Json, new: Json) -> None:
    if changed(old, new, "tags"):
        raise RuntimeError("the emulator changes no tags of a lifecycle policy")
    dlm(region).update_lifecycle_policy(
        PolicyId=made,
        **pascal(new, "executionRoleArn", "description", "state"),
        PolicyDetails=_details(new),
    )


def _kind(
    create: Callable[[str, Json], str],
    read: Callable[[str, str, Json], Json | None],
    delete: Callable[[str, str, Json], Any],
    update: Callable[[str, str, Json, Json], None] = no_update,
    autoname: str = "",
) -> ResourceKind:
    return ResourceKind(create=create, read=read, update=update, delete=delete, autoname=autoname)


KINDS: dict[str, ResourceKind] = {
    "aws:ec2/vpc:Vpc": _kind(
        _vpc_create,
        _vpc_read,
        lambda region, made, state: ec2(region).delete_vpc(VpcId=made),
        _vpc_update,
    ),
    "aws:ec2/subnet:Subnet": _kind(
        _subnet_create,
        _subnet_read,
        lambda region, made, state: ec2(region).delete_subnet(SubnetId=made),
        _subnet_update,
    ),
    "aws:ec2/internetGateway:InternetGateway": _kind(
        _gateway_create, _gateway_read, _gateway_delete, _gateway_update
    ),
    "aws:ec2/routeTable:RouteTable": _kind(
        _routes_create,
        _routes_read,
        lambda region, made, state: ec2(region).delete_route_table(RouteTableId=made),
        _routes_update,
    ),
    "aws:ec2/routeTableAssociation:RouteTableAssociation": _kind(
        _association_create,
        _association_read,
        lambda region, made, state: ec2(region).disassociate_route_table(AssociationId=made),
        _association_update,
    ),
    "aws:ec2/securityGroup:SecurityGroup": _kind(
        _group_create,
        _group_read,
        lambda region, made, state: ec2(region).delete_security_group(GroupId=made),
        _group_update,
        autoname="name",
    ),
    "aws:ec2/keyPair:KeyPair": _kind(
        _key_create,
        _key_read,
        lambda region, made, state: ec2(region).delete_key_pair(KeyName=made),
        _key_update,
        autoname="keyName",
    ),
    "aws:ebs/volume:Volume": _kind(
        _volume_create,
        _volume_read,
        lambda region, made, state: ec2(region).delete_volume(VolumeId=made),
        _volume_update,
    ),
    "aws:ec2/instance:Instance": _kind(
        _instance_create,
        _instance_read,
        _instance_delete,
        _instance_update,
    ),
    "aws:ec2/volumeAttachment:VolumeAttachment": _kind(
        _attachment_create,
        _attachment_read,
        _attachment_delete,
        lambda region, made, old, new: None,  # these three are only read when it is deleted
    ),
    "aws:ec2/eip:Eip": _kind(
        _eip_create,
        _eip_read,
        _eip_delete,
        _retag,
    ),
    "aws:ec2/eipAssociation:EipAssociation": _kind(_address_create, _address_read, _address_delete),
    "aws:iam/role:Role": _kind(
        _role_create,
        _role_read,
        lambda region, made, state: iam().delete_role(RoleName=made),
        _role_update,
        autoname="name",
    ),
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment": _kind(
        _attached_create,
        _attached_read,
        lambda region, made, state: iam().detach_role_policy(
            RoleName=state["role"], PolicyArn=state["policyArn"]
        ),
    ),
    "aws:iam/rolePolicy:RolePolicy": _kind(
        _policy_create,
        _policy_read,
        lambda region, made, state: iam().delete_role_policy(
            RoleName=state["role"], PolicyName=state["name"]
        ),
        lambda region, made, old, new: iam().put_role_policy(
            RoleName=new["role"], PolicyName=new["name"], PolicyDocument=new["policy"]
        ),
        autoname="name",
    ),
    "aws:iam/instanceProfile:InstanceProfile": _kind(
        _profile_create, _profile_read, _profile_delete, _profile_update, autoname="name"
    ),
    "aws:ssm/parameter:Parameter": _kind(
        _parameter_create,
        _parameter_read,
        lambda region, made, state: client("ssm", region).delete_parameter(Name=made),
        _parameter_update,
        autoname="name",
    ),
    "aws:cloudwatch/logGroup:LogGroup": _kind(
        _log_create,
        _log_read,
        lambda region, made, state: client("logs", region).delete_log_group(logGroupName=made),
        _log_update,
        autoname="name",
    ),
    "aws:cloudwatch/metricAlarm:MetricAlarm": _kind(
        _alarm_create,
        _alarm_read,
        lambda region, made, state: client("cloudwatch", region).delete_alarms(AlarmNames=[made]),
        _alarm_update,
        autoname="name",
    ),
    "aws:sns/topic:Topic": _kind(
        _topic_create,
        _topic_read,
        lambda region, made, state: sns(region).delete_topic(TopicArn=made),
        _topic_update,
        autoname="name",
    ),
    "aws:sns/topicSubscription:TopicSubscription": _kind(
        _mail_create, _mail_read, lambda region, made, state: sns(region).unsubscribe(SubscriptionArn=made)
    ),
    "aws:budgets/budget:Budget": _kind(
        _budget_create,
        _budget_read,
        _budget_delete,
        _budget_update,
        autoname="name",
    ),
    "aws:route53/record:Record": _kind(
        _record_create,
        _record_read,
        lambda region, made, state: _record_change(state, "DELETE"),
        lambda region, made, old, new: _record_change(new, "UPSERT"),
    ),
    "aws:dlm/lifecyclePolicy:LifecyclePolicy": _kind(
        _snapshots_create,
        _snapshots_read,
        lambda region, made, state: dlm(region).delete_lifecycle_policy(PolicyId=made),
        _snapshots_update,
    ),
}
