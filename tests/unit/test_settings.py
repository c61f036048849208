"""Settings fail before anything is changed, with the key, the value, what is allowed and what to type."""

from pathlib import Path

import pytest
import yaml

from common import ROOT, StepFailed
from stacks.blueprint import blueprint_of
from stacks.settings import SettingsError, declared, from_files, from_values, stacks
from switch.plan import Seconds
from tools.host import is_on_aws

GOOD = {"engine": "ollama", "target": "docker", "model": "qwen-2.5-coder-0.5b"}


def refusal(**values: object) -> str:
    with pytest.raises(SettingsError) as error:
        from_values("local", {**GOOD, **values}, ROOT)
    return str(error.value)


def test_defaults_come_from_pulumi_yaml() -> None:
    settings = from_values("local", GOOD, ROOT)
    block = declared(ROOT)
    assert settings.context == block["context"]["default"]
    assert settings.hold_budget == block["holdBudgetSeconds"]["default"]
    assert settings.standby is block["standby"]["default"]
    assert settings.tenants == ()


def test_what_a_short_drain_means_for_an_engine_that_hangs_is_said_where_it_is_set() -> None:
    said = f"With less than {Seconds.answers:g}, so is a flip away from an engine that hangs"
    assert said in declared(ROOT)["drainSeconds"]["description"]


def test_an_object_that_is_no_json_is_refused_as_any_other_value_is() -> None:
    text = refusal(parallel="{ollama: 8, vllm: 48}")  # as the documentation of the setting writes it
    assert "changeover:parallel: '{ollama: 8, vllm: 48}' cannot work; it must be auto, or 1 to 256" in text


def test_a_key_that_pulumi_has_read_as_a_number_is_refused_and_not_shown() -> None:
    text = refusal(apiKeys='{"acme": 1234567890123456}')  # as of `--path` without `--secret`
    assert "changeover:apiKeys.acme: '[secret]' cannot work; a key must match" in text
    assert "1234567890123456" not in text


def test_a_stack_is_not_called_as_the_network_of_anothers_clients() -> None:
    with pytest.raises(SettingsError, match="must not end with -clients, since a network of the stack it "):
        from_values("it-clients", GOOD, ROOT)
    assert from_values("clients", GOOD, ROOT).stack == "clients"


def test_a_stacks_name_may_have_a_dot_in_it(tmp_path: Path) -> None:
    for name in ("Pulumi.yaml", "Pulumi.local.yaml", "Pulumi.team.a.yaml"):
        (tmp_path / name).touch()
    assert stacks(tmp_path) == ["local", "team.a"]


