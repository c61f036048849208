"""What the endpoint itself answers instead of an engine. `proxy.protocols` gives it a form. Pure."""

from dataclasses import dataclass, field

RETRY_AFTER_SECONDS = 5
"""What a client is told that should ask again, by the edge, too."""


@dataclass
class Refusal(Exception):
    """An error of the endpoint. `param` is the field that it is about."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def no_key() -> Refusal:
    """For a request without an API key that is known, where one is needed."""
    text = "A valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY."
    return Refusal(401, text, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def foreign_host(host: str) -> Refusal:
    """For a request under a host name of another site, where no API key is needed."""
    text = (
        f"The host {host!r} belongs to another site. Without API keys the endpoint answers only under names "
        "and addresses that no other site can have: use localhost, or set a key."
    )
    return Refusal(403, text, "foreign_host", "Host")


def foreign_origin(origin: str) -> Refusal:
    """For a request of a page of another site, where no API key is needed."""
    text = (
        f"The origin {origin!r} belongs to another site. Without API keys only pages of this machine may use "
        "the endpoint: set a key, or name the site in corsOrigins."
    )
    return Refusal(403, text, "foreign_origin", "Origin")


def no_path() -> Refusal:
    """For a path that the endpoint does not have."""
    return Refusal(404, "There is no endpoint at this path.", "not_found")


def no_method(*allowed: str) -> Refusal:
    """For a method other than these, which are allowed at the path."""
    text = f"Only {' and '.join(allowed)} can be used at this path."
    return Refusal(405, text, "method_not_allowed", headers={"Allow": ", ".join(allowed)})


def no_model(name: str) -> Refusal:
    """For a model of a name that the endpoint does not have."""
    return Refusal(404, f"The model {name!r} does not exist.", "model_not_found", "model")


def too_large(limit: int) -> Refusal:
    """For a body of more than `limit` bytes."""
    return Refusal(413, f"The request body is larger than {limit} bytes.", "request_too_large")


def encoded(encoding: str) -> Refusal:
    """For a body with a Content-Encoding, such as `gzip`."""
    text = f"Content-Encoding {encoding!r}: the request body must not be encoded."
    return Refusal(415, text, "unsupported_content_encoding", "Content-Encoding")


def not_now(message: str) -> Refusal:
    """For what a client should try again a little later."""
    return Refusal(503, message, "service_unavailable", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def no_answer(message: str, status: int = 502, code: str = "bad_gateway") -> Refusal:
    """For what would go wrong again: no client is to try it once more by itself."""
    return Refusal(status, message, code, headers={"x-should-retry": "false"})
