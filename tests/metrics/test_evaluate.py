import importlib
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from klvi.contexts import contexts_of
from klvi.metrics.evaluate import evaluate
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.samples import Draw, Samples

OF_THE_TARGET = {f"target/{name}" for name in ("reward", "kl_prior", "log_chi2", "entropy")}
NAMES = OF_THE_TARGET | {
    "eval/reward",
    "eval/kl_prior",
    "eval/kl_target_reverse",
    "eval/kl_target_forward",
    "eval/tv_target",
    "eval/log_z",
    "eval/log_z_lower",
    "eval/log_z_upper",
    "eval/ess",
    "eval/entropy",
    "eval/entropy_token",
    "eval/perplexity_prior",
    "eval/penalised_reward_std",
    "eval/distinct_1",
    "eval/distinct_2",
    "eval/distinct_3",
    "eval/distinct_4",
    "eval/self_bleu_5",
    "eval/repetition_2",
    "eval/repetition_3",
    "eval/repetition_4",
    "eval/duplicates",
    "eval/longest_run",
    "eval/length",
    "eval/eos",
    "eval/cost_tokens",
}
NEEDS_Z = OF_THE_TARGET | {
    f"eval/{name}"
    for name in ["kl_target_reverse", "kl_target_forward", "tv_target", "log_z", "log_z_upper"]
}
BETA = 0.5


