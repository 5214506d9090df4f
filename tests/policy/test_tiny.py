import math
import random
from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from klvi.contexts import contexts_of
from klvi.errors import UserError
from klvi.policy.loading import quiet_transformers
from klvi.policy.prior import load_prior
from klvi.policy.schema import ModelConfig
from klvi.policy.tiny import tiny_path
from klvi.pretraining.fit import encode, losses, mean_and_error, sample_tokens
from klvi.pretraining.quality import log_probabilities
from klvi.pretraining.stories import EVENTS, stories
from klvi.pretraining.tokenizer import unknown_characters

SAMPLES = 1_000


@dataclass(frozen=True)
class Tiny:
    model: GPT2LMHeadModel
    tokenizer: AutoTokenizer


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(tiny_path())
        return Tiny(model.eval(), AutoTokenizer.from_pretrained(tiny_path()))


@pytest.fixture(scope="module")
def samples(tiny: Tiny) -> list[list[int]]:
    return sample_tokens(tiny.model, tiny.tokenizer, SAMPLES, 48, seed=0)


def texts(n: int, seed: int) -> list[str]:
    rng = random.Random(f"test {seed}")
    return [stories().sample(rng) for _ in range(n)]


def test_it_is_small_with_tied_embeddings_and_single_precision(tiny: Tiny) -> None:
    assert 0.8e6 < tiny.model.num_parameters() < 1.0e6
    assert tiny.model.dtype == torch.float32
    assert tiny.model.lm_head.weight is tiny.model.transformer.wte.weight
    assert len(tiny.tokenizer) == tiny.model.config.vocab_size


def test_one_token_starts_and_ends_a_text_and_none_pads(tiny: Tiny) -> None:
    tokenizer = tiny.tokenizer
    assert tokenizer.all_special_tokens == ["<|endoftext|>"]
    assert tokenizer.bos_token == tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token is None


@pytest.mark.slow
def test_every_token_occurs_in_stories_and_texts_survive_encoding(tiny: Tiny) -> None:
    """The rarest token occurs about once in 1,000 stories: missing it in 20,000 has p < 1e-7."""
    corpus = texts(20_000, seed=0)
    encoded = tiny.tokenizer(corpus)["input_ids"]
    assert tiny.tokenizer.batch_decode(encoded[:2_000]) == corpus[:2_000]
    used = {token for tokens in encoded for token in tokens}
    assert used | {tiny.tokenizer.eos_token_id} == set(range(len(tiny.tokenizer)))


def test_characters_outside_the_alphabet_are_told(tiny: Tiny) -> None:
    assert unknown_characters(tiny.tokenizer, "Leo owes Zoë 5 €, she said.") == "ë5€"
    assert unknown_characters(tiny.tokenizer, "Quite a JUMP, Xavier!") == "!"


def test_a_prompt_of_unknown_characters_is_refused() -> None:
    prior = load_prior(ModelConfig(name="tiny"))
    assert prior.encode(contexts_of(["Leo"]))[1].tolist() == [2]
    problem = "prompt 'Zoë, 5': model tiny has no tokens for 'ë5'"
    with pytest.raises(UserError, match=problem):
        prior.encode(contexts_of(["Zoë, 5"]))


@pytest.mark.slow
def test_held_out_loss_is_within_3_percent_of_the_entropy(tiny: Tiny) -> None:
    """KL(grammar‖tiny), at most 3% of the entropy even 4 standard errors above its estimate."""
    fresh = texts(400, seed=1)
    loss = losses(tiny.model, encode(tiny.tokenizer, fresh))
    excess, error = mean_and_error(loss + log_probabilities(stories(), fresh))
    entropy = stories().entropy()
    assert 0 <= excess + 4 * error <= 0.03 * entropy
    mean, error = mean_and_error(loss)
    assert mean == pytest.approx(entropy, abs=0.03 * entropy + 4 * error)


@pytest.mark.slow
def test_samples_end_within_48_tokens(tiny: Tiny, samples: list[list[int]]) -> None:
    ended = sum(tokens[-1] == tiny.tokenizer.eos_token_id for tokens in samples)
    assert ended > 0.99 * SAMPLES


@pytest.mark.slow
def test_samples_have_the_rates_of_the_grammar(tiny: Tiny, samples: list[list[int]]) -> None:
    """Five tests at 4 standard errors, and a tenth of the rate for the model's own error."""
    sampled = tiny.tokenizer.batch_decode(samples, skip_special_tokens=True)
    for name, words in EVENTS.items():
        rate = stories().rate(words)
        found = sum(any(word in text for word in words) for text in sampled) / SAMPLES
        error = math.sqrt(rate * (1 - rate) / SAMPLES)
        assert found == pytest.approx(rate, abs=4 * error + 0.1 * rate), name


@pytest.mark.slow
def test_most_samples_are_stories_of_the_grammar(tiny: Tiny, samples: list[list[int]]) -> None:
    sampled = tiny.tokenizer.batch_decode(samples[:200], skip_special_tokens=True)
    assert sum(stories().derivations(text) > 0 for text in sampled) > 170
