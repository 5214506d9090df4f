from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from klvi.models.activations import fuse_activations
from klvi.models.attention import FEWEST_KEYS, MOST_TOKENS
from klvi.models.cache import reserved_cache
from klvi.models.decoding import last_logits
from klvi.models.gpt2 import plain_gpt2
from klvi.models.scoring import padded_inputs

VOCABULARY = 11
# Enough for both ways in which attention is computed.
STEPS = FEWEST_KEYS + 2

kinds = pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"activation_function": "relu", "n_inner": 20},
        {"tie_word_embeddings": False},
    ],
)


def gpt2(**options: Any) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=24, n_layer=3, n_head=4, initializer_range=0.3, **options
    )
    model = GPT2LMHeadModel(config).eval()
    fuse_activations(model)
    return model


@kinds
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_a_step_is_transformers(options: dict[str, Any], padded: bool) -> None:
    model = gpt2(**options)
    plain = plain_gpt2(model)
    assert plain is not None
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(VOCABULARY, (6, 3), generator=generator)
    real = torch.ones(6, 3, dtype=torch.bool)
    if padded:
        real[0, 0] = real[1, :2] = False
    own, theirs = (reserved_cache(model.config, 3 + STEPS) for _ in range(2))
    for cache in (own, theirs):
        padding = padded_inputs(model, real if padded else None)
        last_logits(model, input_ids=prompts, past_key_values=cache, **padding)
    for _ in range(STEPS):
        tokens = torch.randint(VOCABULARY, (6, 1), generator=generator)
        real = torch.cat([real, torch.ones(6, 1, dtype=torch.bool)], 1)
        place = real.sum(1, keepdim=True) - 1
        options = {"attention_mask": real.long(), "position_ids": place} if padded else {}
        logits, hidden = last_logits(model, input_ids=tokens, past_key_values=theirs, **options)
        states = plain.step(tokens, own, *((real, place) if padded else ()))
        assert_close((plain.logits(states), states), (logits, hidden), atol=1e-5, rtol=1e-5)
    for mine, other in zip(own.layers, theirs.layers, strict=True):
        assert_close((mine.keys, mine.values), (other.keys, other.values), atol=1e-5, rtol=1e-5)


@kinds
@pytest.mark.parametrize("length", [1, 9, MOST_TOKENS + 1])
def test_a_pass_is_transformers_with_its_gradients(options: dict[str, Any], length: int) -> None:
    model = gpt2(**options)
    plain = plain_gpt2(model)
    assert plain is not None
    generator = torch.Generator().manual_seed(length)
    tokens = torch.randint(VOCABULARY, (4, length), generator=generator)
    weight = torch.randn(4, length, VOCABULARY, generator=generator) / length
    results = []
    for logits in (plain.logits(plain.states(tokens)), model(input_ids=tokens).logits):
        (logits * weight).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        model.zero_grad()
        results.append((logits.detach(), gradients))
    assert_close(*results, atol=2e-5, rtol=2e-5)


def test_adapters_of_all_layers_count() -> None:
    model = gpt2(tie_word_embeddings=False)
    targets = ["wte", "wpe", "c_attn", "c_fc", "c_proj"]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets, fan_in_fan_out=True))
    adapted.eval()
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    plain = plain_gpt2(model)
    assert plain is not None
    tokens = torch.arange(8).view(2, 4)
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        assert_close(plain.logits(plain.states(tokens)), expected, atol=1e-5, rtol=1e-5)
        cache = reserved_cache(model.config, 4)
        for t in range(4):
            states = plain.step(tokens[:, t : t + 1], cache)
            assert_close(plain.logits(states), expected[:, t], atol=1e-5, rtol=1e-5)


def test_half_precision_is_transformers_too() -> None:
    model = gpt2().to(torch.bfloat16)
    own, theirs = (reserved_cache(model.config, 1) for _ in range(2))
    tokens = torch.arange(VOCABULARY)[:, None]
    plain = plain_gpt2(model)
    assert plain is not None
    with torch.no_grad():
        logits, hidden = last_logits(model, input_ids=tokens, past_key_values=theirs)
        states = plain.step(tokens, own)
    assert plain.logits(states).dtype == torch.bfloat16
    assert_close(plain.logits(states), logits)
    assert_close(states.float(), hidden)


def test_any_other_model_is_left_to_transformers() -> None:
    class Wider(GPT2LMHeadModel):
        """A model of somebody's own."""

    config = GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=1)
    llama = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    eager = GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    crossed = GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=8, n_layer=1, n_head=1, add_cross_attention=True)
    )
    for model in (Wider(config), LlamaForCausalLM(llama), eager, crossed):
        assert plain_gpt2(model.eval()) is None


def test_dropout_is_left_to_transformers() -> None:
    model = gpt2()
    assert plain_gpt2(model.train()) is None
    assert plain_gpt2(model.eval()) is not None
