"""Models and adapters of other trainers, as policies on a prior."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    get_peft_model,
)
from support import disturb, sample
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from klvi.contexts import unprompted
from klvi.errors import UserError
from klvi.policy.foreign import load_foreign
from klvi.policy.policy import Policy
from klvi.policy.prior import Prior, load_prior
from klvi.policy.schema import EnumerableModelConfig, LoraSection
from klvi.policy.self_check import check_policy
from klvi.training.reward_model import untrained

LENGTH = 4
ADAPTERS: dict[str, PeftConfig] = {
    "lora": LoraConfig(target_modules=["c_attn"], r=3, fan_in_fan_out=True),
    "dora": LoraConfig(target_modules=["c_fc"], r=2, use_dora=True, fan_in_fan_out=True),
    "ia3": IA3Config(
        target_modules=["c_attn", "mlp.c_proj"],
        feedforward_modules=["mlp.c_proj"],
        fan_in_fan_out=True,
    ),
    "head": LoraConfig(target_modules=["c_attn"], modules_to_save=["lm_head"], fan_in_fan_out=True),
    "embedding": LoraConfig(target_modules=["wte"], r=2),
    "low-rank head": LoraConfig(target_modules=["lm_head"], r=2),
}


@pytest.fixture(scope="module")
def prior() -> Prior:
    return load_prior(EnumerableModelConfig(name="enumerable", letters=4, length=LENGTH))


def fine_tuned(model: Any) -> Any:
    """After a few gradient steps on one text."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1)
    ids = torch.tensor([[4, 1, 1, 0, 4]])
    for _ in range(4):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def adapter(prior: Prior, config: PeftConfig, folder: Path) -> PeftModel:
    config = copy.deepcopy(config)
    config.task_type = "CAUSAL_LM"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: PeftModel = fine_tuned(get_peft_model(copy.deepcopy(prior.plain), config))
        model.save_pretrained(folder)
    return model


