"""The pods of a stack on a cluster, as plain data: an engine with its gate, a proxy with its gateway, and who
fetches the weights on each node. Pure.

They are what Kubernetes calls "restricted"
(https://kubernetes.io/docs/concepts/security/pod-security-standards), but for what an engine needs: a folder
of its node, where weights and compiled kernels stay; and vLLM, and who fetches, run as root without any
capability, as on one host.
"""

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components import engines, naming, pins, proxy, tensorzero
from components.engines import EngineSpec
from components.gpu_memory import GATEWAY_RAM, PROXY_RAM, SWITCH_RAM
from components.labels import Labels, label
from components.plan import STOP_GRACE
from components.shell import program
from proxy.route import LEAVES_SECONDS
from switch import pod_plan
from switch.plan import EngineKind
from switch.pod_plan import PodPlan
from switch.shared import COMPLETE, PROXY_PORT, PROXY_STATUS

Object = dict[str, Any]
"""A part of an object of the cluster, as its API takes it."""

NODE = label("stack")
"""Label of the nodes that serve a stack: `kubectl label node NAME changeover.stack=STACK`."""

STORE = "/var/lib/changeover"
"""Folder of a node with a folder for each stack."""

USER = 65534
"""User and group without any rights."""

GPU = "nvidia.com/gpu"
"""NVIDIA's device plugin calls GPUs so, and nodes that are for them alone have a taint of this name."""

ARCHITECTURE, PLATFORM = "amd64", "x86_64-unknown-linux-gnu"
"""Of the nodes on which proxies run, by Kubernetes' name and by uv's: their packages are fetched for it."""

CODE, WHEELS, LIVE = "/code", "/wheels", "/live"
"""Folders with the code of our services, with the proxy's packages, and with what the proxy is told."""

THERE_SECONDS = 5
"""Between two looks whether a node still has its weights."""

WAITS = "weights-here"
"""The container of an engine's pod that ends once the weights are there: the engine begins then."""

RECEIVES, THERE = "receive", "there"
"""The containers of a node's pod that take in folders of weights, and go on once all are there."""


@dataclass(frozen=True, kw_only=True)
class EngineOnCluster:
    """An engine, what its gate is told, and how many GPUs a pod of it has."""

    spec: EngineSpec
    plan: PodPlan
    gpus: int


@dataclass(frozen=True, kw_only=True)
class PodArgs:
    """What all pods of a stack have in common.

    `reference` gives an image's in the source of the settings; `pulls` is whether a node may fetch it. `code`
    maps our packages to the names of the ConfigMaps with their code.
    """

    labels: Labels
    reference: Callable[[pins.Image], str]
    pulls: bool
    code: Mapping[str, str]

    def container(self, name: str, image: pins.Image, **more: Any) -> Object:
        """A container that may do nothing; `more` comes after that and may say otherwise."""
        return {
            "name": name,
            "image": self.reference(image),
            "imagePullPolicy": "IfNotPresent" if self.pulls else "Never",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
            **more,
        }

    def pod(self, **spec: Any) -> Object:
        """A pod without a token for the cluster's API, and without the namespace's Services in its
        environment: vLLM takes those of one that is called `vllm…` for its own settings (vllm#34199).
        """
        return {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **spec,
        }

    def store(self, *folder: str) -> Object:
        """A folder of the node, made where it is missing."""
        path = posixpath.join(STORE, self.labels.stack, *folder)
        return {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}

    def on_nodes(self, gpus: bool) -> Object:
        """What makes a pod one of the stack's own nodes."""
        tolerated = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
        return {
            "nodeSelector": {NODE: self.labels.stack},
            **({"tolerations": tolerated} if gpus else {}),
        }


def memory(most: int, least: int | None = None) -> Object:
    """Resources of a container, in bytes: what it may take, and what is kept for it."""
    return {"requests": {"memory": str(least or most)}, "limits": {"memory": str(most)}}


def environment(values: Mapping[str, str]) -> list[Object]:
    return [{"name": key, "value": plain(value)} for key, value in sorted(values.items())]


def plain(word: str) -> str:
    """A word of a command in which the cluster replaces nothing: it takes `$(NAME)` for a variable, and `$$`
    for a `$`."""
    return re.sub(r"\$(?=[$(])", "$$", word)


def mounts(folders: Mapping[str, str], writable: Sequence[str] = ()) -> list[Object]:
    """Volumes by their names at these folders; those that are not `writable` are read only."""
    return [
        {"name": name, "mountPath": folder, **({} if name in writable else {"readOnly": True})}
        for name, folder in folders.items()
    ]


def probe(path: str, port: int, *, period: int, failures: int, timeout: int = 3) -> Object:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": timeout,
    }


