"""Decoding by vLLM, an engine made for GPUs; an optional extra.

The engine lives in this process and holds a copy of the model into which the policy's merged
weights are written before each rollout. Its kernels round differently, so that its own
log-probabilities are not used: the trainer computes them again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from klvi.engine.base import Decoded, Decoding, Prefixes, View
from klvi.engine.schema import VLLM_NEEDS
from klvi.errors import UserError

SEEDS = 2**31


class VLLMEngine:
    """Completes prefixes by vLLM, which seeds its own random numbers; it tells no log-probs."""

    name = "vllm"
    exact_log_probs = False
    by_row = False

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        title: str,
        longest: int,
        memory: float,
    ) -> None:
        """Start an engine for the architecture of `model`.

        Args:
            title: what the user calls the model.
            longest: tokens of prompt and completion together.
            memory: share of the GPU's memory that the engine takes.

        Raises UserError where vLLM cannot be imported or cannot run this model.
        """
        # A process of its own could not share the policy's weights.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            import vllm
        except ImportError as error:
            raise UserError(
                f"engine=vllm: vLLM cannot be imported ({error}); {VLLM_NEEDS}; "
                f"this is torch {torch.__version__}; use engine=torch"
            ) from error
        self._vllm = vllm
        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            try:
                self._engine = vllm.LLM(
                    model=folder,
                    runner="generate",
                    load_format="dummy",
                    hf_overrides={
                        "architectures": [type(model).__name__],
                        "tie_word_embeddings": False,
                    },
                    dtype=str(model.dtype).removeprefix("torch."),
                    max_model_len=longest,
                    gpu_memory_utilization=memory,
                    disable_log_stats=True,
                )
            except (ValueError, RuntimeError) as error:
                reason = str(error).strip().splitlines()[0]
                raise UserError(
                    f"engine=vllm: vLLM cannot run model {title} ({reason}); use engine=torch"
                ) from error

    def complete(self, view: View, prefixes: Prefixes, uniforms: Tensor) -> Decoded:
        """See `Engine.complete`: whatever the model's own settings say; `values` are None, too."""
        self._write(view.model)
        rows = zip(prefixes.tokens.tolist(), prefixes.lengths.tolist(), strict=True)
        prompts = [{"prompt_token_ids": row[len(row) - length :]} for row, length in rows]
        settings = self._vllm.SamplingParams(
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_tokens=uniforms.shape[1],
            stop_token_ids=list(view.stop_token_ids),
            ignore_eos=True,
            detokenize=False,
        )
        device = prefixes.tokens.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(uniforms[0, 0] * SEEDS))
            outputs = self._engine.generate(prompts, settings, use_tqdm=False)
        completions = [output.outputs[0].token_ids for output in outputs]
        return _decoded(completions, view.stop_token_ids, device)

    def start(self, view: View, prefixes: Prefixes, max_new_tokens: int) -> Decoding:
        """Raises UserError: vLLM keeps its steps to itself."""
        raise UserError(
            "engine=vllm: decodes whole completions only, not step by step; use engine=torch"
        )

    def _write(self, model: PreTrainedModel) -> None:
        """Give the engine the model's weights, and forget what it computed with others."""
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": _weights(model)})
        self._engine.reset_prefix_cache()


def _weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All weights by name.

    Embeddings that are tied come twice: the engine, which may keep the two in different layouts,
    is told that they are not.
    """
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, parameter.data


def _decoded(
    completions: list[Any], stop_token_ids: tuple[int, ...], device: torch.device
) -> Decoded:
    rows = [list(tokens) for tokens in completions]
    longest = max(map(len, rows))
    padded = [row + [stop_token_ids[0]] * (longest - len(row)) for row in rows]
    tokens = torch.tensor(padded, device=device)
    return Decoded(
        tokens=tokens,
        lengths=torch.tensor([len(row) for row in rows], device=device),
        ended=torch.tensor([row[-1] in stop_token_ids for row in rows], device=device),
        log_probs=None,
        values=None,
    )
