"""What a blueprint is on a cluster, as plain data. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from components.engines import EngineSpec
from components.kubernetes.looked import FlipPlan
from components.kubernetes.nodes import NodesPlan, Sent
from components.kubernetes.objects import (
    ENGINES,
    LIVE_CONFIG,
    ClusterArgs,
    content,
    deployments,
    name,
    objects,
    render,
)
from components.kubernetes.pods import EngineOnCluster
from components.labels import Labels
from proxy.route import LOCALHOST
from stacks.blueprint import Blueprint
from stacks.settings import PROJECT
from switch.pod_plan import PodPlan

ANY_CODE = {"proxy": "code", "switch": "code"}
"""In place of the digests of our own code, in a file that is to be read: it says nothing of them."""
ANY_PACKAGES = ("all",)


def pod_plan(blueprint: Blueprint, spec: EngineSpec) -> PodPlan:
    """What the gate beside an engine is told: nothing of it changes in a flip."""
    whole = replace(blueprint, specs=(spec,)).plan().leading_to(LOCALHOST)
    return PodPlan(
        engine=whole.engine,
        gate=whole.gate,
        load=whole.seconds.load,
        at_a_time=spec.at_a_time,
        context=spec.context,
    )


def cluster(
    blueprint: Blueprint,
    labels: Labels,
    code: Mapping[str, str] = ANY_CODE,
    packages: Sequence[str] = ANY_PACKAGES,
) -> ClusterArgs:
    """What the objects of a stack on a cluster are made from; `code` and `packages` as in `ClusterArgs`."""
    settings = blueprint.settings
    assert settings.kubernetes is not None, "only with target kubernetes"
    gpus = settings.gpu.count if settings.gpu else 0
    return ClusterArgs(
        labels=labels,
        settings=settings.kubernetes,
        engines=tuple(
            EngineOnCluster(spec=spec, plan=pod_plan(blueprint, spec), gpus=gpus) for spec in blueprint.specs
        ),
        routing=blueprint.routing,
        gateway_config=blueprint.gateway_config,
        port=settings.port,
        reference=blueprint.reference,
        pulls=settings.images == "public",
        code=code,
        packages=packages,
    )


def flip_plan(blueprint: Blueprint, args: ClusterArgs) -> FlipPlan:
    """What the step is told that brings the pods to the engine that is to serve."""
    active, labels = blueprint.active, args.labels
    return FlipPlan(
        project=labels.project,
        stack=labels.stack,
        namespace=args.settings.namespace,
        context=args.settings.context,
        to=deployments(objects(args))[active.name],
        engine=active.name,
        service=name(labels, ENGINES),
        live=name(labels, LIVE_CONFIG),
        hosts=args.settings.hosts,
        at_once=args.settings.at_once,
        load=blueprint.settings.bounds.load,
        nodes=replace(nodes_plan(args), content=""),  # other weights of the standby are no change
    )


def nodes_plan(args: ClusterArgs) -> NodesPlan:
    """What the step is told that waits until images and weights are on every node."""
    labels, weights = args.labels, [it.spec.weights for it in args.engines]
    (daemon_set,) = (each for each in objects(args) if each["kind"] == "DaemonSet")
    return NodesPlan(
        project=labels.project,
        stack=labels.stack,
        namespace=args.settings.namespace,
        context=args.settings.context,
        daemon_set=daemon_set["metadata"]["name"],
        content=content(json.dumps(daemon_set, sort_keys=True)),
        sent=tuple(
            Sent(engine=each.kind, folder=each.folder, place=each.upload)
            for each in sorted(weights, key=lambda each: each.kind)
            if each.upload
        ),
    )


def rendered(blueprint: Blueprint) -> str:
    """The objects as YAML, for a reader."""
    return render(objects(cluster(blueprint, Labels(project=PROJECT, stack=blueprint.settings.stack))))
