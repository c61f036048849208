"""The edge's Caddyfile as text: its bytes, its secrets, and what the patterns in it take for a request."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components import caddyfile, tensorzero
from components.caddyfile import EdgeConfig

GOLDEN = Path(__file__).parent / "golden"
MODEL = "qwen-2.5-coder-7b"
KEYS = {"globex": "sk-globex-0123456789", "acme": "sk-acme-0123456789=="}


def config(**changes: Any) -> EdgeConfig:
    settings: dict[str, Any] = {
        "listen": ":8080",
        "models": (MODEL,),
        "hold_seconds": 240,
        "max_body_bytes": 8 * 1024 * 1024,
    }
    return EdgeConfig(**settings | changes)


@pytest.mark.parametrize(
    ("file", "edge"),
    [
        ("edge-open.caddyfile", config()),
        (
            "edge-keys.caddyfile",
            config(
                api_keys=KEYS,
                embedding_model="nomic-embed-text",
                domain="llm.example.com",
                listen=":443",
                never_open=True,
            ),
        ),
    ],
)
def test_the_text_is_the_reviewed_one(file: str, edge: EdgeConfig) -> None:
    assert caddyfile.render(edge) == (GOLDEN / file).read_text()


def test_a_reviewer_sees_the_tenants_and_no_key() -> None:
    text = caddyfile.render(config(api_keys=KEYS))
    assert "Tenants with a key: acme, globex" in text
    assert not any(key in text for key in KEYS.values())


def test_a_key_is_in_the_input_of_the_apply_program_and_in_no_repr() -> None:
    edge = config(api_keys=KEYS)
    names, _, text = caddyfile.apply_input(edge).partition("\n\n")
    assert names.splitlines() == ["sk-acme-0123456789==:acme", "sk-globex-0123456789:globex"]
    assert text == caddyfile.render(edge)
    assert not any(key in repr(edge) for key in KEYS.values())


def test_without_keys_the_endpoint_is_open_by_a_file() -> None:
    assert caddyfile.apply_input(config()) == f"{caddyfile.OPEN}\n\n" + caddyfile.render(config())


def test_what_may_never_be_open_has_no_way_past_the_keys() -> None:
    closed = config(never_open=True)
    assert caddyfile.apply_input(closed) == "\n" + caddyfile.render(closed)
    assert f"try_files {caddyfile.OPEN}" not in caddyfile.render(closed)
    assert "@closed" not in caddyfile.render(closed)


def test_the_first_key_changes_a_comment_alone() -> None:
    without, with_keys = caddyfile.render(config()), caddyfile.render(config(api_keys=KEYS))
    assert without != with_keys
    assert caddyfile.loaded(without) == caddyfile.loaded(with_keys)


def test_a_rotated_key_does_not_change_the_caddyfile() -> None:
    rotated = KEYS | {"acme": "sk-acme-rotated-0123456789"}
    assert caddyfile.render(config(api_keys=KEYS)) == caddyfile.render(config(api_keys=rotated))


@pytest.mark.parametrize(
    "key", ["short", "sk-acme/0123456789", "sk-acme-012345678*", "{env.HOME}-0123456789", "a b" * 9]
)
def test_a_key_that_means_more_than_itself_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValueError, match="API key of tenant 'acme'") as refusal:
        config(api_keys={"acme": key})
    assert key not in str(refusal.value)


@pytest.mark.parametrize("tenant", ["", "a b", "a:b", "../x", "{x}"])
def test_a_tenant_that_is_no_plain_name_is_refused(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        config(api_keys={tenant: "sk-0123456789abcdef"})


def test_two_tenants_with_one_key_are_refused() -> None:
    with pytest.raises(ValueError, match="same API key"):
        config(api_keys=dict.fromkeys(("acme", "globex"), "sk-0123456789abcdef"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("listen", "8080"),
        ("gateway", "a b"),
        ("engine", "engine"),
        ("domain", "localhost"),
        ("hold_seconds", 0),
        ("models", ()),
        ("models", ("a", "a")),
        ("models", ("a}",)),
    ],
)
def test_a_setting_that_caddy_would_misread_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError):
        config(**{field: value})


def read(body: str) -> str | None:
    """The model that the edge reads from a body: the pattern is RE2 and Python's `re` takes it too."""
    pattern = caddyfile._request_pattern(tensorzero.CHAT_PREFIX).replace("(?s)^", "^")
    found = re.match(pattern, body, re.DOTALL)
    return found["model"] if found else None


MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    "body",
    [
        f'{{"model":"m",{MESSAGES}}}',
        f'{{{MESSAGES},"model":"m"}}',
        f'{{"model":"tensorzero::model_name::m",{MESSAGES}}}',
        f'{{"metadata":{{"model":"x"}},{MESSAGES},"model":"m"}}',
        f'{{"model":"m","tools":[{{"properties":{{"model":{{"type":"string"}}}}}}],{MESSAGES}}}',
        '{"messages":[{"role":"user","content":"a \\"model\\": \\"x\\", b {[ \\\\"}],"model":"m"}',
        '{"messages":[{"role":"user","content":"größe 漢字 🙂"}],"model":"m"}',
        '{"mode":1,"models":"x","mod":null,"model_name":"y","":0,"model":"m","temperature":-1.5e+3}',
        json.dumps({"messages": [{"role": "user", "content": "hi"}], "model": "m", "stop": None}, indent=2),
    ],
)
def test_the_top_level_model_is_found(body: str) -> None:
    json.loads(body)
    assert read(body) == "m"


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "[]",
        f"{{{MESSAGES}}}",
        '{"x":{"model":"m"}}',
        '{"model":5}',
        '{"model":null}',
        '{"model":"a","model":"b"}',
        '{"model":"a","x":1,"mod\\u0065l":"b"}',
        '{"model":"a\\"b"}',
        '{"model":"m"}{}',
        '{"model":"m"',
    ],
)
def test_a_body_that_is_not_one_object_with_one_model_is_not_read(body: str) -> None:
    assert read(body) is None


def reserved(body: str) -> bool:
    patterns = (caddyfile._reserved_fields(), caddyfile._DISGUISED_KEY)
    return any(re.search(pattern, body) for pattern in patterns)


@pytest.mark.parametrize(
    "fields",
    [
        '"tensorzero::tags":{"tenant":"x"}',
        '"tensorzero::credentials"\n\t:{}',
        '"\\u0074ensorzero::tags":{}',
        '"tensorzero\\u003a:tags":{}',
        '"tensorzero\\u003A:tags" : {}',
        '"a":[{"tensorzero::arguments":{}}]',
        '"a":[{"type":"tensorzero::raw_text","value":"x"}]',
    ],
)
def test_the_gateways_own_fields_are_refused_at_any_depth(fields: str) -> None:
    json.loads(f"{{{fields}}}")
    assert reserved(f'{{"model":"m",{fields}}}')


@pytest.mark.parametrize(
    "content",
    [
        "tensorzero::tags",
        'set "tensorzero::tags": {"a": 1}',
        '{"type": "tensorzero::raw_text"}',
        '"tensorzero::tags":',
        "\\u0074ensorzero\\u003a: x",
        'ends with a quote and a colon": \\',
        "größe\u0000",
    ],
)
def test_a_prompt_may_hold_any_text(content: str) -> None:
    for ascii_only in (True, False):
        body = json.dumps({"messages": [{"content": content}], "model": "m"}, ensure_ascii=ascii_only)
        assert not reserved(body)
        assert read(body) == "m"
