"""Writes GGUF models of real sizes whose weights are noise: as slow as the real thing, and free.

What a model costs to run depends on its shape and its format, not on what it says. Every matrix is
Q4_0, the token vectors and the output too (a published Q4_0 file has the output in Q6_K: 0.1 GB
more). The noise is scaled so that activations stay finite: a matrix keeps the length of what it is
given, and what a layer adds gets smaller with the number of layers.

Streams are exactly as long as asked for. The rows of the output matrix of all control tokens and of
all single bytes are zero, and the best of the others is always far above zero: at temperature 0 no
end is ever chosen, and every token is text (five letters of ASCII), so each makes an event.

A prompt has one token for each letter, and a few for the template.

    python -m tests.bench.gpu.random_gguf --shape 8b --out model.gguf     # 4.5 GB

The same arguments give the same bytes. The file appears whole or not at all.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

__all__ = ["SHAPES", "Shape", "write_random_gguf"]

Bytes = npt.NDArray[np.uint8]

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
END_OF_TEXT, _, END_OF_TURN = range(3)
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)

_Q4_0 = gguf.GGMLQuantizationType.Q4_0
_WEIGHTS_A_BLOCK, _BYTES_A_BLOCK = gguf.GGML_QUANT_SIZES[_Q4_0]
_SPREAD = math.sqrt(sum((level - 8) ** 2 for level in range(16)) / 16)
"""Standard deviation of the 16 levels of a weight, at scale 1."""


@dataclass(frozen=True, slots=True)
class Shape:
    """
    Size of a model of the llama family.

    Attributes:
        dim, ffn: Multiples of 32, the length of a block; *dim* is one of *heads* too.
        vocab: Tokens, more than 259.
        context: What it says it was trained with.
    """

    layers: int
    dim: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    context: int = 8192

    @property
    def head(self) -> int:
        """Numbers of one head."""
        return self.dim // self.heads

    @property
    def weights(self) -> int:
        """Of all matrices; 8.0 billion for an 8B model."""
        return sum(rows * columns for _, rows, columns, _ in _matrices(self))

    @property
    def file_bytes(self) -> int:
        """About; the header is 3 MB at most."""
        return self.weights // _WEIGHTS_A_BLOCK * _BYTES_A_BLOCK

    @property
    def kv_bytes_a_token(self) -> int:
        """Context memory of one token, at 16 bits a number."""
        return self.layers * 2 * self.kv_heads * self.head * 2


SHAPES = {
    "8b": Shape(layers=32, dim=4096, heads=32, kv_heads=8, ffn=14336, vocab=128_256),
    # On one core of a CPU at least as fast for one stream as the other on a large GPU.
    "small": Shape(layers=8, dim=512, heads=8, kv_heads=2, ffn=2048, vocab=32_000),
}


def write_random_gguf(path: str | os.PathLike[str], shape: Shape, *, seed: int = 1) -> Path:
    """Write a model to *path*; memory for its largest matrix is enough (0.3 GB for an 8B model)."""
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    out = gguf.GGUFWriter(partial, "llama")
    try:
        _header(out, shape)
        for name, rows, columns, _ in _matrices(shape):
            size = (rows, columns // _WEIGHTS_A_BLOCK * _BYTES_A_BLOCK)
            out.add_tensor_info(name, size, np.dtype(np.uint8), size[0] * size[1], _Q4_0)
        for name in _norms(shape):
            out.add_tensor_info(name, (shape.dim,), np.dtype(np.float32), 4 * shape.dim)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_ti_data_to_file()
        _weights(out, shape, np.random.default_rng(seed))
        out.close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _matrices(shape: Shape) -> Iterator[tuple[str, int, int, float]]:
    """Name, rows, columns, and the length of its output for an input of length 1."""
    dim, kv_dim = shape.dim, shape.kv_heads * shape.head
    quiet = 1 / math.sqrt(2 * shape.layers)
    # Vectors are as long as the norms make them, so that layers and tokens weigh alike.
    yield "token_embd.weight", shape.vocab, dim, math.sqrt(dim)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        yield at + "attn_q.weight", dim, dim, 1.0
        yield at + "attn_k.weight", kv_dim, dim, 1.0
        yield at + "attn_v.weight", kv_dim, dim, 1.0
        yield at + "attn_output.weight", dim, dim, quiet
        yield at + "ffn_gate.weight", shape.ffn, dim, 1.0
        yield at + "ffn_up.weight", shape.ffn, dim, 1.0
        yield at + "ffn_down.weight", dim, shape.ffn, quiet
    yield "output.weight", shape.vocab, dim, 1.0


def _norms(shape: Shape) -> Iterator[str]:
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"
    yield "output_norm.weight"


def _weights(out: Any, shape: Shape, rng: np.random.Generator) -> None:
    silent = len(CONTROL) + 256
    for name, rows, columns, gain in _matrices(shape):
        blocks = _noise(rng, rows, columns, gain / math.sqrt(columns))
        if name == "output.weight":
            blocks[:silent] = 0  # a scale of 0 makes every weight 0
        out.write_tensor_data(blocks.reshape(rows, -1))
    for _ in _norms(shape):
        out.write_tensor_data(np.ones(shape.dim, np.float32))


def _noise(rng: np.random.Generator, rows: int, columns: int, spread: float) -> Bytes:
    """Q4_0 blocks: a scale at 16 bits, then 32 weights of 4 bits. Weights have this *spread*."""
    blocks = columns // _WEIGHTS_A_BLOCK
    size = rows * blocks * _BYTES_A_BLOCK
    noise = rng.integers(0, 2**64, -(-size // 8), np.uint64).view(np.uint8)[:size]
    found: Bytes = noise.reshape(rows, blocks, _BYTES_A_BLOCK)
    # The levels are -8 to 7, so their mean is not 0; that of blocks with either sign is.
    sign = found[..., 1] & 0x80
    found[..., :2] = np.array(spread / _SPREAD, "<f2").reshape(1).view(np.uint8)
    found[..., 1] |= sign
    return found


def _header(out: Any, shape: Shape) -> None:
    tokens = _tokens(shape.vocab)
    control = [int(gguf.TokenType.CONTROL)] * len(CONTROL)
    out.add_name("random-weights")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    out.add_context_length(shape.context)
    out.add_embedding_length(shape.dim)
    out.add_block_count(shape.layers)
    out.add_feed_forward_length(shape.ffn)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_rope_dimension_count(shape.head)
    out.add_rope_freq_base(500_000.0)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(shape.vocab)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(tokens)
    out.add_token_types(control + [int(gguf.TokenType.NORMAL)] * (len(tokens) - len(control)))
    # One is asked for; this one meets no prompt of letters.
    out.add_token_merges(["! !"])
    out.add_bos_token_id(END_OF_TEXT)
    out.add_eos_token_id(END_OF_TURN)
    out.add_add_bos_token(False)
    out.add_chat_template(CHAT_TEMPLATE)


def _tokens(size: int) -> list[str]:
    """Control tokens, the 256 bytes in their usual alphabet, and words of four letters."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    letters = [chr(byte if byte in plain else next(moved)) for byte in range(256)]
    words = (letters[0x20] + "".join(word) for word in product(ascii_lowercase, repeat=4))
    start = [*CONTROL, *letters]
    return [*start, *islice(words, size - len(start))]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a GGUF model with random weights.")
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    write_random_gguf(args.out, SHAPES[args.shape], seed=args.seed)


if __name__ == "__main__":
    main()
