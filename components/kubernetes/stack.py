"""The stack on a cluster as Pulumi's resources: its objects, and the steps that bring its files there and
change which engine serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_command import local

from components import facts, naming, pins
from components.facts import Variable
from components.kubernetes import again
from components.kubernetes.files import Names
from components.kubernetes.looked import FlipPlan
from components.kubernetes.nodes import NodesPlan
from components.kubernetes.objects import LIVE_CONFIG, name
from components.kubernetes.pods import Object
from components.labels import Labels, label
from proxy.route import KEYS_FILE

FLIP = "exec .venv/bin/python -m components.kubernetes.change"
LOOK = "exec .venv/bin/python -m components.kubernetes.change look"
SEEN = "exec .venv/bin/python -m components.kubernetes.change seen"
NODES = "exec .venv/bin/python -m components.kubernetes.nodes"
FILES = "exec .venv/bin/python -m components.kubernetes.files"
REMOVE = "exec .venv/bin/python -m components.kubernetes.files remove"
"""What the steps do, in the project's folder. `exec`: a killed step is then a killed program."""

INTERPRETER = ["/bin/sh", "-c"]
SKIP_AWAIT = "pulumi.com/skipAwait"


class KubernetesObject(pulumi.CustomResource):
    """An object of the cluster from plain data, as it was rendered for review.

    The plugin's own Python package would say nothing more: it has a class for each kind, and 40 MB.
    """

    def __init__(self, called: str, made: Object, opts: pulumi.ResourceOptions) -> None:
        group, _, version = made["apiVersion"].rpartition("/")
        super().__init__(f"kubernetes:{group or 'core'}/{version}:{made['kind']}", called, dict(made), opts)


@dataclass(frozen=True, kw_only=True)
class ClusterStackArgs:
    """`objects` are those of `components.kubernetes.objects`, made with `files`. `names` are those of the
    stack's nodes, and `weights` says from where each engine's are, and which of it moves. `keys` is
    the document of `components.api_keys`, as a secret, and `tenants` who has one. `gone` are the names of
    the ConfigMaps with `files` that are not there, and `state` is what Pulumi has of each step, by its
    name."""

    labels: Labels
    namespace: str
    context: str
    objects: Sequence[Object]
    files: Names
    gone: Sequence[str]
    state: Mapping[str, Mapping[str, Any]]
    flip: FlipPlan
    nodes: NodesPlan
    names: Sequence[str]
    weights: Mapping[Variable, str]
    routing: str
    keys: pulumi.Input[str]
    tenants: tuple[str, ...]
    port: int


