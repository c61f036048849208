"""The edge's Caddyfile as text: what a reviewer reads, and what must not be in it."""

from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from components import caddyfile
from components.caddyfile import EdgeConfig
from components.gpu_memory import EDGE_RAM
from proxy.route import COPY_BYTES
from stacks.blueprint import blueprint_of
from stacks.settings import from_values
from tests.unit.test_aws_settings import GOOD

GOLDEN = Path(__file__).parent / "golden"


def config(**changes: Any) -> EdgeConfig:
    settings: dict[str, Any] = {"listen": ":8080", "proxy": "proxy:8080"}
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
    blueprint = blueprint_of(from_values("prod", {**GOOD, "domain": "llm.example.com", **values}, ROOT))
    text = blueprint.edge_caddyfile("llm.example.com")
    assert ("cert_issuer acme {\n\t\tdisable_tlsalpn_challenge\n\t}" in text) == (tried == "alone")
    assert "disable_http_challenge" not in text


@pytest.mark.parametrize("edge", [config(), WITH_NAME, WITH_ADDRESS])
def test_a_reviewer_has_fifty_lines_to_read(edge: EdgeConfig) -> None:
    assert len(caddyfile.render(edge).splitlines()) <= 50


def test_what_anybody_can_make_the_edge_keep_is_little_of_its_memory() -> None:
    """Two thousand who have begun to send a body have no more than half of it."""
    assert 2000 * COPY_BYTES < EDGE_RAM // 2
    assert f"request_buffers {COPY_BYTES}\n" in caddyfile.render(config())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("listen", "8080"),
        ("proxy", "a b:80"),
        ("proxy", "proxy"),
        ("domain", "localhost"),
    ],
)
def test_a_setting_that_caddy_would_misread_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError):
        config(**{field: value})
