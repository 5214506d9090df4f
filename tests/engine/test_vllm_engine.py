"""vLLM as the engine: against a stand-in that keeps its contract and, where installed, itself."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from support import LENGTH, LETTERS, assembled, disturb, sample, train_config
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from klvi.contexts import contexts_of
from klvi.engine.base import Prefixes
from klvi.engine.torch_engine import TorchEngine
from klvi.engine.vllm_engine import VLLMEngine
from klvi.errors import UserError
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.policy.schema import LoraSection, ModelConfig
from klvi.randomness import Randomness
from klvi.samples import Samples


@dataclass(frozen=True)
class SamplingParams:
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    detokenize: bool


class LLM:
    """An engine with a model of its own, of random weights until it is given others."""

    def __init__(self, model: str, hf_overrides: dict[str, Any], **options: Any) -> None:
        assert options["load_format"] == "dummy"
        assert AutoTokenizer.from_pretrained(model).eos_token_id == LETTERS
        assert hf_overrides.pop("architectures") == ["GPT2LMHeadModel"]
        self.model = GPT2LMHeadModel(GPT2Config.from_pretrained(model, **hf_overrides)).eval()
        self.longest = options["max_model_len"]
        self.stale = True

    def collective_rpc(
        self, method: str, kwargs: dict[str, Iterable[tuple[str, Tensor]]]
    ) -> list[None]:
        assert method == "reload_weights"
        self.model.load_state_dict(dict(kwargs["weights_iterator"]), strict=True)
        self.stale = True
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.stale = False
        return True

    @torch.no_grad()
    def generate(
        self, prompts: list[dict[str, list[int]]], settings: SamplingParams, *, use_tqdm: bool
    ) -> list[Any]:
        assert not self.stale
        assert not use_tqdm
        assert (settings.temperature, settings.top_p, settings.top_k) == (1.0, 1.0, 0)
        return [self._complete(prompt["prompt_token_ids"], settings) for prompt in prompts]

    def _complete(self, prompt: list[int], settings: SamplingParams) -> Any:
        tokens: list[int] = []
        assert len(prompt) + settings.max_tokens <= self.longest
        while len(tokens) < settings.max_tokens:
            logits = self.model(torch.tensor([prompt + tokens])).logits[0, -1]
            tokens.append(int(torch.multinomial(logits.softmax(0), 1)))
            if tokens[-1] in settings.stop_token_ids:
                break
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(tokens))])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def vllm_engine(policy: Policy, longest: int) -> VLLMEngine:
    prior = policy.prior
    return VLLMEngine(prior.model, prior.tokenizer, title=prior.name, longest=longest, memory=0.3)


def drawn(policy: Policy, count: int) -> Samples:
    return sample(policy, contexts_of([""] * count), max_new_tokens=LENGTH)


def statistics(samples: Samples) -> list[Tensor]:
    scores = [samples.log_policy_sequence, samples.log_prior_sequence]
    return [*scores, samples.lengths.float(), samples.ended.float()]


@pytest.mark.slow
def test_samples_are_the_policys_and_scored_by_klvi(policy: Policy, engine: ModuleType) -> None:
    disturb(policy, 0.05)
    policy.add_value_head()
    policy.engine = vllm_engine(policy, 1 + LENGTH)
    samples = drawn(policy, 2000)
    policy.engine = TorchEngine()
    own = drawn(policy, 2000)
    # Means of 2000 samples: they differ by 5 deviations once in 10^6 runs.
    for ours, theirs in zip(statistics(own), statistics(samples), strict=True):
        deviation = ((ours.var() + theirs.var()) / len(ours)).sqrt()
        assert (ours.mean() - theirs.mean()).abs() < 5 * deviation
    assert samples.values is not None
    assert samples.values.shape == samples.tokens.shape
    assert samples.ended.any()
    assert not samples.ended.all()
    first = samples.tokens[0, : samples.lengths[0]].tolist()
    assert samples.texts[0].split() == [chr(ord("a") + token) for token in first if token < LETTERS]


def test_prompts_lose_their_padding_and_seeds_repeat(policy: Policy, engine: ModuleType) -> None:
    own = vllm_engine(policy, 3 + LENGTH)
    prompts = torch.tensor([[4, 0, 1], [4, 4, 2], [4, 4, 4]]).repeat(20, 1)
    lengths = torch.tensor([3, 2, 1]).repeat(20)

    def run(seed: int) -> Tensor:
        uniforms = Randomness("test", (seed,), 0).uniforms(torch.arange(60), LENGTH)
        with policy.merged() as model:
            return own.complete(policy.view(model), Prefixes(prompts, lengths), uniforms).tokens

    state = torch.random.get_rng_state()
    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_training_follows_the_policy(engine: ModuleType) -> None:
    config = train_config(engine={"name": "vllm"}, batch_size=32)
    loop = assembled(config)
    # At the first update every log-ratio is 0; a rollout's log-probabilities are the trainer's.
    assert loop.step()["val/ratio"] == pytest.approx(1.0, abs=0.05)
    disturb(loop.policy, 0.02)
    samples = loop.roll_out(loop.target).samples
    assert_close(samples.log_policy, loop.policy.log_probs(samples), atol=1e-5, rtol=0)


def test_a_model_that_the_engine_refuses(policy: Policy, engine: ModuleType) -> None:
    def refuse(**options: Any) -> None:
        raise ValueError("no such architecture\nwith much detail")

    engine.LLM = refuse
    with pytest.raises(UserError) as caught:
        vllm_engine(policy, 8)
    assert str(caught.value) == (
        "engine=vllm: vLLM cannot run model enumerable (no such architecture); use engine=torch"
    )


# The warnings are those of the libraries that vLLM brings along.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_itself_samples_the_tiny_prior() -> None:
    policy = Policy(load_prior(ModelConfig(name="tiny")), LoraSection())
    disturb(policy, 0.05)

    def run() -> Tensor:
        samples = sample(policy, contexts_of([""] * 4000), max_new_tokens=32)
        return torch.stack([samples.log_policy_sequence, samples.lengths.float()])

    own = run()
    policy.engine = vllm_engine(policy, 33)
    theirs = run()
    # Means of 4000 samples: they differ by 5 deviations once in 10^6 runs.
    deviation = ((own.var(1) + theirs.var(1)) / 4000).sqrt()
    assert ((own.mean(1) - theirs.mean(1)).abs() < 5 * deviation).all()
