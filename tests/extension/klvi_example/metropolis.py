"""A sampler without a density: chains whose samples depend on each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from klvi.contexts import Context
from klvi.policy.policy import Policy
from klvi.randomness import Randomness
from klvi.rewards.scoring import scored
from klvi.samplers.ancestral import Ancestral
from klvi.samplers.base import Sampler
from klvi.samples import Cost, Draw
from klvi.targets.base import Target


@dataclass(frozen=True)
class Metropolis(Sampler):
    """Independence Metropolis-Hastings (Tierney 1994) in chains of `chain` samples of a context.

    A chain starts where the policy is. Each further sample is the policy's next one x' with
    probability min(1, w(x')/w(x)), w = P/π, and the chain's last one x again otherwise: with the
    length of the chain its samples come to be the target's. What distribution they have before has
    no closed form, so that there is no `log_density`; and the chain is their `replicate`, which
    intervals go by. Processes that share a draw have chains of their own.
    """

    ancestral: Ancestral
    chain: int = 8

    def sample(
        self,
        policy: Policy,
        target: Target,
        contexts: Sequence[Context],
        randomness: Randomness,
    ) -> Draw:
        """A state of a chain per context, in the order of the contexts."""
        proposed = self.ancestral.complete(policy, contexts, randomness)
        proposed = scored(proposed, target.scorers, update=randomness.update)
        log_weight = target.log_unnormalised(proposed) - proposed.log_drawn
        accepting = replace(randomness, purpose=f"{randomness.purpose}: acceptance")
        uniforms = accepting.uniforms(torch.arange(len(proposed)), 1)[:, 0]
        states, chains, accepted = self._walk(log_weight.cpu(), proposed.context, uniforms.log())
        samples = replace(
            proposed.select(states.to(proposed.lengths.device)), log_density=None, replicate=chains
        )
        models = 1 if policy.is_prior else 2
        return Draw(
            samples,
            represents="sampler",
            info={"metropolis/acceptance": accepted},
            cost=Cost(tokens=models * int(proposed.lengths.sum()), rewards=len(proposed)),
        )

    def _walk(
        self, log_weight: Tensor, context: Tensor, log_uniform: Tensor
    ) -> tuple[Tensor, Tensor, float]:
        """Which proposal `(N,)` each state is, its chain `(N,)`, and the share of moves.

        A chain that has no weight yet leaves for any proposal that has.
        """
        count: Counter[int] = Counter()
        current: dict[int, int] = {}
        states, chains, moves, steps = [], [], 0, 0
        for row, place in enumerate(context.tolist()):
            chain, step = divmod(count[place], self.chain)
            count[place] += 1
            moving = step == 0 or bool(
                log_uniform[row] < log_weight[row] - log_weight[current[place]]
            )
            if moving:
                current[place] = row
            steps, moves = steps + (step > 0), moves + (step > 0 and moving)
            states.append(current[place])
            chains.append(chain)
        return torch.tensor(states), torch.tensor(chains), moves / max(steps, 1)
