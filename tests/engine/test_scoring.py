import pytest
import torch
from support import Enumeration, disturb, made_samples
from torch.testing import assert_close
from transformers import CONFIG_MAPPING, PretrainedConfig

from klvi.engine import scoring
from klvi.engine.micro_batch import MicroBatch, token_batches
from klvi.engine.scoring import (
    token_entropy,
    token_kl,
    token_log_probs,
)
from klvi.policy.policy import Policy
from klvi.samples import Completions


def test_log_probs_are_those_of_a_plain_forward_pass(
    policy: Policy, enumeration: Enumeration
) -> None:
    disturb(policy)
    policy.model.double()
    batch = enumeration.completions
    view = MicroBatch.of(batch).forward(policy.model)
    ours = view.log_probs()
    inputs = torch.cat([batch.prompt_tokens, batch.tokens], 1)
    plain = policy.model(input_ids=inputs).logits[:, :-1].log_softmax(-1)
    expected = plain.gather(2, batch.tokens[..., None]).squeeze(-1) * batch.mask
    assert_close(ours, expected, atol=1e-10, rtol=0)


def test_probabilities_of_all_complete_sequences_sum_to_one(
    policy: Policy, enumeration: Enumeration
) -> None:
    for size in (0.0, 0.1, 0.3):
        total = enumeration.log_probs(disturb(policy, size)).exp().sum()
        assert_close(total.item(), 1.0, atol=1e-5, rtol=0)


def test_left_padding_changes_no_number(policy: Policy) -> None:
    disturb(policy)
    tokens = torch.tensor([[0, 1, 2], [3, 4, 4]])
    lengths = torch.tensor([3, 2])
    prompts = torch.tensor([[4, 0, 1], [4, 4, 2]])
    both = Completions(prompts, torch.tensor([3, 2]), tokens, lengths)
    view = MicroBatch.of(both).forward(policy.model)
    padded = view.log_probs()
    for row, start in ((0, 0), (1, 1)):
        alone = Completions(
            prompts[row : row + 1, start:],
            both.prompt_lengths[[row]],
            tokens[[row]],
            lengths[[row]],
        )
        single = MicroBatch.of(alone).forward(policy.model)
        log_probs = single.log_probs()
        assert_close(padded[[row]], log_probs, atol=2e-6, rtol=1e-5)


def test_what_stands_in_padding_does_not_matter(policy: Policy) -> None:
    prompts, lengths = torch.tensor([[4], [4]]), torch.tensor([3, 1])
    ones = torch.ones(2, dtype=torch.long)
    views = [
        MicroBatch.of(Completions(prompts, ones, torch.tensor(tokens), lengths))
        .forward(policy.model)
        .logits
        for tokens in ([[0, 1, 2], [4, 4, 4]], [[0, 1, 2], [4, 0, 3]])
    ]
    assert torch.equal(views[0], views[1])


def test_entropy_and_kl_of_known_distributions() -> None:
    even, skew = torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]).log()
    assert_close(token_entropy(even), torch.tensor([2.0]).log())
    expected = 0.75 * torch.tensor(1.5).log() + 0.25 * torch.tensor(0.5).log()
    assert_close(token_kl(skew, even), expected[None])
    impossible = torch.tensor([[0.0, -torch.inf]])
    assert_close(token_entropy(impossible), torch.zeros(1))


def test_passes_hold_every_row_once_within_the_budget() -> None:
    lengths = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(0))
    batches = token_batches(lengths, prompt_width=3, budget=256)
    assert sorted(torch.cat(batches).tolist()) == list(range(200))
    assert all(len(rows) * (3 + int(lengths[rows].max())) <= 256 for rows in batches)
    padded = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    assert padded < 1.15 * int(lengths.sum())


