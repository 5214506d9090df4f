"""DPG on plain transformers and peft: the update that public implementations of it make.

As in naver/disco: `generate` with scores, whose log-softmax is the proposal's density; a pass of
the prior; the reward on texts; one forward and backward pass of −P/(Z·q)·log π; Adam. All of the
batch at once, which is as fast as it gets there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from klvi.objectives.gdc import dpg_loss
from klvi.rewards.build import build_reward
from scripts.bench.measurement import Measurement, Recorder
from scripts.bench.trl_side import load
from scripts.bench.workload import Workload


def measure(workload: Workload) -> Measurement:
    """The workload's updates."""
    config = workload.config()
    assert config.optim.lr is not None, "the workload's own"
    torch.set_num_threads(config.threads or torch.get_num_threads())
    recorder = Recorder(workload.device, workload.warmup)
    model, _, tokenizer = load(config)
    model.to(workload.device).eval()
    reward = build_reward(config.reward, workload.device)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=config.optim.lr)
    normaliser = count = 0.0
    recorder.start()
    for _ in range(workload.total_updates):
        tokens, log_proposal = _generate(model, tokenizer, workload)
        with torch.no_grad(), model.disable_adapter():
            log_prior = _log_probs(model, tokens)
        texts = tokenizer.batch_decode(tokens[:, 1:], skip_special_tokens=True)
        scores = torch.as_tensor(reward(texts, [""] * len(texts)), device=tokens.device)
        weights = (log_prior + scores / config.beta - log_proposal).double().exp()
        normaliser, count = normaliser + float(weights.sum()), count + len(weights)
        weights = weights / (normaliser / count)
        loss = dpg_loss(_log_probs(model, tokens), weights, torch.zeros_like(weights))
        (loss / len(weights)).backward()
        optimizer.step()
        optimizer.zero_grad()
        recorder.end_update(tokens[:, 1:].numel())
    return recorder.finish()


def _generate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, workload: Workload
) -> tuple[Tensor, Tensor]:
    """Start token and completions `(N, 1 + T)`, and `(N,)` their log-probabilities."""
    start = torch.full((workload.batch, 1), tokenizer.bos_token_id, device=workload.device)
    with torch.no_grad():
        output = model.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            top_k=0,
            max_new_tokens=workload.length,
            eos_token_id=None,
            pad_token_id=tokenizer.bos_token_id,
            output_scores=True,
            return_dict_in_generate=True,
        )
        scores = torch.stack(output.scores, 1).log_softmax(-1)
    tokens: Tensor = output.sequences
    return tokens, scores.gather(2, tokens[:, 1:, None]).squeeze(2).sum(1)


def _log_probs(model: nn.Module, tokens: Tensor) -> Tensor:
    """`(N,)` log-probabilities of completions, nats per sequence, with gradient."""
    log_probs = model(tokens[:, :-1]).logits.log_softmax(-1)
    found: Tensor = log_probs.gather(2, tokens[:, 1:, None]).squeeze(2).sum(1)
    return found
