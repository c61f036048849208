"""What the programs of a test's cluster are told. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NETWORK = "10.66.0"
"""Of the machines, which are on no other network: any will do."""
CONTROL = f"{NETWORK}.1"
PODS, SERVICES = "10.244", "10.96"
API = f"https://{CONTROL}:6443"
DOMAIN = "cluster.local"
CNI_PROGRAMS = "/usr/lib/cni"
CONTAINERD = "/run/containerd/containerd.sock"
PAUSE = "docker.io/changeover-test/pause:1"
"""The image of the container that holds a pod's network."""
KUBELET_PORT = 10250

ADMIN = "admin"
USERS = {
    ADMIN: ("admin", ("system:masters",)),
    "controllers": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
    "proxy": ("system:kube-proxy", ()),
    "names": ("names", ("system:masters",)),
    "policies": ("policies", ("system:masters",)),
}
"""Name of a file → user and groups, besides a user for each node."""


def node(number: int) -> str:
    return f"node{number}"


def address(number: int) -> str:
    """Of a node; the first one is 1."""
    return f"{NETWORK}.{10 + number}"


def pods_of(number: int) -> str:
    """The network of a node's pods."""
    return f"{PODS}.{number}.0/24"


def users(nodes: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    return USERS | {
        node(number): (f"system:node:{node(number)}", ("system:nodes",)) for number in range(1, nodes + 1)
    }


def tokens(nodes: int) -> str:
    """The file with everybody's token, which is the name of who has it: nobody else reaches this API."""
    lines = [
        ",".join([name, user, name, f'"{",".join(groups)}"']) for name, (user, groups) in users(nodes).items()
    ]
    return "\n".join([*lines, ""])


def kubeconfig(token: str, certificate: Path) -> str:
    """JSON is YAML, too."""
    return _text(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": "test", "cluster": {"server": API, "certificate-authority": str(certificate)}}
            ],
            "users": [{"name": token, "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": token}}],
            "current-context": "test",
        }
    )


def kubelet(cgroup: str, resolve: Path) -> str:
    return _text(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            "port": KUBELET_PORT,
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup,
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [CONTROL],
            "clusterDomain": DOMAIN,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
            "resolvConf": str(resolve),
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            # the disk is this machine's: how full it is, is no matter of the cluster
            "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "oomScoreAdj": 0,  # root in a sandbox may not lower it
        }
    )


def kube_proxy(kubeconfig_file: Path, name: str) -> str:
    return _text(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(kubeconfig_file)},
            "mode": "iptables",
            "clusterCIDR": f"{PODS}.0.0/16",
            "hostnameOverride": name,
            "oomScoreAdj": 0,
            # none of these is changed: they are the kernel's
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
    )


def policies(kubeconfig_file: Path) -> list[str]:
    """The command that keeps NetworkPolicies on a node, which it knows by the name of its machine."""
    return [
        "network-policies",
        f"--kubeconfig={kubeconfig_file}",
        f"--service-cluster-ip-range={SERVICES}.0.0/16",
    ]


def cni(number: int) -> str:
    """Each pod's way out is through its node, also to another pod there, so that a Service's address is
    translated both ways."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": pods_of(number)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return _text(
        {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}],
        }
    )


def containerd(networks: Path) -> str:
    return f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PROGRAMS}"
conf_dir = "{networks}"
"""


def corefile(kubeconfig_file: Path) -> str:
    return f"""\
{DOMAIN}:53 {{
    errors
    cache 5
    kubernetes {{
        kubeconfig {kubeconfig_file}
        ttl 5
    }}
}}
"""


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


@dataclass(frozen=True, kw_only=True)
class Control:
    """Command lines of what controls the cluster. `folder` has its files."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """Of the API server, which makes it."""
        return self.folder / "pki" / "apiserver.crt"

    @property
    def key(self) -> Path:
        """That signs the tokens of service accounts."""
        return self.folder / "accounts.key"

    def config(self, user: str) -> Path:
        return self.folder / f"{user}.conf"

    def etcd(self) -> list[str]:
        url = "http://127.0.0.1:2379"
        words = ["etcd", f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn"]
        return [*words, f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]

    def api(self) -> list[str]:
        return [
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={CONTROL}",
            "--bind-address=0.0.0.0",
            f"--cert-dir={self.certificate.parent}",
            f"--service-cluster-ip-range={SERVICES}.0.0/16",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.key}",
            f"--service-account-signing-key-file={self.key}",
            "--kubelet-preferred-address-types=InternalIP",
        ]

    def controllers(self) -> list[str]:
        return [
            "kube-controller-manager",
            f"--kubeconfig={self.config('controllers')}",
            f"--service-account-private-key-file={self.key}",
            f"--root-ca-file={self.certificate}",
            "--use-service-account-credentials",  # each controller may do what its role says
            "--leader-elect=false",
        ]

    def scheduler(self) -> list[str]:
        return ["kube-scheduler", f"--kubeconfig={self.config('scheduler')}", "--leader-elect=false"]

    def names(self) -> list[str]:
        return ["coredns", "-conf", str(self.folder / "Corefile")]
