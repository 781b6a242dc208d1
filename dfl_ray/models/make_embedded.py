"""Make the embedded base model: pre-train a tiny Llama on the generated language and save it.

Run `python -m dfl_ray.models.make_embedded OUT --seed 0`. The folder it writes is a plain `transformers`
folder (config.json, model.safetensors, tokenizer.json, tokenizer_config.json) for AutoModelForCausalLM and
AutoTokenizer. One thread, float32: the same seed gives the same weights on the same machine and torch build.

The text (`dfl_ray.tasks.synthetic.language`) gives the model counting, majority, negation, retrieval,
agreement, comparison and small sums, asked by question words that no tuning task uses and answered in other
words. It never pairs a tuning task's prompt with an answer.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfl_ray.tasks.synthetic.language import document, repetition
from dfl_ray.tasks.synthetic.segments import Draws
from dfl_ray.tasks.synthetic.words import ANIMALS, DYE, IS, OF, QUESTIONS, vocabulary

if TYPE_CHECKING:
    import torch

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNKNOWN = range(4)
POOL = 8

Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights.

    Attributes:
        hidden_size: Width d; T * r <= d bounds the orthogonal experts, so 64 carries eight of rank 8.
        intermediate_size: Width of the MLP, >= hidden_size for the same reason.
        layers: Number of transformer blocks.
        heads: Attention heads; hidden_size / heads is the head width.
        steps: Optimiser steps.
        horizon: Steps over which the rate would fall to 2 % and the curriculum runs. Stopping half-way, at a high
            rate, is on purpose: the annealed model adapts more slowly (docs/embedded.md).
        batch: Documents a step.
        max_tokens: Documents are cut here.
        learning_rate: Peak of AdamW's cosine schedule with a linear warm-up of 5 %.
        weight_decay: AdamW's decoupled decay.
        text_weight: Weight of an ordinary token's loss; an answer's is 1.
    """

    hidden_size: int = 64
    intermediate_size: int = 128
    layers: int = 4
    heads: int = 4
    steps: int = 2000
    horizon: int = 4000
    batch: int = 64
    max_tokens: int = 80
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    text_weight: float = 0.05


def make_tokenizer():
    """Make the word-level fast tokenizer of the generated language.

    Returns:
        The tokenizer: texts are split at white space, a word is one token, `<s>` stands in front, and the four
        special tokens have the ids 0 to 3.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=SPECIAL[UNKNOWN]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=128,
        padding_side="right",
    )


def make_model(recipe: Recipe, seed: int):
    """Make a fresh LlamaForCausalLM without touching torch's global generator.

    Entries of the embedding are drawn from N(0, 1), those of the other matrices from N(0, 1 / inputs).

    Args:
        recipe: Sizes.
        seed: Seeds the weights.

    Returns:
        The model in float32.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8 * math.ceil((len(SPECIAL) + len(vocabulary())) / 8),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.intermediate_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=128,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).float()
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            deviation = 1.0 if "embed" in name else weight.shape[1] ** -0.5
            weight.data.normal_(0.0, deviation, generator=generator)
    return model


def _text(draws: Draws, progress: float) -> tuple[list[str], list[bool]]:
    """A repetition now and then, else a document; documents grow longer over the first half of training."""
    if draws.unit() < 0.15:
        return repetition(draws)
    longest = 1.0 + 6.0 * min(1.0, 2.0 * progress)
    return document(
        draws,
        segments=1 + int(longest * draws.unit() ** 2),
        filler_share=draws.one((0.0, 0.1, 0.25)),
        max_questions=6,
    )


def batches(draws: Draws, ids: dict[str, int], recipe: Recipe, progress: float) -> list[Batch]:
    """POOL batches of about equal length each, in random order: half the padding of unsorted ones.

    Each is a pair of token ids and loss weights, both (batch, longest document), padded on the right.

    Args:
        draws: Source of randomness.
        ids: Word -> token id.
        recipe: Sizes.
        progress: Share of the curriculum done, >= 0.
    """
    lines = []
    for _ in range(POOL * recipe.batch):
        words, answers = _text(draws, progress)
        tokens = [BOS, *(ids[word] for word in words), EOS][: recipe.max_tokens]
        weights = [1.0 if flag else recipe.text_weight for flag in (False, *answers, False)]
        lines.append((tokens, weights[: len(tokens)]))
    lines.sort(key=lambda line: len(line[0]))
    starts = draws.some(range(0, len(lines), recipe.batch), POOL)
    return [_padded(lines[start : start + recipe.batch]) for start in starts]


