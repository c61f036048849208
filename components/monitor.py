"""The monitor: a store that scrapes the stack, with pages, and alerts. No request passes through it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker

from components import naming, plan
from components.catalogue import MIB
from components.containers import DNS_OPTIONS, NOBODY, image, labels, rights, volume_labels
from components.docker_host import LOOPBACK, DockerHost
from components.gpu_memory import ALERTS_RAM, STORE_RAM
from monitor.render import EVALUATE_SECONDS, PAGES, RULES, SCRAPE, SCRAPE_SECONDS
from switch.shared import ALERTS_ALIAS, ALERTS_PORT

STORE_ALIAS, STORE_PORT = "monitor", 8428
"""Name on the stack's network, and TCP port there. On the host it is published for the host itself only."""

KEPT_DAYS = 90
LEFT_FREE = "1GiB"
"""Of the disk; with less the store takes nothing new, and so fills no disk that weights are on."""

STALE_SECONDS = 6 * SCRAPE_SECONDS
"""An older value counts for nothing in an alert. The store itself keeps no such bound: after a gap that is
longer, it would count a small counter's whole value as an increase."""

CONFIG_MOUNT, HISTORY_MOUNT = "/config", "/history"


def store_command() -> list[str]:
    """What the store's container is given."""
    return [
        f"-storageDataPath={HISTORY_MOUNT}",
        f"-retentionPeriod={KEPT_DAYS}d",
        f"-storage.minFreeDiskSpaceBytes={LEFT_FREE}",
        "-inmemoryDataFlushInterval=1s",  # what is later is lost if it is killed; the default is 5 s
        f"-httpListenAddr=:{STORE_PORT}",
        f"-promscrape.config={CONFIG_MOUNT}/{SCRAPE}",
        "-promscrape.configCheckInterval=15s",
        "-promscrape.httpSDCheckInterval=10s",
        f"-vmui.customDashboardsPath={CONFIG_MOUNT}/{PAGES}",
        f"-vmalert.proxyURL=http://{ALERTS_ALIAS}:{ALERTS_PORT}",
        "-search.latencyOffset=1s",  # a flip is looked at while it happens; the default hides 30 s
        "-http.disableCORS",  # else any page that a browser here shows could read it
        *(
            f"-{what}AuthKey=file://{CONFIG_MOUNT}/key"
            for what in ("delete", "snapshot", "forceMerge", "pprof", "flags")
        ),
    ]


def alerts_command(port: int, receiver: str) -> list[str]:
    """What vmalert's container is given. `port` is the published one; an empty `receiver` is none."""
    there = f"http://{STORE_ALIAS}:{STORE_PORT}"
    return [
        f"-rule={CONFIG_MOUNT}/{RULES}",
        "-configCheckInterval=15s",
        f"-evaluationInterval={EVALUATE_SECONDS}s",
        "-rule.evalDelay=5s",
        f"-httpListenAddr=:{ALERTS_PORT}",
        f"-datasource.url={there}",
        # by default what the store saw last before it was killed stays so for 5 minutes
        f"-datasource.queryStep={STALE_SECONDS}s",
        f"-remoteWrite.url={there}",
        f"-remoteRead.url={there}",  # an alert that fires goes on after a restart
        f"-external.url=http://{LOOPBACK}:{port}",
        f"-notifier.url={receiver}" if receiver else "-notifier.blackhole",
    ]


@dataclass(frozen=True, kw_only=True)
class MonitorArgs:
    """`store` and `alerts` are references of images to pull, `tools` the id of an image with Python.

    `files` are texts by path, `port` the published one, and `receiver` the URL of an Alertmanager, empty
    for none. `after` must be there first: nothing that serves ever waits for the monitor.
    """

    store: str
    alerts: str
    tools: pulumi.Input[str]
    host: DockerHost
    network: pulumi.Input[str]
    files: Mapping[str, str]
    port: int
    receiver: str
    after: Sequence[pulumi.Resource]


