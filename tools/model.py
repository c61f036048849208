"""`make model`: an entry of the catalogue for a model, from its published configuration.

`HF` is a repository on the Hugging Face hub, `OLLAMA` a tag in Ollama's library. With `CONFIG`, the
repository's config.json as a file here, nobody is asked on the network. What can't be read is asked for, or
given by variables: `OLLAMA_SIZE` and `HF_SIZE` in bytes, `QUANTIZATION` of the tag, `NAME`, and `TOOLS`, a
name below [tools] of the catalogue.
"""

import hashlib
import json
import os
import sys
import urllib.request
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from common import StepFailed, main_guard, say, write_whole
from components import catalogue
from components.catalogue import FAMILIES, CatalogueError

HUB = "https://huggingface.co"
LIBRARY = "https://registry.ollama.ai"
LAYER = "application/vnd.ollama.image.model"
"""What a manifest of Ollama's library calls the layer with the weights."""
MODELOPT = "hf_quant_config.json"
SECONDS = 30

AskPerson = Callable[[str, str], str]
"""Answers a question: the variable that would answer it, and the question in words."""


def fetched(url: str) -> Any:
    """A JSON document. Raises StepFailed."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError) as error:
        raise StepFailed(
            f"{url} can't be read: {error}. If you have the config.json here: make model CONFIG=config.json …"
        ) from error


def refused(config: Mapping[str, Any]) -> str:
    """Why the sums would not be right for a model with this configuration; or nothing."""
    family = config.get("model_type", "nothing")
    experts = [key for key in ("num_experts", "num_local_experts", "n_routed_experts") if config.get(key)]
    if experts:
        return f"it is a mixture of experts (`{experts[0]}`), for which the sums of memory are different"
    if config.get("kv_lora_rank"):
        return (
            "its attention keeps a compressed KV cache (`kv_lora_rank`), for which the sums of memory are "
            "different"
        )
    others = sorted({each for each in config.get("layer_types") or [] if each != "full_attention"})
    if others:
        return f"not all of its layers have full attention (`layer_types`: {', '.join(others)})"
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        return f"its attention has a sliding window of {config['sliding_window']} tokens"
    if config.get("dual_chunk_attention_config"):
        return "it attends in chunks (`dual_chunk_attention_config`), which vLLM no longer has"
    if config.get("is_causal") is False:
        return "it attends in both directions (`is_causal`), and vLLM computes no long prompt of it in parts"
    names = config.get("architectures") or []
    if names and not any(str(each).endswith("ForCausalLM") for each in names):
        return (
            f"its architecture {', '.join(map(str, names))} does not end in `ForCausalLM`: it has no output "
            "head for text, which the sums of memory count"
        )
    if family not in FAMILIES:
        return (
            f"nobody has checked the sums of memory for the family `{family}`; known: {', '.join(FAMILIES)}"
        )
    return ""


def numbers(config: Mapping[str, Any]) -> dict[str, int]:
    """What the sums need, of a dense model of one of the known families."""
    hidden, heads, vocabulary = (
        int(config[key]) for key in ("hidden_size", "num_attention_heads", "vocab_size")
    )
    layers, inner = int(config["num_hidden_layers"]), int(config["intermediate_size"])
    kv = int(config.get("num_key_value_heads") or heads)
    size = int(config.get("head_dim") or hidden // heads)
    embedding = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    query, key = heads * size, kv * size
    attention = hidden * (2 * query + 2 * key)
    if config["model_type"] == "qwen2" or config.get("attention_bias"):
        attention += query + 2 * key  # Qwen2 has biases without saying so
    if config["model_type"] == "qwen3":
        attention += 2 * size  # queries and keys are normalized
    layer = attention + 3 * hidden * inner + 2 * hidden
    return {
        "parameters": embedding + layers * layer + hidden,
        "embedding_parameters": embedding,
        "vocabulary": vocabulary,
        "hidden": hidden,
        "intermediate": inner,
        "layers": layers,
        "attention_heads": heads,
        "kv_heads": kv,
        "head_dim": size,
        "max_context": int(config["max_position_embeddings"]),
    }


def quantization(config: Mapping[str, Any], files: Collection[str] = ()) -> str:
    """How a repository's weights are quantized, in the catalogue's words. `files` are the repository's, where
    they are known. Looks where vLLM does (transformers_utils/ of 0.32). Raises StepFailed."""
    given = config.get("quantization_config") or config.get("compression_config")
    if not given and MODELOPT in files:
        raise StepFailed(f"the sums of memory do not cover weights whose quantization stands in {MODELOPT}")
    if not given:
        return "fp16"
    if given.get("quant_method") == "awq" and given.get("bits") == 4 and given.get("group_size") == 128:
        return "awq-int4"
    words = ", ".join(f"{key} {given.get(key)}" for key in ("quant_method", "bits", "group_size"))
    raise StepFailed(
        f"the sums of memory know 16 bits, and AWQ with 4 bits in groups of 128, but not {words}"
    )


def of_tag(tag: str, ask: AskPerson) -> str:
    """How a tag of Ollama's library is quantized: its name says it, or a person has to."""
    for ending in ("q4_K_M", "q8_0", "fp16"):
        if tag.endswith(f"-{ending}"):
            return ending.lower()
    return ask("QUANTIZATION", f"how {tag} is quantized: q4_k_m (most often), q8_0 or fp16")


