"""Prompts as the WebUI reads them: emphasis, and texts of any length.

    parse("a (red:1.3) kite, [blurry]")      # (("a ", 1.0), ("red", 1.3), (" kite, ", 1.0), ("blurry", 0.909...))

``(x)`` is 1.1 times as strong, ``[x]`` as much weaker, ``(x:1.3)`` 1.3 times as strong, each inside the others;
``\\(`` is a bracket. A text is read in chunks as long as the text encoder's (75 tokens of CLIP), ``BREAK`` begins a new
one, and a chunk does not end within 20 tokens after a comma but at it. The encoded tokens are multiplied by their
weight, and the chunk then has the mean that it had. All that is AUTOMATIC1111's, as its wiki ("Features":
Attention/emphasis, Infinite prompt length) and its ``modules/sd_hijack_clip.py`` say. Not compel: its weights have
another meaning, and another syntax.

What else may stand in a prompt there has no meaning here, and would be taken as words: it is refused.
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..options import OptionError

Words = tuple[tuple[str, float], ...]

STEP = 1.1
"""What a pair of brackets multiplies by."""
MOST = 100.0
"""The largest weight of a word; a clip breaks long before."""
DEEPEST = 64
"""Brackets inside each other."""
BACKTRACK = 20
"""Tokens behind a comma that rather begin the next chunk, AUTOMATIC1111's setting "comma_padding_backtrack"."""
BREAK = re.compile(r"\bBREAK\b")

_TOKEN = re.compile(r"\\[()\[\]\\:]|[()\[\]]|[^\\()\[\]]+|\\", re.DOTALL)
_WEIGHT = re.compile(r"(.*):\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*$", re.DOTALL)

ELSEWHERE = (
    (re.compile(r"<\s*lora\s*:[^>]*>", re.I), "LoRAs are given as files: --lora FILE:WEIGHT, or --image-lora"),
    (re.compile(r"<\s*[a-z]\w*\s*:[^>]*>", re.I), "there are no extra networks here but LoRAs, as --lora FILE:WEIGHT"),
    (re.compile(r'^[ \t]*"?\d+"?[ \t]*:', re.M),
     "prompt travel is for the prompt of an AnimateDiff clip alone; write one for all frames"),
    (re.compile(r"(^|\s)AND(\s|$)"), "several prompts joined by AND need the WebUI; write one"),
    (re.compile(r"(^|[\s,(])embedding:\S", re.I), "textual inversions are not read; leave them out"),
)
"""What the WebUI and its extensions take out of a prompt, and what to do here."""


def check(field: str, text: str) -> None:
    """Raises OptionError, which names ``field``, for what a prompt cannot have here."""
    for sign, advice in ELSEWHERE:
        if match := sign.search(text):
            raise OptionError(field, match[0].strip(), advice, "is no description of the clip")
    try:
        parse(text)
    except ValueError as error:
        raise OptionError(field, text, f"words, with weights as in (word:1.3); {error}", "cannot be read") from None


def parse(text: str) -> Words:
    """The parts of a prompt and their weights; ("BREAK", -1) begins a new chunk.

    Raises ValueError: brackets too deep, a weight too large, or prompt editing, which changes prompts during a run.
    """
    level: list[list[tuple[str, float]]] = [[]]
    opened: list[str] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in "([" and len(token) == 1:
            if len(opened) == DEEPEST:
                raise ValueError(f"at most {DEEPEST} brackets inside each other")
            opened.append(token)
            level.append([])
        elif token in ")]" and opened and opened[-1] == {")": "(", "]": "["}[token]:
            factor, inside = _closed(opened.pop(), level.pop())
            level[-1] += [(part, weight * factor) for part, weight in inside]
        else:
            level[-1].append((token[1:] if len(token) == 2 and token[0] == "\\" and token != "\\\\" else token, 1.0))
    while opened:  # never closed: as strong as if the text's end had closed them
        factor = STEP if opened.pop() == "(" else 1 / STEP
        inside = level.pop()
        level[-1] += [(part, weight * factor) for part, weight in inside]
    return tuple(_merged(level[0]))


