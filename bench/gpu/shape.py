"""A model in the shape of Qwen2.5-Coder-7B with random weights, written where it is measured.

vLLM needs a configuration and a tokenizer, and makes the weights up by itself (`--load-format dummy`), AWQ
ones too. Ollama needs a file: GGUF with the types that Q4_K_M gives each tensor. Both know the same tokens:
one for each byte, and as many made-up words as the vocabulary has room for, so that whatever a random model
says can be read.

Nothing to run by itself: `bench.gpu.run` uses it.
"""

import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END, START, STOP, "<tool_call>", "</tool_call>")
MERGES = ("Ġ t", "h e", "Ġt he")
"""The merges of the tokenizer. It needs none, but llama.cpp and Ollama want some."""
CHAT = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
MODELFILE = """\
FROM {file}
TEMPLATE \"\"\"{{{{ range .Messages }}}}<|im_start|>{{{{ .Role }}}}
{{{{ .Content }}}}<|im_end|>
{{{{ end }}}}<|im_start|>assistant
\"\"\"
"""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The dimensions of a model, with those in the config.json of Qwen/Qwen2.5-Coder-7B-Instruct as default.

    `vocabulary` and `context` are in tokens, the others are counts.
    """

    hidden: int = 3584
    inner: int = 18944
    layers: int = 28
    heads: int = 28
    kv_heads: int = 4
    vocabulary: int = 152_064
    context: int = 32_768

    @property
    def head(self) -> int:
        """How many values a head of the attention has."""
        return self.hidden // self.heads


def byte_tokens() -> list[str]:
    """How GPT-2's tokenizer writes each of the 256 bytes: as itself if it can be printed, otherwise from
    U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [each for each in range(256) if each not in plain]
    return [chr(each) if each in plain else chr(256 + others.index(each)) for each in range(256)]


def tokens(shape: Shape) -> list[str]:
    """Every token of the vocabulary, by its number; the special ones are the last."""
    merged = [each.replace(" ", "") for each in MERGES]
    words = shape.vocabulary - 256 - len(merged) - len(SPECIAL)
    return [*byte_tokens(), *merged, *(f"Ġw{n}" for n in range(words)), *SPECIAL]


def for_vllm(shape: Shape, folder: Path) -> None:
    """Writes configuration and tokenizer into `folder`, as a Hugging Face repository of an AWQ model has
    them."""
    every = tokens(shape)
    number = {token: n for n, token in enumerate(every)}
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "bos_token_id": number[END],
        "eos_token_id": number[STOP],
        "quantization_config": AWQ,
    }
    added = [{"id": number[each], "content": each, "special": True, **_FLAGS} for each in SPECIAL]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    merges = [each.split(" ") for each in MERGES]
    bpe = {"type": "BPE", "vocab": number, "merges": merges, "byte_fallback": False, "ignore_merges": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": level,
        "decoder": level,
        "model": bpe,
    }
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": STOP,
        "pad_token": END,
        "model_max_length": shape.context,
        "chat_template": CHAT,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", about),
        ("generation_config.json", {"eos_token_id": number[STOP]}),
    ):
        (folder / name).write_text(json.dumps(content))


_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}

# GGUF, version 3: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
ALIGNMENT = 32
U32, F32, STRING, ARRAY, I32 = 4, 6, 8, 9, 5
FILE_Q4_K_M = 15
BLOCK = 256


@dataclass(frozen=True)
class TensorKind:
    """How the numbers of a tensor are written in a GGUF file.

    `number` is the kind's own in ggml. A block has so many `values` in `size` bytes; `block` makes one.
    """

    number: int
    values: int
    size: int
    block: Callable[[random.Random], bytes]


PLAIN = TensorKind(0, 1, 4, lambda _: struct.pack("<f", 1.0))
ZERO = TensorKind(0, 1, 4, lambda _: bytes(4))
# Scales by which values are about 0.015 from 0, as those of a trained model: activations stay within 16 bits.
Q4_K = TensorKind(12, BLOCK, 144, lambda chance: struct.pack("<ee", 1e-4, 7.5e-4) + chance.randbytes(140))
Q6_K = TensorKind(14, BLOCK, 210, lambda chance: chance.randbytes(208) + struct.pack("<e", 1e-5))


