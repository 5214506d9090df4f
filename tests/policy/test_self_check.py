"""Models whose fast way is right pass; whatever makes it wrong is found, or gone round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from support import sample
from torch import Tensor
from transformers.cache_utils import (
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)
from zoo import PROMPTS, prior_of
from zoo import small_policy as plain_policy

from klvi.engine import merging, scoring, torch_engine
from klvi.engine.batching import Batching
from klvi.engine.cache import ReservedLayer
from klvi.engine.graph_engine import GraphEngine
from klvi.engine.torch_engine import TorchEngine
from klvi.errors import UserError
from klvi.policy import policy as policy_module
from klvi.policy.policy import Policy
from klvi.policy.self_check import check_policy
from scripts.small_models import small_model

SLOW = pytest.mark.slow
# What is checked is klvi's fast way, with its kernels.
small_policy = partial(plain_policy, kernels="auto")
NEW_TOKENS = 12
FASTEST = Batching()
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}


def check(policy: Policy, new_tokens: int = NEW_TOKENS) -> Batching:
    check_policy(policy, PROMPTS, new_tokens)
    return policy.batching


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, pytest.param(torch.bfloat16, marks=SLOW)],
    ids=["float32", "bfloat16"],
)
@pytest.mark.parametrize(
    ("model_type", "changes", "batching"),
    [
        ("gpt2", {}, FASTEST),
        ("llama", {}, FASTEST),
        ("gemma3_text", SLIDING, FASTEST),
        ("mixtral", {}, FASTEST),
        ("qwen3_5_text", LINEAR, FASTEST),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, FASTEST),
        ("mamba2", {}, FASTEST),
        ("falcon", {}, FASTEST),
        ("bloom", {}, FASTEST),
        ("gptj", {}, FASTEST),
        ("openai-gpt", {}, Batching(cache=False)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_false_alarm(
    model_type: str, changes: dict[str, Any], batching: Batching, dtype: torch.dtype
) -> None:
    seed = 0 if dtype is torch.float32 else 1
    assert check(small_policy(model_type, dtype, seed, **changes)) == batching


Layer = type[Any]


def select_wrongly(monkeypatch: pytest.MonkeyPatch, kind: Layer) -> None:
    """Rows are reversed before the layer takes those that are wanted."""
    right: Callable[[Any, Tensor], None] = kind.reorder_cache
    monkeypatch.setattr(kind, "reorder_cache", lambda self, rows: right(self, rows.flip(0)))


def forget(monkeypatch: pytest.MonkeyPatch, kind: Layer) -> None:
    """What a layer keeps is lost when rows are selected."""
    right: Callable[[Any, Tensor], None] = kind.reorder_cache

    def lost(self: Any, rows: Tensor) -> None:
        right(self, rows)
        kept = (
            [*self.conv_states.values(), *self.recurrent_states.values()]
            if isinstance(self, LinearAttentionLayer)
            else [self.keys, self.values]
        )
        for tensor in kept:
            if isinstance(tensor, Tensor):
                tensor.zero_()

    monkeypatch.setattr(kind, "reorder_cache", lost)


@pytest.mark.parametrize("fault", [select_wrongly, forget])
@pytest.mark.parametrize(
    ("model_type", "changes", "kind"),
    [
        ("gpt2", {}, ReservedLayer),
        pytest.param("gemma3_text", SLIDING, ReservedLayer, marks=SLOW),
        ("gemma3_text", SLIDING, DynamicSlidingWindowLayer),
        pytest.param("qwen3_5_text", LINEAR, ReservedLayer, marks=SLOW),
        pytest.param("qwen3_5_text", LINEAR, LinearAttentionLayer, marks=SLOW),
        pytest.param("mamba2", {}, LinearAttentionLayer, marks=SLOW),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, LinearAttentionLayer),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_rows_are_not_shared_where_a_layer_cannot(
    model_type: str,
    changes: dict[str, Any],
    kind: Layer,
    fault: Callable[[pytest.MonkeyPatch, Layer], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = small_policy(model_type, **changes)
    fault(monkeypatch, kind)
    assert check(policy) == Batching(sharing=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_state_that_is_not_carried_is_computed_anew(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = LinearAttentionLayer.update_recurrent_state
    monkeypatch.setattr(
        LinearAttentionLayer,
        "update_recurrent_state",
        lambda self, state, *a, **k: update(self, torch.zeros_like(state), *a, **k),
    )
    assert check(small_policy("qwen3_5_text", dtype, **LINEAR)) == Batching(cache=False)


@pytest.mark.slow
def test_rounding_does_not_hide_a_fault_of_a_cache() -> None:
    # transformers' own cache of this model loses what the plain pass has.
    policy = small_policy("recurrent_gemma", torch.bfloat16)
    assert not check(policy).cache


@pytest.mark.parametrize(
    "model_type",
    ["gpt2", *(pytest.param(kind, marks=SLOW) for kind in ("opt", "llama", "bloom", "mamba2"))],
)
def test_padding_that_is_read_is_avoided(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy(model_type)
    assert check(policy).padding
    for module in (torch_engine, scoring):
        monkeypatch.setattr(module, "padded_inputs", lambda *_: {})
    assert not check(policy).padding
    assert policy.batching.cache


def test_shifted_positions_are_avoided(monkeypatch: pytest.MonkeyPatch) -> None:
    right = scoring.positions
    for module in (torch_engine, scoring):
        monkeypatch.setattr(module, "positions", lambda attention: right(attention) + 1)
    assert check(small_policy("gpt2")) == Batching(padding=False)


def stale_merged(monkeypatch: pytest.MonkeyPatch, _: Policy, __: str) -> None:
    @contextmanager
    def merged(self: Policy) -> Iterator[Any]:
        yield self.prior.model

    monkeypatch.setattr(Policy, "merged", merged)


def changed_merge(change: Callable[[Any, Tensor], Tensor]) -> Callable[..., None]:
    def inject(monkeypatch: pytest.MonkeyPatch, policy: Policy, name: str) -> None:
        (layer,) = [each for n, each in policy.adapted_layers.items() if n.endswith(name)][:1]
        # Views of the policy have it, too.
        layer.is_faulty = True
        monkeypatch.setattr(
            policy_module,
            "merged_weight",
            lambda each: (
                change(each, merging.merged_weight(each))
                if hasattr(each, "is_faulty")
                else merging.merged_weight(each)
            ),
        )

    return inject


def base_weight(layer: Any) -> Tensor:
    weight: Tensor = layer.get_base_layer().weight.data
    return weight


dropped_in_merged = changed_merge(lambda layer, _: base_weight(layer).clone())
wrong_scale = changed_merge(lambda layer, merged: base_weight(layer).lerp(merged, 1.1))


def dropped_in_scoring(monkeypatch: pytest.MonkeyPatch, policy: Policy, name: str) -> None:
    (layer,) = [each for n, each in policy.adapted_layers.items() if n.endswith(name)][:1]
    base = layer.get_base_layer()
    monkeypatch.setattr(layer, "forward", lambda inputs, *_, **__: base(inputs))


@pytest.mark.parametrize(
    "fault", [stale_merged, dropped_in_merged, wrong_scale, dropped_in_scoring]
)
@pytest.mark.parametrize(
    ("model_type", "changes", "name"),
    [
        ("gpt2", {}, "0.attn.c_attn"),
        ("gpt2", {"targets": ["wte", "c_attn"]}, "wte"),
        ("gpt2", {"targets": ["lm_head", "c_attn"]}, "lm_head"),
        ("llama", {}, "1.mlp.down_proj"),
        pytest.param("qwen3_5_text", LINEAR, "linear_attn.in_proj_qkv", marks=SLOW),
        pytest.param("mamba2", {}, "in_proj", marks=SLOW),
        pytest.param("mixtral", {}, "q_proj", marks=SLOW),
    ],
)
def test_a_wrong_adapter_is_refused(
    model_type: str,
    changes: dict[str, Any],
    name: str,
    fault: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 16 bits, whose rounding would hide a layer in the whole.
    policy = small_policy(model_type, torch.bfloat16, **changes)
    fault(monkeypatch, policy, name)
    with pytest.raises(UserError, match=rf"{type(policy.prior.plain).__name__} \(.*klvi env"):
        check(policy)


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_bidirectional_model_is_refused(model_type: str) -> None:
    policy = small_policy(model_type, is_decoder=False)
    with pytest.raises(UserError, match="no causal language model") as caught:
        check(policy)
    assert type(policy.prior.plain).__name__ in str(caught.value)


def test_logits_that_overflow_are_refused() -> None:
    plain = small_model("llama", num_hidden_layers=2)
    for layer in plain.model.layers:
        layer.mlp.down_proj.weight.data.mul_(5e4)
    with pytest.raises(UserError, match=r"model\.dtype=float32"):
        check(Policy(prior_of(plain.half()), None))


def broken_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_engine, "padded_inputs", lambda *_: {})
    monkeypatch.setattr(Batching, "together", lambda _, lengths: [torch.arange(len(lengths))])


@pytest.mark.parametrize("fails", [False, True])
def test_the_adapter_is_as_before(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy("llama")
    before = policy.snapshot().adapter_parameters()
    if fails:
        broken_decoding(monkeypatch)
        with pytest.raises(UserError):
            check(policy)
        assert policy.batching == FASTEST
    else:
        check(policy)
    assert policy.is_prior
    assert all(map(torch.equal, policy.adapter_parameters(), before))


@pytest.mark.slow
def test_a_fault_that_begins_inside_a_long_run_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is lost is read by the sliding layers alone, from the 71st token on.
    sizes = SLIDING | {"sliding_window": 70}
    update = DynamicSlidingWindowLayer.update

    def forgets(self: Any, *states: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        keys, values = update(self, *states, **options)
        if self.cumulative_length > 70:
            keys[:, :, :40] = 0
        return keys, values

    monkeypatch.setattr(DynamicSlidingWindowLayer, "update", forgets)
    assert check(small_policy("gemma3_text", **sizes), 48) == FASTEST
    assert check(small_policy("gemma3_text", **sizes), 115) == Batching(cache=False)


def test_positions_that_are_scaled_by_length_are_refused_from_that_length_on() -> None:
    scaled = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 64,
    }
    policy = small_policy("phi3", rope_parameters=scaled, original_max_position_embeddings=64)
    assert check(policy, 48) == FASTEST
    with pytest.raises(UserError, match=r"lower max_new_tokens"):
        check(policy, 100)


def test_an_engine_that_cannot_run_the_model_gives_way_to_the_fallback() -> None:
    policy = small_policy("mistral", sliding_window=3)
    policy.engine = GraphEngine()
    with pytest.raises(UserError, match="which do not have a fixed size"):
        check_policy(policy, PROMPTS, NEW_TOKENS)
    check_policy(policy, PROMPTS, NEW_TOKENS, TorchEngine())
    assert policy.engine.name == "torch"


def test_the_fallback_does_not_hide_what_is_wrong_in_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = small_policy("gpt2")
    policy.engine = GraphEngine()
    stale_merged(monkeypatch, policy, "")
    with pytest.raises(UserError, match="klvi does not give the numbers of"):
        check_policy(policy, PROMPTS, NEW_TOKENS, TorchEngine())


def test_weights_of_64_bits_are_scored_like_any_others() -> None:
    policy = small_policy("gpt2", torch.float64)
    check_policy(policy, PROMPTS, NEW_TOKENS)
    assert policy.batching == Batching()
    # Of a distribution, too, which takes a pass of its own.
    samples = sample(policy, PROMPTS, max_new_tokens=NEW_TOKENS, distributions=True)
    again = policy.log_probs(samples)
    assert again.dtype == samples.log_policy.dtype == torch.float32
    torch.testing.assert_close(again, samples.log_policy)
