"""The benchmark's own encoder: equal texts give equal pieces, and its embeddings are the written formula's."""

from __future__ import annotations

import numpy as np

from benchmarks.classifier import counted_embeddings, word_pieces

TEXTS = [[0, 1, 1, 2], [1, 2, 3], [3, 4], [0, 4, 2], [1, 4]]


def test_pieces_are_the_most_frequent_words_and_every_letter() -> None:
    pieces = word_pieces(["The dog and the cat.", "A dog!"], 1000)
    assert list(pieces)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert list(pieces.values()) == list(range(len(pieces)))
    assert list(pieces)[-4:] == ["dog", "the", "and", "cat"]  # as often as each other: by the alphabet
    letters = sorted({letter for word in ("the", "dog", "and", "cat", ".", "a", "!") for letter in word})
    assert {*letters, *(f"##{letter}" for letter in letters)} <= set(pieces)
    assert list(word_pieces(["A dog!", "The dog and the cat."], 20)) == list(pieces)[:20]


def test_counted_embeddings_are_the_leading_part_of_the_mutual_information() -> None:
    found = counted_embeddings(TEXTS, 6, 3)
    held = np.array([[float(v in text) for v in range(6)] for text in TEXTS])
    both = held.T @ held
    of = both.sum(0)
    information = np.zeros((6, 6))
    for v in range(6):
        for w in range(6):
            if v != w and both[v, w]:
                information[v, w] = max(0.0, np.log(both[v, w] * both.sum() / (of[v] * of[w])))
    u, s, _ = np.linalg.svd(information)
    wanted = u[:, :3] * np.sqrt(s[:3])
    wanted -= wanted[:5].mean(0)
    wanted[5] = 0.0  # stands in no text
    wanted /= np.sqrt((wanted[:5] ** 2).mean())
    np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-8)
    assert not found[5].any()