def made(
    count: int, seed: int = 0, shift: float = 0.1, prompts: list[str] | None = None, width: int = 8
) -> Samples:
    """Samples whose policy gives each token `shift` nats of noise more than the prior does."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (count,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    log_prior = -2 * torch.rand(count, width, generator=generator) * mask
    noise = shift * torch.randn(count, width, generator=generator) * mask
    return Samples(
        contexts=contexts_of(prompts or [""] * count),
        prompt_tokens=torch.zeros(count, 1, dtype=torch.long),
        prompt_lengths=torch.ones(count, dtype=torch.long),
        tokens=torch.randint(0, 20, (count, width), generator=generator),
        lengths=lengths,
        ended=lengths < width,
        log_policy=log_prior + noise,
        log_prior=log_prior,
        texts=[""] * count,
        scores={"reward": torch.rand(count, generator=generator)},
    )


def log_target(samples: Samples) -> Tensor:
    return samples.log_prior_sequence + samples.reward / BETA


def measure(samples: Samples, prior: Samples | None = None, **settings):
    return evaluate(
        Draw(samples),
        settings.pop("log_target", log_target(samples)),
        beta=BETA,
        prior_samples=prior,
        prior_log_target=None if prior is None else log_target(prior),
        **settings,
    )


def test_every_metric_has_its_name_and_fits_json():
    found = measure(made(64), made(128, seed=1))
    assert set(found) == NAMES
    for name, metric in found.items():
        assert isinstance(metric, Measurement), name
        assert metric.low <= metric.value <= metric.high, name
        json.dumps(metric.to_json(), allow_nan=False)


def test_where_the_policy_is_the_prior_nothing_lies_between_them():
    found = measure(made(200, shift=0.0), made(200, seed=1, shift=0.0))
    zero = found["eval/kl_prior"]
    assert (zero.value, zero.low, zero.high) == (0.0, 0.0, 0.0)
    assert found["eval/log_z_lower"].value < found["eval/log_z"].value
    assert found["eval/log_z"].value < found["eval/log_z_upper"].value


def test_two_samples_are_measured_and_one_is_refused():
    found = measure(made(2), ess_floor=1.0)
    for metric in found.values():
        json.dumps(metric.to_json(), allow_nan=False)
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        measure(made(1))


def test_mentions_are_told_of_samples_that_have_them_alone():
    samples = made(4)
    assert "eval/mentions" not in measure(samples)
    counted = samples.with_scores({**samples.scores, "mentions": torch.tensor([0.0, 3, 1, 0])})
    found = measure(counted)
    assert found["eval/mentions"].value == 1
    assert "eval/score/mentions" not in found


def test_what_stands_in_the_padding_changes_nothing():
    samples = made(64)
    noise = torch.randint(0, 20, samples.tokens.shape, generator=torch.Generator().manual_seed(9))
    other = replace(samples, tokens=torch.where(samples.mask, samples.tokens, noise))
    assert measure(samples) == measure(other)


def test_the_end_token_counts_in_length_and_not_in_repetition():
    samples = made(4, width=4)
    samples = replace(
        samples,
        tokens=torch.tensor([[5, 5, 5, 0]] * 4),
        lengths=torch.tensor([3, 3, 4, 4]),
        ended=torch.tensor([True, True, False, False]),
    )
    found = measure(samples)
    assert found["eval/length"].value == 3.5
    assert found["eval/eos"].value == 0.5
    assert found["eval/longest_run"].value == (2 + 2 + 3 + 3) / 4
    assert found["eval/repetition_2"].value == pytest.approx((0 + 0 + 1 / 3 + 1 / 3) / 4)
    assert found["eval/duplicates"].value == 0.5


@pytest.mark.parametrize(
    ("reward", "low", "high"), [(1.0, 0.98, 1.0), (0.0, -0.02, 0.02), (-3.0, -3.0, -2.94)]
)
def test_a_reward_that_never_varied_keeps_an_interval(reward, low, high):
    samples = made(200).with_scores({"reward": torch.full((200,), reward)})
    found = measure(samples)["eval/reward"]
    assert found.low == pytest.approx(low, abs=2e-3)
    assert found.high == pytest.approx(high, abs=2e-2)
    assert found.low < found.high


def test_the_range_of_a_reward_is_known_from_the_prior_too():
    samples = made(200).with_scores({"reward": torch.full((200,), 1.0)})
    prior = made(200, seed=1).with_scores({"reward": (torch.arange(200) % 2) * 6.0 - 5.0})
    found = measure(samples, prior)["eval/reward"]
    assert found.high == 1.0
    assert found.low == pytest.approx(1 - 6 * 0.0188, abs=5e-3)


def test_exact_next_token_quantities_sharpen_kl_and_entropy():
    samples = made(300, shift=0.5)
    plain = measure(samples)
    exact_kl = (samples.log_policy - samples.log_prior).abs() * 0.5
    sharp = measure(replace(samples, kl=exact_kl, entropy=-samples.log_policy * 0.9))

    def width(found, name):
        return found[name].high - found[name].low

    for name in ("eval/kl_prior", "eval/entropy", "eval/entropy_token"):
        assert width(sharp, name) < width(plain, name), name


def constrained(samples: Samples, violations: int) -> Tensor:
    target = samples.log_prior_sequence.clone()
    target[:violations] = -math.inf
    return target


def test_a_violated_constraint_makes_reverse_kl_infinite_with_the_count():
    samples = made(100)
    found = measure(samples, log_target=constrained(samples, 7))
    reason = "infinite: 7 of 100 samples violate the constraint"
    for name in ("kl_target_reverse", "log_z_lower", "penalised_reward_std"):
        assert found[f"eval/{name}"] == Unavailable(reason), name
    assert found["eval/log_z"].value == pytest.approx(math.log(0.93), abs=0.1)
    assert isinstance(found["eval/kl_target_forward"], Measurement)


def test_a_constraint_that_only_the_prior_violates_is_infinite_too():
    samples, prior = made(100), made(50, seed=1)
    found = evaluate(
        Draw(samples),
        constrained(samples, 0),
        beta=BETA,
        prior_samples=prior,
        prior_log_target=constrained(prior, 20),
    )
    reason = found["eval/kl_target_reverse"].reason
    assert reason.startswith("infinite: none of 100 samples violates the constraint, but 20 of 50")


def test_a_target_that_no_sample_meets_is_said_to_be_so():
    samples = made(100)
    found = measure(samples, log_target=constrained(samples, 100))
    for name in NEEDS_Z - {"eval/kl_target_reverse"}:
        assert found[name] == Unavailable("none of 100 samples has a positive target probability")
    assert found["eval/ess"].value == 0


def test_below_the_floor_importance_sampling_is_refused_with_the_size():
    samples = made(100)
    found = measure(samples, log_target=constrained(samples, 80), ess_floor=30)
    reason = found["eval/log_z"].reason
    assert reason.startswith("effective sample size 19.")
    assert reason.endswith("of 100 samples is below the floor of 30")
    assert found["eval/ess"].low == 0
    assert isinstance(found["eval/entropy"], Measurement)
    enough = measure(samples, log_target=constrained(samples, 80), ess_floor=10)
    assert enough["eval/log_z"].value == pytest.approx(math.log(0.2), abs=0.1)


def test_samples_that_the_target_does_not_tell_apart_say_nothing():
    samples, prior = made(100, shift=0.0), made(100, seed=1, shift=0.0)
    same = [part.with_scores({"reward": torch.zeros(100)}) for part in (samples, prior)]
    found = measure(*same)
    reason = "all 200 samples have the same potential: what the target prefers was not seen"
    assert {name for name, metric in found.items() if metric == Unavailable(reason)} == NEEDS_Z | {
        "eval/log_z_lower",
        "eval/ess",
    }


def test_a_log_z_known_to_be_larger_refuses_what_missed_it():
    samples = made(200)
    log_z = measure(samples)["eval/log_z"]
    inside = log_z.value + 1.5 * (log_z.high - log_z.value)
    assert measure(samples, log_z_bound=inside)["eval/log_z"] == log_z
    found = measure(samples, log_z_bound=log_z.value + 3)
    for name in NEEDS_Z:
        assert found[name].reason.startswith("the samples miss part of the target"), name
    assert isinstance(found["eval/log_z_lower"], Measurement)


def test_a_collapsed_policy_does_not_pass_for_the_target():
    """Each policy sample is far more likely than under the prior, which has mass elsewhere."""
    samples = made(300)
    samples = replace(samples, log_policy=samples.log_prior + 5.0 * samples.mask)
    prior = made(300, seed=1)
    prior = replace(prior, log_policy=prior.log_prior - 5.0 * prior.mask)
    alone, both = measure(samples), measure(samples, prior)
    truth = math.log(float((prior.reward.double() / BETA).exp().mean()))
    assert both["eval/log_z"].low < truth < both["eval/log_z"].high
    forward = both["eval/kl_target_forward"]
    assert isinstance(alone["eval/kl_target_forward"], Unavailable) or forward.low > 5
    assert forward.low > 5


def test_the_sandwich_and_the_kls_agree():
    found = measure(made(300, shift=0.4), made(500, seed=1, shift=0.4))
    value = {name: found[name].value for name in NEEDS_Z | {"eval/log_z_lower"}}
    gap = value["eval/log_z"] - value["eval/log_z_lower"]
    assert value["eval/kl_target_reverse"] == pytest.approx(gap, abs=1e-9)
    gap = value["eval/log_z_upper"] - value["eval/log_z"]
    assert value["eval/kl_target_forward"] == pytest.approx(gap, abs=1e-9)
    assert min(value["eval/kl_target_reverse"], value["eval/kl_target_forward"]) > 0


def two_prompts(count: int, seed: int) -> Samples:
    return made(count, seed=seed, prompts=[f"p{i % 4 == 0}" for i in range(count)])


@pytest.fixture
def uncorrected(monkeypatch):
    """Without the jackknife, which corrects the contexts of several."""
    for name in ("evaluate", "target"):
        module = importlib.import_module(f"klvi.metrics.{name}")
        monkeypatch.setattr(module, "GROUPS", 10**6)


@pytest.mark.usefixtures("uncorrected")
def test_with_prompts_z_is_estimated_for_each_and_averaged():
    samples, prior = two_prompts(400, 0), two_prompts(800, 1)
    found = measure(samples, prior)
    expected = 0.0
    for prompt, share in (("pTrue", 0.25), ("pFalse", 0.75)):
        parts = [
            part.select(torch.tensor([i for i, p in enumerate(part.prompts) if p == prompt]))
            for part in (samples, prior)
        ]
        expected += share * measure(*parts)["eval/log_z"].value
    assert found["eval/log_z"].value == pytest.approx(expected, abs=1e-9)


@pytest.mark.usefixtures("uncorrected")
def test_prompts_are_fixed_so_that_their_spread_is_no_error():
    samples = two_prompts(400, 0)
    far = torch.tensor([10.0 if p == "pTrue" else 0.0 for p in samples.prompts])
    shifted = replace(samples, log_prior=samples.log_prior - far[:, None] * samples.mask)
    shifted = replace(shifted, log_policy=samples.log_policy - far[:, None] * samples.mask)
    pooled = replace(shifted, contexts=contexts_of([""] * 400))
    fixed, mixed = measure(shifted)["eval/entropy"], measure(pooled)["eval/entropy"]
    assert fixed.value == pytest.approx(mixed.value)
    assert fixed.high - fixed.low < 0.8 * (mixed.high - mixed.low)


def test_prompts_are_fixed_for_statistics_of_texts_too():
    samples = two_prompts(400, 0)
    lengths = torch.tensor([8 if p == "pTrue" else 1 for p in samples.prompts])
    shifted = replace(samples, lengths=lengths, ended=torch.zeros(400, dtype=torch.bool))
    fixed = measure(shifted)["eval/length"]
    mixed = measure(replace(shifted, contexts=contexts_of([""] * 400)))["eval/length"]
    assert fixed.high - fixed.low < 0.5 * (mixed.high - mixed.low)


def test_an_estimate_that_one_sample_carries_says_next_to_nothing():
    """One of the prior's samples is all but impossible under the policy."""
    samples, prior = made(300, shift=0.05), made(300, seed=1, shift=0.05)
    far = torch.zeros(300, 1)
    far[7] = 500.0 / prior.lengths[7]
    without = measure(samples, prior)["eval/kl_target_forward"]
    found = measure(samples, replace(prior, log_policy=prior.log_policy - far * prior.mask))
    forward = found["eval/kl_target_forward"]
    assert forward.value > without.high
    # Had it not come up, which is as likely as not, the value would have been the other one.
    assert forward.low < without.value < forward.value
    assert forward.high > 5 * forward.value
    assert found["eval/log_z"].high - found["eval/log_z"].low < 1


