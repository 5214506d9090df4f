"""Views of one model: in turn, each gives what it gives alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from support import sample
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedModel
from zoo import small_policy

from klvi.contexts import contexts_of
from klvi.engine.merging import merged_weight
from klvi.engine.micro_batch import MicroBatch
from klvi.policy import policy as policy_module
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.policy.schema import LoraSection, ModelConfig
from klvi.policy.self_check import with_random_adapter
from klvi.samples import Samples
from scripts.small_models import save, small_model, small_tokenizer

CONTEXTS = contexts_of(["w5 w6 w7", "", "w9 w8 w7 w6 w5"] * 2)


def drawn(policy: Policy, seed: int = 0) -> Samples:
    return sample(policy, CONTEXTS, max_new_tokens=6, seed=seed)


def step(policy: Policy, seed: int) -> Samples:
    """Draw, and change the adapter by what was drawn."""
    samples = drawn(policy, seed)
    generator = torch.Generator().manual_seed(int(samples.tokens.sum()))
    for parameter in policy.adapter_parameters():
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return samples


def assert_same(found: Samples, expected: Samples) -> None:
    for name in ("tokens", "lengths", "log_policy", "log_prior"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_policies_in_turn_give_what_each_gives_alone(model_type: str) -> None:
    first, last = ["c_attn", "wte"], ["lm_head", "c_proj"]
    if model_type == "llama":
        first, last = ["q_proj", "embed_tokens"], ["lm_head", "down_proj"]

    def policies() -> list[Policy]:
        one = small_policy(model_type, targets=first, tie_word_embeddings=True)
        return [one, Policy(one.prior, LoraSection(r=3, targets=last), seed=5), Policy(one.prior)]

    alone = []
    for index in range(3):
        policy = policies()[index]
        alone.append([step(policy, seed) for seed in range(3)])
    together = policies()
    in_turn = [[step(policy, seed) for policy in together] for seed in range(3)]
    for index in range(3):
        for seed in range(3):
            assert_same(in_turn[seed][index], alone[index][seed])
    assert torch.equal(alone[2][0].log_policy, alone[2][0].log_prior)
    assert not torch.allclose(alone[0][2].log_policy, alone[0][2].log_prior, atol=0.1)


def test_snapshots_in_turn_with_what_they_were_taken_of() -> None:
    """Two policies learn and draw, and so do two snapshots of each: nobody moves another."""
    one = small_policy("gpt2", targets=["c_attn", "wte"], tie_word_embeddings=True)
    other = Policy(one.prior, LoraSection(r=3, targets=["lm_head", "c_proj"]), seed=5)
    policies, expected = [], []
    for seed, policy in enumerate((one, other, one, other)):
        step(policy, seed)
        policies.append(policy.snapshot())
        expected.append(drawn(policy))
    for _ in range(2):
        for policy, alone in zip(policies, expected, strict=True):
            assert_same(drawn(policy), alone)
            assert_same(drawn(one), expected[2])
            assert_same(drawn(other.without_adapter()), drawn(Policy(one.prior)))
    for policy in policies:
        step(policy, 9)
        assert not torch.equal(drawn(policy).log_policy, expected[0].log_policy)
    assert_same(drawn(other), expected[3])
    assert all(p.data_ptr() != q.data_ptr() for p, q in adapters(one, policies[2]))
    shared = {p.data_ptr() for p in one.prior.model.parameters()}
    own = {p.data_ptr() for p in policies[2].adapter_parameters()}
    assert {p.data_ptr() for p in policies[2].model.parameters()} <= shared | own


def adapters(one: Policy, other: Policy) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(one.adapter_parameters(), other.adapter_parameters(), strict=True)


def test_merged_views_of_one_policy_overlap_in_any_order() -> None:
    """As generators do that are left half-way: the second merges other weights meanwhile."""
    policy = small_policy("gpt2", targets=["c_attn", "wte"], tie_word_embeddings=True)
    step(policy, 0)
    prior = {name: p.data_ptr() for name, p in policy.prior.model.named_parameters()}
    first, second = policy.merged(), policy.merged()
    tokens = torch.tensor([[5, 6, 7]])
    early = first.__enter__()
    before = early(input_ids=tokens).logits
    step(policy, 1)
    late = second.__enter__()
    after = late(input_ids=tokens).logits
    assert not torch.allclose(before, after, atol=1e-3)
    assert torch.equal(early(input_ids=tokens).logits, before)
    first.__exit__(None, None, None)
    assert torch.equal(late(input_ids=tokens).logits, after)
    second.__exit__(None, None, None)
    for view in (early, late):
        assert {name: p.data_ptr() for name, p in view.named_parameters()} == prior


@pytest.mark.parametrize("where", ["merging", "decoding", "scoring"])
def test_an_error_midway_changes_no_view(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy("gpt2", targets=["c_attn", "wte"], tie_word_embeddings=True)
    step(policy, 0)
    views = [policy, policy.snapshot(), policy.without_adapter()]
    step(policy, 1)
    expected = [drawn(view) for view in views]
    weights = {name: p.data_ptr() for name, p in policy.prior.model.named_parameters()}

    def broken(*_: object, **__: object) -> None:
        raise ValueError("midway")

    calls = itertools.count()

    def breaks(layer: object) -> Tensor:
        return broken() if next(calls) else merged_weight(layer)

    with monkeypatch.context() as patch:
        if where == "merging":
            patch.setattr(policy_module, "merged_weight", breaks)
        elif where == "decoding":
            patch.setattr(policy.engine, "complete", broken)
        else:
            patch.setattr(MicroBatch, "forward", broken)
            patch.setattr(type(policy), "scores_while_decoding", False)
        for view in views[:2]:
            with pytest.raises(ValueError, match="midway"):
                drawn(view)
    for view, samples in zip(views, expected, strict=True):
        assert_same(drawn(view), samples)
    assert {n: p.data_ptr() for n, p in policy.prior.model.named_parameters()} == weights


def plain_log_probs(model: PreTrainedModel, samples: Samples) -> Tensor:
    """`(N,)` of plain passes, a row at a time, without a cache."""
    found = []
    for row, length in enumerate(samples.lengths.tolist()):
        prompt = samples.prompt_tokens[row, -int(samples.prompt_lengths[row]) :]
        tokens = torch.cat([prompt, samples.tokens[row, :length]])
        with torch.no_grad():
            logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        found.append(logits.double().log_softmax(-1).gather(1, tokens[len(prompt) :, None]).sum())
    return torch.stack(found)


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    ("model_type", "targets"),
    [
        ("gpt2", ["wte"]),
        ("gpt2", ["lm_head"]),
        ("llama", ["embed_tokens"]),
        ("llama", ["lm_head", "q_proj"]),
        ("llama", ["embed_tokens", "lm_head"]),
        ("llama", None),
        ("qwen3_moe", None),
    ],
    ids=str,
)
def test_policy_export_and_adapter_are_one_model(
    model_type: str, targets: list[str] | None, tied: bool, tmp_path: Path
) -> None:
    folder = save(small_model(model_type, tie_word_embeddings=tied), tmp_path / "model")
    prior = load_prior(ModelConfig(name="mine", path=str(folder), dtype="float32"))
    policy, _ = with_random_adapter(Policy(prior, LoraSection(r=2, targets=targets)))
    samples = drawn(policy)
    expected = samples.log_policy.double().sum(1)
    assert float((expected - samples.log_prior.double().sum(1)).abs().max()) > 0.1
    policy.save_adapter(tmp_path / "adapter")
    policy.export().save_pretrained(tmp_path / "export")
    small_tokenizer().save_pretrained(tmp_path / "export")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    base = AutoModelForCausalLM.from_pretrained(folder)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    for model in (exported, adapted):
        assert_close(plain_log_probs(model, samples), expected, atol=1e-4, rtol=0)
    loaded = load_prior(ModelConfig(name="it", path=str(tmp_path / "adapter"), dtype="float32"))
    assert_close(plain_log_probs(loaded.model, samples), expected, atol=1e-4, rtol=0)
