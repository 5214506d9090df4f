import pytest
import torch
from support import LENGTH, LETTERS, Enumeration, disturb, sliding_window_config
from torch.testing import assert_close
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralForCausalLM,
)

from klvi.engine import graph_engine
from klvi.engine.base import Decoded, Engine, Prefixes, View, tokens_at
from klvi.engine.cache import ReservedLayer
from klvi.engine.graph_engine import GraphEngine
from klvi.engine.micro_batch import MicroBatch
from klvi.engine.torch_engine import TorchEngine
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.samples import Completions

TORCH = TorchEngine()
both = pytest.mark.parametrize("engine", [TORCH, GraphEngine()], ids=["torch", "graph"])


def run(
    policy: Policy,
    prompts: torch.Tensor,
    lengths: torch.Tensor,
    seed: int = 0,
    engine: Engine = TORCH,
) -> Decoded:
    with policy.merged() as model:
        view, prefixes = policy.view(model), Prefixes(prompts, lengths)
        return engine.complete(view, prefixes, numbers(len(prompts), LENGTH, seed))


def numbers(count: int, steps: int, seed: int = 0) -> torch.Tensor:
    return Randomness("test", (seed,), 0).uniforms(torch.arange(count), steps)


def start(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((count, 1), LETTERS), torch.ones(count, dtype=torch.long)


@both
def test_captured_log_probs_are_those_of_scoring(policy: Policy, engine: Engine) -> None:
    disturb(policy, 0.1)
    prompts = torch.tensor([[4, 0, 1], [4, 4, 2], [4, 4, 4], [4, 3, 3]]).repeat(64, 1)
    lengths = torch.tensor([3, 2, 1, 3]).repeat(64)
    decoded = run(policy, prompts, lengths, engine=engine)
    batch = Completions(prompts, lengths, decoded.tokens, decoded.lengths)
    view = MicroBatch.of(batch).forward(policy.model)
    scored = view.log_probs()
    assert_close(decoded.log_probs, scored, atol=3e-5, rtol=0)


def test_equal_prefixes_cost_the_model_one_row(policy: Policy) -> None:
    """512 completions of one start: a row, then at most one for each letter, and so on."""
    rows: list[int] = []
    with policy.merged() as model:
        hook = model.transformer.wte.register_forward_pre_hook(
            lambda _, inputs: rows.append(len(inputs[0]))
        )
    try:
        run(policy, *start(512))
    finally:
        hook.remove()
    assert rows[0] == 1
    assert all(count <= LETTERS**t for t, count in enumerate(rows))


def test_nothing_is_copied_once_nearly_all_prefixes_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 of 400 nearly equally likely tokens: some pair is equal at first, then hardly any."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=8, n_layer=1, n_head=1)).eval()
    copies: list[int] = []
    select = ReservedLayer.reorder_cache

    def counted(layer: ReservedLayer, indices: torch.Tensor) -> None:
        copies.append(len(indices))
        select(layer, indices)

    monkeypatch.setattr(ReservedLayer, "reorder_cache", counted)
    prefixes = Prefixes(torch.zeros(64, 1, dtype=torch.long), torch.ones(64, dtype=torch.long))
    decoded = TorchEngine().complete(View(model, (400,)), prefixes, numbers(64, 12, seed=3))
    assert len(decoded.tokens[:, 0].unique()) < 64
    assert copies == [64]


@both
def test_lengths_and_ends_tell_the_stop_token(policy: Policy, engine: Engine) -> None:
    decoded = run(policy, *start(500), engine=engine)
    at_end = decoded.tokens[torch.arange(500), decoded.lengths - 1] == LETTERS
    assert torch.equal(at_end, decoded.ended)
    assert (decoded.lengths[~decoded.ended] == LENGTH).all()
    assert 0 < decoded.ended.sum() < 500
    inside = torch.arange(decoded.tokens.shape[1]) < decoded.lengths[:, None] - 1
    assert not (decoded.tokens[inside] == LETTERS).any()


@both
def test_samples_follow_the_models_distribution(
    policy: Policy, enumeration: Enumeration, engine: Engine
) -> None:
    """Chi-square over the frequent sequences; the bound is passed by chance once in 10^5 runs."""
    disturb(policy, 0.03)
    count = 20_000
    decoded = run(policy, *start(count), engine=engine)
    padded = torch.nn.functional.pad(decoded.tokens, (0, LENGTH - decoded.tokens.shape[1]), value=4)
    drawn = {}
    for row in padded.tolist():
        drawn[tuple(row)] = drawn.get(tuple(row), 0) + 1
    expected = enumeration.log_probs(policy).detach().exp() * count
    observed = torch.tensor(
        [drawn.get(tuple(row), 0) for row in enumeration.completions.tokens.tolist()]
    )
    frequent = expected > 5
    statistic = ((observed - expected).square() / expected)[frequent].sum()
    degrees = int(frequent.sum())
    assert degrees > 20
    assert statistic < degrees + 4.5 * (2 * degrees) ** 0.5


@both
def test_seed_decides_the_sample(policy: Policy, engine: Engine) -> None:
    first, again, other = (run(policy, *start(64), seed=s, engine=engine) for s in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.lengths, other.lengths)


@both
def test_values_are_read_at_each_prefix(policy: Policy, engine: Engine) -> None:
    head = policy.add_value_head()
    generator = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(head.output.weight, std=0.1, generator=generator)
    disturb(policy)
    prompts, lengths = start(32)
    decoded = run(policy, prompts, lengths, engine=engine)
    batch = Completions(prompts, lengths, decoded.tokens, decoded.lengths)
    view = MicroBatch.of(batch).forward(policy.model)
    assert decoded.values is not None
    assert decoded.values.abs().sum() > 0
    assert_close(decoded.values, view.per_token(head(view.hidden)), atol=3e-5, rtol=1e-5)


def test_a_graphs_step_writes_into_the_same_tensors(policy: Policy) -> None:
    """What a recorded step reads and writes must be where it was when it was recorded."""
    places: list[set[int]] = []

    def record(_: object, __: object, inputs: dict[str, torch.Tensor]) -> None:
        layers = inputs["past_key_values"].layers
        if not layers[0].is_initialized:
            return
        held = [inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]]
        held += [tensor for layer in layers for tensor in (layer.keys, layer.values)]
        places.append({tensor.data_ptr() for tensor in held})

    with policy.merged() as model:
        hook = model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        prompts = torch.tensor([[4, 0, 1], [4, 4, 2]])
        run(policy, prompts, torch.tensor([3, 2]), engine=GraphEngine())
    finally:
        hook.remove()
    assert len(places) == LENGTH - 1
    assert all(place == places[0] for place in places)