@pytest.mark.parametrize(
    ("vocabulary", "states", "on_cpu", "tokens"),
    [
        (700, 4 * 128, True, 1536),
        (50_257, 12 * 768, True, 1536),
        (700, 4 * 128, False, 8192),
        (151_936, 28 * 1024, True, 883),
        (151_936, 28 * 1024, False, 1766),
        (50_257, 96 * 12_288, False, 227),
        (10**9, 10**9, True, 1),
    ],
)
def test_a_pass_is_bounded_by_its_logits_and_states(
    vocabulary: int, states: int, on_cpu: bool, tokens: int
) -> None:
    assert scoring.budget_of(vocabulary, states, on_cpu=on_cpu) == tokens


def test_passes_follow_the_size_of_the_output(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five logits a token, and 40 of them in a pass: 8 tokens, prompts included."""
    samples = made_samples([3, 3, 3, 3, 2, 1])
    assert len(list(policy.micro_batches(samples))) == 1
    size = scoring.output_size(policy.model)
    monkeypatch.setattr(scoring, "CPU_LOGITS", 8 * size)
    cut = list(policy.micro_batches(samples))
    assert len(cut) > 1
    assert all(batch.wanted.numel() + len(batch.wanted) <= 8 for batch in cut)
    assert len(list(policy.micro_batches(samples, 100))) == 1


def test_the_output_may_exceed_the_vocabulary(policy: Policy) -> None:
    policy.model.resize_token_embeddings(64)
    policy.model.config.vocab_size = 5
    assert scoring.output_size(policy.model) == 64


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    batches = token_batches(torch.tensor([1, 90, 80]), prompt_width=1, budget=50)
    assert [rows.tolist() for rows in batches] == [[1], [2], [0]]


def test_log_probs_and_gradients_are_those_of_log_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of two rows, of an odd number; with an impossible token."""
    monkeypatch.setattr(scoring, "CPU_PART", 7)
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(9, 5, dtype=torch.float64, generator=generator)
    logits[3, 1] = -torch.inf
    tokens = torch.tensor([0, 4, 2, 2, 0, 3, 1, 4, 4])
    weight = torch.randn(9, dtype=torch.float64, generator=generator)
    found, expected = [], []
    for function, into in ((token_log_probs, found), (plain_log_probs, expected)):
        leaf = logits.clone().requires_grad_()
        log_probs = function(leaf, tokens)
        (log_probs * weight).sum().backward()
        into += [log_probs.detach(), leaf.grad]
    assert_close(found, expected, atol=1e-14, rtol=1e-12)
    whole = token_entropy(logits), token_kl(logits, logits.flip(0)[:, [0, 2, 1, 3, 4]])
    monkeypatch.setattr(scoring, "CPU_PART", 10**6)
    assert_close(whole[0], token_entropy(logits))
    assert_close(whole[1], token_kl(logits, logits.flip(0)[:, [0, 2, 1, 3, 4]]), equal_nan=True)


def test_log_probs_of_views_that_tokens_share() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    rows, tokens = torch.tensor([0, 0, 2, 3, 3, 3]), torch.tensor([1, 4, 2, 0, 0, 3])
    weight = torch.randn(6, dtype=torch.float64, generator=generator)
    shared, spread = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found, expected = token_log_probs(shared, tokens, rows), plain_log_probs(spread[rows], tokens)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_close(found, expected)
    assert_close(shared.grad, spread.grad)


def plain_log_probs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(1).gather(1, tokens[:, None]).squeeze(1)


def test_sizes_are_read_where_layers_differ() -> None:
    config = PretrainedConfig(num_key_value_heads=[2, 4, None], hidden_size=8)
    assert scoring.config_number(config, "num_key_value_heads") == 4
    assert scoring.config_number(config, "hidden_size") == 8
    assert scoring.config_number(config, "no_such_size") == 0
    if "gemma4_text" in CONFIG_MAPPING:
        assert scoring.config_number(CONFIG_MAPPING["gemma4_text"](), "head_dim") > 0
