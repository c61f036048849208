"""What the host is told of API keys: digests, and nothing that opens the endpoint."""

import hashlib
import json

import pytest

from components.api_keys import document

KEYS = {"globex": "sk-globex-0123456789", "acme": "sk-acme-0123456789=="}


def test_keys_are_told_by_their_digests_in_the_order_of_their_tenants() -> None:
    text = document(KEYS, never_open=False)
    told = json.loads(text)
    assert told["open"] is False
    assert list(told["keys"].values()) == ["acme", "globex"]
    assert told["keys"][hashlib.sha256(KEYS["acme"].encode()).hexdigest()] == "acme"
    assert not any(key in text for key in KEYS.values())


def test_without_keys_the_endpoint_is_open_or_nobody_may_pass() -> None:
    assert json.loads(document({}, never_open=False)) == {"open": True, "keys": {}}
    assert json.loads(document({}, never_open=True)) == {"open": False, "keys": {}}
    assert json.loads(document(KEYS, never_open=True))["open"] is False


@pytest.mark.parametrize(
    "key", ["short", "sk-acme/0123456789", "sk-acme-012345678*", "{env.HOME}-0123456789", "a b" * 9]
)
def test_a_key_that_is_no_bearer_token_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(ValueError, match="API key of tenant 'acme'") as refusal:
        document({"acme": key}, never_open=False)
    assert key not in str(refusal.value)


@pytest.mark.parametrize("tenant", ["", "a b", "a:b", "../x", "{x}"])
def test_a_tenant_that_is_no_plain_name_is_refused(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        document({tenant: "sk-0123456789abcdef"}, never_open=False)


def test_two_tenants_with_one_key_are_refused() -> None:
    with pytest.raises(ValueError, match="same API key"):
        document(dict.fromkeys(("acme", "globex"), "sk-0123456789abcdef"), never_open=False)