def _padded(lines: Sequence[tuple[list[int], list[float]]]) -> Batch:
    longest = max(len(tokens) for tokens, _ in lines)
    tokens = np.full((len(lines), longest), PAD, np.int64)
    weights = np.zeros((len(lines), longest), np.float32)
    for row, (line, weight) in enumerate(lines):
        tokens[row, : len(line)] = line
        weights[row, : len(line)] = weight
    return tokens, weights


def pretrain(recipe: Recipe, seed: int, *, log: Any = print):
    """Train a fresh model on freshly generated text.

    AdamW minimises the weighted mean of -log p(token); the learning rate rises over the first 5 % of `recipe.horizon`
    and follows a cosine from there, and gradients are clipped to norm 1.

    Source: Loshchilov and Hutter 2017 (arXiv 1608.03983) for the cosine, without restarts; Loshchilov and Hutter 2019
    (arXiv 1711.05101) for AdamW.

    Args:
        recipe: Sizes, steps and rates.
        seed: Seeds weights and text.
        log: Called with one line every 500 steps and at the end.

    Returns:
        The model in evaluation mode, and its tokenizer.
    """
    import torch

    tokenizer, model = make_tokenizer(), make_model(recipe, seed)
    ids = tokenizer.get_vocab()
    draws = Draws(np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(1,)))))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    start, ready = time.perf_counter(), []
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step / recipe.horizon)
        ready = ready or batches(draws, ids, recipe, step / recipe.horizon)
        tokens, weights = (torch.from_numpy(x) for x in ready.pop())
        loss = _loss(model(input_ids=tokens).logits, tokens, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 500 == 0 or step + 1 == recipe.steps:
            log(f"step {step + 1} loss {loss.item():.3f} {time.perf_counter() - start:.0f} s "
                + json.dumps(answer_accuracy(model, ids, recipe, seed)))  # fmt: skip
    return model.eval(), tokenizer


def _schedule(progress: float) -> float:
    return min(progress / 0.05, 1.0) * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress)))


def _loss(logits: torch.Tensor, tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    flat = weights[:, 1:].flatten()
    return (losses * flat).sum() / flat.sum()


def answer_accuracy(model, ids: dict[str, int], recipe: Recipe, seed: int) -> dict[str, float]:
    """Measure the share of right answers to each pre-training question on fresh documents.

    Args:
        model: The model.
        ids: Word -> token id.
        recipe: Sizes.
        seed: Seeds the documents, by another stream than training.

    Returns:
        Question word -> share in [0, 1], rounded to two digits; only questions that were asked.
    """
    import torch

    draws = Draws(np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(2,)))))
    words: dict[int, str] = {i: word for word, i in ids.items()}
    right: dict[str, list[bool]] = defaultdict(list)
    for tokens, weights in batches(draws, ids, recipe, 0.25):
        with torch.no_grad():
            guess = model(input_ids=torch.from_numpy(tokens)).logits.argmax(-1).numpy()
        for row, place in zip(*np.nonzero(weights == 1.0), strict=True):
            right[_question(tokens[row], place, words)].append(guess[row, place - 1] == tokens[row, place])
    return {q: round(float(np.mean(right[q])), 2) for q in (*QUESTIONS, OF, DYE, IS) if right[q]}


def _question(line: np.ndarray, place: int, words: dict[int, str]) -> str:
    """The word that asks for the answer at `place`; `of` and `dye` name an animal in between."""
    last = words[int(line[place - 1])]
    return words[int(line[place - 2])] if last in ANIMALS else last


def main(arguments: list[str] | None = None) -> None:
    """Pre-train the model and write its folder, as a command.

    Args:
        arguments: The command line; None means the process's own.
    """
    parser = argparse.ArgumentParser(
        description="Pre-train the embedded model and save it as a transformers folder."
    )
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and text")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps")
    chosen = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    recipe = Recipe(steps=chosen.steps)
    model, tokenizer = pretrain(recipe, chosen.seed, log=lambda line: print(line, flush=True))
    model.save_pretrained(chosen.out)
    tokenizer.save_pretrained(chosen.out)
    size = sum(f.stat().st_size for f in chosen.out.iterdir())
    print(json.dumps({"out": str(chosen.out), "bytes": size, "seed": chosen.seed, "steps": recipe.steps}))


if __name__ == "__main__":
    main()
