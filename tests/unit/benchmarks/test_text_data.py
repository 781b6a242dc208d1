"""The text tasks and stories260K, from small made-up files in the forms of their public sources."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks import stories260k
from benchmarks.text_data import fetch, main, make_task
from benchmarks.text_sources import SOURCES, TextSource, read_sst2

FILES = {
    "sst2": ("a fine film\t1\n", "Review: a fine film\nSentiment:", "positive"),
    "trec": ("HUM:ind Who wrote it ?\n", "Question: Who wrote it ?\nAnswer type:", "human"),
    "cola": ("ab01\t0\t*\tMary is fond him.\n", "Sentence: Mary is fond him.\nGrammar:", "unacceptable"),
    "sick_nli": (
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n"
        "1\tA dog runs\tNo dog runs\t3\tCONTRADICTION\n",
        "Premise: A dog runs\nHypothesis: No dog runs\nRelation:",
        "contradiction",
    ),
    "agnews": (
        '"3","Oil &lt;b&gt;...&lt;/b&gt;","Shares rose\\to  #36;10, he said in Sunday #39;s  quot;Post quot;."\n',
        'News: Oil ... Shares rose to $10, he said in Sunday\'s "Post ".\nTopic:',
        "Business",
    ),
    "boolq": (
        json.dumps(
            [
                {
                    "instruction": "Please answer with true or false, question: is it?\n\nAnswer format: true/false",
                    "answer": "true",
                }
            ]
        ),
        "Question: is it?\nYes or no:",
        "yes",
    ),
    "gsm8k": (
        json.dumps({"question": "How  many?", "answer": "2*3=<<2*3=6>>6\n#### 1,006"}),
        "Question: How many?\nAnswer:",
        "1006",
    ),
    "svamp": (
        "Question,Numbers,Equation,Answer,group_nums,Body,Ques\n"
        "\"He had number0 eggs , did n't he ?\",9.0 2.5,/ number0 number1,3.6,,,\n"
        '"Wrong number0 ?",1.0,+ number0 number0,3.0,,,\n',
        "Question: He had 9 eggs, didn't he?\nAnswer:",
        "3.6",
    ),
    "mbpp": (
        json.dumps({"text": "Add.", "code": "def f(a):\r\n\treturn a ", "task_id": 600, "test_list": ["assert f(1) "]}),
        "Add.\nTest: assert f(1)\nCode:",
        "def f(a):\n    return a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_read_as_prompt_and_answer(name: str) -> None:
    text, prompt, answer = FILES[name]
    for read in set(SOURCES[name].train.values()):
        assert list(read(text)) == [(prompt, answer)]
    assert len(SOURCES[name].commit) == 40


def test_rows_whose_equation_gives_another_answer_are_left_out() -> None:
    rows = [
        {"Body": "He has 3", "Question": "Half?", "Equation": "( ( 3.0 + 1.0 ) / 2.0 )", "Answer": 2.0},
        {"Body": "Wrong.", "Question": "Sum?", "Equation": "( 3.0 + 1.0 )", "Answer": 5.0},
    ]
    assert list(SOURCES["svamp"].test["SVAMP.json"](json.dumps(rows))) == [
        ("Question: He has 3. Half?\nAnswer:", "2")
    ]


def test_splits_are_clean_and_the_same_each_time() -> None:
    train = [f"film {n}\t{int(n % 3 > 0)}" for n in range(30)] + ["twice\t1", "twice\t0", "held out\t1"]
    files = {"a": "\n".join(train).encode(), "b": b"Held  out\t1\nother\t0\n"}
    source = TextSource("o/r", "c" * 40, {"a": read_sst2}, {"b": read_sst2}, "none")
    made = make_task(source, files.__getitem__)
    assert made == make_task(source, files.__getitem__)
    answers = [answer for _, answer in made["train"]]
    assert answers.count("negative") == answers.count("positive") == 10
    assert not {p for p, _ in made["train"]} & {
        f"Review: {w}\nSentiment:" for w in ("twice", "held out", "Held  out")
    }
    alone = make_task(TextSource("o/r", "c" * 40, {"a": read_sst2}, {}, "none"), files.__getitem__)
    assert alone["test"] and not set(alone["train"]) & set(alone["test"])


def test_files_come_from_copies_and_land_in_the_layout_of_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for split in ("train", "test"):
        file = tmp_path / "copies" / SOURCES["sst2"].repository / "data/SST2" / f"{split}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"good {split}\t1\nbad {split}\t0\n")
    assert main([str(tmp_path / "out"), "--names", "sst2", "--from", str(tmp_path / "copies")]) == 0
    assert "licence: none stated" in capsys.readouterr().out
    lines = (tmp_path / "out/tasks/sst2/test.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["answer"] for line in lines) == ["negative", "positive"]
    with pytest.raises(FileNotFoundError):
        fetch(SOURCES["trec"], "data/trec/train.txt", tmp_path / "copies")


DIM, HIDDEN, HEADS, KV_HEADS = 8, 12, 2, 1
PIECES = [
    "<unk>",
    "\n<s>\n",
    "\n</s>\n",
    *(f"<0x{n:02X}>" for n in range(256)),
    " a",
    "ab",
    " ab",
    " ",
    "a",
    "b",
]


def made_up() -> tuple[bytes, bytes, dict[str, np.ndarray]]:
    """A checkpoint of one layer and its vocabulary, in the forms of llama2.c."""
    rng = np.random.default_rng(0)
    kv = DIM // HEADS * KV_HEADS
    shapes = {
        "embedding": (len(PIECES), DIM), "norm1": (DIM,), "q": (DIM, DIM), "k": (kv, DIM), "v": (kv, DIM),
        "o": (DIM, DIM), "norm2": (DIM,), "w1": (HIDDEN, DIM), "w2": (DIM, HIDDEN), "w3": (HIDDEN, DIM), "norm": (DIM,),
    }  # fmt: skip
    weights = {name: rng.normal(size=shape).astype("<f4") for name, shape in shapes.items()}
    head = struct.pack("7i", DIM, HIDDEN, 1, HEADS, KV_HEADS, len(PIECES), 16)
    scores = {" a": -1.0, "ab": -2.0, " ab": -3.0}
    words = struct.pack("i", 7)
    for piece in PIECES:
        raw = piece.encode()
        words += struct.pack("fi", scores.get(piece, 0.0), len(raw)) + raw
    return head + b"".join(w.tobytes() for w in weights.values()), words, weights


def llama2c(w: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
    """Logits of the last token as llama2.c's run.c computes them: neighbouring entries of a head are rotated."""
    width = DIM // HEADS

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return gain * x / np.sqrt((x * x).mean() + 1e-5)

    def rotate(x: np.ndarray, position: int) -> np.ndarray:
        out = x.astype(float).copy()
        for i in range(0, len(x), 2):
            angle = position / 10000 ** ((i % width) / width)
            c, s = np.cos(angle), np.sin(angle)
            out[i], out[i + 1] = x[i] * c - x[i + 1] * s, x[i] * s + x[i + 1] * c
        return out

    keys: list[np.ndarray] = []
    values: list[np.ndarray] = []
    x = np.zeros(DIM)
    for position, token in enumerate(tokens):
        x = w["embedding"][token].astype(float)
        h = norm(x, w["norm1"])
        q = rotate(w["q"] @ h, position)
        keys.append(rotate(w["k"] @ h, position))
        values.append(w["v"] @ h)
        heads = []
        for head in range(HEADS):
            scores = np.array([q[head * width : (head + 1) * width] @ k / np.sqrt(width) for k in keys])
            share = np.exp(scores - scores.max())
            heads.append(sum(s * v for s, v in zip(share / share.sum(), values, strict=True)))
        x = x + w["o"] @ np.concatenate(heads)
        h = norm(x, w["norm2"])
        gate = w["w1"] @ h
        x = x + w["w2"] @ (gate / (1 + np.exp(-gate)) * (w["w3"] @ h))
    return w["embedding"] @ norm(x, w["norm"])


def test_the_made_folder_computes_what_llama2c_computes(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint, vocabulary, weights = made_up()
    stories260k.write_folder(tmp_path, checkpoint, vocabulary)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = [1, 260, 5, 264, 40]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0, -1].numpy()
    np.testing.assert_allclose(logits, llama2c(weights, tokens), atol=2e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    # " ab" merges " a" first, which scores higher than "ab"; "é" is not a piece and comes as its two bytes.
    assert tokenizer("ab")["input_ids"] == [1, 261]
    assert tokenizer("bé")["input_ids"] == [1, 262, 264, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode([1, 261, 262, 264], skip_special_tokens=True) == "ab b"


def test_an_untied_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match="tied"):
        stories260k.read_checkpoint(struct.pack("7i", 8, 8, 1, 1, 1, -4, 4))
