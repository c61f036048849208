"""Every object of a stack on a cluster, as plain data, but for what is secret or binary. Pure.

One Deployment for each engine by content, as there is one container for each on one host: it is made without
a pod, and how many pods it has is live, and no part of what is declared. So a flip changes no Deployment, and
a changed flag, model or image is another one beside that which serves.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import yaml

from components import engines, pins, proxy, tensorzero
from components.kubernetes import pods
from components.kubernetes.looked import PARALLEL
from components.kubernetes.pods import EngineOnCluster, Object, PodArgs
from components.kubernetes.settings import KubernetesSettings
from components.labels import Labels, label
from proxy.route import FLEET_FILE, KEYS_FILE, ROUTING_FILE
from switch import pod_plan

PROXIES = 2
DNS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
EVERYWHERE = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128"]}},
]
"""All addresses but those at which a cloud gives a machine its credentials, which are the node's here."""
LIVE_CONFIG, ENGINES = "live", "engines"
"""The ConfigMap that says what serves, and the Service by whose name pods are found."""


@dataclass(frozen=True, kw_only=True)
class ClusterArgs:
    """What a stack on a cluster is made of. `engines` holds those that exist, the one that is to serve first.

    `gateway_config` is None where there is no gateway. `port` is that of the endpoint. `pulls` is whether a
    node may fetch images and weights. `code` says by package which code of ours it is, and `packages` says
    the same of each of the ConfigMaps with the proxy's packages, in order.
    """

    labels: Labels
    settings: KubernetesSettings
    engines: tuple[EngineOnCluster, ...]
    routing: str
    gateway_config: str | None
    port: int
    reference: Callable[[pins.Image], str]
    pulls: bool
    code: Mapping[str, str]
    packages: Sequence[str]


def name(labels: Labels, thing: str) -> str:
    """The name of a thing of the stack, in its namespace."""
    return f"{labels.stack}-{thing}"


def objects(args: ClusterArgs) -> list[Object]:
    """All of them, in the order in which they are made."""
    labels = args.labels
    of_pods = PodArgs(
        labels=labels,
        reference=args.reference,
        pulls=args.pulls,
        code={package: name(labels, f"{package}-{code}") for package, code in args.code.items()},
    )
    made = _Maker(args)
    live, keys = name(labels, LIVE_CONFIG), name(labels, "keys")
    # By its content, as the gateway's TOML: a proxy that was told of another model before its gateway would
    # ask that for a name which it does not know.
    routing = name(labels, f"routing-{content(args.routing)}")
    result = [
        made.config_map(routing, {ROUTING_FILE: args.routing}, immutable=True),
        made.config_map(live, {FLEET_FILE: wanted(args)}),
        *network_policies(args),
        made.headless(),
        made.daemon_set(pods.fetcher(of_pods, args.engines)),
    ]
    for it in sorted(args.engines, key=lambda each: each.spec.name):
        result += made.engine(of_pods, it)
    packages = [name(labels, f"packages-{each}") for each in args.packages]
    gateway = None
    if args.gateway_config is not None:
        gateway = name(labels, f"gateway-{content(args.gateway_config)}")
        file = tensorzero.CONFIG_FILE.rpartition("/")[2]
        result.append(made.config_map(gateway, {file: args.gateway_config}, immutable=True))
    told: list[Object] = [
        {"configMap": {"name": routing}},
        {"configMap": {"name": live}},
        {"secret": {"name": keys, "items": [{"key": KEYS_FILE, "path": KEYS_FILE}]}},
    ]
    result += [
        made.proxies(
            pods.proxies(of_pods, told, packages, gateway, gpus=any(it.gpus for it in args.engines))
        ),
        made.budget("engines", "engine", args.settings.at_once),
        made.budget("proxies", "proxy", 1),
        made.endpoint(),
    ]
    return result


def wanted(args: ClusterArgs, *, flip: bool = False) -> str:
    """What the proxies are told of the pods, as `proxy.finding.parse_wanted` reads it."""
    said = {
        "service": name(args.labels, ENGINES),
        "preferred": args.engines[0].spec.name,
        "flip": flip,
    }
    return json.dumps(said, indent=1) + "\n"


def deployments(made: Sequence[Object]) -> dict[str, str]:
    """The Deployment of each engine, by the engine's name."""
    return {
        each["spec"]["template"]["metadata"]["labels"][label("engine")]: each["metadata"]["name"]
        for each in made
        if each["kind"] == "Deployment" and each["metadata"]["labels"][label("role")] == "engine"
    }


