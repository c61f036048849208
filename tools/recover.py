"""`make recover`: brings a stack back whose instance is gone behind Pulumi's back, or dead.

Pulumi would ask the lost host for each container before it made another one. So what was on it is taken out
of the state: exactly the resources that the program declared to end with the instance (`deletedWith`).
"""

import json
import os
import sys
from collections.abc import Collection, Mapping
from typing import Any

from common import StepFailed, main_guard, say
from components.aws.settings import AwsSettings
from stacks.aws_cli import AwsError, FoundOnAws, aws
from tools.ask import yes
from tools.environment import pulumi
from tools.host import look, on_aws, refuse_cluster
from tools.wake import WAIT_SECONDS, start

INSTANCE = "aws:ec2/instance:Instance"
DATA = "aws:ebs/volume:Volume"


def one(resources: Collection[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    """The resource of a kind that the stack has one of."""
    return next((each for each in resources if each["type"] == kind and not each.get("delete")), None)


def without(resources: Collection[Mapping[str, Any]], gone: Collection[str]) -> list[dict[str, Any]]:
    """The resources of a state without those whose URNs are `gone` and those that end with them.

    References to them go too: a state with a reference to nothing is refused.
    """
    lost = set(gone) | {each["urn"] for each in resources if each.get("deletedWith") in gone}
    kept = []
    for each in resources:
        if each["urn"] in lost:
            continue
        copy = dict(each)
        if "dependencies" in copy:
            copy["dependencies"] = [urn for urn in copy["dependencies"] if urn not in lost]
        if "propertyDependencies" in copy:
            copy["propertyDependencies"] = {
                key: [urn for urn in urns or [] if urn not in lost]
                for key, urns in copy["propertyDependencies"].items()
            }
        if "replaceWith" in copy:
            copy["replaceWith"] = [urn for urn in copy["replaceWith"] if urn not in lost]
        kept.append(copy)
    return kept


def _ask(question: str, stack: str) -> None:
    alone = (
        "nothing was changed: there is no terminal, so nobody can be asked. Run: YES=1 make recover "
        f"STACK={stack}"
    )
    if not yes(question, alone):
        raise StepFailed("nothing was changed")


def _restart(settings: AwsSettings, instance: str, stack: str) -> None:
    say(
        f"The instance {instance} exists. After a stop and a start it runs on other hardware. Nothing is "
        "lost."
    )
    _ask("Stop and start it?", stack)
    try:
        aws(settings.region, "ec2", "stop-instances", "--force", "--instance-ids", instance)
        wait = ("ec2", "wait", "instance-stopped", "--instance-ids", instance)
        aws(settings.region, *wait, seconds=WAIT_SECONDS)
    except AwsError as error:
        raise StepFailed(
            f"{error}\nTo make another instance instead: REPLACE=1 make recover STACK={stack}"
        ) from None
    start(settings, instance, stack)
    say(f"If it still can't be reached: REPLACE=1 make recover STACK={stack}")


def _terminate(settings: AwsSettings, found: FoundOnAws, stack: str) -> None:
    instance = str(found.instance)
    for each in found.left_over():
        say(f"AWS also has {each} of this stack, which its state does not know; it is terminated as well.")
    _ask(f"Terminate {instance} and make another instance?", stack)
    which = ("--instance-id", instance)
    try:
        # a persistent request would start another instance in the place of this one
        left = found.left_over()
        own = [each for each, runs in found.requests.items() if runs == instance or each in left]
        if own:
            ids = ("--spot-instance-request-ids", *own)
            aws(settings.region, "ec2", "cancel-spot-instance-requests", *ids)
        if found.tags.get("Spot") != "yes":  # AWS has no protection for a spot instance, and takes none away
            aws(settings.region, "ec2", "modify-instance-attribute", *which, "--no-disable-api-termination")
        aws(settings.region, "ec2", "terminate-instances", "--instance-ids", instance, *found.others)
    except AwsError as error:
        raise StepFailed(str(error)) from None
    _wait_for_the_end(settings, instance)


def _wait_for_the_end(settings: AwsSettings, instance: str) -> None:
    try:
        wait = ("ec2", "wait", "instance-terminated", "--instance-ids", instance)
        aws(settings.region, *wait, seconds=WAIT_SECONDS)
    except AwsError as error:
        raise StepFailed(
            f"{instance} does not terminate: {error}\nRun the same command again later"
        ) from None


def _data_is_lost(settings: AwsSettings, volume: str, stack: str) -> None:
    """Says which snapshots there are, and goes on only where a new volume is meant."""
    which = ("--filters", f"Name=volume-id,Values={volume}", "--query", "Snapshots[].[SnapshotId,StartTime]")
    try:
        snapshots = aws(settings.region, "ec2", "describe-snapshots", "--owner-ids", "self", *which) or []
    except AwsError as error:
        raise StepFailed(str(error)) from None
    newest = sorted(snapshots, key=lambda each: str(each[1]))[-1:]
    if settings.data_snapshot:
        say(f"The data volume {volume} is gone too. A new one is made from {settings.data_snapshot}.")
    elif os.environ.get("DATA") == "new":
        say(
            f"The data volume {volume} is gone too. An empty one is created; weights and images are fetched "
            "again."
        )
    else:
        from_snapshot = (
            f"pulumi config set dataSnapshot {newest[0][0]}, and then this command again; or "
            if newest
            else ""
        )
        raise StepFailed(
            f"the data volume {volume} is gone too: weights, images, certificates. Nothing was changed. Run: "
            f"{from_snapshot}DATA=new make recover STACK={stack}"
        )


def recover(stack: str) -> None:
    """Find out what is lost, say it, and bring it back. Raises StepFailed."""
    refuse_cluster(stack)
    settings = on_aws(stack)
    if settings is None:
        raise StepFailed(f"stack `{stack}` is not on AWS. What runs on Docker here comes back with: make up")
    exported = json.loads(pulumi("stack", "export", "--stack", stack, capture=True))
    resources = exported["deployment"].get("resources") or []
    instance, data = one(resources, INSTANCE), one(resources, DATA)
    if instance is None:
        raise StepFailed(f"the state of stack `{stack}` has no instance. Run: pulumi up --stack {stack}")
    found = look(stack, settings, instance["id"])
    if found.strangers:
        raise StepFailed(
            f"AWS has {' and '.join(found.strangers)} of stack `{stack}` as well, which an update made and "
            "this state does not know: it is older than that one. Nothing was changed. Use the newer state"
        )
    if found.instance == instance["id"] and found.state in ("pending", "running", "stopping", "stopped"):
        if os.environ.get("REPLACE") == "1":
            _terminate(settings, found, stack)
        elif found.state in ("pending", "running"):
            _restart(settings, instance["id"], stack)
            return
        else:
            raise StepFailed(
                f"{found.instance} is not gone, but {found.state}. Run: make wake STACK={stack}. If it can't "
                f"start: REPLACE=1 make recover STACK={stack}"
            )
    elif found.instance == instance["id"]:
        say(f"{instance['id']} is still shutting down; waiting for it, since it holds the data volume …")
        _wait_for_the_end(settings, instance["id"])
    _bring_back(settings, exported, instance, data, found, stack)


def _bring_back(
    settings: AwsSettings,
    exported: dict[str, Any],
    instance: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    found: FoundOnAws,
    stack: str,
) -> None:
    gone = [instance["urn"]]
    say(f"The instance {instance['id']} is gone.")
    if data is not None and data["id"] not in found.volumes:
        _data_is_lost(settings, data["id"], stack)
        gone.append(data["urn"])
    else:
        say(
            "Lost: the instance, and requests until it is back. The data volume (weights, images, "
            "certificates), the address and every setting are still there."
        )
    _ask("Make another instance and bring the stack back?", stack)
    if json.loads(pulumi("stack", "export", "--stack", stack, capture=True)) != exported:
        raise StepFailed(
            "an update ran while this waited; its state was left as it is. Run the same command again"
        )
    deployment = exported["deployment"]
    before = len(deployment["resources"])
    deployment["resources"] = without(deployment["resources"], gone)
    say(f"Removing {before - len(deployment['resources'])} resources that were on it from the state …")
    pulumi("stack", "import", "--stack", stack, stdin=json.dumps(exported), capture=True)
    pulumi("up", "--yes", "--skip-preview", "--stack", stack)
    say(f"The stack is back. Look with: make status STACK={stack}")


if __name__ == "__main__":
    main_guard(lambda: recover(sys.argv[1]))
