"""Makes a small random Qwen2 and writes it to standard output as a tar archive; needs torch and transformers.

It is for tests: it loads in a second, vLLM serves its folder, and `ollama create` converts it. It says
nothing sensible, but always something: only tokens that can be printed are likely, and never an end of text,
so that an answer is as long as it may be and never empty.
"""

# The packages are in the vLLM image and not in the project's environment.
# mypy: disable-error-code="import-not-found"

import io
import json
import os
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

HIDDEN = 128
ROPE_THETA = 10000.0
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Both patterns are Qwen2's own, to the letter: Ollama knows them by their hash and text, and not another.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# With two threads that wait for each other in a loop, it takes ten times as long on a busy machine.
MODELFILE = "FROM .\nPARAMETER num_thread 1\n"
TEXT = (
    "The endpoint answers while the engine behind it changes.",
    "A request waits at the edge until one engine is ready, and then it is served.",
    "Write a function that returns the sum of two numbers.",
    "def add(first, second): return first + second",
    "for line in file: print(line)",
)
UNLIKELY = -400.0
"""Weight that keeps a token out, far beyond chance at temperature 1. The others keep all their precision."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: any text can be written with it."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(TEXT, trainer)
    bpe.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def model(words: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A random model in which the first hidden dimension is constant and carries which tokens are likely."""
    torch.manual_seed(20261124)
    config = Qwen2Config(
        vocab_size=len(words),
        hidden_size=HIDDEN,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_theta=ROPE_THETA,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=words.convert_tokens_to_ids("<|im_end|>"),
        initializer_range=0.2,
    )
    qwen = Qwen2ForCausalLM(config)
    with torch.no_grad():
        qwen.model.embed_tokens.weight[:, 0] = 1.0
        for layer in qwen.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        # It is positive behind the last norm, whatever went in.
        for token in range(len(words)):
            text = words.decode([token])
            word = text.isascii() and text.isprintable() and len(text.strip()) > 1 and text not in SPECIAL
            qwen.lm_head.weight[token, 0] = 0.0 if word else UNLIKELY
    return qwen.to(torch.bfloat16)


def write(folder: Path) -> None:
    """Write model and tokenizer so that both engines read the same."""
    words = tokenizer()
    words.save_pretrained(folder)
    qwen = model(words)
    qwen.generation_config.eos_token_id = qwen.config.eos_token_id
    qwen.save_pretrained(folder)
    # Newer transformers write the rope settings into a table of their own; Ollama reads the old key, and
    # computes NaN without it.
    edit(folder / "config.json", rope_theta=ROPE_THETA)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit(folder / "tokenizer_config.json", chat_template=CHAT_TEMPLATE)
    (folder / "Modelfile").write_text(MODELFILE)


def edit(file: Path, **values: object) -> None:
    """Set top-level keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}, indent=2, sort_keys=True) + "\n")


def readable(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Let any user of a container read the file."""
    member.mode = 0o644
    return member


def main() -> None:
    """Write the archive; everything that a library prints goes to standard error."""
    archive = io.BytesIO()
    real_stdout = os.dup(1)
    os.dup2(2, 1)
    with TemporaryDirectory() as folder:
        write(Path(folder))
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for file in sorted(Path(folder).iterdir()):
                tar.add(file, arcname=file.name, filter=readable)
    with os.fdopen(real_stdout, "wb") as out:
        out.write(archive.getvalue())


if __name__ == "__main__":
    main()
