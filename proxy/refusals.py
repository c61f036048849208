"""What the endpoint itself answers instead of an engine. `proxy.protocols` gives it a form. Pure."""

from dataclasses import dataclass, field

RETRY_AFTER_SECONDS = 5


@dataclass
class Refusal(Exception):
    """An error of the endpoint. `param` is the field that it is about."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def no_key() -> Refusal:
    text = "A valid API key is needed: Authorization: Bearer KEY, or x-api-key: KEY."
    return Refusal(401, text, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def foreign(what: str, value: str) -> Refusal:
    text = (
        f"The {what} {value!r} belongs to another site. Without API keys only pages and names of this "
        "machine may use the endpoint: set a key, or name the site in corsOrigins."
    )
    return Refusal(403, text, f"foreign_{what}", what.capitalize())


def no_path() -> Refusal:
    return Refusal(404, "There is no endpoint at this path.", "not_found")


def no_method(*allowed: str) -> Refusal:
    text = f"Only {' and '.join(allowed)} can be used at this path."
    return Refusal(405, text, "method_not_allowed", headers={"Allow": ", ".join(allowed)})


def no_model(name: str) -> Refusal:
    return Refusal(404, f"The model {name!r} does not exist.", "model_not_found", "model")


def too_large(limit: int) -> Refusal:
    return Refusal(413, f"The request body is larger than {limit} bytes.", "request_too_large")


def encoded(encoding: str) -> Refusal:
    text = f"Content-Encoding {encoding!r}: the request body must not be encoded."
    return Refusal(415, text, "unsupported_content_encoding", "Content-Encoding")


def not_now(message: str) -> Refusal:
    """For what a client should try again a little later."""
    return Refusal(503, message, "service_unavailable", headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def no_answer(message: str, status: int = 502, code: str = "bad_gateway") -> Refusal:
    """For what would go wrong again: no client is to try it once more by itself."""
    return Refusal(status, message, code, headers={"x-should-retry": "false"})