def entry(
    config: Mapping[str, Any], ollama: str, repository: str, hub: Mapping[str, Any], ask: AskPerson
) -> Any:
    """The table of a model. `hub` is what hub and library say, where they were asked: `revision`, `files`,
    sizes and sums. Raises StepFailed.
    """
    if why := refused(config):
        raise StepFailed(f"{repository} can't be in the catalogue: {why}")
    try:
        computed, bits = numbers(config), quantization(config, hub.get("files", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise StepFailed(f"the config.json of {repository} lacks or misstates {error}") from error
    table = tomlkit.table()
    table["family"] = config["model_type"]
    for key, value in computed.items():
        table[key] = _number(value)
    table["ollama"] = _sources(
        tag=ollama,
        quantization=of_tag(ollama, ask),
        size=_size("OLLAMA_SIZE", f"the size of {ollama} in bytes", hub.get("ollama_size"), ask),
        **_sum(hub.get("ollama_sha256")),
    )
    table["vllm"] = _sources(
        repository=repository,
        revision=hub.get("revision", "main"),
        quantization=bits,
        size=_size("HF_SIZE", f"the size of {repository} in bytes", hub.get("size"), ask),
        **_sum(hub.get("sha256")),
    )
    tools = ask("TOOLS", "how it calls tools: a name below [tools] in the catalogue, or none")
    if tools not in ("", "none"):
        table["tools"] = tools
    sizes = "" if hub else "; sizes as typed"
    table["source"] = f"config.json of {repository} at {hub.get('revision', 'main')}{sizes}"
    return table


def _sum(known: str | None) -> dict[str, str]:
    return {"sha256": known} if known else {}


def _number(value: int) -> Any:
    """A number as the catalogue's others are written."""
    return tomlkit.value(f"{value:_}")


def _sources(**values: Any) -> Any:
    one, several = tomlkit.inline_table(), tomlkit.array()
    one.update({key: _number(each) if isinstance(each, int) else each for key, each in values.items()})
    several.append(one)
    return several.multiline(True)


def _size(variable: str, question: str, known: object, ask: AskPerson) -> int:
    text = str(known or ask(variable, question)).replace("_", "")
    if not text.isdecimal():
        raise StepFailed(f"{variable}: {text!r} is not a number of bytes")
    return int(text)


def on_the_hub(repository: str, ollama: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """A model's config.json, and the revision, files, sizes and sums that hub and library name."""
    about = fetched(f"{HUB}/api/models/{repository}?blobs=true")
    config = fetched(f"{HUB}/{repository}/resolve/{about['sha']}/config.json")
    name, _, tag = ollama.partition(":")
    owner = name if "/" in name else f"library/{name}"
    manifest = fetched(f"{LIBRARY}/v2/{owner}/manifests/{tag or 'latest'}")
    weights = [each for each in manifest["layers"] if each.get("mediaType") == LAYER]
    return config, {
        "revision": about["sha"],
        "files": [each["rfilename"] for each in about.get("siblings", [])],
        "size": sum(each.get("size") or 0 for each in about.get("siblings", [])),
        "sha256": sum_of(about.get("siblings", [])),
        "ollama_size": sum(each["size"] for each in manifest["layers"]),
        "ollama_sha256": weights[0]["digest"].removeprefix("sha256:") if len(weights) == 1 else None,
    }


def sum_of(files: Sequence[Mapping[str, Any]]) -> str | None:
    """The SHA-256 of what `sha256sum *.safetensors` says in the folder of a repository; None where the hub
    does not name the sum of each."""
    sums = {
        each["rfilename"]: (each.get("lfs") or {}).get("sha256")
        for each in files
        if each["rfilename"].endswith(".safetensors") and "/" not in each["rfilename"]
    }
    if not sums or not all(sums.values()):
        return None
    lines = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums, key=str.encode))
    return hashlib.sha256(lines.encode()).hexdigest()


def named(repository: str) -> str:
    """A name for a model, from its repository's: `Qwen/Qwen3-8B-AWQ` is `qwen3-8b`."""
    return repository.rpartition("/")[2].lower().removesuffix("-awq")


def write(file: Path, name: str, table: Any) -> str:
    """Adds the entry to a catalogue, and returns it as text. Raises StepFailed where it can't be right."""
    document = tomlkit.parse(file.read_text())
    models: Any = document["models"]
    if name in models:
        raise StepFailed(f"{file.name} has a model {name} already. To give it another name, add NAME=…")
    models.append(name, table)
    text = tomlkit.dumps(document)
    try:
        catalogue.read(text)
    except CatalogueError as error:
        raise StepFailed(f"nothing was written: {error}") from error
    write_whole(file, text)
    own = tomlkit.document()
    own.append("models", tomlkit.table(is_super_table=True).append(name, table))
    return tomlkit.dumps(own).strip()


def answer(variable: str, question: str) -> str:
    """What the variable says, or the person at the keyboard. Raises StepFailed where there is neither."""
    if (given := os.environ.get(variable)) is not None:
        return given
    if not sys.stdin.isatty():
        raise StepFailed(f"this is not known: {question}. Run the same command with {variable}=…")
    return input(f"{question}: ").strip()


def main() -> None:
    repository, ollama = os.environ.get("HF", ""), os.environ.get("OLLAMA", "")
    if not repository or not ollama:
        raise StepFailed(
            "two names are needed. Run: make model OLLAMA=qwen3:8b HF=Qwen/Qwen3-8B-AWQ [CONFIG=config.json]"
        )
    if place := os.environ.get("CONFIG"):
        try:
            config, hub = json.loads(Path(place).read_text()), dict[str, Any]()
        except (OSError, ValueError) as error:
            raise StepFailed(f"{place} can't be read: {error}") from error
    else:
        config, hub = on_the_hub(repository, ollama)
    name = os.environ.get("NAME") or named(repository)
    text = write(catalogue.FILE, name, entry(config, ollama, repository, hub, answer))
    say(f"{text}\nis now in components/{catalogue.FILE.name}. To serve it: pulumi config set model {name}")


if __name__ == "__main__":
    main_guard(main)
