"""`klvi pretrain`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.schema import Location, Remedy, Section, Size, Threads


class PretrainConfig(Section):
    """`klvi pretrain`: a small prior, trained on a corpus."""

    out: Annotated[Location, Remedy("the folder to write, as in {key}=DIR")]
    """the folder to write: weights, tokenizer, README"""
    corpus: Location | None = None
    """a UTF-8 file, one text per line; null for the stories"""
    stories: Annotated[int, Field(ge=100)] = 120_000
    """stories to train on, without a corpus"""
    samples: Annotated[int, Field(ge=2)] = 2_000
    """samples drawn to measure the prior"""
    vocabulary: Annotated[Size, Field(ge=300)] = 700
    """most tokens of the tokenizer; unused ones go"""
    layers: Size = 4
    """of the model, GPT-2 architecture"""
    width: Annotated[Size, Field(ge=8)] = 128
    """of the model's hidden states"""
    heads: Size = 4
    """of attention"""
    context: Annotated[Size, Field(ge=8)] = 128
    """longest text, in tokens"""
    steps: Annotated[int, Field(ge=1)] = 1600
    """training steps"""
    batch_size: Size = 128
    """texts of a step"""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """highest learning rate of the cycle"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of stories, initialisation and batches"""
    threads: Threads | None = None
    """CPU threads; null leaves it to torch"""