class Monitor(pulumi.ComponentResource):
    """Two containers, the configuration of both in a volume, and what was measured in another."""

    def __init__(self, name: str, args: MonitorArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("changeover:index:Monitor", name, None, opts)
        host = args.host
        pulled = {
            part: image(f"{name}-{part}-image", reference, host, self)
            for part, reference in (("store", args.store), ("alerts", args.alerts))
        }
        config = docker.Volume(
            f"{name}-config",
            name=host.labels.name(f"{name}-config"),
            labels=volume_labels(host.labels.of("monitor")),
            opts=host.shared_options(self),
        )
        # With `monitor: false` it goes; `make down` keeps it, as it keeps the weights.
        history = docker.Volume(
            naming.HISTORY,
            name=host.labels.name(naming.HISTORY),
            labels=volume_labels(host.labels.of("history")),
            opts=host.shared_options(self),
        )
        content = json.dumps(args.files, indent=1, sort_keys=True)
        filled = host.step(
            naming.child(name, "files"),
            self,
            plan.MONITOR_FILES,
            {
                "CONFIG": config.name,
                "HISTORY": history.name,
                "IMAGE": args.tools,
                "OWNER": NOBODY,
                "CONTENT": hashlib.sha256(content.encode()).hexdigest()[:8],
            },
            stdin=content,
            depends_on=list(args.after),
            hide_diffs=["stdin"],  # CONTENT shows that it changes, and the rendered files what
        )
        store = self._container(
            host.labels.name(name),
            args,
            role="monitor",
            alias=STORE_ALIAS,
            image=pulled["store"].image_id,
            command=store_command(),
            memory=STORE_RAM,
            ports=[docker.ContainerPortArgs(internal=STORE_PORT, external=args.port, ip=LOOPBACK)],
            mounts=[
                docker.ContainerVolumeArgs(
                    volume_name=config.name, container_path=CONFIG_MOUNT, read_only=True
                ),
                docker.ContainerVolumeArgs(volume_name=history.name, container_path=HISTORY_MOUNT),
            ],
            grace=30,  # it writes down what it has in memory
            after=[filled],
        )
        self._container(
            host.labels.name("alerts"),
            args,
            role="alerts",
            alias=ALERTS_ALIAS,
            image=pulled["alerts"].image_id,
            command=alerts_command(args.port, args.receiver),
            memory=ALERTS_RAM,
            ports=None,
            mounts=[
                docker.ContainerVolumeArgs(
                    volume_name=config.name, container_path=CONFIG_MOUNT, read_only=True
                )
            ],
            grace=10,
            after=[store],
        )
        self.register_outputs({})

    def _container(
        self,
        name: str,
        args: MonitorArgs,
        *,
        role: str,
        alias: str,
        image: pulumi.Input[str],
        command: Sequence[str],
        memory: int,
        ports: Sequence[docker.ContainerPortArgs] | None,
        mounts: Sequence[docker.ContainerVolumeArgs],
        grace: int,
        after: Sequence[pulumi.Resource],
    ) -> docker.Container:
        """The container of the store or of the alerts, by its `role`."""
        host = args.host
        return docker.Container(
            name,
            image=image,
            command=list(command),
            **rights(user=NOBODY),
            volumes=list(mounts),
            ports=ports,
            networks_advanced=[docker.ContainerNetworksAdvancedArgs(name=args.network, aliases=[alias])],
            dns_opts=DNS_OPTIONS,
            memory=memory // MIB,
            memory_swap=-1,  # Docker says -1 where it can't limit swap, so anything else would show as drift
            labels=labels(host.labels.of(role)),
            **host.log(role),
            restart="unless-stopped",
            destroy_grace_seconds=grace,  # unset, Docker kills at once
            opts=host.options(
                self,
                depends_on=list(after),
                delete_before_replace=True,  # two cannot publish one port, nor write one history
            ),
        )
