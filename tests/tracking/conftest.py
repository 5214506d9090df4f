"""A run to track: its configuration, an evaluation's samples and measurements."""

import pytest
import torch
from support import train_config

from klvi.contexts import contexts_of
from klvi.metrics.measurement import Measurement, Unavailable
from klvi.samples import Samples


@pytest.fixture
def config():
    return train_config(
        name="paris",
        updates=20,
        batch_size=8,
        model={"name": "tiny"},
        reward={"name": "contains", "text": "Paris"},
        beta=0.1,
    )


@pytest.fixture
def samples():
    texts = ["Leo went to Paris.", "Ida\nwent [bold]there[/bold] \x1b[31m", "", "fourth"]
    n = len(texts)
    return Samples(
        contexts=contexts_of(["", "One day, ", "", ""]),
        prompt_tokens=torch.zeros(n, 1, dtype=torch.long),
        prompt_lengths=torch.ones(n, dtype=torch.long),
        tokens=torch.zeros(n, 2, dtype=torch.long),
        lengths=torch.full((n,), 2),
        ended=torch.ones(n, dtype=torch.bool),
        log_policy=torch.full((n, 2), -1.5),
        log_prior=torch.full((n, 2), -2.25),
        texts=texts,
        scores={"reward": torch.tensor([1.0, 0.25, 0.0, 0.5])},
    )


@pytest.fixture
def measurements():
    return {
        "eval/reward": Measurement(0.4375, 0.25, 0.625, 4),
        "eval/kl_prior": Measurement(1.5, 1.25, 1.75, 4),
        "eval/kl_target_reverse": Unavailable("3 of 4 samples violate the constraint"),
        "eval/made_up": Measurement(12345.6, 0.0, 0.00012, 4),
    }
