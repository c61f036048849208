"""What a model can be called at the endpoint, and where Ollama finds it under that name. Pure.

Both engines know their model by its name at the endpoint, so that neither a request nor an answer is changed
on the way. So a name has the form of those that clients know already, which is Ollama's, and Hugging Face's:
`qwen2.5-coder:7b`, `Qwen/Qwen2.5-Coder-7B-Instruct`, `hf.co/Qwen/Qwen2.5-Coder-7B-Instruct-GGUF:Q4_K_M`.
"""

import re

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}"
_NAMESPACE = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"
_OLLAMA = re.compile(
    rf"(?:(?:(?P<host>{_PART})/)?(?P<namespace>{_NAMESPACE})/)?(?P<model>{_PART})(?::(?P<tag>{_PART}))?"
)
"""As Ollama reads a name, but for a host's port (`types/model/name.go` of 0.17.4)."""

_ENDS = r"(?!.*::)[A-Za-z0-9](?:[%s]{0,126}[A-Za-z0-9])?"
"""No `::`, by which the gateway tells its own names; neither `/` nor `:` at an end, where a path loses it."""

NAME = re.compile(_ENDS % "A-Za-z0-9._:/-")
ALIAS = re.compile(_ENDS % "A-Za-z0-9._:/@-")
"""Further names are the proxy's alone: no engine has to understand them."""

NAME_RULE = (
    "[HOST/][NAMESPACE/]MODEL[:TAG], as Ollama and Hugging Face name models: letters, digits, '.', '_' and "
    "'-' in each part (no '.' in NAMESPACE), at most 80 characters in each and 128 in all, with a letter or "
    "digit first and last, and no '::'; a name of another form can be one of `aliases`"
)
ALIAS_RULE = (
    "at most 128 letters, digits, '.', '_', '-', ':', '/' and '@', with a letter or digit first and last, "
    "and no '::'"
)


def is_name(text: str) -> bool:
    """Whether a model can be called so by both engines, by the gateway and in a path."""
    return bool(NAME.fullmatch(text) and _OLLAMA.fullmatch(text))


def is_alias(text: str) -> bool:
    """Whether clients can also ask for the model by this name."""
    return bool(ALIAS.fullmatch(text))


def manifest(name: str) -> str:
    """Where Ollama keeps the manifest of the model that it is asked for by this name, below `manifests/`.

    Raises ValueError for what is no name of Ollama's.
    """
    found = _OLLAMA.fullmatch(name)
    if found is None:
        raise ValueError(f"Ollama can't have a model called {name!r}: it must be {NAME_RULE}")
    host, namespace, tag = (found[each] for each in ("host", "namespace", "tag"))
    return f"{host or 'registry.ollama.ai'}/{namespace or 'library'}/{found['model']}/{tag or 'latest'}"
