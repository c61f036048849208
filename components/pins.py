"""Every version that this project depends on outside of its lock file, each with its source and reason.

No pulumi import: the offline builder and the rendering read it too.
"""

from dataclasses import dataclass

PULUMI = "3.259.0"
"""Pulumi CLI and engine; equals the SDK in the lock file, so that engine and SDK never disagree."""

DOCKER_PLUGIN = "5.2.0"
"""pulumi-docker: the newest whose behaviour on replacement, grace and wait was read and run."""

COMMAND_PLUGIN = "1.2.1"
"""pulumi-command: a `command` step has no read and dies with `pulumi up`; nothing relies on more."""


DRIVER = 580
"""NVIDIA driver that the host needs at least: vLLM's image is built for CUDA 13. Ollama needs 550."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """One container image: what it is, where the public one comes from, what the offline one is called.

    `version` is the version of the program inside. It is the same for both sources, and it is what
    the content name of an engine is computed from, so that reviewed files do not depend on the source.
    """

    name: str
    version: str
    public: str
    reason: str

    @property
    def offline(self) -> str:
        """The reference of the image that `offline/` builds. It is in no registry."""
        return f"changeover-offline/{self.name}:{self.version}"


OLLAMA = Image(
    name="ollama",
    version="0.17.4",
    public="ollama/ollama:0.17.4",
    reason="the version whose max_tokens, context and stop behaviour was measured behind the gateway",
)
VLLM_CPU = Image(
    name="vllm-cpu",
    version="0.32.0",
    public="vllm/vllm-openai-cpu:v0.32.0",
    reason="the CPU build whose drain and start-up were measured",
)
VLLM_CUDA = Image(
    name="vllm",
    version="0.33.0",
    public="vllm/vllm-openai:v0.33.0",
    reason="its wheel holds sm_75 (T4) kernels; built for CUDA 13, so the host needs driver 580 or newer",
)
GATEWAY = Image(
    name="tensorzero",
    version="2026.6.0",
    public="tensorzero/gateway:2026.6.0",
    reason="the last release: TensorZero was archived in June 2026",
)
EDGE = Image(
    name="caddy",
    version="2.11.9",
    public="caddy:2.11.9",
    reason="2.11 or newer asks again what a proxy that ended had not answered; older ones answer 502",
)
SWITCH = Image(
    name="python",
    version="3.11",
    public="python:3.11-slim-bookworm",
    reason="the switch needs nothing but Python's standard library, and the proxy's wheels are locked for it",
)