def engine(args: PodArgs, it: EngineOnCluster, told: str) -> Object:
    """The pod of an engine; `told` is the name of the ConfigMap with what its gate is told.

    The gate says whether it is ready, and whether another start is needed. Its engine is told to end only
    once no proxy has anything there. What the gate is told is not in it, and so is no reason for another pod.
    """
    spec = it.spec
    root = (
        spec.kind == "vllm"
    )  # whose its cache is; on a GPU it compiles, and where it then writes is not known
    whole_root = root and it.gpus > 0
    scratch = {} if whole_root else {"tmp": "/tmp", **({"home": "/root"} if root else {})}
    home = {} if root else {"HOME": "/tmp"}
    folders = {"weights": engines.WEIGHTS_MOUNT, "shm": "/dev/shm", **scratch}
    if spec.cache:
        folders["cache"] = engines.CACHE_MOUNT
    limits = {"limits": {GPU: str(it.gpus)}} if it.gpus else {}
    container = args.container(
        "engine",
        spec.image,
        command=[plain(word) for word in spec.entrypoint],
        args=[plain(word) for word in spec.command],
        env=environment({**spec.environment, **home}),
        ports=[{"name": "engine", "containerPort": engines.PORT}],
        resources={"requests": {"memory": str(it.plan.engine.host_bytes)}, **limits},
        readinessProbe=probe(pod_plan.READY, pod_plan.PORT, period=1, failures=2),
        livenessProbe={
            # where a node has no core to spare the gate takes its time, which is no reason to end an engine
            **probe(pod_plan.ALIVE, pod_plan.PORT, period=10, failures=3, timeout=10),
            "terminationGracePeriodSeconds": STOP_GRACE,  # it has failed: no answer is waited for
        },
        lifecycle={"preStop": {"httpGet": {"path": pod_plan.DRAIN, "port": pod_plan.PORT}}},
        volumeMounts=mounts(folders, writable=("shm", "tmp", "home", "cache")),
    )
    if root:
        container["securityContext"] |= {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
        container["securityContext"]["readOnlyRootFilesystem"] = not whole_root
    return args.pod(
        **args.on_nodes(it.gpus > 0),
        # with GPUs these say how many engines a node has
        **(
            {} if it.gpus else {"affinity": {"podAntiAffinity": _apart(args.labels, "engine", required=True)}}
        ),
        terminationGracePeriodSeconds=proxy.GRACE,
        initContainers=[weights_here(args, it), beside(args)],
        containers=[container],
        volumes=[
            {"name": "weights", **args.store("weights", spec.kind)},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{spec.shm_mib}Mi"}},
            *({"name": name, "emptyDir": {}} for name in scratch),
            *([{"name": "cache", **args.store("cache", spec.kind)}] if spec.cache else []),
            {"name": "code", "configMap": {"name": args.code["switch"]}},
            {"name": "told", "configMap": {"name": told}},
        ],
    )


def _apart(labels: Labels, role: str, *, required: bool) -> Object:
    """That no two pods of a role are on one node, or that they are rather not."""
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": labels.of(role)},
    }
    if required:
        return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    weighted = {"weight": 100, "podAffinityTerm": term}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}


def weights_here(args: PodArgs, it: EngineOnCluster) -> Object:
    """Waits for the weights on the node: it starts nothing, and says so."""
    weights = it.spec.weights
    return args.container(
        WAITS,
        pins.SWITCH,
        command=["/bin/sh", "-c", plain(program("kubernetes/here"))],
        env=environment({"FOLDER": weights.folder, "DIGEST": weights.digest}),
        resources=memory(SWITCH_RAM),
        volumeMounts=mounts({"weights": engines.WEIGHTS_MOUNT}),
    )


def beside(args: PodArgs) -> Object:
    """The gate. It starts before the engine and ends after it."""
    return args.container(
        "gate",
        pins.SWITCH,
        restartPolicy="Always",  # so it is no step of the start, but goes on beside the engine
        command=["python3", "-m", "switch.pod", "/told/pod.json"],
        env=environment({"PYTHONPATH": f"{CODE}/switch.zip", "PYTHONUNBUFFERED": "1"}),
        ports=[{"name": "gate", "containerPort": pod_plan.PORT}],
        resources=memory(SWITCH_RAM),
        volumeMounts=mounts({"code": CODE, "told": "/told"}),
    )


def fetcher(args: PodArgs, all_of: Sequence[EngineOnCluster]) -> Object:
    """The pod that has every node fetch images and weights. It goes on, and is ready as long as they are
    there."""
    kinds: list[EngineKind] = sorted({it.spec.kind for it in all_of})
    volumes = [{"name": f"weights-{kind}", **args.store("weights", kind)} for kind in kinds]
    first = []
    if any(it.spec.weights.upload for it in all_of):
        first = [_receiver(args)]
        volumes += [
            {"name": "weights", **args.store("weights")},
            {"name": "code", "configMap": {"name": args.code["switch"]}},
        ]
    ordered = sorted(all_of, key=lambda each: each.spec.name)
    fetched = [_fetch(args, it) for it in ordered]
    return args.pod(
        **args.on_nodes(any(it.gpus for it in all_of)),
        terminationGracePeriodSeconds=1,
        initContainers=[*first, *fetched],
        containers=[
            args.container(
                THERE,
                pins.SWITCH,
                command=["sleep", "infinity"],
                resources=memory(SWITCH_RAM, 2**20),
                readinessProbe={
                    "exec": {"command": ["/bin/sh", "-c", " && ".join(map(_marked, ordered))]},
                    "periodSeconds": THERE_SECONDS,
                    "failureThreshold": 1,
                },
                volumeMounts=mounts({f"weights-{kind}": f"{engines.WEIGHTS_MOUNT}/{kind}" for kind in kinds}),
            )
        ],
        volumes=volumes,
    )


