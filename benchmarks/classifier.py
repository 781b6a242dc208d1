"""A sequence classifier on real text: does it learn above chance, and what do four devices reach?

Without `--base` the encoder has BERT's shape and no published weights (none can be had without a hub): 2 layers of
width 128, its word pieces made of the tasks' training texts, its layers and head drawn at random. Its embeddings are
either drawn too, or `counted`: principal directions of which pieces stand in one text together, without any label, in
place of a pretraining. Weights and head are frozen; devices train LoRA in the linear layers alone, so this says that
classifiers learn here, and nothing of how well a pretrained BERT would do. `--base FOLDER` puts a random head on a
decoder's folder instead.

    python -m benchmarks.classifier --tasks FOLDER [--names A,B] [--methods A,B] [--seeds N]
        [--embeddings counted|drawn] [--base FOLDER] [--json] [key=value ...]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY, WIDTH, LAYERS, HEADS, INNER, POSITIONS = 4000, 128, 2, 4, 256, 96
SPREAD = 0.1
"""Standard deviation of the drawn weights: about 1 / sqrt(width), so that every layer passes on what it sees."""
SETTING = (
    "tasks.source=files", "model.max_tokens=40", "rounds=25", "runtime.backend=local", "runtime.report=false",
    "track=none", "evaluate.every=25", "evaluate.rows_per_task=128", "devices.count=4", "devices.tasks_per_device=1",
    "devices.min_holders=2", "method.rank=16", "method.alpha=128", "method.local_steps=20", "method.batch_rows=8",
    "method.learning_rate=1e-3",
)  # fmt: skip
"""Five hundred steps; `centralized` has the 32 rows of all four devices in each."""


def make_classifier(
    folder: Path, tasks: Path, names: Sequence[str], seed: int, *, counted: bool = False
) -> Path:
    """Write a random classifier of BERT's shape with a head of all tasks' labels, and a tokenizer of their texts.

    Args:
        folder: Folder to make.
        tasks: Folder with `<task>/train.jsonl`.
        names: The tasks.
        seed: Seed of the weights.
        counted: Whether the embeddings of pieces come from `counted_embeddings` instead of the draw.

    Returns:
        The folder.
    """
    import torch
    import transformers
    from tokenizers import BertWordPieceTokenizer

    rows = training_rows(tasks, names)
    texts = [row["prompt"] for row in rows]
    made = BertWordPieceTokenizer(word_pieces(texts, VOCABULARY), lowercase=True)
    folder.mkdir(parents=True, exist_ok=True)
    made.save_model(str(folder))
    words: Any = transformers.BertTokenizerFast  # type: ignore[attr-defined]
    words(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=made.get_vocab_size(), hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=INNER, max_position_embeddings=POSITIONS, initializer_range=SPREAD, pad_token_id=0,
        **head_of(rows),
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    if counted:
        ids = [one.ids for one in made.encode_batch(texts, add_special_tokens=False)]
        table = counted_embeddings(ids, made.get_vocab_size(), WIDTH)
        seen = np.flatnonzero(table.any(1))
        weight = model.bert.embeddings.word_embeddings.weight.data
        weight[seen] = torch.from_numpy(SPREAD * table[seen]).to(weight.dtype)
    model.save_pretrained(folder)
    return folder


def word_pieces(texts: Iterable[str], size: int) -> dict[str, int]:
    """A vocabulary for BERT's tokenizer: the most frequent words whole, and every letter, alone and within a word.

    The trainer of `tokenizers` breaks ties in an order that differs from process to process.

    Args:
        texts: Texts of which it is made.
        size: Number of pieces.

    Returns:
        Piece -> number; equal texts give equal pieces.
    """
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    normal, split = BertNormalizer(lowercase=True), BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in split.pre_tokenize_str(normal.normalize_str(text)))
    letters = sorted({letter for word in words for letter in word})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    whole = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    return {piece: number for number, piece in enumerate([*pieces, *whole][:size])}


def training_rows(tasks: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """The training rows of all tasks.

    Args:
        tasks: Folder with `<task>/train.jsonl`.
        names: The tasks.
    """
    lines = ((tasks / name / "train.jsonl").read_text(encoding="utf-8").splitlines() for name in names)
    return [json.loads(line) for task in lines for line in task]


def head_of(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The keys of a classifier's configuration that name its classes: all answers, sorted.

    Args:
        rows: Rows with an `answer`.
    """
    labels = dict(enumerate(sorted({row["answer"] for row in rows})))
    return {"id2label": labels, "label2id": {label: number for number, label in labels.items()}}


