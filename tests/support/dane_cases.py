"""The cases of delivery with DANE, one for each sentence of the RFCs that decides something: see `dane.case`.

The same table runs through Postern's SMTP and LMTP doors and its `check`, with both resolvers, and through Postfix and
Exim. `dane.build.Setting` makes a laboratory of it.
"""

from __future__ import annotations

from dane import certificate_stage, delivery_stage, dns_stage, record_stage
from dane.case import Case, Expect, Server

__all__ = ["BY_NAME", "CASES", "Case", "Expect", "Server"]

CASES: tuple[Case, ...] = (*dns_stage.CASES, *record_stage.CASES, *certificate_stage.CASES, *delivery_stage.CASES)
BY_NAME = {case.name: case for case in CASES}
