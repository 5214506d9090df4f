"""The paper's double dissociation: what the three objectives end in, in exact numbers.

RL without distribution matching collapses; distribution matching works with RL (`kl`) and without
(`gdc`) (Korbak, Perez and Buckley 2022, arXiv 2205.11275).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from klvi.verification.claim import Claim

SECTION = "Double dissociation, exact"
CLOSE, FAR, ROUNDING = 0.01, 1.0, 1e-12
COLLAPSED_ENTROPY, COLLAPSED_PROBABILITY = 0.1, 0.9

Record = Mapping[str, Any]


def double_dissociation(records: Mapping[str, Sequence[Record]]) -> Iterator[Claim]:
    """Claims about the evaluations of `rl`, `kl` and `gdc`, first to last."""
    rl, kl, gdc = (records[name] for name in ("rl", "kl", "gdc"))
    yield _start(rl[0])
    yield _collapse(rl)
    yield _peak(rl[-1])
    yield _missed(rl[-1])
    yield _reached("kl reaches p", "KL(π‖p)", kl, "exact/kl_target_reverse")
    yield _reached("gdc reaches p", "KL(p‖π)", gdc, "exact/kl_target_forward")
    yield _alike(kl[-1], gdc[-1])


def _start(first: Record) -> Claim:
    ratio = first["exact/kl_prior"]
    return Claim(
        SECTION, "before training", "KL(π‖π0) = 0", f"{ratio:.1e} nats", abs(ratio) <= ROUNDING
    )


def _collapse(records: Sequence[Record]) -> Claim:
    first, last = records[0]["exact/entropy"], records[-1]["exact/entropy"]
    return Claim(
        SECTION,
        "rl collapses: entropy",
        f"→ 0, at most {COLLAPSED_ENTROPY:.0%} of {first:.2f}",
        f"{last:.2g} nats",
        last <= COLLAPSED_ENTROPY * first,
    )


def _peak(last: Record) -> Claim:
    value = last["exact/policy/largest_probability"]
    return Claim(
        SECTION,
        "rl collapses: largest probability",
        f"→ 1, at least {COLLAPSED_PROBABILITY:g}",
        f"{value:.4f}",
        value >= COLLAPSED_PROBABILITY,
    )


def _missed(last: Record) -> Claim:
    reverse, reward = last["exact/kl_target_reverse"], last["exact/reward"]
    higher = reward > last["exact/target/reward"]
    return Claim(
        SECTION,
        "rl misses p, at a higher reward",
        f"KL(π‖p) ≥ {FAR:g}, reward > {last['exact/target/reward']:.3f}",
        f"{reverse:.2f} nats, {reward:.3f}",
        reverse >= FAR and higher,
    )


def _reached(name: str, measure: str, records: Sequence[Record], key: str) -> Claim:
    first, last = records[0][key], records[-1][key]
    return Claim(
        SECTION,
        name,
        f"{measure} → 0, at most {CLOSE:g}",
        f"from {first:.2f} to {last:.4f} nats",
        last <= CLOSE,
    )


def _alike(kl: Record, gdc: Record) -> Claim:
    target = kl["exact/target/entropy"]
    entropies = {"kl": kl["exact/entropy"], "gdc": gdc["exact/entropy"]}
    return Claim(
        SECTION,
        "kl and gdc have the entropy of p",
        f"{target:.3f} nats",
        ", ".join(f"{name} {value:.3f}" for name, value in entropies.items()),
        all(abs(value - target) <= CLOSE * max(target, 1) for value in entropies.values()),
    )
