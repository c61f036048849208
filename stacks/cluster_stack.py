"""The composition on a cluster: from a blueprint to what Pulumi declares there."""

from collections.abc import Mapping, Sequence

import pulumi

from components import api_keys
from components.facts import Variable
from components.kubernetes import files
from components.kubernetes.kubectl import kubectl
from components.kubernetes.objects import objects
from components.kubernetes.stack import ClusterStack, ClusterStackArgs
from components.labels import Labels
from components.weights import Weights
from stacks import kubernetes_target, ours
from stacks.blueprint import Blueprint
from stacks.cluster import cluster, flip_plan, nodes_plan
from stacks.kubernetes_target import FoundOnCluster
from stacks.settings import Settings


def look_at(settings: Settings) -> FoundOnCluster:
    """What the cluster has of the stack; says which nodes are away. Raises TargetError where the stack can't
    be on the cluster."""
    its = settings.kubernetes
    assert its is not None, "only with target kubernetes"
    run = kubectl(its.namespace, its.context)
    found = kubernetes_target.look(settings, files.names(), run, ours.on_cluster())
    if found.warning:
        pulumi.warn(found.warning)
    return found


def declare(
    blueprint: Blueprint, labels: Labels, found: FoundOnCluster, keys: pulumi.Input[Mapping[str, str]]
) -> ClusterStack:
    """Declares the stack where that was found. `keys` maps tenants to API keys, as a secret."""
    names = files.names()
    args = cluster(blueprint, labels, names.code, names.packages)
    return ClusterStack(
        "cluster",
        ClusterStackArgs(
            labels=labels,
            namespace=args.settings.namespace,
            context=args.settings.context,
            objects=objects(args),
            files=names,
            gone=found.gone,
            state=ours.steps(),
            flip=flip_plan(blueprint, args),
            nodes=nodes_plan(args),
            names=found.names,
            weights=_weights([spec.weights for spec in blueprint.specs]),
            routing=args.routing,
            keys=pulumi.Output.from_input(keys).apply(lambda each: api_keys.document(each, never_open=True)),
            tenants=blueprint.settings.tenants,
            port=args.port,
        ),
    )


def _weights(both: Sequence[Weights]) -> dict[Variable, str]:
    """What a step is told of them, whichever engine serves: nodes have the weights of both."""
    sources = sorted(f"{each.kind}: {each.source}" for each in both)
    moving = sorted(each.moving for each in both if each.moving)
    return {"WEIGHTS": "; ".join(sources), **({"MOVING": ", ".join(moving)} if moving else {})}