def test_a_graph_stops_when_all_have_ended(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_engine, "STEPS_UNSEEN", 2)
    passes: list[object] = []
    hook = policy.model.register_forward_pre_hook(lambda *_: passes.append(None))
    try:
        view = policy.view(policy.model, tuple(range(LETTERS + 1)))
        decoded = GraphEngine().complete(view, Prefixes(*start(3)), numbers(3, 7))
    finally:
        hook.remove()
    assert len(passes) == 2
    assert decoded.tokens.shape == (3, 1)
    assert decoded.ended.all()


def test_a_graph_knows_rotary_positions_of_padded_prompts() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    model = LlamaForCausalLM(config).eval()
    prompts = torch.randint(0, 10, (40, 5))
    lengths = torch.randint(1, 6, (40,))
    prefixes = Prefixes(prompts, lengths)
    decoded = GraphEngine().complete(View(model, (10,)), prefixes, numbers(40, 6))
    batch = Completions(prompts, lengths, decoded.tokens, decoded.lengths)
    view = MicroBatch.of(batch).forward(model)
    assert_close(decoded.log_probs, view.log_probs(), atol=3e-5, rtol=0)
    alone = MicroBatch.of(
        Completions(
            prompts[:1, -int(lengths[0]) :], lengths[:1], decoded.tokens[:1], decoded.lengths[:1]
        )
    ).forward(model)
    assert_close(decoded.log_probs[:1], alone.log_probs(), atol=3e-5, rtol=0)


def test_a_graph_refuses_caches_without_a_fixed_size() -> None:
    config = sliding_window_config()
    model = MistralForCausalLM(config).eval()
    prefixes = Prefixes(torch.tensor([[1]]), torch.tensor([1]))
    assert not graph_engine.can_be_recorded(model)
    with pytest.raises(UserError, match=r"engine=graph: this model keeps .*Sliding"):
        GraphEngine().complete(View(model, (10,)), prefixes, numbers(1, 4))


def test_tokens_follow_their_probabilities_and_the_impossible_never_comes() -> None:
    """Frequencies within 4.5 standard errors, passed by chance once in 10^5 runs."""
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    count = 40_000
    log_probs = probabilities.log().expand(count, -1)
    tokens = tokens_at(log_probs, numbers(count, 1)[:, 0])
    assert tokens.shape == (count,)
    frequencies = torch.bincount(tokens, minlength=6) / count
    error = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((frequencies - probabilities).abs() <= 4.5 * error).all()
