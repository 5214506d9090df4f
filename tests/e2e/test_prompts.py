"""A run with prompts, from its file to what rewards and samples show."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_tokenizers import TOKENIZERS
from support import train_config
from transformers import LlamaConfig, LlamaForCausalLM

from klvi.contexts import Context
from klvi.runs.assembly import assemble_evaluator, assemble_run
from klvi.runs.schema import TrainConfig
from klvi.tracking.output import Output

CHAT = "{{ bos_token }}{{ messages[0].content }}{% if short %} the{% endif %}"


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A chat and two texts before a small model of SentencePiece."""
    tokenizer = TOKENIZERS["t5"]()
    tokenizer.chat_template = CHAT
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), eos_token_id=2, **sizes, **heads)
    )
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        {"prompt": [{"role": "user", "content": "hello"}], "answer": 1},
        {"prompt": "<s>the cat sat", "answer": 2},
        {"prompt": "hello", "answer": 3},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    prompts = {"name": "file", "path": str(tmp_path / "p.jsonl"), "chat": {"short": True}}
    return train_config(
        model={"name": "small", "path": str(tmp_path / "model")},
        prompts={**prompts, "max_tokens": 3},
        updates=1,
        batch_size=6,
        evaluation={"samples": 6, "prior_samples": 6, "ess_floor": 1.0},
    )


class Recorder:
    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[tuple[str, Context]] = []

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> list[float]:
        self.seen += zip(texts, contexts, strict=True)
        return [float(len(text)) for text in texts]


def test_rewards_read_prompt_text_and_columns_that_join(config: TrainConfig) -> None:
    evaluator = assemble_evaluator(config, adapted=False)
    recorder = Recorder()
    evaluator.target = replace(evaluator.target, reward=recorder)
    samples = evaluator.draw(180, 0, 0)
    prompts = ["<s>hello the", "<s>the cat sat", "hello"]
    assert [c.prompt for _, c in recorder.seen[:3]] == prompts
    assert [c.columns["answer"] for _, c in recorder.seen[:3]] == [1, 2, 3]
    tokenizer = evaluator.policy.prior.tokenizer
    spaced = 0
    for text, context, tokens, length in zip(
        samples.texts, samples.contexts, samples.tokens.tolist(), samples.lengths, strict=True
    ):
        prompt = tokenizer.encode(context.prompt)
        whole = tokenizer.decode([*prompt, *tokens[:length]], skip_special_tokens=True)
        assert context.prompt.removeprefix("<s>") + text == whole
        spaced += text.startswith(" ")
    assert spaced > 10


def test_prompts_that_are_cut_are_counted_in_the_log(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    output = Output(Console(file=io.StringIO()))
    assemble_run(config, tmp_path / "run", output).train()
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.count("prompts.max_tokens=3: the beginning of 1 of 3 prompts is cut off") == 1


def test_nothing_is_said_where_nothing_is_cut(config: TrainConfig) -> None:
    longer = config.prompts.model_copy(update={"max_tokens": 100})
    evaluator = assemble_evaluator(config.model_copy(update={"prompts": longer}), adapted=False)
    assert evaluator.notes == []
