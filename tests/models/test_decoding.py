import torch
from support import LENGTH, LETTERS, Enumeration, disturb
from torch.testing import assert_close

from klvi.models.decoding import Decoded, decode, sample_tokens
from klvi.models.policy import Policy
from klvi.models.scoring import Completions, next_tokens


def run(policy: Policy, prompts: torch.Tensor, lengths: torch.Tensor, seed: int = 0) -> Decoded:
    with policy.merged() as model:
        return decode(
            model,
            prompts,
            lengths,
            max_new_tokens=LENGTH,
            stop_token_ids=(LETTERS,),
            generator=torch.Generator().manual_seed(seed),
        )


def start(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((count, 1), LETTERS), torch.ones(count, dtype=torch.long)


def test_captured_log_probs_are_those_of_scoring(policy: Policy) -> None:
    disturb(policy)
    prompts = torch.tensor([[4, 0, 1], [4, 4, 2], [4, 4, 4], [4, 3, 3]]).repeat(64, 1)
    lengths = torch.tensor([3, 2, 1, 3]).repeat(64)
    decoded = run(policy, prompts, lengths)
    batch = Completions(prompts, lengths, decoded.tokens, decoded.lengths)
    view = next_tokens(policy.model, batch)
    scored = view.log_probs(decoded.tokens)
    assert_close(decoded.log_probs, scored, atol=3e-5, rtol=0)


def test_equal_prefixes_cost_the_model_one_row(policy: Policy) -> None:
    """512 completions of one start: a row, then at most one for each letter, and so on."""
    rows: list[int] = []
    hook = policy.model.transformer.register_forward_pre_hook(
        lambda _, inputs: rows.append(len(inputs[0]))
    )
    try:
        run(policy, *start(512))
    finally:
        hook.remove()
    assert rows[0] == 1
    assert all(count <= LETTERS**t for t, count in enumerate(rows))


def test_lengths_and_ends_tell_the_stop_token(policy: Policy) -> None:
    decoded = run(policy, *start(500))
    at_end = decoded.tokens[torch.arange(500), decoded.lengths - 1] == LETTERS
    assert torch.equal(at_end, decoded.ended)
    assert (decoded.lengths[~decoded.ended] == LENGTH).all()
    assert 0 < decoded.ended.sum() < 500
    inside = torch.arange(decoded.tokens.shape[1]) < decoded.lengths[:, None] - 1
    assert not (decoded.tokens[inside] == LETTERS).any()


def test_samples_follow_the_models_distribution(policy: Policy, enumeration: Enumeration) -> None:
    """Chi-square over the frequent sequences; the bound is passed by chance once in 10^5 runs."""
    disturb(policy, 0.03)
    count = 20_000
    decoded = run(policy, *start(count))
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


def test_seed_decides_the_sample(policy: Policy) -> None:
    first, again, other = (run(policy, *start(64), seed=s) for s in (0, 0, 1))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.lengths, other.lengths)


def test_values_are_read_at_each_prefix(policy: Policy) -> None:
    head = policy.add_value_head()
    generator = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(head.output.weight, std=0.1, generator=generator)
    disturb(policy)
    prompts, lengths = start(32)
    with policy.merged() as model:
        decoded = decode(
            model,
            prompts,
            lengths,
            max_new_tokens=LENGTH,
            stop_token_ids=(LETTERS,),
            generator=torch.Generator().manual_seed(0),
            value_of=head,
        )
    view = next_tokens(policy.model, Completions(prompts, lengths, decoded.tokens, decoded.lengths))
    assert decoded.values is not None
    assert decoded.values.abs().sum() > 0
    assert_close(decoded.values, view.per_token(head(view.hidden)), atol=3e-5, rtol=1e-5)


def test_tokens_follow_their_probabilities_and_the_impossible_never_comes() -> None:
    """Frequencies within 4.5 standard errors, passed by chance once in 10^5 runs."""
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    count = 40_000
    log_probs = probabilities.log().expand(count, -1)
    tokens = sample_tokens(log_probs, torch.Generator().manual_seed(0))
    assert tokens.shape == (count, 1)
    frequencies = torch.bincount(tokens[:, 0], minlength=6) / count
    error = (probabilities * (1 - probabilities) / count).sqrt()
    assert ((frequencies - probabilities).abs() <= 4.5 * error).all()
