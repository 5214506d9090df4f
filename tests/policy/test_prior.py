"""Real architectures, small and random, saved to disk and loaded as a user's model would be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import sample
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch.testing import assert_close
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from klvi.contexts import contexts_of
from klvi.engine.micro_batch import MicroBatch
from klvi.engine.scoring import token_log_probs
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.policy.schema import LoraSection, ModelConfig
from klvi.samples import Completions

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
ARCHITECTURES: dict[str, Callable[..., tuple[type[PreTrainedModel], PreTrainedConfig]]] = {
    "gpt2": lambda **k: (
        GPT2LMHeadModel,
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **k),
    ),
    "gpt_neox": lambda **k: (GPTNeoXForCausalLM, GPTNeoXConfig(**SMALL, **k)),
    "llama": lambda **k: (
        LlamaForCausalLM,
        LlamaConfig(**SMALL, num_key_value_heads=1, **k),
    ),
    "qwen3": lambda **k: (
        Qwen3ForCausalLM,
        Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=16, **k),
    ),
}


def byte_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {"<|end|>": 256, "<|start|>": 257}
    backend = Tokenizer(tokenizer_models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def save_model(
    folder: Path,
    architecture: str = "gpt2",
    special: dict[str, str] | None = None,
    generation: dict[str, object] | None = None,
) -> ModelConfig:
    special = {"bos_token": "<|end|>", "eos_token": "<|end|>"} if special is None else special
    torch.manual_seed(0)
    kind, config = ARCHITECTURES[architecture](
        vocab_size=258, bos_token_id=256, eos_token_id=256, initializer_range=0.5
    )
    model = kind(config)
    model.generation_config = GenerationConfig(**(generation or {}))
    model.save_pretrained(folder)
    byte_tokenizer(**special).save_pretrained(folder)
    return ModelConfig(name=architecture, path=str(folder))


def draw(policy: Policy, prompts: list[str], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    samples = sample(
        policy,
        contexts_of(prompts),
        max_new_tokens=6,
        seed=seed,
    )
    return samples.tokens, samples.log_policy


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoding_and_scoring_agree(architecture: str, tmp_path: Path) -> None:
    policy = Policy(load_prior(save_model(tmp_path, architecture)), LoraSection(r=4))
    for parameter in policy.adapter_parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    samples = sample(
        policy,
        contexts_of(["", "a longer prompt", "short"] * 8),
        max_new_tokens=6,
    )
    batch = Completions(
        samples.prompt_tokens, samples.prompt_lengths, samples.tokens, samples.lengths
    )
    view = MicroBatch.of(batch).forward(policy.model)
    scored = view.log_probs()
    assert_close(samples.log_policy, scored, atol=1e-4, rtol=0)
    assert (samples.log_policy - samples.log_prior).abs().max() > 0.01
    for row in (0, 1, 2):
        alone = policy.prior.encode(contexts_of([samples.prompts[row]]))
        length = samples.lengths[[row]]
        tokens = samples.tokens[[row], : int(length)]
        single = MicroBatch.of(Completions(*alone, tokens, length)).forward(policy.model)
        log_probs = token_log_probs(single.logits, tokens[0])
        assert_close(log_probs, scored[row, : int(length)], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "generation",
    [
        {"do_sample": True, "top_k": 2, "temperature": 0.1},
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 6},
    ],
)
def test_generation_configs_change_nothing(generation: dict[str, object], tmp_path: Path) -> None:
    plain = draw(Policy(load_prior(save_model(tmp_path / "plain"))), [""] * 16)
    config = save_model(tmp_path / "tricky", generation=generation)
    tricky = draw(Policy(load_prior(config)), [""] * 16)
    assert torch.equal(plain[0], tricky[0])
    assert torch.equal(plain[1], tricky[1])


def test_pad_may_be_eos_or_missing(tmp_path: Path) -> None:
    special = {"bos_token": "<|end|>", "eos_token": "<|end|>"}
    missing = load_prior(save_model(tmp_path / "a", special=special))
    same = load_prior(save_model(tmp_path / "b", special={**special, "pad_token": "<|end|>"}))
    for one, other in zip(
        draw(Policy(missing), [""] * 64), draw(Policy(same), [""] * 64), strict=True
    ):
        assert torch.equal(one, other)


def test_every_declared_end_token_ends(tmp_path: Path) -> None:
    config = save_model(tmp_path, generation={"eos_token_id": [256, 65]})
    assert load_prior(config).stop_token_ids == (256, 65)


def test_without_a_start_token_prompts_are_required(tmp_path: Path) -> None:
    config = save_model(tmp_path, special={"eos_token": "<|end|>"})
    prior = load_prior(config)
    assert prior.encode(contexts_of(["ab"]))[0].tolist() == [[64, 65]]
    with pytest.raises(UserError, match=r"^set model\.start_token=TOKEN, or .*prompts\.path=FILE"):
        prior.encode(contexts_of([""]))
    named = load_prior(config.model_copy(update={"start_token": "<|start|>"}))
    assert named.encode(contexts_of([""]))[0].tolist() == [[257]]
    with pytest.raises(UserError, match=r"model\.start_token=<x>: not a token"):
        load_prior(config.model_copy(update={"start_token": "<x>"}))


def test_without_an_end_token_a_model_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = save_model(tmp_path, special={"bos_token": "<|end|>"})
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / "config.json").write_text(
        (tmp_path / "config.json")
        .read_text()
        .replace('"eos_token_id": 256', '"eos_token_id": null')
    )
    with pytest.raises(UserError, match="no end-of-sequence token"):
        load_prior(config)


def test_prompts_are_padded_on_the_left(tmp_path: Path) -> None:
    prior = load_prior(save_model(tmp_path))
    tokens, lengths = prior.encode(contexts_of(["abc", "d"]))
    assert lengths.tolist() == [4, 2]
    assert tokens[0].tolist() == [256, 64, 65, 66]
    assert tokens[1, 2:].tolist() == [256, 67]


def test_special_tokens_are_not_in_texts(tmp_path: Path) -> None:
    prior = load_prior(save_model(tmp_path))
    tokens = torch.tensor([[64, 65, 256], [66, 256, 64]])
    prompts = prior.encode(contexts_of(["", "x"]))
    assert prior.decode(*prompts, tokens, torch.tensor([3, 2])) == ["ab", "c"]


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"model\.path=.*empty: no causal language model"):
        load_prior(ModelConfig(name="mine", path=str(tmp_path / "empty")))
    with pytest.raises(UserError, match=r"model=mine has no path: set model\.path="):
        load_prior(ModelConfig(name="mine"))


def test_completions_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    policy = Policy(load_prior(save_model(tmp_path)))
    with pytest.raises(
        UserError, match=r"max_new_tokens=64.*exceeds the 64 positions.*63 are left"
    ):
        sample(policy, contexts_of([""]), max_new_tokens=64)
