"""Every version that this project depends on outside of its lock file, each with its source and reason.

No pulumi import: the offline builder and the rendering read it too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

PULUMI = "3.259.0"
"""Pulumi CLI and engine; equals the SDK in the lock file, so that engine and SDK never disagree."""

PULUMI_ARCHIVES = {
    "pulumi-v3.259.0-darwin-arm64.tar.gz": "57c27f179e527e2cf9f62b841a448af72a020e44b2fb4ee0d9bd85556c00c864",
    "pulumi-v3.259.0-darwin-x64.tar.gz": "eaca4c3b8277bfa3ab061fa3b270d1c66358a0b2e613da8c5587a04b7226c534",
    "pulumi-v3.259.0-linux-arm64.tar.gz": "edc8327463a72160bb36cf82cf5062da9c8a244290a706d9980988e7bf486853",
    "pulumi-v3.259.0-linux-x64.tar.gz": "94ba357acac23d01474084c4b00098dc0f7bc70ce13f34c777459254a5f718e5",
}
"""The vendor's archives of this CLI and their SHA-256, as its own Homebrew formula says them (repository
pulumi/homebrew-tap, commit 51fb494). No archive could be downloaded here."""

DOCKER_PLUGIN = "5.2.0"
"""pulumi-docker: the newest whose behaviour on replacement, grace and wait was read and run."""

COMMAND_PLUGIN = "1.2.1"
"""pulumi-command: a `command` step has no read and dies with `pulumi up`; nothing relies on more."""

KUBERNETES_PLUGIN = "4.25.0"
"""pulumi-kubernetes: the one that package registries have as source, but for the last day before its release.
Its SDK is not used: objects are plain data. From 4.29.0 on the provider has to be told
`upsertExistingObjects`, or what a killed update has made is in the way of the next."""

AWS_PLUGIN = "7.48.0"
"""pulumi-aws: the newest of which sums are known."""


@dataclass(frozen=True, kw_only=True)
class PulumiPlugin:
    """A plugin as its vendor packs it: the version, where it is, and the SHA-256 for each machine."""

    version: str
    url: str
    archives: Mapping[str, str]


PULUMI_PLUGINS = {
    "aws": PulumiPlugin(
        version=AWS_PLUGIN,
        url="https://api.pulumi.com/releases/plugins/pulumi-resource-aws-v{version}-{machine}.tar.gz",
        archives={
            "darwin-arm64": "feb46c695a128f2380170b75ba3af893ef61cb40e9d6fced5eca2624e63ee678",
            "linux-amd64": "c3bb08298432f3e51d06e6b0aa2ec055b2fdd1b6e8bb26d02a646aea0e00115c",
            "linux-arm64": "29d06df3c2ff6a56b8b048d93bfe9e36d6a9719f5f741d57968a6d24ebb2acfd",
        },
    ),
    "command": PulumiPlugin(
        version=COMMAND_PLUGIN,
        url="https://github.com/pulumi/pulumi-command/releases/download/v{version}/"
        "pulumi-resource-command-v{version}-{machine}.tar.gz",
        archives={
            "darwin-amd64": "27d46196895697a363a2cee96e6a3691eda70cd529fcb183e3b3e8c5cfd73617",
            "darwin-arm64": "23818e0f6e20e4ac54ae4f69fbc80665fe35a197485dcb677303cb4185d4a6e0",
            "linux-amd64": "71377999d1da39f54e94d9fe2950f6bb9a0a090a577094866373397dcad2e800",
            "linux-arm64": "d294ee36cc97499bc8c5d7905c6affeb4b768af50c26d6aeaa9a8f38d06fa558",
        },
    ),
    "docker": PulumiPlugin(
        version=DOCKER_PLUGIN,
        url="https://api.pulumi.com/releases/plugins/pulumi-resource-docker-v{version}-{machine}.tar.gz",
        archives={
            "darwin-arm64": "1baaa6648b21239ef7913fea20bdfaa1c632d12e706f5a8e424c52c0d7ad2fcc",
            "linux-amd64": "cedc3247a844c12f5995c6908d593338454aed36829e0b789f00cdeb88ccbaea",
            "linux-arm64": "21b823e5220e42506f364d5738c1a66300d0c691778c3943dcf83c7e46427182",
        },
    ),
    "kubernetes": PulumiPlugin(
        version=KUBERNETES_PLUGIN,
        url="https://github.com/pulumi/pulumi-kubernetes/releases/download/v{version}/"
        "pulumi-resource-kubernetes-v{version}-{machine}.tar.gz",
        archives={
            "darwin-amd64": "e5dffbef3525bb6f41c2b328afb471149c7396c263d2acd2ef2fab51d63d47f3",
            "darwin-arm64": "566425b7767be7184d59c7ea151812c98426d7dab85f93c9c676c1dc9d488d91",
            "linux-amd64": "6ea3d53c16a00c4d1017c4d109928d8f4801fd7cd978965cd43917561f3774b0",
            "linux-arm64": "e4260240ed14bff6ed1a5a25a362311380ea1c072544fc262532b8197ea0725c",
        },
    ),
}
"""The archives that public projects download, and their SHA-256 as these say it. aws and docker: nixpkgs,
`pulumi-bin/data.nix` of Pulumi 3.267.0, in base 32 (repository wrbbz/nixpkgs, commit 2388372). The others:
canton-network/splice, `nix/extra-pulumi-packages.nix`, commit 329e874; nixpkgs said the same of kubernetes.
No archive could be downloaded here. Nobody names sums of aws and docker for Macs with Intel's processors any
more."""

DRIVER = 580
"""NVIDIA driver that the host needs at least: vLLM's image is built for CUDA 13. Ollama needs 550."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One container image: what it is, where the public one comes from, what the offline one is called.

    `version` is the version of the program inside. It is the same for both sources, and it is what
    the content name of an engine is computed from, so that reviewed files do not depend on the source.

    `public` holds a digest wherever one is known, so that no registry can give anything else. `digest` says
    where it is from, or why there is none. `size` is what is downloaded of the public one, in bytes: an
    estimate, from what is said beside it, since no image could be pulled here.
    """

    name: str
    version: str
    public: str
    reason: str
    digest: str
    size: int

    @property
    def pulled(self) -> str:
        """The name under which Docker lists it once it was pulled by its digest; its public name if it has
        none."""
        name, at, digest = self.public.partition("@")
        if not at:
            return self.public
        folder, slash, last = name.rpartition("/")
        return f"{folder}{slash}{last.partition(':')[0]}@{digest}"

    @property
    def offline(self) -> str:
        """The reference of the image that `offline/` builds. It is in no registry."""
        return f"changeover-offline/{self.name}:{self.version}"


NOT_KNOWN = "no record of it was found in two places; `docker images --digests` says it once it was pulled"

OLLAMA = Image(
    name="ollama",
    version="0.17.4",
    public="ollama/ollama:0.17.4",
    reason="the version whose max_tokens, context and stop behaviour was measured behind the gateway",
    digest=NOT_KNOWN,
    size=3_300_000_000,  # as much as it has unpacked (ollama/ollama#9982): a bound
)
VLLM_CPU = Image(
    name="vllm-cpu",
    version="0.32.0",
    public="vllm/vllm-openai-cpu:v0.32.0",
    reason="the CPU build whose drain and start-up were measured",
    digest=NOT_KNOWN,
    size=3_000_000_000,  # what the one that is built here has unpacked
)
VLLM_CUDA = Image(
    name="vllm",
    version="0.33.0",
    public="vllm/vllm-openai:v0.33.0",
    reason="its wheel holds sm_75 (T4) kernels; built for CUDA 13, so the host needs driver 580 or newer",
    digest=NOT_KNOWN,
    size=12_000_000_000,  # vllm-project/vllm#27154
)
GATEWAY = Image(
    name="tensorzero",
    version="2026.6.0",
    public="tensorzero/gateway:2026.6.0"
    "@sha256:c939db4f27e41aa3a37a87909430a0c8f898f9c952f402dcbdc17e1708597bcb",
    reason="the last release: TensorZero was archived in June 2026",
    digest="named by two public projects that have nothing to do with each other; not pulled here",
    size=150_000_000,  # one Rust program on Debian
)
EDGE = Image(
    name="caddy",
    version="2.11.9",
    public="caddy:2.11.9",
    reason="2.11 or newer asks again what a proxy that ended had not answered; older ones answer 502",
    digest=NOT_KNOWN,
    size=30_000_000,  # one Go program on Alpine
)
SWITCH = Image(
    name="python",
    version="3.11",
    public="python:3.11-slim-bookworm"
    "@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b",
    reason="the switch needs nothing but Python's standard library, and the proxy's wheels are locked for it",
    digest="Python 3.11.16, all platforms, September 2026: named by ten public projects; not pulled here. "
    "It gets Docker's socket, and a tag that moves with each release would be whatever it is that day",
    size=50_000_000,  # Python on Debian, slim
)

STORE = Image(
    name="victoria-metrics",
    version="1.151.0",
    public="victoriametrics/victoria-metrics:v1.151.0"
    "@sha256:6d164540a04f49ba4e696cbdb70f9fee78be1e94b8f2a1292743a0b1ab8275bd",
    reason="the newest that can be built with Go 1.26, which the offline images are built with",
    digest="named by two public projects that have nothing to do with each other; not pulled here",
    size=20_000_000,  # one Go program; the one that is built here has 18 MB
)
ALERTS = Image(
    name="vmalert",
    version="1.151.0",
    public="victoriametrics/vmalert:v1.151.0",
    reason="the store's own version",
    digest=NOT_KNOWN,
    size=20_000_000,  # one Go program; the one that is built here has 18 MB
)

MONITOR = (STORE, ALERTS)
"""What only a stack with a monitor needs."""

ALL = (OLLAMA, VLLM_CPU, VLLM_CUDA, GATEWAY, EDGE, SWITCH, *MONITOR)
