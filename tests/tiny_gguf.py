"""Writes tiny GGUF models with made-up weights, which a real llama-server loads in milliseconds.

Kinds:
- ``chat``: generates text; with ``--embeddings --pooling mean`` also embeds;
- ``rerank``: for ``--rerank``; the scores mean nothing;
- ``mmproj``: a one-layer image encoder to go with ``chat`` (``--mmproj``).

The chat model recites `WORDS` in order, over and over: at temperature 0 each word of a reply tells
the next, and a lost, doubled or swapped piece shows. It never ends by itself, so replies end with
``max_tokens`` or a stop string. With *mean_tokens* it ends at random after about that many tokens
(at the default sampling settings, rough, sensible from 5 to 50).

Every byte is a token, so grammars and JSON schemas work; a free string in JSON becomes "ok". When
the request has tools, the model calls one, unless the last message is a tool's answer.

How it is done: dimension 0 of every token's vector is the same constant, so column 0 of the output
matrix is a bias for each token; the rest of a token's output row is the vector of the token that it
follows. The template ends with a cue token when a tool is to be called.

The same arguments give the same bytes. The file appears whole or not at all. At the default shape
it is a quarter of a megabyte and speaks about 10,000 tokens/s on one core; for slower streams make
it larger (``--dim 512 --layers 4 --heads 8 --ffn 2048``: 31 MB, about 900 tokens/s).

    python tests/tiny_gguf.py --kind chat --out tiny.gguf
    llama-server -m tiny.gguf -c 4096 -np 2 -t 1 --no-warmup --fit off
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

KINDS = ("chat", "rerank", "mmproj")

RECITAL = (
    "red fox ran over a low hill and saw the blue sea then one old man gave it two fish to eat"
    " but no more so at dusk all birds went home while rain fell on my roof like tiny drums"
)
WORDS = tuple(RECITAL.split())

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>", "<|cue|>")
END_OF_TEXT, TURN, END_OF_TURN, PAD, CUE = range(5)
MARKS = ("<tool_call>", "</tool_call>")

CHAT_TEMPLATE = """\
{%- if tools %}
{{- '<|im_start|>system\\nTools:\\n<tools>\\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}
{{- '</tools>\\nTo call one, write:\\n' }}
{{- '<tool_call>{"name": <name>, "arguments": <object>}</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content %}{{- message.content }}{%- endif %}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
{%- if call.function.arguments is string %}{{- call.function.arguments }}
{%- else %}{{- call.function.arguments | tojson }}{%- endif %}
{{- '}</tool_call>' }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if tools and messages[-1].role != 'tool' %}{{- '<|cue|>' }}{%- endif %}
{%- endif %}
"""

CONSTANT = 8.0  # dimension 0 of every vector in the residual stream
NEVER = -40.0  # bias of tokens that only a grammar can bring about
FOLLOWS = 3.6  # what a word adds to the logit of the next one; sampling still gets a choice
COMPELS = 54.0  # the same, strong enough to overcome NEVER
WEIGHT_OF_WORDS = 46.0  # e**logit added up over the words, measured: sets `mean_tokens`


@dataclass(frozen=True)
class Shape:
    """Size of the text model; larger means slower. `dim` must be a multiple of `heads`."""

    dim: int = 64
    layers: int = 2
    heads: int = 2
    ffn: int = 128
    context: int = 8192


@dataclass(frozen=True)
class Vocabulary:
    tokens: list[str]
    merges: list[str]
    words: list[int]
    """Token ids of `WORDS`, in order; each is one token with its leading space."""

    @property
    def types(self) -> list[int]:
        kinds = [gguf.TokenType.CONTROL] * len(CONTROL)
        kinds += [gguf.TokenType.USER_DEFINED] * len(MARKS)
        return [*map(int, kinds), *[int(gguf.TokenType.NORMAL)] * (len(self.tokens) - len(kinds))]


def write_tiny_gguf(
    path: str | os.PathLike[str],
    kind: str = "chat",
    *,
    mean_tokens: int | None = None,
    seed: int = 1,
    shape: Shape = Shape(),
) -> Path:
    """Write a model of one of `KINDS` to *path*; about 0.2 s and 0.3 MB at the default shape."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}")
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    architecture = {"chat": "llama", "rerank": "qwen3", "mmproj": "clip"}[kind]
    out = gguf.GGUFWriter(partial, architecture)
    try:
        rng = np.random.default_rng(seed)
        if kind == "mmproj":
            _image_encoder(out, rng, shape.dim)
        else:
            _text_model(out, rng, shape, kind, mean_tokens)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def vocabulary() -> Vocabulary:
    """Control tokens, the 256 bytes, and for each word all its beginnings, the whole word last."""
    # The usual byte-level alphabet: printable bytes stand for themselves, others are moved up.
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    letters = [chr(byte if byte in plain else next(moved)) for byte in range(256)]
    ids = {token: index for index, token in enumerate([*CONTROL, *MARKS, *letters])}
    merges: list[str] = []
    words: list[int] = []
    for word in WORDS:
        piece = letters[0x20]
        for letter in word:
            longer = piece + letter
            if longer not in ids:
                ids[longer] = len(ids)
                merges.append(f"{piece} {letter}")
            piece = longer
        words.append(ids[piece])
    return Vocabulary(list(ids), merges, words)


def _text_model(
    out: Any, rng: np.random.Generator, shape: Shape, kind: str, mean_tokens: int | None
) -> None:
    vocab = vocabulary()
    _text_header(out, shape, vocab, kind)
    head = shape.dim // shape.heads

    def add(name: str, tensor: np.ndarray) -> None:
        out.add_tensor(name, tensor.astype(np.float16 if tensor.ndim == 2 else np.float32))

    def ones(name: str, size: int = shape.dim) -> None:
        add(name, np.ones(size))

    vectors = rng.standard_normal((len(vocab.tokens), shape.dim))
    vectors[:, 0] = CONSTANT
    add("token_embd.weight", vectors)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        ones(at + "attn_norm.weight")
        add(at + "attn_q.weight", _matrix(rng, shape.dim, shape.dim))
        add(at + "attn_k.weight", _matrix(rng, head, shape.dim))
        add(at + "attn_v.weight", _matrix(rng, head, shape.dim))
        if kind == "rerank":
            ones(at + "attn_q_norm.weight", head)
            ones(at + "attn_k_norm.weight", head)
        add(at + "attn_output.weight", _into_residual(rng, shape.dim, shape.dim))
        ones(at + "ffn_norm.weight")
        add(at + "ffn_gate.weight", _matrix(rng, shape.ffn, shape.dim))
        add(at + "ffn_up.weight", _matrix(rng, shape.ffn, shape.dim))
        add(at + "ffn_down.weight", _into_residual(rng, shape.dim, shape.ffn))
    ones("output_norm.weight")
    add("output.weight", _output(vectors, vocab, mean_tokens))
    if kind == "rerank":
        add("cls.output.weight", _matrix(rng, 2, shape.dim))


def _text_header(out: Any, shape: Shape, vocab: Vocabulary, kind: str) -> None:
    head = shape.dim // shape.heads
    out.add_name(f"tiny-{kind}")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    out.add_context_length(shape.context)
    out.add_embedding_length(shape.dim)
    out.add_block_count(shape.layers)
    out.add_feed_forward_length(shape.ffn)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(1)
    out.add_key_length(head)
    out.add_value_length(head)
    out.add_rope_dimension_count(head)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(len(vocab.tokens))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(vocab.tokens)
    out.add_token_types(vocab.types)
    out.add_token_merges(vocab.merges)
    out.add_bos_token_id(END_OF_TEXT)
    out.add_eos_token_id(END_OF_TURN)
    out.add_pad_token_id(PAD)
    out.add_add_bos_token(False)
    if kind == "rerank":
        out.add_classifier_output_labels(["yes", "no"])
        out.add_chat_template([{"name": "rerank", "template": "{query}\n{document}<|im_end|>"}])
    else:
        out.add_chat_template(CHAT_TEMPLATE)


def _output(vectors: np.ndarray, vocab: Vocabulary, mean_tokens: int | None) -> np.ndarray:
    # The last norm brings a vector to length sqrt(dim): both parts of it shrink by this factor.
    dim = vectors.shape[1]
    shrunk = math.sqrt(dim / (CONSTANT**2 + dim - 1))
    unit = 1 / (shrunk * (dim - 1))
    output = np.zeros(vectors.shape)
    for before, word in zip([vocab.words[-1], *vocab.words[:-1]], vocab.words, strict=True):
        output[word] = FOLLOWS * unit * vectors[before]
    index = vocab.tokens.index
    for cue, answer in ((CONTROL[CUE], MARKS[0]), ('"', "o"), ("o", "k"), ("k", '"')):
        output[index(answer)] = COMPELS * unit * vectors[index(cue)]
    output[:, 0] = _bias(vocab, mean_tokens) / (shrunk * CONSTANT)
    return output


def _bias(vocab: Vocabulary, mean_tokens: int | None) -> np.ndarray:
    bias = np.full(len(vocab.tokens), NEVER)
    bias[vocab.words] = 0.0
    # What a grammar allows is chosen from here: no white space, and an end as soon as there can be.
    first_byte = len(CONTROL) + len(MARKS)
    bias[first_byte : first_byte + 0x21] -= 5
    for rank, token in enumerate(['"', ":", ",", "]", "}", MARKS[1]]):
        bias[vocab.tokens.index(token)] += 1 + rank
    bias[END_OF_TURN] += 20
    if mean_tokens is not None:
        bias[END_OF_TURN] = math.log(WEIGHT_OF_WORDS / mean_tokens)
    return bias


def _image_encoder(out: Any, rng: np.random.Generator, text_dim: int) -> None:
    dim, ffn, patch, side = 32, 64, 14, 4
    out.add_name("tiny-mmproj")
    out.add_file_type(gguf.LlamaFileType.ALL_F32)
    out.add_string("clip.projector_type", "gemma3")
    out.add_bool("clip.has_vision_encoder", True)
    out.add_bool("clip.use_gelu", True)
    for name, number in {
        "image_size": patch * side,
        "patch_size": patch,
        "embedding_length": dim,
        "feed_forward_length": ffn,
        "projection_dim": text_dim,
        "block_count": 1,
        "attention.head_count": 2,
    }.items():
        out.add_uint32(f"clip.vision.{name}", number)
    out.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    out.add_array("clip.vision.image_mean", [0.5] * 3)
    out.add_array("clip.vision.image_std", [0.5] * 3)

    def add(name: str, tensor: np.ndarray, bias: int | None = None) -> None:
        out.add_tensor(name + ".weight", tensor.astype(np.float32))
        if bias is not None:
            out.add_tensor(name + ".bias", np.zeros(bias, np.float32))

    pixels = _matrix(rng, dim, 3 * patch * patch)
    add("v.patch_embd", pixels.reshape(dim, 3, patch, patch))
    add("v.position_embd", _matrix(rng, side * side, dim))
    for name in ("ln1", "ln2"):
        add(f"v.blk.0.{name}", np.ones(dim), dim)
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        add(f"v.blk.0.{name}", _matrix(rng, dim, dim), dim)
    add("v.blk.0.ffn_up", _matrix(rng, ffn, dim), ffn)
    add("v.blk.0.ffn_down", _matrix(rng, dim, ffn), dim)
    add("v.post_ln", np.ones(dim), dim)
    add("mm.soft_emb_norm", np.ones(dim))
    add("mm.input_projection", _matrix(rng, dim, text_dim))


def _matrix(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return rng.standard_normal((rows, columns)) / math.sqrt(columns)


def _into_residual(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A quiet layer, so that the recital wins, which leaves the constant dimension alone."""
    matrix = 0.3 * _matrix(rng, rows, columns)
    matrix[0] = 0.0
    return matrix


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny GGUF model for tests.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=KINDS, default="chat")
    parser.add_argument("--mean-tokens", type=int, help="end replies after about N tokens")
    parser.add_argument("--seed", type=int, default=1)
    for name, default in vars(Shape()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = vars(parser.parse_args())
    shape = Shape(**{name: args.pop(name) for name in vars(Shape())})
    write_tiny_gguf(args.pop("out"), shape=shape, **args)


if __name__ == "__main__":
    main()
