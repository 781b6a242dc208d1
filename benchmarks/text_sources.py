"""Public sources of the text tasks of docs/results.md: where each lies, under which licence, and how it is read.

Every reader turns the text of one file of its source into rows (prompt, answer). The files are taken at a commit, so
that they are the same for everybody.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Rows = Iterator[tuple[str, str]]
Reader = Callable[[str], Rows]


@dataclass(frozen=True)
class TextSource:
    """Where a task comes from.

    Attributes:
        repository: Owner and name on GitHub.
        commit: The commit whose files are taken.
        train: Files of the training split and the reader of each.
        test: Files of the held-out split; none = the training rows are split, a share of `TEST_SHARE` held out.
        licence: What is said of the data's licence there.
        labels: "equal" draws all labels equally often, "spread" as equally as their rows go, "as_they_are" all alike.
    """

    repository: str
    commit: str
    train: Mapping[str, Reader]
    test: Mapping[str, Reader]
    licence: str
    labels: Literal["equal", "spread", "as_they_are"] = "equal"

    def url(self, path: str) -> str:
        """Address of one file at the commit."""
        return f"https://raw.githubusercontent.com/{self.repository}/{self.commit}/{path}"


TEST_SHARE = 0.2


def _lines(text: str) -> Iterator[str]:
    """Lines that are not empty, without control characters but tabs."""
    return (re.sub(r"[\x00-\x08\x0b-\x1f\x7f\u200b]", "", line) for line in text.split("\n") if line.strip())


def read_sst2(text: str) -> Rows:
    """Sentence, tab, 0 or 1."""
    for line in _lines(text):
        sentence, label = line.rsplit("\t", 1)
        yield f"Review: {sentence.strip()}\nSentiment:", ("negative", "positive")[int(label)]


_TREC = MappingProxyType(
    {
        "ABBR": "abbreviation", "DESC": "description", "ENTY": "entity", "HUM": "human", "LOC": "location",
        "NUM": "number",
    }
)  # fmt: skip


def read_trec(text: str) -> Rows:
    """`COARSE:fine question`."""
    for line in _lines(text):
        label, question = line.replace("\ufffd", " ").split(" ", 1)
        yield f"Question: {question.strip()}\nAnswer type:", _TREC[label.split(":")[0]]


def read_cola(text: str) -> Rows:
    """Four columns: source, 0 or 1, the author's mark, sentence."""
    for line in _lines(text):
        _, label, _, sentence = line.split("\t")
        yield f"Sentence: {sentence.strip()}\nGrammar:", ("unacceptable", "acceptable")[int(label)]


def read_sick(text: str) -> Rows:
    """A header, then number, two sentences, relatedness and judgement."""
    for row in csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE):
        pair = f"Premise: {row['sentence_A'].strip()}\nHypothesis: {row['sentence_B'].strip()}"
        yield f"{pair}\nRelation:", row["entailment_judgment"].strip().lower()


_TOPICS = ("World", "Sports", "Business", "Sci/Tech")


def _news(text: str) -> str:
    text = re.sub(r" #(\d+);", r"&#\1;", text.replace("\\", " "))
    text = re.sub(r"(?<=\s)(quot|amp|lt|gt|nbsp);", r"&\1;", f" {text}")
    return " ".join(re.sub(r"<[^>]*>", " ", html.unescape(html.unescape(text))).split())


def read_agnews(text: str) -> Rows:
    """CSV of class from 1, title and description, with broken entities (` #36;`) and backslashes for line ends."""
    for label, title, body in csv.reader(io.StringIO(text)):
        words = f"{_sentence(_news(title))} {_news(body)}"
        yield f"News: {words}\nTopic:", _TOPICS[int(label) - 1]


def read_boolq(text: str) -> Rows:
    """JSON; the question stands in a fixed instruction."""
    for row in json.loads(text):
        found = re.search(r"question: (.*?)\s*Answer format", row["instruction"], re.DOTALL)
        if found is None:
            raise ValueError(f"a row of BoolQ has another form: {row['instruction'][:80]}")
        yield f"Question: {found[1].strip()}\nYes or no:", {"true": "yes", "false": "no"}[row["answer"]]


def read_gsm8k(text: str) -> Rows:
    """JSON lines; the number stands behind `####`."""
    for line in _lines(text):
        row = json.loads(line)
        number = row["answer"].rsplit("####", 1)[1].strip().replace(",", "")
        yield f"Question: {' '.join(row['question'].split())}\nAnswer:", number


def read_svamp(text: str) -> Rows:
    """JSON of body, question and answer."""
    for row in json.loads(text):
        if _value(row["Equation"].replace("(", " ( ").replace(")", " ) ")) == round(float(row["Answer"]), 6):
            yield (
                f"Question: {_sentence(row['Body'])} {row['Question'].strip()}\nAnswer:",
                _number(row["Answer"]),
            )


def read_mawps(text: str) -> Rows:
    """CSV whose numbers are cut out of the text; rows whose equation does not give the answer are left out."""
    for row in csv.DictReader(io.StringIO(text)):
        numbers = row["Numbers"].split()
        filled = [
            re.sub(r"number(\d+)", lambda m, n=numbers: _number(n[int(m[1])]), row[key])
            for key in ("Question", "Equation")
        ]
        if abs(_prefix(filled[1].split()) - float(row["Answer"])) < 0.006:
            question = re.sub(r"\s+([.,?!;:]|'\w|n't\b)", r"\1", " ".join(filled[0].split()))
            yield f"Question: {question}\nAnswer:", _number(row["Answer"])


