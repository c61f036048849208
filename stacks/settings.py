"""The stack's settings, read and checked in one place, for the program and for rendering alike."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import pulumi
import pulumi.runtime.config
import yaml

from components.caddyfile import API_KEY, TENANT
from components.catalogue import MODELS, Folder, Model
from components.gpu_memory import T4, EngineKind, Gpu
from stacks import aws_settings
from stacks.aws_settings import AwsSettings

PROJECT = "changeover"

TARGET_GPU: dict[str, Gpu | None] = {"docker": None, "aws": T4}
"""Every target, and the GPU that it brings. Where its Docker host is: `stacks/targets.py`."""

CONTEXT_MINIMUM = 256


class SettingsError(Exception):
    """Settings that cannot work. The text names each key, its value, what is allowed and what to type."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The checked settings of one stack. Durations in seconds, sizes as their names say."""

    stack: str
    engine: EngineKind
    target: str
    model: Model
    context: int
    parallel: int
    cutover: Literal["auto", "overlap", "hold"]
    standby: bool
    images: Literal["public", "offline"]
    tenants: tuple[str, ...]
    port: int
    max_request_mib: int
    hold_budget: int
    drain: int
    load: int
    gate_completions: int
    aws: AwsSettings | None
    """None on every other target."""

    @property
    def gpu(self) -> Gpu | None:
        """The target's GPU, or None where there is only a CPU."""
        return TARGET_GPU[self.target]

    @property
    def kinds(self) -> tuple[EngineKind, ...]:
        """The engines that exist in the stack, the active one first."""
        other: EngineKind = "vllm" if self.engine == "ollama" else "ollama"
        return (self.engine, other) if self.standby else (self.engine,)


@dataclass(frozen=True)
class _Raw:
    """Settings as they came, with every problem found on the way."""

    values: Mapping[str, Any]
    types: Mapping[str, str]
    problems: list[str]

    def value(self, key: str) -> Any:
        value = self.values.get(key)
        kind = self.types[key]
        try:
            if kind in ("object", "array") and isinstance(value, str):
                return json.loads(value)
            if kind == "integer" and isinstance(value, str):
                return int(value)
        except ValueError:
            self.problem(key, value, f"allowed: one of type {kind}", f"pulumi config set {key} …")
            return {"object": {}, "array": []}.get(kind, 0)
        if kind == "boolean" and isinstance(value, str):
            return value == "true"
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = str(self.value(key))
        if value not in allowed:
            guess = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5) or allowed[:1]
            self.problem(key, value, f"allowed: {', '.join(allowed)}", f"pulumi config set {key} {guess[0]}")
            return allowed[0]
        return value

    def number(self, key: str, low: int, high: int, unit: str, why: str = "") -> int:
        value = int(self.value(key))
        if not low <= value <= high:
            nearest = min(max(value, low), high)
            allowed = f"allowed: {low} to {high} {unit}{why}"
            self.problem(key, value, allowed, f"pulumi config set {key} {nearest}")
        return value

    def problem(self, key: str, value: object, allowed: str, command: str) -> None:
        self.problems.append(f"{PROJECT}:{key}: {value!r} cannot work; {allowed}. Type: {command}")


def declared(root: Path) -> dict[str, dict[str, Any]]:
    """The typed `config:` block of Pulumi.yaml by key: type, description, default."""
    project = yaml.safe_load((root / "Pulumi.yaml").read_text())
    return cast(dict[str, dict[str, Any]], project["config"])