def test_values_as_pulumi_hands_them_over_are_strings() -> None:
    values = {**GOOD, "context": "2048", "standby": "false", "apiKeys": '{"acme": "0123456789abcdef"}'}
    settings = from_values("local", values, ROOT)
    assert (settings.context, settings.standby, settings.tenants) == (2048, False, ("acme",))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("engine", "vlm", "ollama, vllm"),
        ("target", "gcp", "docker"),
        ("model", "qwen-2.5-coder-8b", "qwen-2.5-coder-7b"),
        ("cutover", "swap", "auto, overlap, hold"),
        ("images", "private", "public, offline"),
        ("context", 100_000, "256 to 32768 tokens"),
        ("context", 16, "256 to 32768 tokens"),
        ("port", 70_000, "it must be 1 to 65535. Run"),
        ("parallel", 0, "1 to 256"),
        ("gateway", "litellm", "tensorzero, none"),
        ("maxRequestMiB", 65, "1 to 64 MiB"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_what_is_allowed(
    key: str, value: object, allowed: str
) -> None:
    text = refusal(**{key: value})
    assert f"changeover:{key}: {value!r}" in text
    assert allowed in text
    assert f"Run: pulumi config set {key} " in text
    assert "nothing was changed" in text


@pytest.mark.parametrize(
    ("value", "parallel"),
    [
        ("auto", {}),
        (4, {"ollama": 4, "vllm": 4}),
        ("4", {"ollama": 4, "vllm": 4}),
        ({"vllm": 48}, {"vllm": 48}),
        ('{"ollama":8,"vllm":48}', {"ollama": 8, "vllm": 48}),
        ({"ollama": "auto", "vllm": 48}, {"vllm": 48}),
        ({}, {}),
    ],
)
def test_parallel_is_auto_a_number_for_both_or_one_by_engine(value: object, parallel: object) -> None:
    assert from_values("local", {**GOOD, "parallel": value}, ROOT).parallel == parallel
    assert from_values("local", GOOD, ROOT).parallel == {}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            "many",
            "changeover:parallel: 'many' cannot work; it must be auto, or 1 to 256 requests, or an object",
        ),
        (257, "changeover:parallel: 257 cannot work; it must be auto, or 1 to 256"),
        ([4], "changeover:parallel: [4] cannot work"),
        (True, "changeover:parallel: True cannot work"),
        (
            {"vllm": 0},
            "parallel.vllm: 0 cannot work; it must be auto, or 1 to 256 requests. Run: pulumi config ",
        ),
        (
            {"vlm": 4},
            "parallel.vlm: 4 cannot work; the keys of parallel must be ollama or vllm. Run: pulumi config",
        ),
        ({"vllm": {"a": 1}}, "changeover:parallel.vllm: {'a': 1} cannot work"),
    ],
)
def test_another_parallel_is_refused(value: object, said: str) -> None:
    assert said in refusal(parallel=value)


def test_memory_of_a_gpu_can_be_said_and_is_no_more_than_there_is() -> None:
    on_t4 = {"model": "qwen-2.5-coder-7b", "gpu": "t4"}
    assert from_values("local", {**GOOD, **on_t4}, ROOT).load.gpu_memory is None
    said = from_values("local", {**GOOD, **on_t4, "gpuMemoryMiB": "12288"}, ROOT)
    assert said.load.gpu_memory == 12 * 1024**3
    assert "it must be 0 to 14909 MiB, the usable memory of NVIDIA T4" in refusal(**on_t4, gpuMemoryMiB=16000)
    assert "gpuMemoryMiB: 4096 cannot work" in refusal(gpuMemoryMiB=4096)


def test_a_misspelt_engine_is_answered_with_the_one_that_was_meant() -> None:
    assert "Run: pulumi config set engine vllm" in refusal(engine="vlm")


def test_a_misspelt_key_is_refused_with_the_one_that_was_meant() -> None:
    text = refusal(contxt=4096)
    assert "changeover:contxt: there is no such setting; did you mean `context`?" in text
    assert "pulumi config rm contxt" in text


def test_a_missing_value_is_named() -> None:
    with pytest.raises(SettingsError, match="changeover:model: it is not set"):
        from_values("local", {"engine": "ollama", "target": "docker"}, ROOT)


def test_every_problem_is_said_at_once() -> None:
    text = refusal(engine="x", cutover="y")
    assert "changeover:engine" in text
    assert "changeover:cutover" in text


def test_clients_call_the_model_by_its_own_name_unless_another_is_set() -> None:
    names = [from_values("local", {**GOOD, **more}, ROOT).name for more in ({}, {"name": "chat"})]
    assert names == [GOOD["model"], "chat"]


@pytest.mark.parametrize("name", ["a b", "openai::chat", "a/", "chat-", '"', "{x}", "a" * 81])
def test_a_name_that_an_engine_gateway_or_edge_could_misread_is_refused(name: str) -> None:
    text = refusal(name=name)
    assert f"changeover:name: {name!r}" in text
    assert f"Run: pulumi config set name {GOOD['model']}" in text


def test_offline_images_come_with_the_tiny_model_only() -> None:
    assert "pulumi config set model tiny" in refusal(images="offline")
    assert from_values("local", {**GOOD, "images": "offline", "model": "tiny"}, ROOT).images == "offline"


def embedding(**values: object) -> dict[str, object]:
    return {"model": "qwen3-embedding-0.6b", "gateway": "none", **values}