def _sentence(text: str) -> str:
    """The text with a full stop behind it, unless a sign ends it already."""
    text = text.strip()
    return text if text.endswith((".", ",", "?", "!")) else text + "."


def _number(value: str | float) -> str:
    number = float(value)
    return str(int(number)) if number.is_integer() else f"{number:.6f}".rstrip("0")


def _value(words: str) -> float:
    """Value of an infix equation in full brackets, to six decimals."""
    parts = words.split()

    def read(at: int) -> tuple[float, int]:
        if parts[at] != "(":
            return float(parts[at]), at + 1
        left, at = read(at + 1)
        sign = parts[at]
        right, at = read(at + 1)
        return _apply(sign, left, right), at + 1

    return round(read(0)[0], 6)


def _prefix(words: list[str]) -> float:
    """Value of an equation in prefix form."""
    values: list[float] = []
    for word in reversed(words):
        values.append(
            _apply(word, values.pop(), values.pop()) if word in ("+", "-", "*", "/") else float(word)
        )
    return values[-1]


def _apply(sign: str, left: float, right: float) -> float:
    return {
        "+": left + right,
        "-": left - right,
        "*": left * right,
        "/": left / right if right else float("nan"),
    }[sign]


def read_mbpp(held_out: bool) -> Reader:
    """JSON lines; the official test rows are numbers 11 to 510."""

    def read(text: str) -> Rows:
        for line in _lines(text):
            row = json.loads(line)
            if (11 <= row["task_id"] <= 510) == held_out:
                code = "\n".join(part.rstrip() for part in row["code"].expandtabs(4).rstrip().splitlines())
                yield f"{row['text'].strip()}\nTest: {row['test_list'][0].strip()}\nCode:", code

    return read


_COLA = "acceptability_corpus/cola_public/raw/"
_SICK = "data/sts/sick2014/SICK_"
SOURCES: Mapping[str, TextSource] = MappingProxyType(
    {
        "sst2": TextSource(
            "clairett/pytorch-sentiment-classification", "457ffd83de90a9d6d472d8ffc31bbffe40a8b236",
            {"data/SST2/train.tsv": read_sst2}, {"data/SST2/test.tsv": read_sst2},
            "none stated (Stanford Sentiment Treebank)",
        ),
        "agnews": TextSource(
            "mhjabreel/CharCnn_Keras", "555590db4219b1243abb1918effd6a7425a2d75f",
            {"data/ag_news_csv/test.csv": read_agnews}, {},
            "research and other non-commercial use, says the data's readme",
        ),
        "trec": TextSource(
            "tonyzhaozh/few-shot-learning", "e04d8643be91c2cce63f33e07760ff75d5aa3ad0",
            {"data/trec/train.txt": read_trec},
            {"data/trec/test.txt": read_trec}, "repository Apache-2.0; the data state none",
            labels="spread",
        ),
        "cola": TextSource(
            "nyu-mll/CoLA-baselines", "dd095d3646ed05a315280aaa8ed4ec84ba435b3e",
            {f"{_COLA}in_domain_train.tsv": read_cola},
            {f"{_COLA}in_domain_dev.tsv": read_cola, f"{_COLA}out_of_domain_dev.tsv": read_cola},
            "code MIT; sentences of published works, for research use",
        ),
        "sick_nli": TextSource(
            "brmson/dataset-sts", "e1d3375f5b3bc24f21aa4e46f96eb379e9fc1081",
            {f"{_SICK}train.txt": read_sick, f"{_SICK}trial.txt": read_sick},
            {f"{_SICK}test_annotated.txt": read_sick}, "CC BY-NC-SA 3.0",
        ),
        "boolq": TextSource(
            "AGI-Edgerunners/LLM-Adapters", "816657208af4db747803f87ba40a4c71383fed7a",
            {"dataset/boolq/train.json": read_boolq},
            {"dataset/boolq/test.json": read_boolq}, "repository Apache-2.0, data ODC-By 1.0",
        ),
        "gsm8k": TextSource(
            "openai/grade-school-math", "3101c7d5072418e28b9008a6636bde82a006892c",
            {"grade_school_math/data/train.jsonl": read_gsm8k},
            {"grade_school_math/data/test.jsonl": read_gsm8k}, "MIT", labels="as_they_are",
        ),
        "svamp": TextSource(
            "arkilpatel/SVAMP", "689d7ccac74b9983a2ac7cc3b264f441b99e7c53",
            {"data/mawps-asdiv-a_svamp/train.csv": read_mawps},
            {"SVAMP.json": read_svamp}, "MIT; MAWPS and ASDiv-A under their own terms", labels="as_they_are",
        ),
        "mbpp": TextSource(
            "OckBench/OckBench", "b72752a0ba5989d3c212675ec60d3eedcd838628",
            {"data/mbpp.jsonl": read_mbpp(False)},
            {"data/mbpp.jsonl": read_mbpp(True)}, "MBPP CC BY 4.0; the mirror says MIT", labels="as_they_are",
        ),
    }
)  # fmt: skip
"""The tasks by name."""
