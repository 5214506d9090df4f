"""`klvi pretrain`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from klvi.schema import Location, Section, Size, Threads


class PretrainConfig(Section):
    """`klvi pretrain`: a small prior, trained on a corpus."""

    out: Location | None = None
    corpus: Location | None = None
    stories: Annotated[int, Field(ge=100)] = 120_000
    samples: Annotated[int, Field(ge=2)] = 2_000
    vocabulary: Annotated[Size, Field(ge=300)] = 700
    layers: Size = 4
    width: Annotated[Size, Field(ge=8)] = 128
    heads: Size = 4
    context: Annotated[Size, Field(ge=8)] = 128
    steps: Annotated[int, Field(ge=1)] = 1600
    batch_size: Size = 128
    lr: Annotated[float, Field(gt=0)] = 2e-3
    seed: Annotated[int, Field(ge=0)] = 0
    threads: Threads | None = None
