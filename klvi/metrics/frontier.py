"""The bound that no policy can beat: E_π[r] ≤ β·KL(π‖π0) + β·log Z (theory section 6, fact 8)."""

from __future__ import annotations

from klvi.metrics.measurement import Measurement, Metric


def frontier_violation(reward: Metric, kl_prior: Metric, log_z: Metric, beta: float) -> str | None:
    """A line that says how far a point lies above the frontier, beyond its intervals, or None.

    `log_z` is that of the posterior at temperature `beta`, nats. Where one of the three is
    unavailable nothing can be said, and None is returned.
    """
    if not (
        isinstance(reward, Measurement)
        and isinstance(kl_prior, Measurement)
        and isinstance(log_z, Measurement)
    ):
        return None
    bound = beta * (kl_prior.high + log_z.high)
    if reward.low <= bound + 1e-9 * max(1.0, abs(bound)):
        return None
    return (
        f"reward {reward.value:.4g} (at least {reward.low:.4g}) lies above "
        f"β·KL(π‖π0) + β·log Z = {beta * (kl_prior.value + log_z.value):.4g} "
        f"(at most {bound:.4g}) at β = {beta:g}: no policy can, so the KL or log Z is wrong"
    )
