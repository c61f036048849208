"""The edge's Caddyfile as text: what a reviewer reads, and what must not be in it."""

from pathlib import Path
from typing import Any

import pytest

from components import caddyfile
from components.caddyfile import EdgeConfig
from stacks.blueprint import blueprint
from stacks.settings import from_values
from tests.unit.test_aws_settings import GOOD, ROOT

GOLDEN = Path(__file__).parent / "golden"


def config(**changes: Any) -> EdgeConfig:
    settings: dict[str, Any] = {
        "listen": ":8080",
        "proxy": "proxy:8080",
        "max_body_bytes": 8 * 1024 * 1024,
    }
    return EdgeConfig(**settings | changes)


WITH_NAME = config(listen=":443", domain="llm.example.com")
WITH_ADDRESS = config(listen=":443", domain="198.51.100.7", internal_ca=True)


@pytest.mark.parametrize(
    ("file", "edge"),
    [
        ("edge-http.caddyfile", config()),
        ("edge-name.caddyfile", WITH_NAME),
        ("edge-address.caddyfile", WITH_ADDRESS),
    ],
)
def test_the_text_is_the_reviewed_one(file: str, edge: EdgeConfig) -> None:
    assert caddyfile.render(edge) == (GOLDEN / file).read_text()


@pytest.mark.parametrize(
    ("values", "tried"),
    [
        ({"publicHttp": True}, "alone"),
        ({"allowedCidrs": ["0.0.0.0/0"]}, "both"),
    ],
)
def test_where_not_everybody_reaches_443_a_name_is_proven_on_port_80_alone(
    values: dict[str, Any], tried: str
) -> None:
    plan = blueprint(from_values("prod", {**GOOD, "domain": "llm.example.com", **values}, ROOT))
    text = plan.edge_caddyfile("llm.example.com")
    assert ("cert_issuer acme {\n\t\tdisable_tlsalpn_challenge\n\t}" in text) == (tried == "alone")
    assert "disable_http_challenge" not in text


@pytest.mark.parametrize("edge", [config(), WITH_NAME, WITH_ADDRESS])
def test_a_reviewer_has_fifty_lines_to_read(edge: EdgeConfig) -> None:
    assert len(caddyfile.render(edge).splitlines()) <= 50


def test_a_body_of_the_largest_size_is_read_whole() -> None:
    """Caddy takes it that there is more where it has read as much as its buffer holds."""
    text = caddyfile.render(config(max_body_bytes=2048))
    assert "request_buffers 2049\n" in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("listen", "8080"),
        ("proxy", "a b:80"),
        ("proxy", "proxy"),
        ("domain", "localhost"),
        ("max_body_bytes", 0),
    ],
)
def test_a_setting_that_caddy_would_misread_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError):
        config(**{field: value})
