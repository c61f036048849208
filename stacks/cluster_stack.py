"""The composition on a cluster: from a blueprint to what Pulumi declares there."""

from collections.abc import Mapping

import pulumi

from components import api_keys
from components.kubernetes import files
from components.kubernetes.kubectl import kubectl
from components.kubernetes.objects import objects
from components.kubernetes.stack import ClusterStack, ClusterStackArgs
from components.labels import Labels
from stacks import kubernetes_target
from stacks.blueprint import Blueprint
from stacks.cluster import cluster, flip_plan
from stacks.settings import Settings


def look_at(settings: Settings) -> None:
    """Looks at the cluster of the settings. Raises TargetError where the stack can't be there."""
    its = settings.kubernetes
    assert its is not None, "only with target kubernetes"
    kubernetes_target.look(settings, kubectl(its.namespace, its.context))


def declare(plan: Blueprint, labels: Labels, keys: pulumi.Input[Mapping[str, str]]) -> ClusterStack:
    """Declares the stack. `keys` maps tenants to API keys, as a secret."""
    names = files.names()
    args = cluster(plan, labels, names.code, names.packages)
    return ClusterStack(
        "cluster",
        ClusterStackArgs(
            labels=labels,
            namespace=args.settings.namespace,
            context=args.settings.context,
            objects=objects(args),
            flip=flip_plan(plan, args),
            routing=args.routing,
            keys=pulumi.Output.from_input(keys).apply(
                lambda found: api_keys.document(found, never_open=True)
            ),
            tenants=plan.settings.tenants,
            port=args.port,
        ),
    )