def test_an_embedding_model_is_served_without_what_only_chats_need() -> None:
    settings = from_values("local", {**GOOD, **embedding()}, ROOT)
    plan = blueprint_of(settings).plan()
    assert plan.gate.embeds and not plan.gate.sense and plan.gateway is None
    vllm = blueprint_of(from_values("local", {**GOOD, **embedding(engine="vllm")}, ROOT)).active
    at = vllm.command.index("--runner")
    assert vllm.command[at : at + 4] == ("--runner", "pooling", "--convert", "embed")
    assert (
        "--runner" not in blueprint_of(from_values("local", {**GOOD, "engine": "vllm"}, ROOT)).active.command
    )
    assert '"embeds"' not in blueprint_of(from_values("local", GOOD, ROOT)).plan().text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"gateway": "tensorzero"},
            "gateway: 'tensorzero' cannot work; qwen3-embedding-0.6b only computes embeddings and cannot "
            "chat, and the gateway handles nothing but chats: it must be none. Run: pulumi config set "
            "gateway none",
        ),
        (
            {"requireParity": True},
            "requireParity: True cannot work; qwen3-embedding-0.6b only computes embeddings",
        ),
        ({"parallel": 4}, "parallel: 4 cannot work; ollama computes embeddings for one request at a time"),
        ({"vllmFlags": ["--runner generate"]}, "the program sets it from the setting `model`"),
    ],
)
def test_what_makes_no_sense_for_an_embedding_model_is_refused(values: dict[str, object], said: str) -> None:
    assert said in refusal(**embedding(**values))


def test_an_embedding_model_may_have_many_requests_in_vllm() -> None:
    settings = from_values("local", {**GOOD, **embedding(parallel={"vllm": 32})}, ROOT)
    assert settings.parallel == {"vllm": 32}


def test_the_tiny_model_comes_with_offline_images_only() -> None:
    assert "changeover:model: 'tiny'" in refusal(model="tiny")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("context", "4k", "'4k' cannot work; it must be an integer. Run: "),
        ("apiKeys", "acme=x", "it must be an object"),
    ],
)
def test_a_value_of_the_wrong_type_is_a_sentence(key: str, value: str, allowed: str) -> None:
    assert allowed in refusal(**{key: value})


def test_a_key_below_a_dot_is_refused_with_the_brackets_that_it_needs() -> None:
    text = refusal(apiKeys={"team": {"a": "0123456789abcdef"}})
    assert 'apiKeys["team.NAME"]' in text
    assert "0123456789abcdef" not in text


@pytest.mark.parametrize(
    "key", ["short", 'quote"0123456789abcdef', "blank 0123456789abcdef", "line\n0123456789abcdef"]
)
def test_an_unusable_api_key_is_refused_without_being_shown(key: str) -> None:
    text = refusal(apiKeys={"acme": key})
    assert "changeover:apiKeys.acme" in text
    assert key not in text


def test_two_tenants_with_one_key_are_refused() -> None:
    assert "a key of its own" in refusal(apiKeys={"a": "0123456789abcdef", "b": "0123456789abcdef"})


def test_a_tenants_name_cannot_carry_anything_but_a_name() -> None:
    assert "a tenant's name" in refusal(apiKeys={"a b": "0123456789abcdef"})


def test_the_active_engine_comes_first_and_the_standby_can_be_left_out() -> None:
    assert from_values("local", {**GOOD, "engine": "vllm"}, ROOT).kinds == ("vllm", "ollama")
    assert from_values("local", {**GOOD, "standby": False}, ROOT).kinds == ("ollama",)


def test_every_stack_file_is_readable_without_credentials() -> None:
    assert "local" in stacks(ROOT)
    for stack in stacks(ROOT):
        assert from_files(stack, ROOT).stack == stack


