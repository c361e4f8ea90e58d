"""The operator's mind: what a policy's status says, which pods are poked, when sidecars are asked, which Events go out.

Everything follows from `model.Inputs` and what `render` made of the policy; nothing is remembered between two
judgements but the status itself. The conditions are chains of named checks (`checks`), the counts are `view`'s, what
is written and told is `status`'s, the pokes and questions are `pace`'s. Raises nothing.
"""

from .pace import ask_after, next_poke, poke_after, to_ask, to_poke
from .status import Judgement, judge, transitions, unchanged, unheard

__all__ = [
    "Judgement",
    "ask_after",
    "judge",
    "next_poke",
    "poke_after",
    "to_ask",
    "to_poke",
    "transitions",
    "unchanged",
    "unheard",
]
