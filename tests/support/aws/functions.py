"""The functions of the test plugin."""

from collections.abc import Callable

from tests.support.aws.api import client
from tests.support.aws.resources import ACCOUNT, camel
from tests.support.aws.schema import Json


def _parameter(region: str, args: Json) -> Json:
    found = client("ssm", region).get_parameter(Name=args["name"], WithDecryption=True)["Parameter"]
    live = camel(found, "name", "type", "value", "version")
    return {**live, "id": found["Name"], "arn": found["ARN"], "withDecryption": True, "insecureValue": ""}


def _zone(region: str, args: Json) -> Json:
    api = client("route53", region)
    wanted = args["name"].rstrip(".") + "."
    zones = [each for each in api.list_hosted_zones()["HostedZones"] if each["Name"] == wanted]
    if len(zones) != 1:
        raise LookupError(f"no matching Route 53 hosted zone: {args['name']}")
    made = zones[0]["Id"].rsplit("/", 1)[1]
    return {"id": made, "zoneId": made, "name": args["name"], "privateZone": False}


def _identity(region: str, args: Json) -> Json:
    found = client("sts", region).get_caller_identity()
    return {"accountId": ACCOUNT, "arn": found["Arn"], "id": ACCOUNT, "userId": found["UserId"]}


FUNCTIONS: dict[str, Callable[[str, Json], Json]] = {
    "aws:ssm/getParameter:getParameter": _parameter,
    "aws:route53/getZone:getZone": _zone,
    "aws:index/getCallerIdentity:getCallerIdentity": _identity,
}
