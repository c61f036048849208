"""Settings fail before anything is changed, with the key, the value, what is allowed and what to type."""

from pathlib import Path

import pytest
import yaml

from stacks.settings import SettingsError, declared, from_files, from_values, stacks

ROOT = Path(__file__).parent.parent.parent
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
        ("port", 70_000, "1 to 65535"),
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
    assert f"Type: pulumi config set {key} " in text
    assert "nothing was changed" in text


def test_a_misspelt_engine_is_answered_with_the_one_that_was_meant() -> None:
    assert "Type: pulumi config set engine vllm" in refusal(engine="vlm")


def test_a_misspelt_key_is_refused_with_the_one_that_was_meant() -> None:
    text = refusal(contxt=4096)
    assert "changeover:contxt: no such setting; did you mean `context`?" in text
    assert "pulumi config rm contxt" in text


def test_a_missing_value_is_named() -> None:
    with pytest.raises(SettingsError, match="changeover:model: missing"):
        from_values("local", {"engine": "ollama", "target": "docker"}, ROOT)


def test_every_problem_is_said_at_once() -> None:
    text = refusal(engine="x", cutover="y")
    assert "changeover:engine" in text
    assert "changeover:cutover" in text


def test_clients_call_the_model_by_its_own_name_unless_another_is_set() -> None:
    names = [from_values("local", {**GOOD, **more}, ROOT).name for more in ({}, {"name": "chat"})]
    assert names == [GOOD["model"], "chat"]


@pytest.mark.parametrize("name", ["a b", "openai::chat", "a/b", "chat-", '"', "{x}", "a" * 81])
def test_a_name_that_an_engine_gateway_or_edge_could_misread_is_refused(name: str) -> None:
    text = refusal(name=name)
    assert f"changeover:name: {name!r}" in text
    assert f"Type: pulumi config set name {GOOD['model']}" in text


def test_offline_images_come_with_the_tiny_model_only() -> None:
    assert "pulumi config set model tiny" in refusal(images="offline")
    assert from_values("local", {**GOOD, "images": "offline", "model": "tiny"}, ROOT).images == "offline"


def test_the_tiny_model_comes_with_offline_images_only() -> None:
    assert "changeover:model: 'tiny'" in refusal(model="tiny")


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [("context", "4k", "one of type integer"), ("apiKeys", "acme=x", "one of type object")],
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


def test_a_stack_without_a_file_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"there is no stack `nowhere`"):
        from_files("nowhere", ROOT)
