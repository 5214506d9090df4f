"""How little a completion has in common with the others of its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from klvi.contexts import Context
from klvi.rewards.schema import DiversityReward
from klvi.schema import check_fields


@dataclass(frozen=True)
class Diversity:
    """Minus the BLEU of each completion against others of its prompt in the rollout, −1 to 0.

    The references are the next `others` completions of the same prompt, in their order and round
    again, so that the same rollout always scores the same; without another completion it is 0. This
    is self-BLEU (Zhu et al. 2018, arXiv 1802.01886) of a sample of the others: for "give me
    different good answers", as a term of `reward=sum`.

    A completion has no score of its own: the reward is what the policy makes it, and so is a target
    of it. Metrics against such a target are unavailable, its log Z and its KL to the policy among
    them. Of several processes each compares the completions that it draws.

    Attributes:
        others: completions that each is compared with, at most.
    """

    name: ClassVar[str] = "diversity"
    of_rollout: ClassVar[bool] = True
    others: int = 8

    def __post_init__(self) -> None:
        check_fields(DiversityReward, self)

    def __call__(self, texts: Sequence[str], contexts: Sequence[Context]) -> list[float]:
        """Score N completions: `(N,)`."""
        from sacrebleu.metrics import BLEU

        # As `klvi.metrics.text`: 0.1 for an order without a match, of the orders that there are.
        bleu = BLEU(effective_order=True, smooth_method="floor", tokenize="none")
        groups: dict[int, list[int]] = {}
        for row, context in enumerate(contexts):
            groups.setdefault(context.row, []).append(row)
        scores = [0.0] * len(texts)
        for rows in groups.values():
            count = min(self.others, len(rows) - 1)
            for place, row in enumerate(rows):
                others = [texts[rows[(place + k) % len(rows)]] for k in range(1, count + 1)]
                if texts[row] in others:  # an empty one, too, whose BLEU is 0
                    scores[row] = -1.0
                elif others:
                    scores[row] = -bleu.sentence_score(texts[row], others).score / 100
        return scores