class ClusterStack(pulumi.ComponentResource):
    """Weights and engines first, then the change of which engine serves, then what follows from it."""

    url: pulumi.Output[str]

    def __init__(
        self, called: str, args: ClusterStackArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("changeover:index:ClusterStack", called, None, opts)
        self._args = args
        self._provider = pulumi.ProviderResource(
            "kubernetes",
            "cluster",
            {
                "context": args.context or None,
                "namespace": args.namespace,
                # else a changed one is deleted and made again, and where that is killed no pod can start
                "enableConfigMapMutable": "true",
                "enableSecretMutable": "true",
            },
            pulumi.ResourceOptions(parent=self, version=pins.KUBERNETES_PLUGIN),
        )
        told: dict[Variable, pulumi.Input[str]] = {
            "PROJECT": args.labels.project,
            "STACK": args.labels.stack,
            "NAMESPACE": args.namespace,
            "CONTEXT": args.context,
        }
        # the step runs again where these are others: what is mounted is called by them
        code = ", ".join(f"{package} {digest}" for package, digest in sorted(args.files.code.items()))
        what: dict[Variable, str] = {"CODE": code, "LOCK": ", ".join(args.files.packages)}
        what |= again.lost(args.state.get("files", {}), what, args.gone)  # nobody else would bring them
        files = self._step("files", FILES, {**told, **what}, delete=REMOVE)
        before = [self._object(each, depends_on=[files]) for each in args.objects if not follows(each)]
        nodes = self._step(
            "weights",
            NODES,
            # another node has the step run again
            {**told, **args.weights, "NODES": facts.nodes(args.names)},
            stdin=args.nodes.text,
            depends_on=before,
            hide_diffs=["stdin"],
        )
        flip = self._step(
            naming.child(naming.PREPARE, "step"),
            FLIP,
            {
                **told,
                "ENGINE": args.flip.engine,
                "HOSTS": str(args.flip.hosts),
                "AT_ONCE": str(args.flip.at_once),
                "ROUTING": args.routing,  # a flip shows one line of it
            },
            stdin=args.flip.text,
            depends_on=[*before, nodes],
            hide_diffs=["stdin"],  # the environment shows what changes in it
        )
        keys = self._keys()
        # What a person has changed by hand, of pods or of what the proxies are told, shows in the next
        # preview, and its update puts it right.
        # Through the step's output it is unknown in the preview of a flip: how many pods there are after it
        # is not how many there are now, and a plan that kept that would refuse its own update.
        seen = pulumi.Output.all(self._look(SEEN, told, after=[flip]), flip.stdout).apply(
            lambda both: again.live(
                args.state.get("served", {}), args.flip.text, str(both[0]), args.flip.served
            )
        )
        served = self._step(
            "served", FLIP, {**told, "LIVE": seen}, stdin=args.flip.text, hide_diffs=["stdin"]
        )
        after = [self._object(each, depends_on=[served, keys]) for each in args.objects if follows(each)]
        looked = self._step(
            naming.child(naming.KEYS, "step"),
            LOOK,
            {**told, "TENANTS": facts.tenants(args.tenants)},
            stdin=pulumi.Output.secret(args.keys),
            depends_on=[keys, *after],
        )
        endpoint = f"{name(args.labels, 'endpoint')}.{args.namespace}.svc"
        self.url = looked.id.apply(lambda _: f"http://{endpoint}:{args.port}/v1")
        self.register_outputs({"url": self.url})

    def _object(self, made: Object, depends_on: Sequence[pulumi.Resource]) -> KubernetesObject:
        kind, thing = made["kind"], made["metadata"]["name"].removeprefix(f"{self._args.labels.stack}-")
        more: dict[str, Any] = {}
        if is_engine(made) or kind == "DaemonSet":  # a step waits for them, and says more
            annotations = {**made["metadata"].get("annotations", {}), SKIP_AWAIT: "true"}
            made = {**made, "metadata": {**made["metadata"], "annotations": annotations}}
        if is_engine(made):
            more["ignore_changes"] = ["spec.replicas"]  # how many pods it has is the flip's, not Pulumi's
        elif (kind, thing) == ("ConfigMap", LIVE_CONFIG):
            more["ignore_changes"] = ["data", "metadata.annotations"]  # what serves is the flip's
        return KubernetesObject(
            f"{kind.lower()}-{thing}", made, self._options(depends_on=list(depends_on), **more)
        )

    def _keys(self) -> KubernetesObject:
        args = self._args
        made: Object = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": name(args.labels, "keys"),
                "namespace": args.namespace,
                "labels": args.labels.of("keys"),
            },
            "stringData": {KEYS_FILE: pulumi.Output.secret(args.keys)},
        }
        return KubernetesObject("secret-keys", made, self._options())

    def _options(self, **more: Any) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(
            parent=self, provider=self._provider, version=pins.KUBERNETES_PLUGIN, **more
        )

    def _look(
        self, command: str, told: Mapping[Variable, pulumi.Input[str]], after: Sequence[pulumi.Resource]
    ) -> pulumi.Output[str]:
        """What `command` says of the cluster, at every preview and once `after` is there."""
        return local.run_output(
            command=command,
            interpreter=INTERPRETER,
            environment=pulumi.Output.all(**facts.environment(told)),
            add_previous_output_in_env=False,
            logging=local.Logging.NONE,
            opts=pulumi.InvokeOutputOptions(parent=self, depends_on=list(after)),
        ).stdout

    def _step(
        self,
        called: str,
        command: str,
        told: dict[Variable, pulumi.Input[str]],
        *,
        delete: str | None = None,
        stdin: pulumi.Input[str] | None = None,
        **options: Any,
    ) -> local.Command:
        return local.Command(
            called,
            create=command,
            update=command,
            delete=delete,
            interpreter=INTERPRETER,
            stdin=stdin,
            environment=facts.environment(told),
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(parent=self, **options),
        )


def is_engine(made: Object) -> bool:
    """Whether it is an engine's Deployment."""
    return bool(made["kind"] == "Deployment" and made["metadata"]["labels"][label("role")] == "engine")


def follows(made: Object) -> bool:
    """Whether it is changed only once the engine serves: the proxies, and the way to them."""
    role, kind = made["metadata"]["labels"][label("role")], made["kind"]
    return bool(role == "proxy" and kind in ("Deployment", "Service"))
