"""Postfix and Exim run the table of cases in the same laboratory: where they come to something else than the table, it
is as `dane.peers` and docs/comparison.md have it, and nowhere else.

All cases of each run at once, in a few seconds of an idle machine's time. The facts are those of Debian 12's releases;
of others nothing is known, so on another Debian these tests are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dane import relays
from dane.peers import EXIM_DIFFERS, POSTFIX_CRASHES, POSTFIX_DIFFERS, applicable
from dane_cases import BY_NAME, CASES
from lab import trees

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dane.case import Case
    from dane.relays import Relay, Seen
    from lab.danelab import DaneLab

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(trees.release() != "bookworm", reason="what Postfix and Exim do is known of Debian 12's"),
]

APPLICABLE = [case for case in CASES if applicable(case)]


@pytest.fixture(scope="module")
def postfix(dane_lab: DaneLab) -> Relay:
    return relays.postfix(dane_lab)


def differences(dane_lab: DaneLab, relay: Relay, cases: Sequence[Case]) -> Mapping[str, Seen]:
    seen = relays.observe(dane_lab, relay, cases)
    return {name: each for name, each in seen.items() if each != relays.wanted(BY_NAME[name].expect)}


def test_postfix_differs_where_it_is_known_to(dane_lab: DaneLab, postfix: Relay) -> None:
    cases = [case for case in APPLICABLE if case.name != POSTFIX_CRASHES]
    assert len(cases) > 270
    assert differences(dane_lab, postfix, cases) == POSTFIX_DIFFERS


def test_exim_differs_where_it_is_known_to(dane_lab: DaneLab) -> None:
    assert len(APPLICABLE) > 270
    assert differences(dane_lab, relays.exim(dane_lab), APPLICABLE) == EXIM_DIFFERS


def test_a_tlsa_record_without_data_does_not_get_a_message_past_postfix(dane_lab: DaneLab, postfix: Relay) -> None:
    """Whether it falls over it or not: Debian may mend that."""
    recipient = dane_lab.setting.recipient(BY_NAME[POSTFIX_CRASHES])
    relays.submit(dane_lab, postfix.port, [recipient])
    ended = postfix.log.wait_for(rf"postfix/smtp\[\d+\]: panic: |to=<{recipient}>.*status=")
    messages = dane_lab.sink.messages(recipient=recipient)
    assert [message for message in messages if message.tls is None] == []
    assert "panic" in ended[0] or messages != []