def from_values(stack: str, values: Mapping[str, Any], root: Path) -> Settings:
    """Settings of `stack` from its values by key, namespace removed; defaults are those of Pulumi.yaml.

    Raises SettingsError with every problem at once.
    """
    block = declared(root)
    problems: list[str] = []
    for key in sorted(set(values) - set(block)):
        guess = difflib.get_close_matches(key, block, n=1)
        hint = f"did you mean `{guess[0]}`? " if guess else f"known: {', '.join(sorted(block))}. "
        problems.append(f"{PROJECT}:{key}: no such setting; {hint}Type: pulumi config rm {key}")
    complete = {key: entry["default"] for key, entry in block.items() if "default" in entry} | dict(values)
    problems += [
        f"{PROJECT}:{key}: missing. {entry['description']} Type: pulumi config set {key} …"
        for key, entry in block.items()
        if key not in complete
    ]
    if problems:
        raise SettingsError(_text(stack, problems))

    raw = _Raw(complete, {key: entry["type"] for key, entry in block.items()}, problems)
    engine = raw.choice("engine", ("ollama", "vllm"))
    target = raw.choice("target", tuple(TARGET_GPU))
    model = MODELS[raw.choice("model", tuple(MODELS))]
    images = raw.choice("images", ("public", "offline"))
    if images == "offline" and target != "docker":
        raw.problem("images", images, f"with target {target}: public", "pulumi config set images public")
    if images == "offline" and model.name != "tiny":
        raw.problem(
            "model",
            model.name,
            "with images offline: tiny (no hub is reached)",
            "pulumi config set model tiny",
        )
    if target == "docker" and images == "public" and isinstance(model.vllm, Folder):
        raw.problem(
            "model",
            model.name,
            f"with images public: {', '.join(name for name in MODELS if name != model.name)}",
            "pulumi config set model qwen-2.5-coder-0.5b",
        )
    tenants = raw.value("apiKeys") or {}
    for tenant, key in tenants.items():
        remove = f"pulumi config rm --path 'apiKeys[\"{tenant}\"]'"
        if isinstance(key, dict) and set(key) != {"secure"}:
            nested = f"pulumi config set --secret --path 'apiKeys[\"{tenant}.NAME\"]' KEY"
            raw.problem("apiKeys", tenant, "a tenant has one key; a dot in its name needs brackets", nested)
        if not TENANT.fullmatch(tenant):
            raw.problem("apiKeys", tenant, f"a tenant's name matches {TENANT.pattern}", remove)
        if isinstance(key, str) and not API_KEY.fullmatch(key):
            set_key = f"pulumi config set --secret --path apiKeys.{tenant} $(openssl rand -hex 24)"
            raw.problem(f"apiKeys.{tenant}", "[secret]", f"a key matches {API_KEY.pattern}", set_key)
    plain = [key for key in tenants.values() if isinstance(key, str)]
    if len(set(plain)) != len(plain):
        raw.problem(
            "apiKeys",
            "[secret]",
            "each tenant has a key of its own",
            "pulumi config set --secret --path apiKeys.TENANT $(openssl rand -hex 24)",
        )
    aws = None
    if target == "aws":
        sizes = sum(source.size for source in (model.ollama, model.vllm))
        aws = aws_settings.read(raw, weights_bytes=sizes, tenants=len(tenants))
        if "port" in values:
            raw.problem("port", values["port"], "with target aws: 443, always", "pulumi config rm port")
    else:
        for key in sorted(set(values) & set(aws_settings.KEYS)):
            # not its value: it may be a secret
            raw.problem(key, "[set]", "only with target aws", f"pulumi config rm {key}")
    settings = Settings(
        stack=stack,
        engine=cast(EngineKind, engine),
        target=target,
        model=model,
        context=raw.number(
            "context", CONTEXT_MINIMUM, model.max_context, "tokens", f", the most that {model.name} can"
        ),
        parallel=raw.number("parallel", 1, 256, "requests"),
        cutover=cast(Any, raw.choice("cutover", ("auto", "overlap", "hold"))),
        standby=bool(raw.value("standby")),
        images=cast(Any, images),
        tenants=tuple(sorted(tenants)),
        port=raw.number("port", 1, 65535, ""),
        max_request_mib=raw.number("maxRequestMiB", 1, 1024, "MiB"),
        hold_budget=raw.number("holdBudgetSeconds", 1, 3600, "seconds"),
        drain=raw.number("drainSeconds", 1, 3600, "seconds"),
        load=raw.number("loadSeconds", 1, 3600, "seconds"),
        gate_completions=raw.number("gateCompletions", 1, 100, "completions"),
        aws=aws,
    )
    if problems:
        raise SettingsError(_text(stack, problems))
    return settings


def _text(stack: str, problems: list[str]) -> str:
    return "\n  ".join([f"the settings of stack `{stack}` cannot work; nothing was changed.", *problems])


def from_files(stack: str, root: Path) -> Settings:
    """Settings of `stack` from Pulumi.yaml and Pulumi.<stack>.yaml, without Pulumi and without secrets."""
    file = root / f"Pulumi.{stack}.yaml"
    try:
        config = yaml.safe_load(file.read_text())["config"]
    except FileNotFoundError:
        raise SettingsError(f"there is no stack `{stack}`: {file.name} does not exist") from None
    prefix = f"{PROJECT}:"
    values = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
    return from_values(stack, values, root)


def from_program(root: Path) -> Settings:
    """Settings of the stack that Pulumi is running. Raises SettingsError."""
    # pulumi.Config reads keys one by one; the whole bag is needed to find misspelt ones.
    bag = pulumi.runtime.config.CONFIG.get() or pulumi.runtime.config.get_config_env()
    prefix = f"{PROJECT}:"
    values = {key.removeprefix(prefix): value for key, value in bag.items() if key.startswith(prefix)}
    return from_values(pulumi.get_stack(), values, root)


def api_keys() -> pulumi.Output[dict[str, str]]:
    """Tenant → API key of the running stack, as a secret."""
    return pulumi.Config(PROJECT).get_secret_object("apiKeys") or pulumi.Output.secret({})


def stacks(root: Path) -> list[str]:
    """The names of all stacks that have a settings file."""
    return sorted(file.name.split(".")[1] for file in root.glob("Pulumi.*.yaml"))


def host_key() -> pulumi.Output[str]:
    """The private SSH key of the running stack's host, as a secret."""
    keys = pulumi.Config(PROJECT).require_secret_object("sshKeys")
    return keys.apply(lambda found: str(found["host"]))


def client_key() -> str:
    """The deployer's private SSH key, in plain text: `ssh` needs it in a file."""
    return str(pulumi.Config(PROJECT).require_object("sshKeys")["client"])
