"""How far klvi's log-probabilities are from plain transformers and peft, for many architectures.

    python -m scripts.architectures [MODEL_TYPE ...]

Each is a small random model, saved to a folder with a random adapter, loaded from there, checked
and sampled as `klvi sample` does, at prompts of unequal length. The same texts are then scored by a
fresh model of transformers and peft, one row at a time, without a cache. Prints a row for each: the
largest difference of log π and of log π0, nats a sequence, and how klvi arranged its passes; or why
it refused.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from klvi.contexts import contexts_of
from klvi.errors import UserError
from klvi.policy.loading import quiet_transformers
from klvi.policy.policy import Policy
from klvi.policy.prior import load_prior
from klvi.policy.schema import LoraSection, ModelConfig
from klvi.policy.self_check import check_policy
from klvi.randomness import Randomness
from klvi.samplers.ancestral import Ancestral
from klvi.samples import Samples
from scripts.small_models import save, save_adapter, small_model

NEW_TOKENS = 24
CONTEXTS = contexts_of(["w5 w6 w7", "", "w9 w8 w7 w6 w5 w4 w3 w9", "w12 w3"] * 3)
HYBRID = ("qwen3_5_text", "qwen3_next", "lfm2", "jamba", "mamba", "mamba2", "recurrent_gemma")
MIXTURES = ("mixtral", "deepseek_v2", "llama4_text", "qwen2_moe", "olmoe", "granitemoe", "gpt_oss")
OTHERS = ("openai-gpt", "rwkv", "bert", "roberta", "bart", "falcon_mamba")
USUAL = (
    *("llama", "gemma", "gemma2", "gemma3_text", "opt", "gpt2", "gptj", "gpt_neo", "gpt_neox"),
    *("bloom", "falcon", "phi", "phi3", "cohere", "cohere2", "qwen3", "mistral"),
    *("stablelm", "olmo", "olmo2", "granite", "mpt", "gpt_bigcode", "starcoder2", "codegen"),
    *("xglm", "nemotron", "smollm3", "glm", "persimmon"),
)
# As their checkpoints have it, not as decoders.
CHANGES = {"bert": {"is_decoder": False}, "roberta": {"is_decoder": False}}


@dataclass(frozen=True)
class Row:
    """Of one architecture.

    Attributes:
        policy: largest difference of log π, nats a sequence; None where klvi refused.
        prior: the same of log π0.
        note: the arrangement of passes, or the refusal.
    """

    policy: float | None
    prior: float | None
    note: str


def measure(model_type: str, folder: Path) -> Row:
    """klvi against plain transformers and peft, on a model that is written to `folder`."""
    base = save(small_model(model_type, **CHANGES.get(model_type, {})), folder / "model")
    try:
        prior = load_prior(ModelConfig(name=model_type, path=str(base), dtype="float32"))
        policy = Policy(prior, LoraSection(r=4))
        check_policy(policy, CONTEXTS, NEW_TOKENS)
    except UserError as error:
        return Row(None, None, f"refused: {error}")
    adapter = save_adapter(base, folder / "adapter")
    policy.load_adapter(adapter)
    samples = Ancestral(NEW_TOKENS).complete(policy, CONTEXTS, Randomness("study", (0,), 0))
    with quiet_transformers():
        plain = AutoModelForCausalLM.from_pretrained(base)
        log_prior = plain_log_probs(plain, samples)
        log_policy = plain_log_probs(PeftModel.from_pretrained(plain, adapter).eval(), samples)
    return Row(
        float((samples.log_policy.double().sum(1) - log_policy).abs().max()),
        float((samples.log_prior.double().sum(1) - log_prior).abs().max()),
        str(policy.batching),
    )


@torch.no_grad()
def plain_log_probs(model: PreTrainedModel | PeftModel, samples: Samples) -> Tensor:
    """`(N,)` nats per sequence, a row at a time, without a cache."""
    found = []
    for row, length in enumerate(samples.lengths.tolist()):
        prompt = samples.prompt_tokens[row, -int(samples.prompt_lengths[row]) :]
        tokens = torch.cat([prompt, samples.tokens[row, :length]])
        logits = model(input_ids=tokens[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
        log_probs = logits.double().log_softmax(-1)
        found.append(log_probs.gather(1, tokens[len(prompt) :, None]).sum())
    return torch.stack(found)


def main(model_types: list[str]) -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print("| model type | log π | log π0 | passes |\n|---|---|---|---|")
    for model_type in model_types or [*HYBRID, *MIXTURES, *OTHERS, *USUAL]:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(model_type, Path(folder))
        numbers = ["—" if x is None else f"{x:.1e}" for x in (row.policy, row.prior)]
        print(f"| {model_type} | {' | '.join(numbers)} | {row.note} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
