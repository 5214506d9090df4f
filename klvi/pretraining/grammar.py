"""Probabilistic grammars without recursion, about which everything can be computed exactly."""

from __future__ import annotations

import math
import random
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, cycle
from typing import TypeAlias, TypeVar

Rules: TypeAlias = Mapping[str, Mapping[str, float]]

_State = TypeVar("_State")
_SYMBOL = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, eq=False)
class Concatenation:
    """Its parts, one after the other."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Choice:
    """One of its alternatives, drawn with `probabilities`, which sum to 1."""

    probabilities: tuple[float, ...]
    alternatives: tuple[Node, ...]
    cumulative: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cumulative", tuple(accumulate(self.probabilities)))

    @staticmethod
    def weighted(alternatives: Iterable[tuple[float, Node]]) -> Choice:
        """A choice with probabilities in proportion to the weights."""
        weights, nodes = zip(*alternatives, strict=True)
        return Choice(tuple(weight / math.fsum(weights) for weight in weights), nodes)


Node: TypeAlias = "str | Concatenation | Choice"


def expand(rules: Rules, start: str) -> Node:
    """The node of the symbol `start`.

    `rules` maps a symbol to its alternatives and their weights; an alternative is a text in which
    `{symbol}` stands for another symbol. Raises ValueError for an unknown or recursive symbol.
    """
    done: dict[str, Node] = {}
    open_symbols: list[str] = []

    def symbol(name: str) -> Node:
        if name in done:
            return done[name]
        if name in open_symbols or name not in rules:
            raise ValueError(f"symbol {name!r} is {'recursive' if name in rules else 'unknown'}")
        open_symbols.append(name)
        alternatives = [(weight, template(text)) for text, weight in rules[name].items()]
        open_symbols.pop()
        done[name] = alternatives[0][1] if len(alternatives) == 1 else Choice.weighted(alternatives)
        return done[name]

    def template(text: str) -> Node:
        pieces = _SYMBOL.split(text)
        nodes = [
            symbol(piece) if odd else piece for piece, odd in zip(pieces, cycle((False, True)))
        ]
        kept = tuple(node for node in nodes if node != "")
        return kept[0] if len(kept) == 1 else Concatenation(kept)

    return symbol(start)


class Grammar:
    """A distribution over texts, given by the root of a directed acyclic graph of nodes.

    Entropy is that of the derivations, which is that of the texts where every text has one
    derivation (see `derivations`).
    """

    def __init__(self, root: Node) -> None:
        self.root = root

    def sample(self, rng: random.Random) -> str:
        """A text."""
        pieces: list[str] = []
        stack = [self.root]
        while stack:
            node = stack.pop()
            if isinstance(node, str):
                pieces.append(node)
            elif isinstance(node, Concatenation):
                stack.extend(reversed(node.parts))
            else:
                index = bisect(node.cumulative, rng.random())
                stack.append(node.alternatives[min(index, len(node.alternatives) - 1)])
        return "".join(pieces)

    def entropy(self) -> float:
        """Entropy of the derivations, nats per text: the chain rule over independent choices."""
        memo: dict[Node, float] = {}

        def visit(node: Node) -> float:
            if isinstance(node, str):
                return 0.0
            if node not in memo:
                if isinstance(node, Concatenation):
                    memo[node] = math.fsum(map(visit, node.parts))
                else:
                    memo[node] = math.fsum(
                        p * (visit(child) - math.log(p))
                        for p, child in zip(node.probabilities, node.alternatives, strict=True)
                    )
            return memo[node]

        return visit(self.root)

    def size(self) -> int:
        """The number of derivations."""
        memo: dict[Node, int] = {}

        def visit(node: Node) -> int:
            if isinstance(node, str):
                return 1
            if node not in memo:
                if isinstance(node, Concatenation):
                    memo[node] = math.prod(map(visit, node.parts))
                else:
                    memo[node] = sum(map(visit, node.alternatives))
            return memo[node]

        return visit(self.root)

    def rate(self, words: Iterable[str]) -> float:
        """The probability that a text contains any of `words` as a substring.

        The automaton of Aho and Corasick (1975) runs over the graph: its state is the longest end
        of the text so far that begins one of the words, and None once a word was seen.
        """
        step = _automaton(tuple(words))
        memo: dict[tuple[Node, str | None], dict[str | None, float]] = {}

        def visit(node: Node, state: str | None) -> dict[str | None, float]:
            if (node, state) in memo:
                return memo[node, state]
            if isinstance(node, str):
                result = {step(state, node): 1.0}
            elif isinstance(node, Concatenation):
                result = {state: 1.0}
                for part in node.parts:
                    result = _mix((p, visit(part, s)) for s, p in result.items())
            else:
                choices = zip(node.probabilities, node.alternatives, strict=True)
                result = _mix((p, visit(child, state)) for p, child in choices)
            memo[node, state] = result
            return result

        return visit(self.root, "").get(None, 0.0)

    def log_probability(self, text: str) -> float:
        """log p(text), nats; −inf for a text that the grammar does not tell."""
        total = self._inside(text, lambda choice: choice.probabilities)
        return math.log(total) if total > 0 else -math.inf

    def derivations(self, text: str) -> int:
        """The number of derivations of a text: 1 for each text of an unambiguous grammar."""
        return round(self._inside(text, lambda choice: (1.0,) * len(choice.alternatives)))

    def _inside(self, text: str, weights: Callable[[Choice], tuple[float, ...]]) -> float:
        """The sum over derivations of the products of their choices' weights."""
        memo: dict[tuple[Node, int], dict[int, float]] = {}

        def visit(node: Node, start: int) -> dict[int, float]:
            if isinstance(node, str):
                found = text.startswith(node, start)
                return {start + len(node): 1.0} if found else {}
            if (node, start) not in memo:
                if isinstance(node, Concatenation):
                    ends = {start: 1.0}
                    for part in node.parts:
                        ends = _mix((weight, visit(part, end)) for end, weight in ends.items())
                else:
                    choices = zip(weights(node), node.alternatives, strict=True)
                    ends = _mix((weight, visit(child, start)) for weight, child in choices)
                memo[node, start] = ends
            return memo[node, start]

        return visit(self.root, 0).get(len(text), 0.0)


def _mix(parts: Iterable[tuple[float, Mapping[_State, float]]]) -> dict[_State, float]:
    """The weighted sum of `parts`."""
    total: dict[_State, float] = {}
    for weight, part in parts:
        for state, value in part.items():
            total[state] = total.get(state, 0.0) + weight * value
    return total


def _automaton(words: tuple[str, ...]) -> Callable[[str | None, str], str | None]:
    """The step (state, text read) -> state of `Grammar.rate`."""
    longest = max(map(len, words))

    def step(state: str | None, text: str) -> str | None:
        if state is None:
            return None
        read = state + text
        if any(word in read for word in words):
            return None
        ends = (read[i:] for i in range(max(0, len(read) - longest + 1), len(read)))
        return next((end for end in ends if any(word.startswith(end) for word in words)), "")

    return step