def more_bits(layer: int, layers: int) -> bool:
    """Whether Q4_K_M writes `attn_v` and `ffn_down` of this layer with 6 bits (`use_more_bits` of
    llama.cpp)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], TensorKind]]:
    """Name, dimensions (the innermost first) and kind of each tensor of the model, in the file's order."""
    hidden, key = shape.hidden, shape.kv_heads * shape.head
    yield "token_embd.weight", (hidden, shape.vocabulary), Q4_K
    for layer in range(shape.layers):
        six = Q6_K if more_bits(layer, shape.layers) else Q4_K
        for name, rows, columns, kind in (
            ("attn_q", hidden, hidden, Q4_K),
            ("attn_k", hidden, key, Q4_K),
            ("attn_v", hidden, key, six),
            ("attn_output", hidden, hidden, Q4_K),
            ("ffn_gate", hidden, shape.inner, Q4_K),
            ("ffn_up", hidden, shape.inner, Q4_K),
            ("ffn_down", shape.inner, hidden, six),
        ):
            yield f"blk.{layer}.{name}.weight", (rows, columns), kind
        for name, length in (("attn_q", hidden), ("attn_k", key), ("attn_v", key)):
            yield f"blk.{layer}.{name}.bias", (length,), ZERO
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", (hidden,), PLAIN
    yield "output_norm.weight", (hidden,), PLAIN
    yield "output.weight", (hidden, shape.vocabulary), Q6_K


def for_ollama(shape: Shape, file: Path) -> None:
    """Writes a GGUF file of random Q4_K_M weights, which has 4.4 GiB for a 7B model. Blocks repeat after some
    thousands."""
    every = list(tensors(shape))
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        head = _metadata(shape)
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(every), len(head)) + b"".join(head))
        at = 0
        for name, sizes, kind in every:
            out.write(_text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes))
            out.write(struct.pack("<IQ", kind.number, at))
            at += -(-_bytes(sizes, kind) // ALIGNMENT) * ALIGNMENT
        out.write(bytes(-out.tell() % ALIGNMENT))
        pools = {kind: _pool(kind) for kind in (PLAIN, ZERO, Q4_K, Q6_K)}
        for _, sizes, kind in every:
            _fill(out, pools[kind], _bytes(sizes, kind))
            out.write(bytes(-out.tell() % ALIGNMENT))


def _bytes(sizes: tuple[int, ...], kind: TensorKind) -> int:
    values = 1
    for each in sizes:
        values *= each
    if sizes[0] % kind.values:
        raise ValueError(f"rows of {sizes[0]} values can't be written in blocks of {kind.values}")
    return values // kind.values * kind.size


def _pool(kind: TensorKind) -> bytes:
    """Whole blocks, a few thousand."""
    chance = random.Random(20261128)
    return b"".join(kind.block(chance) for _ in range(4096))


def _fill(out: BinaryIO, pool: bytes, size: int) -> None:
    for _ in range(size // len(pool)):
        out.write(pool)
    out.write(pool[: size % len(pool)])


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _metadata(shape: Shape) -> list[bytes]:
    every = tokens(shape)

    def number(key: str, value: int) -> bytes:
        return _text(key) + struct.pack("<II", U32, value)

    def real(key: str, value: float) -> bytes:
        return _text(key) + struct.pack("<If", F32, value)

    def text(key: str, value: str) -> bytes:
        return _text(key) + struct.pack("<I", STRING) + _text(value)

    def several(key: str, values: list[str]) -> bytes:
        head = _text(key) + struct.pack("<IIQ", ARRAY, STRING, len(values))
        return head + b"".join(map(_text, values))

    types = [3 if each in SPECIAL else 1 for each in every]  # control, normal
    kinds = _text("tokenizer.ggml.token_type") + struct.pack("<IIQ", ARRAY, I32, len(types))
    return [
        text("general.architecture", "qwen2"),
        text("general.name", "random"),
        number("general.file_type", FILE_Q4_K_M),
        number("general.quantization_version", 2),
        number("qwen2.block_count", shape.layers),
        number("qwen2.context_length", shape.context),
        number("qwen2.embedding_length", shape.hidden),
        number("qwen2.feed_forward_length", shape.inner),
        number("qwen2.attention.head_count", shape.heads),
        number("qwen2.attention.head_count_kv", shape.kv_heads),
        real("qwen2.attention.layer_norm_rms_epsilon", 1e-6),
        real("qwen2.rope.freq_base", 1_000_000.0),
        text("tokenizer.ggml.model", "gpt2"),
        text("tokenizer.ggml.pre", "qwen2"),
        several("tokenizer.ggml.tokens", every),
        kinds + struct.pack(f"<{len(types)}i", *types),
        several("tokenizer.ggml.merges", list(MERGES)),
        number("tokenizer.ggml.eos_token_id", every.index(STOP)),
        number("tokenizer.ggml.padding_token_id", every.index(END)),
        text("tokenizer.chat_template", CHAT),
    ]
