"""The shipped model against its promises and against a forward pass written out by hand."""

import numpy as np
import pytest
import torch

from benchmarks import plain_lora
from dfl_ray.models import embedded_path
from dfl_ray.tasks.synthetic import ALL_TASKS, make_tasks
from dfl_ray.tasks.synthetic.words import vocabulary


@pytest.fixture(scope="module")
def base():
    return plain_lora.load_base(embedded_path())


@pytest.fixture(scope="module")
def hub():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded_path()
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_folder_is_small_and_plain():
    files = {f.name: f.stat().st_size for f in embedded_path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert sum(files.values()) <= 1_500_000


def test_transformers_loads_a_llama_wide_enough_for_eight_experts_of_rank_eight(hub):
    model, tokenizer = hub
    assert type(model).__name__ == "LlamaForCausalLM"
    widths = {
        m.in_features for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "head" not in n
    }
    assert min(widths) >= 8 * len(ALL_TASKS)
    assert tokenizer.bos_token_id == model.config.bos_token_id
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert len(tokenizer) <= model.config.vocab_size


def test_every_word_is_one_known_token_and_prompts_are_prefixes(hub):
    _, tokenizer = hub
    for word in vocabulary():
        (first, second) = tokenizer(word)["input_ids"]
        assert first == tokenizer.bos_token_id and tokenizer.decode([second]) == word
    for task in make_tasks(ALL_TASKS, seed=0, train_rows=5, test_rows=5):
        for row in task.test:
            prompt = tokenizer(row.prompt)["input_ids"]
            whole = tokenizer(f"{row.prompt} {row.answer}")["input_ids"]
            assert whole[: len(prompt)] == prompt and len(whole) == len(prompt) + 1
            assert tokenizer.unk_token_id not in whole


def test_plain_forward_pass_equals_transformers(base, hub):
    model, _ = hub
    tokens = torch.randint(4, 200, (1, 3, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(input_ids=tokens[0]).logits
        got = plain_lora.forward(base, tokens, {}, {}, 1.0)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_plain_adapter_equals_merged_weights(base):
    a = {n: f for n, f in plain_lora.frozen_a(base, 1, 8, seed=0).items()}
    generator = torch.Generator().manual_seed(2)
    b = {
        n: torch.randn(f.shape, generator=generator) * 0.02 for n, f in plain_lora.zeros_b(base, 1, 8).items()
    }
    merged = dict(base.weights)
    for name in a:
        merged[name] = merged[name] + 2.0 * b[name][0] @ a[name][0]
    tokens = torch.randint(4, 200, (1, 3, 17), generator=generator)
    expected = plain_lora.forward(plain_lora.replace_weights(base, merged), tokens, {}, {}, 1.0)
    torch.testing.assert_close(plain_lora.forward(base, tokens, a, b, 2.0), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cue", ["strong", "weak", "none"])
def test_base_answers_at_most_at_chance(base, cue):
    for task in make_tasks(ALL_TASKS, seed=0, test_rows=256, train_rows=10, cue=cue):
        got = plain_lora.accuracy(base, plain_lora.encode(base, task.test), {}, {}, 1.0)
        assert got <= task.chance, task.name


def test_greedy_generation_gives_the_teacher_forced_answer(base, hub):
    model, tokenizer = hub
    (task,) = make_tasks(["largest"], seed=0, test_rows=20, train_rows=10)
    forced = plain_lora.correct(base, plain_lora.encode(base, task.test), {}, {}, 1.0)
    for row, right in zip(task.test, forced.tolist(), strict=True):
        prompt = tokenizer(row.prompt, return_tensors="pt")
        out = model.generate(**prompt, max_new_tokens=2, do_sample=False)[0, prompt["input_ids"].shape[1] :]
        wanted = [*tokenizer(row.answer)["input_ids"][1:], tokenizer.eos_token_id]
        assert (out.tolist() == wanted) == right


def test_one_expert_learns_and_its_weights_stay_out_of_other_rows(base):
    (task,) = make_tasks(["agree"], seed=5)
    budget = plain_lora.Budget(rounds=10, batch=16)
    rows = plain_lora.encode(base, task.train)
    a = plain_lora.frozen_a(base, 8, budget.rank, seed=0)
    one = {n: f[3:4] for n, f in a.items()}
    _, b, _ = plain_lora.train(
        base,
        [rows, rows],
        [0, 0],
        torch.eye(1),
        one,
        plain_lora.zeros_b(base, 1, 8),
        budget,
        0,
        train_a=False,
    )
    test = plain_lora.encode(base, task.test)
    assert plain_lora.accuracy(base, test, one, b, 2.0) >= 0.95
    other = {n: f[4:5] for n, f in a.items()}
    for name in a:
        delta, foreign = b[name][0] @ one[name][0], b[name][0] @ other[name][0]
        assert abs(float((delta * foreign).sum())) <= 1e-4 * float(delta.norm() * foreign.norm())
    np.testing.assert_allclose(
        (a["0.q"].flatten(0, 1) @ a["0.q"].flatten(0, 1).T).numpy(), np.eye(64) / 3.0, atol=1e-6
    )
