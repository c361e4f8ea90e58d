"""DNS answers that are kept: bounded in number, in octets and in time.

No longer than LONGEST, whatever their TTL: what a destination changed is seen in a minute or two (Postfix keeps TLSA
records as long), and a resolver with a cache of its own stands behind this one. A failure is kept for BRIEFLY, so that
a thousand messages to a dead domain are one question. A TTL of 0 is not kept. The clock comes in.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from postern_sidecar.answers import Answer, Question

ANSWERS: Final = 4096
OCTETS: Final = 4 << 20
LONGEST: Final = 100  # seconds
BRIEFLY: Final = 2.0
_RECORD: Final = 128  # octets of a record beside its data, about
_ANSWER: Final = 512


class _Kept(NamedTuple):
    answer: Answer
    until: float
    octets: int


class AnswerCache:
    """The least recently used answer goes first. `now` is in seconds."""

    def __init__(self, answers: int = ANSWERS, octets: int = OCTETS) -> None:
        self._kept: OrderedDict[Question, _Kept] = OrderedDict()
        self._answers = answers
        self._room = octets
        self.octets = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, question: Question, now: float) -> Answer | None:
        """The answer, with what is left of its TTL."""
        kept = self._kept.get(question)
        if kept is None:
            return None
        left = kept.until - now
        if left <= 0:
            self._drop(question)
            return None
        self._kept.move_to_end(question)
        if not kept.answer.usable or int(left) == kept.answer.ttl:
            return kept.answer
        answer = dataclasses.replace(kept.answer, ttl=int(left))
        self._kept[question] = kept._replace(answer=answer)  # for whoever asks within the same second
        return answer

    def put(self, answer: Answer, octets: int, now: float) -> Answer:
        """`octets`: of the message. -> the answer, with a TTL of at most LONGEST."""
        if answer.ttl > LONGEST:
            answer = dataclasses.replace(answer, ttl=LONGEST)
        seconds = answer.ttl if answer.usable else BRIEFLY
        size = octets + _ANSWER + _RECORD * len(answer.records)
        if seconds > 0:
            self._drop(answer.question)
            self._kept[answer.question] = _Kept(answer, now + seconds, size)
            self.octets += size
            while len(self._kept) > self._answers or self.octets > self._room:
                self._drop(next(iter(self._kept)))
        return answer

    def clear(self) -> None:
        self._kept.clear()
        self.octets = 0

    def _drop(self, question: Question) -> None:
        kept = self._kept.pop(question, None)
        if kept is not None:
            self.octets -= kept.octets