def _closed(bracket: str, inside: list[tuple[str, float]]) -> tuple[float, list[tuple[str, float]]]:
    """The factor of a pair of brackets, and what is inside without the number that says it."""
    last, weight = inside[-1] if inside else ("", 1.0)
    plain = "".join(part for part, _ in inside)
    if bracket == "[" and (plain.count(":") >= 2 or "|" in plain or _WEIGHT.match(plain)):
        raise ValueError("prompt editing, [from:to:when] and [one|other], needs the WebUI")
    number = _WEIGHT.match(last) if bracket == "(" and weight == 1 else None
    if number is None:
        return (STEP if bracket == "(" else 1 / STEP), inside
    if len(number[2]) > 20:
        raise ValueError(f"weights lie between -{MOST:g} and {MOST:g}")
    return float(number[2]), [*inside[:-1], (number[1], 1.0)]


def _merged(parts: list[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    """Neighbours of one weight joined, and BREAK on its own."""
    joined: list[tuple[str, float]] = []
    for part, weight in parts:
        if abs(weight) > MOST:
            raise ValueError(f"weights lie between -{MOST:g} and {MOST:g}")
        if joined and joined[-1][1] == weight:
            joined[-1] = joined[-1][0] + part, weight
        else:
            joined.append((part, weight))
    for part, weight in joined:
        for number, piece in enumerate(BREAK.split(part)):
            if number:
                yield "BREAK", -1.0
            if piece:
                yield piece, weight


Chunk = tuple[list[int], list[float]]


def chunks(tokenizer: Any, words: Words) -> list[Chunk]:
    """Token numbers and weights, (longest text - 2) of each chunk at most, without the marks of start and end."""
    length = tokenizer.model_max_length - 2
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    comma = None if comma in (None, tokenizer.unk_token_id) else comma
    done: list[Chunk] = []
    now: Chunk = ([], [])
    last = -1  # where a comma is in this chunk
    for text, weight in words:
        if text == "BREAK" and weight == -1:
            done.append(now)
            now, last = ([], []), -1
            continue
        for token in tokenizer(text, truncation=False, add_special_tokens=False).input_ids:
            tokens, weights = now
            if len(tokens) == length:
                kept = last + 1 if token != comma and last >= 0 and length - last <= BACKTRACK else length
                done.append((tokens[:kept], weights[:kept]))
                now = tokens, weights = tokens[kept:], weights[kept:]
                last = -1
            if token == comma:
                last = len(tokens)
            tokens.append(token)
            weights.append(weight)
    return [*done, now] if now[0] or not done else done


@torch.no_grad()
def encode(pipeline: Any, texts: Sequence[str], device: torch.device) -> list[Tensor]:
    """Prompts as the text encoder of a diffusers pipeline reads them, each (1, chunks x longest text, width).

    All get as many chunks as the longest has: further ones are empty, as AUTOMATIC1111 pads with "pad_cond_uncond".
    Textual inversions that the pipeline has loaded are used. Raises ValueError, see `parse`.
    """
    convert = getattr(pipeline, "maybe_convert_prompt", lambda part, tokenizer: part)
    found = [chunks(pipeline.tokenizer, tuple(
        (convert(part, pipeline.tokenizer), weight) for part, weight in parse(text))) for text in texts]
    most = max(map(len, found))
    empty: Chunk = ([], [])
    return [torch.cat([_encoded(pipeline, chunk, device) for chunk in [*own, *[empty] * (most - len(own))]], dim=1)
            for own in found]


def _encoded(pipeline: Any, chunk: Chunk, device: torch.device) -> Tensor:
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    tokens, weights = chunk
    rest = tokenizer.model_max_length - 2 - len(tokens)
    # the mark of the end comes right after the words, and the rest is padding, as tokenizers do it
    numbers = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * rest]
    z: Tensor = encoder(torch.tensor([numbers], device=device))[0]
    if any(weight != 1 for weight in weights):
        factors = torch.tensor([1.0, *weights, *[1.0] * (rest + 1)], device=z.device)
        strong = z.float() * factors[None, :, None]
        z = strong * (z.float().mean() / strong.mean())
    return z.to(encoder.dtype)