def test_the_worst_prompt_is_named_when_it_is_refused():
    samples = made(100, prompts=["many"] * 80 + ["few"] * 20)
    reason = measure(samples)["eval/log_z"].reason
    assert "of 20 samples for prompt 1 ('few') is below the floor of 30" in reason


def test_prompts_with_a_single_sample_have_no_z_but_an_elbo():
    samples = made(40, prompts=[str(i) for i in range(40)])
    found = measure(samples)
    reason = "prompt 0 ('0') has a single sample, and Z is a prompt's own"
    assert found["eval/log_z"].reason == reason
    expected = float((log_target(samples) - samples.log_policy_sequence).double().mean())
    assert found["eval/log_z_lower"].value == pytest.approx(expected, abs=1e-6)


def test_prior_samples_and_their_target_come_together():
    samples = made(10)
    with pytest.raises(ValueError, match="come together"):
        evaluate(Draw(samples), log_target(samples), beta=BETA, prior_samples=samples)


def test_the_penalised_reward_is_reward_less_the_scaled_log_ratio():
    samples = made(100, shift=0.3)
    ratio = (samples.log_policy - samples.log_prior).double().sum(1)
    expected = (samples.reward.double() - BETA * ratio).std()
    found = measure(samples)["eval/penalised_reward_std"]
    assert found.value == pytest.approx(float(expected), rel=1e-5)