def counted_embeddings(texts: Sequence[Sequence[int]], vocabulary: int, width: int) -> np.ndarray:
    """Vectors of word pieces from the texts they stand in: U sqrt(S) of the positive pointwise mutual information.

    With n(v, w) texts that hold both pieces, P = max(0, log(n(v, w) n / (n(v) n(w)))) off the diagonal, where
    n(v) = sum_w n(v, w) and n = sum_v n(v), is cut to its `width` largest singular values.

    Args:
        texts: Pieces of each text.
        vocabulary: Number of pieces.
        width: Length of a vector, below `vocabulary`.

    Returns:
        (vocabulary, width): centred, of mean square 1 over the pieces that stand in a text; zero for all others.

    Source:
        Levy and Goldberg 2014 ("Neural word embedding as implicit matrix factorization"), section 5; from memory.
        Departure: a context is a whole text, not a window.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.linalg import svds

    row = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    held = csr_matrix((np.ones(len(row)), (row, np.concatenate(texts))), shape=(len(texts), vocabulary))
    held.data[:] = 1.0
    both = (held.T @ held).tocoo()
    of = np.asarray(both.sum(0)).ravel()
    information = np.log(both.data * of.sum() / (of[both.row] * of[both.col]))
    kept = (information > 0) & (both.row != both.col)
    matrix = csr_matrix((information[kept], (both.row[kept], both.col[kept])), shape=(vocabulary, vocabulary))
    u, s, _ = svds(matrix, k=width, random_state=0)
    table, seen = u * np.sqrt(s), of > 0
    table -= table[seen].mean(0)
    table[~seen] = 0.0
    return table / np.sqrt((table[seen] ** 2).mean())


def with_head(base: Path, folder: Path, tasks: Path, names: Sequence[str], seed: int) -> Path:
    """Write a decoder's folder as a classifier with a head drawn at random.

    Args:
        base: Folder of a causal language model.
        folder: Folder to make.
        tasks: Folder with `<task>/train.jsonl`.
        names: The tasks.
        seed: Seed of the head.

    Returns:
        The folder.
    """
    import torch
    import transformers

    words: Any = transformers.AutoTokenizer.from_pretrained(base)
    if words.pad_token_id is None:
        words.pad_token = words.eos_token
    torch.manual_seed(seed)
    made = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, pad_token_id=words.pad_token_id, dtype="float32", **head_of(training_rows(tasks, names))
    )
    made.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def measure(
    make: Callable[[Path, int], Path], tasks: Path, names: Sequence[str], methods: Sequence[str], seeds: int,
    words: Sequence[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """Run every method with every seed.

    Args:
        make: Writes the classifier of a seed to a folder.
        tasks: Folder of the tasks.
        names: Their names.
        methods: Methods of dfl-ray.
        seeds: Number of seeds; each draws another classifier.
        words: Further settings.

    Returns:
        One record a method and task: mean accuracy over devices, its smallest and largest over seeds, and the base's.
    """
    from dfl_ray import load_config, run
    from dfl_ray.records.results import method_rule

    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as place:
            folder = make(Path(place) / "classifier", seed)
            for method in methods:
                setting = [
                    *SETTING, f"model.name={folder}", f"tasks.path={tasks}", f"tasks.names=[{','.join(names)}]",
                    f"method={method}", f"seed={seed}", f"runtime.runs_dir={place}/runs", *words,
                ]  # fmt: skip
                done = run(load_config(None, setting))
                rows = done.evaluation
                last = rows[(rows["round"] == rows["round"].max()) & (rows["device"] >= 0)]
                base = rows[rows["device"] == -1]
                for name in names:
                    mine = last[(last["task"] == name) & (last["rule"] == method_rule(done))]
                    found.setdefault((method, name), []).append(
                        {
                            "accuracy": float(mine["accuracy"].mean()),
                            "base": float(base[base["task"] == name]["accuracy"].mean()),
                            "chance": float(mine["chance"].mean()),
                        }
                    )
    return [_record(method, name, parts) for (method, name), parts in found.items()]


def _record(method: str, task: str, parts: Sequence[dict[str, float]]) -> dict[str, Any]:
    reached = np.array([p["accuracy"] for p in parts])
    return {
        "method": method, "task": task, "accuracy": float(reached.mean()), "lowest": float(reached.min()),
        "highest": float(reached.max()), "base": float(np.mean([p["base"] for p in parts])),
        "chance": parts[0]["chance"],
    }  # fmt: skip


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tasks", type=Path, required=True, help="folder with <task>/train.jsonl and test.jsonl"
    )
    parser.add_argument("--names", default="trec,agnews", help="tasks with closed labels")
    parser.add_argument("--methods", default="sparse_orthogonal,dlora,local,centralized")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--embeddings", choices=("counted", "drawn"), default="counted")
    parser.add_argument("--base", type=Path, help="folder of a decoder that gets a head")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("words", nargs="*", help="overrides of the configuration")
    options = parser.parse_args()
    names = options.names.split(",")

    def make(folder: Path, seed: int) -> Path:
        if options.base is not None:
            return with_head(options.base, folder, options.tasks, names, seed)
        return make_classifier(folder, options.tasks, names, seed, counted=options.embeddings == "counted")

    rows = measure(make, options.tasks, names, options.methods.split(","), options.seeds, options.words)
    print(f"{'method':20} {'task':10} {'accuracy %':>11} {'over seeds':>14} {'base %':>8} {'chance %':>9}")
    for row in rows:
        span = f"{100 * row['lowest']:.1f} - {100 * row['highest']:.1f}"
        print(
            f"{row['method']:20} {row['task']:10} {100 * row['accuracy']:11.1f} {span:>14} "
            f"{100 * row['base']:8.1f} {100 * row['chance']:9.1f}"
        )
    if options.json:
        from benchmarks.result import with_origin

        print(json.dumps(with_origin({"rows": rows}, seeds=options.seeds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
