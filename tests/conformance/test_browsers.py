"""What a web page gets: what a browser is told, what a page may read, and what another site's page can't."""

import http.client
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from offline import clients
from proxy.protocols import CHAT, COMPLETIONS, ENGINES, MESSAGES, MODELS, RESPONSES
from tests.conformance.asking import JSON, Answer, ask, body
from tests.support import browser, fast_engine
from tests.support.browser import KEY, KEYS, LISTED, NEIGHBOUR, OPEN, OTHER, OWN, REBOUND
from tests.support.way import Way, eventually

pytestmark = pytest.mark.engine

SITE, FOREIGN = "https://chat.example.com", "https://other.example.com"
OWN_PAGE = "http://localhost:3000"
QUESTION = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-api-key,x-stainless-os",
}


@pytest.fixture(scope="module")
def way() -> Iterator[Way]:
    with Way(origins=(SITE,)) as way:
        way.start_engine("vllm", Path(fast_engine.__file__), FAST_TOKENS="0.05", FAST_KEEP="1000")
        way.start()
        eventually(lambda: ask(way.port, "GET", MODELS).status == 200)
        yield way


@pytest.fixture(autouse=True)
def without_keys(way: Way) -> Iterator[None]:
    yield
    way.keys()


def asked(way: Way) -> int:
    """How many requests have come to the engine."""
    return len(json.loads(ask(way.ports["vllm"], "GET", "/asked").body))


def for_pages(answer: Answer) -> dict[str, str]:
    """The headers by which a browser decides what a page may do."""
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


READABLE = {"access-control-allow-origin": SITE, "access-control-expose-headers": "*"}


@pytest.mark.parametrize("keys", [{}, {"acme": KEY}], ids=["open", "keys"])
@pytest.mark.parametrize("path", [*ENGINES, MODELS])
def test_a_browser_that_asks_beforehand_needs_no_key_and_only_a_named_site_is_let(
    way: Way, path: str, keys: Mapping[str, str]
) -> None:
    way.keys(**keys)
    before = asked(way)
    answer = ask(way.port, "OPTIONS", path, headers={"Origin": SITE, **QUESTION})
    said = for_pages(answer)
    assert (answer.status, answer.body) == (204, b"")
    assert said.items() >= READABLE.items() and answer.headers["vary"] == "Origin"
    assert "POST" in said["access-control-allow-methods"].split(", ")
    # `*` stands for every header but this one
    assert {*said["access-control-allow-headers"].split(", ")} == {"*", "Authorization"}
    for origin in (FOREIGN, "null", "http://nas", OWN_PAGE):
        answer = ask(way.port, "OPTIONS", path, headers={"Origin": origin, **QUESTION})
        assert answer.status == (401 if keys else 405 if origin == OWN_PAGE else 403), origin
        assert not for_pages(answer), origin
    assert asked(way) == before