def test_an_encrypted_key_is_rendered_by_its_tenant_alone(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    config = {f"changeover:{key}": value for key, value in GOOD.items()}
    config["changeover:apiKeys"] = {"acme": {"secure": "v1:abc"}}  # type: ignore[assignment]
    (tmp_path / "Pulumi.x.yaml").write_text(yaml.safe_dump({"config": config}))
    assert from_files("x", tmp_path).tenants == ("acme",)


@pytest.mark.parametrize(
    "text", ["config:\n<<<<<<< HEAD\n  a: b\n=======\n", "- engine\n", "config: ollama\n", b"config: \xff"]
)
def test_a_file_that_holds_no_settings_is_named_whatever_is_asked_of_it(
    tmp_path: Path, text: str | bytes
) -> None:
    file = tmp_path / "Pulumi.x.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SettingsError, match=r"Pulumi\.x\.yaml is no file of settings; nothing was changed"):
        from_files("x", tmp_path)
    with pytest.raises(StepFailed, match=r"Pulumi\.x\.yaml is no file of settings; nothing was changed"):
        is_on_aws("x", tmp_path)


@pytest.mark.parametrize("text", ["", "encryptionsalt: v1:a\n", "config:\n"])
def test_a_file_without_settings_is_asked_for_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "Pulumi.yaml").write_text((ROOT / "Pulumi.yaml").read_text())
    (tmp_path / "Pulumi.x.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"the settings of stack `x` cannot work(.|\n)*engine"):
        from_files("x", tmp_path)
    assert not is_on_aws("x", tmp_path)


def test_a_stack_without_a_file_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"there is no stack `nowhere`"):
        from_files("nowhere", ROOT)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("aliases", each) for each in ("", "a b", "/a", "a/", "ü", "x" * 129, "a\nb")],
        *[
            ("corsOrigins", each)
            for each in (
                "example.com",
                "https://",
                "https://a/",
                "https://a/b",
                "ftp://a",
                "https://A",
                "null",
            )
        ],
    ],
)
def test_a_name_or_a_site_that_nobody_can_ask_by_is_refused_with_what_removes_it(
    key: str, value: str
) -> None:
    text = refusal(**{key: ["https://good.example.com" if key == "corsOrigins" else "good", value]})
    assert f"changeover:{key}: {value!r}" in text and f"pulumi config rm --path '{key}[1]'" in text


def test_further_names_and_sites_are_in_the_routing_once_each() -> None:
    values = {"aliases": ["a/b:c", "a/b:c"], "corsOrigins": ["*", "http://localhost:3000", "*"]}
    settings = from_values("local", {**GOOD, **values}, ROOT)
    assert settings.aliases == ("a/b:c",)
    assert settings.cors_origins == ("*", "http://localhost:3000")
    text = blueprint_of(settings).routing
    assert 'aliases = ["a/b:c"]' in text and '[browsers]\norigins = ["*", "http://localhost:3000"]' in text
    plain = blueprint_of(from_values("local", GOOD, ROOT)).routing
    assert "aliases" not in plain and "browsers" not in plain


def test_a_monitor_is_off_unless_it_is_asked_for() -> None:
    assert from_values("local", GOOD, ROOT).monitor is None
    values = {"monitor": True, "alertReceiver": "https://alerts.example.com:9093/team-a"}
    monitor = from_values("local", {**GOOD, **values}, ROOT).monitor
    assert monitor and (monitor.port, monitor.receiver) == (8428, values["alertReceiver"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"monitor": True, "monitorPort": 8080}, "it must differ from port, which is 8080"),
        ({"monitor": True, "monitorPort": 80}, "it must be 1024 to 65535"),
        ({"alertReceiver": "http://alerts:9093"}, "it needs monitor true"),
        ({"monitor": True, "alertReceiver": "alerts:9093"}, "it must be http:// or https://"),
    ],
)
def test_a_monitor_that_cannot_work_is_refused(values: dict[str, object], said: str) -> None:
    assert said in refusal(**values)


def test_a_password_in_the_address_of_a_receiver_is_refused_and_not_shown() -> None:
    text = refusal(monitor=True, alertReceiver="http://me:very-secret@alerts:9093")
    assert "no password" in text and "very-secret" not in text