def plain_log_probs(model: Any, prompt: Tensor, tokens: Tensor) -> Tensor:
    ids = torch.cat([prompt, tokens])[None]
    with torch.no_grad():
        log_next = model(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    return log_next.gather(-1, tokens[:, None])[:, 0]


def assert_is(policy: Policy, model: Any) -> None:
    """What the policy draws and scores has the log-probabilities of plain passes of `model`."""
    check_policy(policy, unprompted(1), LENGTH)
    samples = sample(policy, unprompted(12), max_new_tokens=LENGTH)
    for row in range(12):
        tokens = samples.tokens[row, : samples.lengths[row]]
        for found, plain in (
            (samples.log_policy, model),
            (samples.log_prior, policy.prior.plain),
        ):
            expected = plain_log_probs(plain, samples.prompt_tokens[row], tokens)
            torch.testing.assert_close(found[row, : len(tokens)], expected, atol=1e-4, rtol=0)
    assert not policy.is_prior
    assert not torch.allclose(samples.log_policy, samples.log_prior)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_of_any_kind_has_plain_pefts_numbers(
    prior: Prior, tmp_path: Path, kind: str
) -> None:
    model = adapter(prior, ADAPTERS[kind], tmp_path)
    assert_is(Policy(prior, whole=load_foreign(prior, str(tmp_path), 5)), model)


def test_a_whole_model_has_plain_transformers_numbers(prior: Prior, tmp_path: Path) -> None:
    fine_tuned(copy.deepcopy(prior.plain).requires_grad_(True)).save_pretrained(tmp_path)
    prior.tokenizer.save_pretrained(tmp_path)
    policy = Policy(prior, whole=load_foreign(prior, str(tmp_path), 5))
    assert_is(policy, AutoModelForCausalLM.from_pretrained(tmp_path).eval())
    assert policy.without_adapter().is_prior
    assert policy.without_adapter().model is prior.model
    assert policy.snapshot().model is policy.model


def test_klvis_own_adapter_is_one_of_them(prior: Prior, tmp_path: Path) -> None:
    own = disturb(Policy(prior, LoraSection(r=2)))
    own.save_adapter(tmp_path)
    assert_is(Policy(prior, whole=load_foreign(prior, str(tmp_path), 5)), own.model)


def other_prior(**changes: int) -> Prior:
    values = {"letters": 4, "length": LENGTH} | changes
    return load_prior(EnumerableModelConfig(name="enumerable", **values))


def save_whole(prior: Prior, folder: Path, model: PreTrainedModel | None = None) -> None:
    (model or prior.plain).save_pretrained(folder)
    prior.tokenizer.save_pretrained(folder)


def smaller_vocabulary(prior: Prior, folder: Path) -> None:
    save_whole(other_prior(letters=3), folder)


def other_tokenizer(prior: Prior, folder: Path) -> None:
    save_whole(prior, folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"a": 0', '"a": 1').replace('"b": 1', '"b": 0'))


def adapter_of_other_shape(prior: Prior, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("klvi.policy.enumerable.WIDTH", 32)
        adapter(other_prior(), ADAPTERS["lora"], folder)


def adapter_of_deeper(prior: Prior, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("klvi.policy.enumerable.LAYERS", 3)
        adapter(other_prior(), ADAPTERS["lora"], folder)


def adapter_of_shallower(prior: Prior, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("klvi.policy.enumerable.LAYERS", 1)
        adapter(other_prior(), ADAPTERS["lora"], folder)


def klvis_adapter_of_other_weights(prior: Prior, folder: Path) -> None:
    Policy(other_prior(seed=7), LoraSection(r=2)).save_adapter(folder)


def learned_prompt(prior: Prior, folder: Path) -> None:
    config = PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    get_peft_model(copy.deepcopy(prior.plain), config).save_pretrained(folder)


def classifier(prior: Prior, folder: Path) -> None:
    adapter(prior, ADAPTERS["lora"], folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task_type": "SEQ_CLS"}))


def whole_classifier(prior: Prior, folder: Path) -> None:
    untrained(prior, 0).save_pretrained(folder)


def run_of_klvi(prior: Prior, folder: Path) -> None:
    (folder / "config.yaml").touch()


def nothing(prior: Prior, folder: Path) -> None:
    folder.mkdir(exist_ok=True)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (smaller_vocabulary, "has another vocabulary than model enumerable: it tells"),
        (other_tokenizer, "has another tokenizer than model enumerable (2 tokens differ, such as"),
        (adapter_of_other_shape, "is no adapter of model enumerable (its weights have other"),
        (adapter_of_deeper, "is no adapter of model enumerable (there is no place for base_mo"),
        (adapter_of_shallower, "is no adapter of model enumerable (there are no weights for ba"),
        (learned_prompt, "an adapter of learned prompts (PROMPT_TUNING) is unsupported"),
        (classifier, "an adapter for SEQ_CLS, not for a causal language model"),
        (whole_classifier, "is a classifier, GPT2ForSequenceClassification, not a causal language"),
        (run_of_klvi, "is a run of klvi; give run="),
        (nothing, "is neither a model nor a peft adapter: it has no config.json or adapter_co"),
    ],
)
def test_what_is_no_policy_on_the_prior_is_refused_in_a_line(
    prior: Prior, tmp_path: Path, make: Any, line: str
) -> None:
    make(prior, tmp_path)
    with pytest.raises(UserError) as refused:
        load_foreign(prior, str(tmp_path), 5)
    (problem,) = refused.value.problems
    assert problem.startswith(f"policy.path={tmp_path}: {line}")
    assert "\n" not in problem


def test_an_adapter_of_another_model_is_refused(prior: Prior, tmp_path: Path) -> None:
    klvis_adapter_of_other_weights(prior, tmp_path / "klvi")
    with pytest.raises(UserError, match="was trained on another prior than model enumerable"):
        load_foreign(prior, str(tmp_path / "klvi"), 5)
    named = load_prior(EnumerableModelConfig(name="enumerable", letters=4, length=LENGTH))
    named.plain.config._name_or_path = named.plain.name_or_path = "someone/model-a"
    adapter(named, ADAPTERS["lora"], tmp_path / "named")
    load_foreign(named, str(tmp_path / "named"), 5)
    named.plain.config._name_or_path = "someone/model-b"
    with pytest.raises(UserError, match="is an adapter of someone/model-a, not of model enum"):
        load_foreign(named, str(tmp_path / "named"), 5)


def test_a_model_with_fewer_positions_is_refused(prior: Prior, tmp_path: Path) -> None:
    save_whole(prior, tmp_path)
    with pytest.raises(UserError, match="has 128 positions, and prompt and completion take up to"):
        load_foreign(prior, str(tmp_path), 129)


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("was_run"),)


def test_pickled_weights_run_nothing(
    prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter(prior, ADAPTERS["lora"], tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save({"weight": Malicious()}, tmp_path / "adapter" / "adapter_model.bin")
    save_whole(prior, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"weight": Malicious()}, tmp_path / "model" / "pytorch_model.bin")
    for name in ("adapter", "model"):
        with pytest.raises(UserError, match=f"policy.path={tmp_path / name}: no "):
            load_foreign(prior, str(tmp_path / name), 5)
    assert not (tmp_path / "was_run").exists()
