"""The identity of a prior: what an adapter was trained on, and is worth nothing without."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from klvi.errors import UserError, first_line
from klvi.files import kind_of, naming, read_json, write_whole
from klvi.policy.prior import Prior

FILE = "prior.json"
# Elements of each weight that are read, evenly spread.
ELEMENTS = 64
# float32 and bfloat16 round alike to bfloat16; float16 does not.
COMPARED = torch.bfloat16


@torch.no_grad()
def fingerprint(prior: Prior) -> dict[str, str]:
    """Digests of the prior's weights, of a few elements each, and of its vocabulary."""
    digest = hashlib.sha256()
    for name, weight in prior.plain.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(_elements(weight).tobytes())
    # The enumerable prior's tokenizer and any other's: by what they call their tokens.
    vocabulary = sorted(prior.tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    kind = "16" if prior.plain.dtype == torch.float16 else "32"
    return {
        f"weights_{kind}": digest.hexdigest(),
        "vocabulary": hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest(),
    }


def _elements(weight: Tensor) -> Any:
    flat = weight.detach().reshape(-1)
    step = max(len(flat) // ELEMENTS, 1)
    chosen = flat[::step].to(COMPARED) if weight.is_floating_point() else flat[::step]
    return chosen.cpu().contiguous().view(torch.uint8).numpy()


def write_fingerprint(prior: Prior, directory: Path) -> None:
    """Leave beside an adapter what it belongs to."""
    write_whole(directory / FILE, json.dumps(fingerprint(prior), indent=2))


class OtherPriorError(UserError):
    """An adapter was trained on another prior."""


def check_fingerprint(prior: Prior, directory: Path) -> None:
    """Raises OtherPriorError where an adapter's folder says that it belongs to another prior.

    A folder that says nothing, as other trainers', is taken at its word.
    """
    file = directory / FILE
    if kind_of(file) is None:
        return
    try:
        with naming(file, UserError):
            stored, own = read_json(file), fingerprint(prior)
    except ValueError as error:
        raise UserError(f"{file}: {first_line(error)}; use another checkpoint") from error
    for name in stored.keys() & own.keys():
        if stored[name] != own[name]:
            what = name.partition("_")[0]
            raise OtherPriorError(
                f"{directory}: its adapter was trained on another prior than model {prior.name} is "
                f"now: the {what} differ; set model.path to the prior it was trained on"
            )
