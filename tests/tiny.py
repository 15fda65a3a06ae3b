"""A tiny seeded GGUF model, real in every part: byte-level tokenizer, chat template, two layers."""

from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("Ġ t", "h e", "Ġt he", "i n", "e r", "o n", "Ġ a", "r e", "a n", "in g")
WIDTH, HEADS, KV_HEADS, MLP_WIDTH, LAYERS, CONTEXT = 64, 4, 2, 128, 2, 2048


def list_byte_letters() -> list[str]:
    """Return the 256 printable letters that stand for bytes in byte-level BPE (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    spare = (byte for byte in range(256) if byte not in letters)
    letters |= {byte: chr(256 + index) for index, byte in enumerate(spare)}
    return [letters[byte] for byte in range(256)]


def write_tiny_model(path: Path, *, seed: int = 0, family: str = "llama") -> Path:
    """Write the model to `path`. The same seed gives the same bytes."""
    tokens = [*SPECIALS, *list_byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]
    writer = gguf.GGUFWriter(str(path), family)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP_WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3)
    )
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    _add_tensors(writer, len(tokens), seed=seed, family=family)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tensors(writer: gguf.GGUFWriter, vocab_size: int, *, seed: int, family: str) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    kv_width = WIDTH // HEADS * KV_HEADS

    def add(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> None:
        values = rng.standard_normal(shape).astype(np.float32) * 2 * shape[-1] ** -0.5
        writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)

    kinds = gguf.GGMLQuantizationType
    add("token_embd", (vocab_size, WIDTH), kinds.Q8_0)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for index in range(LAYERS):
        at = f"blk.{index}"
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{at}.{norm}.weight", np.ones(WIDTH, np.float32))
        add(f"{at}.attn_q", (WIDTH, WIDTH), kinds.Q4_1)
        add(f"{at}.attn_k", (kv_width, WIDTH), kinds.Q4_1)
        add(f"{at}.attn_v", (kv_width, WIDTH), kinds.Q8_0)
        add(f"{at}.attn_output", (WIDTH, WIDTH), kinds.Q4_1)
        add(f"{at}.ffn_gate", (MLP_WIDTH, WIDTH), kinds.Q4_1)
        add(f"{at}.ffn_up", (MLP_WIDTH, WIDTH), kinds.Q4_1)
        add(f"{at}.ffn_down", (WIDTH, MLP_WIDTH), kinds.Q5_0)
        if family == "qwen2":
            for part, width in (("q", WIDTH), ("k", kv_width), ("v", kv_width)):
                bias = rng.standard_normal(width).astype(np.float32)
                writer.add_tensor(f"{at}.attn_{part}.bias", bias)
