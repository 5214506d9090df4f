"""The nearest spelling of what is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggestion(wrong: str, known: Iterable[str]) -> str:
    """ "; did you mean NEAR?" for the nearest spelling of `known`, or "" without one.

    A key is also found by its last part: `lr` is near `optim.lr`.
    """
    candidates = list(dict.fromkeys(known))
    last = wrong.rpartition(".")[2]
    by_end = {key.rpartition(".")[2]: key for key in reversed(candidates)}
    near = difflib.get_close_matches(wrong, candidates, n=1, cutoff=0.75)
    same_end = [by_end[last]] if last in by_end else []
    near_end = [by_end[end] for end in difflib.get_close_matches(last, by_end, n=1, cutoff=0.75)]
    best = next(iter(near + same_end + near_end), None)
    return f"; did you mean {best}?" if best else ""
