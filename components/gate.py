"""What an engine is asked before it becomes active: lengths of answers and prompt, and the time-out. Pure,
and of the standard library alone: `bench.gpu.run` needs it on a machine that has nothing else.
"""

from components.gpu_memory import BATCHED_TOKENS, Load

GATE_MAX_TOKENS = 16
GATE_TIMEOUT = 60
GATE_PROMPT = 2 * BATCHED_TOKENS + BATCHED_TOKENS // 4
"""Tokens of the gate's long prompt on a GPU: more than two chunks of prefill. A report of a T4: short probes
pass, and prompts of 5,000 tokens end the engine, whose health page says that all is well."""
GATE_PROMPT_CPU = 256
"""Tokens of the gate's long prompt on a CPU, which has none of a GPU's traps and reads slowly."""
GATE_PROMPT_SPARE = 32
"""Tokens of the context that the long prompt leaves beside those of its answer."""


def gate_prompt(load: Load) -> int:
    """Tokens of the gate's long prompt, as far as the context lets it be."""
    most = load.context - GATE_MAX_TOKENS - GATE_PROMPT_SPARE
    return min(GATE_PROMPT if load.gpu else GATE_PROMPT_CPU, most)