ANSWERS: dict[str, tuple[str, str, bytes | None, int]] = {
    "models": ("GET", MODELS, None, 200),
    "chat": ("POST", CHAT, body(max_tokens=2), 200),
    "messages": ("POST", MESSAGES, body(max_tokens=2), 200),
    "a streamed chat": ("POST", CHAT, body(max_tokens=2, stream=True), 200),
    "a streamed completion": ("POST", COMPLETIONS, body(max_tokens=2, stream=True, prompt="hi"), 200),
    "a streamed response": ("POST", RESPONSES, body(max_tokens=2, stream=True, input="hi"), 200),
    "streamed messages": ("POST", MESSAGES, body(max_tokens=2, stream=True), 200),
    "no JSON": ("POST", CHAT, b"[", 400),
    "an unknown model": ("POST", CHAT, body(model="other"), 404),
    "a method": ("GET", CHAT, None, 405),
    "an error of the engine": ("POST", CHAT, body(max_tokens="x"), 400),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_can_be_read_by_a_named_sites_page_and_by_no_other(way: Way, name: str) -> None:
    method, path, raw, status = ANSWERS[name]
    answer = ask(way.port, method, path, raw, {**JSON, "Origin": SITE})
    assert answer.status == status and for_pages(answer) == READABLE
    assert answer.headers["vary"] == "Origin"
    if "stream" in name:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert b"w1" in answer.body and not answer.cut
    for origin in ({}, {"Origin": OWN_PAGE}):
        answer = ask(way.port, method, path, raw, {**JSON, **origin})
        assert answer.status == status and not for_pages(answer), origin
    way.keys(acme=KEY)
    answer = ask(way.port, method, path, raw, {**JSON, "Origin": SITE})
    assert answer.status == 401 and for_pages(answer) == READABLE, "why it is refused, it may read, too"
    answer = ask(way.port, method, path, raw, {**JSON, "Origin": FOREIGN, "Authorization": f"Bearer {KEY}"})
    assert answer.status == status and not for_pages(answer)


def test_a_stream_comes_piece_by_piece_to_a_page_too(way: Way) -> None:
    line = http.client.HTTPConnection("127.0.0.1", way.port, timeout=30)
    try:
        line.request("POST", CHAT, body(max_tokens=400, stream=True), {**JSON, "Origin": SITE})
        with line.getresponse() as answer:  # its end would take 20 s
            assert answer.headers["Access-Control-Allow-Origin"] == SITE
            assert b"w0" in answer.read1()
    finally:
        line.close()


HOSTS = {
    "localhost": None, "127.0.0.1": None, "[::1]:8080": None, "edge:8080": None, "gpu-box": None,
    "192.168.1.7": None, "example.com": "foreign_host", "127.0.0.1.example.com": "foreign_host",
    "rebind.it:8080": "foreign_host", "93.184.216.34": "foreign_host",
}  # fmt: skip
ORIGINS = {
    "": None, SITE: None, OWN_PAGE: None, "http://127.0.0.1": None, "http://[::1]:3000": None,
    FOREIGN: "foreign_origin", "null": "foreign_origin", "http://192.168.1.1": "foreign_origin",
    "http://nas": "foreign_origin", "https://localhost.example.com": "foreign_origin",
}  # fmt: skip


def test_without_keys_a_foreign_host_or_origin_is_refused_before_an_engine_is_asked(way: Way) -> None:
    cases = [*itertools.product(HOSTS, ORIGINS), ("gpu-box:8080", "http://gpu-box:8080")]
    for number, (host, origin) in enumerate(cases):
        code = HOSTS.get(host) or ORIGINS.get(origin)
        # a simple request: a browser sends it for any page, and asks nothing beforehand; vLLM answers none
        kind = {"Content-Type": "text/plain"} if code else JSON
        headers = {**kind, "Host": host, **({"Origin": origin} if origin else {})}
        before = asked(way)
        raw, path = body(max_tokens=1, prompt="a", input="a"), (CHAT, COMPLETIONS, RESPONSES)[number % 3]
        answer = ask(way.port, "POST", path, raw, headers)
        if code is None:
            assert answer.status == 200 and asked(way) == before + 1, (host, origin, answer)
        else:
            assert (answer.status, answer.error["code"]) == (403, code), (host, origin)
            assert asked(way) == before, (host, origin)


def test_with_keys_only_the_key_decides(way: Way) -> None:
    way.keys(acme=KEY)
    for host, origin in (("example.com", FOREIGN), ("localhost", "null"), ("rebind.it", "http://rebind.it")):
        headers = {**JSON, "Host": host, "Origin": origin}
        assert ask(way.port, "POST", CHAT, body(max_tokens=1), headers).status == 401
        headers["Authorization"] = f"Bearer {KEY}"
        answer = ask(way.port, "POST", CHAT, body(max_tokens=1), headers)
        assert answer.status == 200 and not for_pages(answer)


SIMPLE = "a chat, as a simple request"
BLOCKED = ("TypeError: Failed to fetch", False)
"""What a page hears where its browser gives it nothing; and nothing has come to the engine."""
SENT = "sent, and nothing to read"
WITH_KEY = {
    "a stream, with a key": ("200: 20 words, piece by piece", True),
    "a stream that it aborts, with a key": ("200: AbortError", True),
    "Anthropic's messages, with x-api-key": ("200: w0 w1 w2 w3", True),
    "a model that is not there, with a key": ("404: model_not_found", False),
}
WITHOUT = {"the models": ("200: tiny", False), "a chat": ("200: w0 w1 w2 w3", True), SIMPLE: (SENT, True)}
NO_KEY = {
    "the models": ("401: invalid_api_key", False),
    "a chat": ("401: invalid_api_key", False),
    SIMPLE: (SENT, False),
}
PACKAGE = {"a stream by the openai package": ("w0 w1 w2 w3", True)}
STRANGER = {**dict.fromkeys([*WITHOUT, *WITH_KEY], BLOCKED), SIMPLE: (SENT, False)}
GETS = {
    (OPEN, LISTED): WITHOUT | WITH_KEY | PACKAGE,
    (OPEN, OWN): STRANGER | {SIMPLE: (SENT, True)},
    (OPEN, OTHER): STRANGER,
    (OPEN, NEIGHBOUR): STRANGER,
    # what it sends and gets is of its own site, as its browser sees it: it may read everything
    (OPEN, REBOUND): dict.fromkeys([*WITHOUT, *WITH_KEY], ("403: foreign_host", False))
    | {"Anthropic's messages, with x-api-key": ("403: permission_error", False)},
    (KEYS, LISTED): NO_KEY | WITH_KEY | PACKAGE,
    (KEYS, OWN): STRANGER,
    (KEYS, OTHER): STRANGER,
    (KEYS, NEIGHBOUR): STRANGER,
    (KEYS, REBOUND): NO_KEY | WITH_KEY | {SIMPLE: ("401: invalid_api_key", False)},
}
"""Phase and site → what its page asks → what it gets, and whether that came to the engine."""


@pytest.mark.skipif(browser.chromium() is None, reason=browser.MISSING)
def test_in_a_real_browser_each_page_gets_what_it_may(way: Way, tmp_path: Path) -> None:
    since = len(way.access_log())
    with browser.sites_of(way, clients.install().modules) as sites:
        way.origins = (SITE, sites.origin(LISTED))
        way.route()
        picture = tmp_path / "pages.png"
        seen = sites.seen(picture)
    gets: dict[tuple[str, str], dict[str, tuple[str, bool]]] = {key: {} for key in GETS}
    for row in seen:
        gets[row.phase, row.site][row.what] = (row.got, row.engine)
    for key, expected in GETS.items():
        assert gets[key] == expected, key
    assert picture.read_bytes().startswith(b"\x89PNG")
    aborted = sum(row.got == "200: AbortError" for row in seen)
    eventually(lambda: sum(line["hung_up"] for line in way.access_log()[since:]) == aborted)
