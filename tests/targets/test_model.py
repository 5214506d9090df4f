"""A teacher as the target: exact, and without importance weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import LENGTH, LETTERS, LetterReward, disturb
from target_sums import NO_PROMPT, PROMPTS, distribution, exact, log_z

from klvi.errors import UserError
from klvi.evaluation.evaluator import Evaluator
from klvi.evaluation.plan import Plan
from klvi.metrics.measurement import Measurement
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior, load_prior
from klvi.policy.schema import EnumerableModelConfig
from klvi.prompts.stream import PromptStream
from klvi.samplers.ancestral import Ancestral
from klvi.targets.build import build_target
from klvi.targets.model import LanguageModel
from klvi.targets.schema import ModelTarget

REWARD = LetterReward()


def enumerable(seed: int = 1, letters: int = LETTERS) -> Prior:
    config = EnumerableModelConfig(name="enumerable", letters=letters, length=LENGTH, seed=seed)
    return load_prior(config, kernels="none")


@pytest.mark.parametrize("contexts", [NO_PROMPT, PROMPTS])
def test_p_is_the_teacher(contexts: Any, policy: Policy) -> None:
    teacher = enumerable()
    target = LanguageModel(REWARD, policy.prior, teacher)
    expected = exact(target, Policy(teacher), contexts).log_priors.exp()
    assert float((expected - exact(target, policy, contexts).log_priors.exp()).abs().sum()) > 0.5
    torch.testing.assert_close(distribution(target, policy, contexts), expected, atol=1e-6, rtol=0)
    evidence = log_z(target, policy, contexts)
    torch.testing.assert_close(evidence, torch.zeros_like(evidence), atol=1e-5, rtol=0)


def test_the_kl_needs_no_importance_weights(policy: Policy) -> None:
    """A floor that no effective sample size meets; the interval has 95%, and a fixed seed."""
    target = LanguageModel(REWARD, policy.prior, enumerable())
    listed = exact(target, disturb(policy))
    evaluator = Evaluator(
        policy,
        target,
        PromptStream(list(NO_PROMPT)),
        Ancestral(LENGTH),
        plan=Plan(1, 400, 100),
        ess_floor=1e6,
        enumeration=listed,
    )
    found = evaluator.evaluate(0)
    assert found.metrics["eval/log_z"] == Measurement(0.0, 0.0, 0.0, 400)
    kl = found.metrics["eval/kl_target_reverse"]
    assert isinstance(kl, Measurement)
    truth = found.exact["eval/kl_target_reverse"]
    assert truth is not None
    assert kl.low <= truth <= kl.high < 2 * truth
    assert found.metrics["eval/kl_target_forward"].value is None


def test_a_folder_is_loaded_as_the_prior_is(policy: Policy, tmp_path: Path) -> None:
    teacher = enumerable()
    teacher.plain.save_pretrained(tmp_path)
    teacher.tokenizer.save_pretrained(tmp_path)
    section = ModelTarget(name="model", path=str(tmp_path))
    target = build_target(section, REWARD, 0.3, "cpu", policy.prior)
    expected = LanguageModel(REWARD, policy.prior, teacher, 0.3)
    assert target.beta == 0.3
    torch.testing.assert_close(distribution(target, policy), distribution(expected, policy))


def test_a_folder_without_a_model_is_named_by_its_own_key(policy: Policy, tmp_path: Path) -> None:
    section = ModelTarget(name="model", path=str(tmp_path))
    with pytest.raises(UserError, match=rf"^target\.path={tmp_path}: no causal language model"):
        build_target(section, REWARD, 0.3, "cpu", policy.prior)


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (lambda: enumerable(letters=3), "has another vocabulary than prior enumerable"),
        (
            lambda: replace(enumerable(), stop_token_ids=(0, 4)),
            r"ends texts with a or <\|endoftext\|>, prior enumerable with <\|endoftext\|>",
        ),
        (
            lambda: _without_start(enumerable()),
            "starts texts with another token than prior enumerable",
        ),
        (lambda: _with_outputs(enumerable(), 3), "draws 3 tokens, prior enumerable 5"),
    ],
)
def test_another_tokenizer_is_refused(teacher: Any, said: str, policy: Policy) -> None:
    with pytest.raises(UserError, match=rf"^target\.path: teacher enumerable {said}; take"):
        LanguageModel(REWARD, policy.prior, teacher())


def _without_start(teacher: Prior) -> Prior:
    teacher.tokenizer.bos_token = None
    return teacher


def _with_outputs(teacher: Prior, count: int) -> Prior:
    head = teacher.plain.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight[:count])
    return teacher


def test_what_only_fills_the_teachers_embedding_is_left_out(policy: Policy) -> None:
    """Families pad their embeddings to other sizes: Z stays 1 over what the prior can draw."""
    teacher = enumerable()
    expected = distribution(LanguageModel(REWARD, policy.prior, teacher), policy)
    _with_outputs(teacher, 5)
    head = teacher.plain.get_output_embeddings()
    head.weight = torch.nn.Parameter(torch.cat([head.weight, 9 * head.weight[:2]]))
    padded = LanguageModel(REWARD, policy.prior, teacher)
    torch.testing.assert_close(distribution(padded, policy), expected)


def test_what_does_not_fit_the_teacher_is_refused(policy: Policy) -> None:
    target = LanguageModel(REWARD, policy.prior, enumerable())
    target.teacher.plain.config.n_positions = 3
    vars(target.teacher).pop("most_tokens", None)
    with pytest.raises(UserError, match="exceeds the 3 positions of model enumerable"):
        distribution(target, policy)
