"""Views of one model: in turn, each gives what it gives alone."""

from __future__ import annotations

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
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.policy.schema import LoraSection, ModelConfig
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
    policy = Policy(prior, LoraSection(r=2, targets=targets))
    for parameter, weight in zip(
        policy.adapter_parameters(), policy.random_adapter().values(), strict=True
    ):
        parameter.data = weight
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