def _marked(it: EngineOnCluster) -> str:
    """A command that fails where an engine's weights are not on the node any more."""
    weights = it.spec.weights
    return f"grep -qx {weights.digest} {engines.WEIGHTS_MOUNT}/{it.spec.kind}/{weights.folder}/{COMPLETE}"


def _receiver(args: PodArgs) -> Object:
    """Takes in folders of weights, for as long as the pod is there."""
    container = args.container(
        RECEIVES,
        pins.SWITCH,
        restartPolicy="Always",
        command=["sleep", "infinity"],
        env=environment({"PYTHONPATH": f"{CODE}/switch.zip"}),
        resources=memory(SWITCH_RAM, 2**20),
        volumeMounts=mounts({"weights": engines.WEIGHTS_MOUNT, "code": CODE}, ("weights",)),
    )
    return as_root(container)


def _fetch(args: PodArgs, it: EngineOnCluster) -> Object:
    """Fetches an engine's weights, in its own image, unless they are there and whole: it reads them."""
    weights = it.spec.weights
    need = -(-weights.need_bytes * 21 // 20 // 1024)  # a twentieth more
    told = {
        "FOLDER": weights.folder,
        "DIGEST": weights.digest,
        "NEED": str(need),
        "SCRIPT": weights.script,
        "SENT": "yes" if weights.upload else "",
    }
    container = args.container(
        f"fetch-{it.spec.kind}",
        it.spec.image,
        command=["/bin/sh", "-c", plain(program("kubernetes/fetch"))],
        env=environment(told),
        volumeMounts=mounts({f"weights-{it.spec.kind}": engines.WEIGHTS_MOUNT}, (f"weights-{it.spec.kind}",)),
    )
    container["securityContext"]["readOnlyRootFilesystem"] = False  # both tools write at home and in /tmp
    return as_root(container)


def as_root(container: Object) -> Object:
    """As the owner of the node's folders, without any other right."""
    container["securityContext"] |= {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0}
    return container


def proxies(args: PodArgs, live: Sequence[Object], packages: Sequence[str], gateway: str | None) -> Object:
    """The pod of a proxy. `live` are the sources of what it is told, `packages` the ConfigMaps with the parts
    of its packages, in order, and `gateway` the one with the gateway's TOML; None: there is no gateway."""
    unpack = f"cat /packages/* | tar -xzf - -C {WHEELS}"
    main = args.container(
        "proxy",
        pins.SWITCH,
        command=["python3", "-m", "proxy"],
        env=environment({"PYTHONPATH": f"{CODE}/proxy.zip:{WHEELS}", "PYTHONUNBUFFERED": "1"}),
        ports=[{"name": "endpoint", "containerPort": proxy.PORT}],
        resources=memory(PROXY_RAM),
        readinessProbe=probe(PROXY_STATUS, PROXY_PORT, period=2, failures=2),
        volumeMounts=mounts({"live": LIVE, "code": CODE, "wheels": WHEELS, "log": "/log"}, ("log",)),
    )
    unpacked = args.container(
        "packages",
        pins.SWITCH,
        command=["/bin/sh", "-c", unpack],
        resources=memory(PROXY_RAM),
        volumeMounts=mounts({"packages": "/packages", "wheels": WHEELS}, ("wheels",)),
    )
    volumes: list[Object] = [
        {"name": "live", "projected": {"sources": list(live)}},
        {"name": "code", "configMap": {"name": args.code["proxy"]}},
        {
            "name": "packages",
            "projected": {"sources": [{"configMap": {"name": name}} for name in packages]},
        },
        {"name": "wheels", "emptyDir": {}},
        {"name": "log", "emptyDir": {}},
    ]
    first = [unpacked]
    if gateway is not None:
        folder, file = posixpath.split(tensorzero.CONFIG_FILE)
        first.append(
            args.container(
                naming.GATEWAY,
                pins.GATEWAY,
                restartPolicy="Always",  # beside the proxy, and until after it has ended what it carries
                args=list(tensorzero.COMMAND),
                resources=memory(GATEWAY_RAM),
                startupProbe=probe(tensorzero.STATUS_PATH, tensorzero.PORT, period=1, failures=60),
                volumeMounts=mounts({"gateway": folder, "tmp": "/tmp"}, ("tmp",)),
            )
        )
        volumes += [
            {"name": "gateway", "configMap": {"name": gateway, "items": [{"key": file, "path": file}]}},
            {"name": "tmp", "emptyDir": {}},
        ]
    return args.pod(
        nodeSelector={"kubernetes.io/arch": ARCHITECTURE},
        affinity={"podAntiAffinity": _apart(args.labels, "proxy", required=False)},
        terminationGracePeriodSeconds=proxy.GRACE + LEAVES_SECONDS,
        initContainers=first,
        containers=[main],
        volumes=volumes,
    )