def content(*parts: object) -> str:
    """Eight hexadecimal digits of what something consists of."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class _Maker:
    """Makes the objects of one stack."""

    args: ClusterArgs

    def make(self, kind: str, called: str, role: str, **more: object) -> Object:
        group = {
            "Deployment": "apps/v1",
            "DaemonSet": "apps/v1",
            "NetworkPolicy": "networking.k8s.io/v1",
            "PodDisruptionBudget": "policy/v1",
        }
        return {
            "apiVersion": group.get(kind, "v1"),
            "kind": kind,
            "metadata": {
                "name": called,
                "namespace": self.args.settings.namespace,
                "labels": self.args.labels.of(role),
            },
            **more,
        }

    def config_map(self, called: str, data: Mapping[str, str], *, immutable: bool = False) -> Object:
        more = {"immutable": True} if immutable else {}
        return self.make("ConfigMap", called, "configuration", **more, data=dict(data))

    def selector(self, role: str) -> Object:
        return {"matchLabels": self.args.labels.of(role)}

    def headless(self) -> Object:
        """By its name the proxies find the pods, also those that are not ready: each says how it is."""
        return self.make(
            "Service",
            name(self.args.labels, ENGINES),
            "engine",
            spec={
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
                "selector": self.args.labels.of("engine"),
                "ports": [{"name": "gate", "port": pod_plan.PORT}],
            },
        )

    def endpoint(self) -> Object:
        return self.make(
            "Service",
            name(self.args.labels, "endpoint"),
            "proxy",
            spec={
                "type": "ClusterIP",
                "selector": self.args.labels.of("proxy"),
                "ports": [{"name": "endpoint", "port": self.args.port, "targetPort": proxy.PORT}],
            },
        )

    def engine(self, of_pods: PodArgs, it: EngineOnCluster) -> list[Object]:
        """An engine's Deployment, named by all that is in its pods, and what its gate is told."""
        labels = self.args.labels
        told = name(labels, it.spec.name)
        its = labels.of("engine", engine=it.spec.name)
        pod = pods.engine(of_pods, it, told)
        called = name(labels, f"{it.spec.name}-{content(pod, its)}")
        its |= {label("deployment"): called}
        made = self.make("Deployment", called, "engine")
        made["metadata"]["annotations"] = {PARALLEL: str(it.spec.parallel)}
        template = {"metadata": {"labels": its}, "spec": pod}
        return [
            self.config_map(told, {"pod.json": it.plan.text}),
            {
                **made,
                "spec": {
                    "replicas": 0,  # how many there are is live
                    "revisionHistoryLimit": 0,
                    "strategy": {"type": "Recreate"},  # its template never changes
                    "selector": {"matchLabels": its},
                    "template": template,
                },
            },
        ]

    def proxies(self, pod: Object) -> Object:
        """A new one is ready before an old one is told to end."""
        return self.make(
            "Deployment",
            name(self.args.labels, "proxy"),
            "proxy",
            spec={
                "replicas": PROXIES,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
                "selector": self.selector("proxy"),
                "template": {"metadata": {"labels": self.args.labels.of("proxy")}, "spec": pod},
            },
        )

    def daemon_set(self, pod: Object) -> Object:
        """On all nodes at once: none of them serves less meanwhile."""
        return self.make(
            "DaemonSet",
            name(self.args.labels, "weights"),
            "weights",
            spec={
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
                "selector": self.selector("weights"),
                "template": {"metadata": {"labels": self.args.labels.of("weights")}, "spec": pod},
            },
        )

    def budget(self, called: str, role: str, away: int) -> Object:
        """How many pods a person who empties nodes may take away at once, whatever Deployment they are of."""
        spec = {"maxUnavailable": away, "selector": self.selector(role)}
        return self.make("PodDisruptionBudget", name(self.args.labels, called), role, spec=spec)

    def policy(self, called: str, pods_: Object, **rules: object) -> Object:
        return self.make(
            "NetworkPolicy",
            name(self.args.labels, called),
            "policy",
            spec={"podSelector": pods_, "policyTypes": ["Ingress", "Egress"], **rules},
        )


def network_policies(args: ClusterArgs) -> list[Object]:
    """Who may reach whom: clients the proxies, these the engines and their gates, and nothing else."""
    made, stack = _Maker(args), args.labels.of("")
    del stack[label("role")]

    def to(role: str, *ports: int) -> Object:
        return {
            "to": [{"podSelector": made.selector(role)}],
            "ports": [{"protocol": "TCP", "port": port} for port in ports],
        }

    of_engines = to("engine", engines.PORT, pod_plan.PORT)
    names = {"ports": DNS}  # of whatever server: some nodes have one of their own
    web = {"to": EVERYWHERE, "ports": [{"protocol": "TCP", "port": port} for port in (80, 443)]}
    return [
        made.policy("nobody", {"matchLabels": stack}, ingress=[], egress=[]),
        made.policy(
            "proxy",
            made.selector("proxy"),
            ingress=[{"ports": [{"protocol": "TCP", "port": proxy.PORT}]}],
            egress=[of_engines, names],
        ),
        made.policy(
            "engine",
            made.selector("engine"),
            ingress=[{"from": [{"podSelector": made.selector("proxy")}], "ports": of_engines["ports"]}],
            egress=[],
        ),
        *(
            [made.policy("weights", made.selector("weights"), ingress=[], egress=[names, web])]
            if args.pulls
            else []
        ),
    ]


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block, and repeats values instead of referring to them."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def render(made: Sequence[Object]) -> str:
    """The objects as YAML, for a reader: the same bytes for the same objects."""
    return yaml.dump_all(made, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
