"""`postern-sidecar check`: inquiries for several domains at once, and their reports in the order of the command line.

The decisions are `outbound.inquiry`'s, and what is shown `outbound.tree`'s. Exit codes: 0 all would be delivered, 1
some would not, 2 the configuration.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Final

from postern_sidecar.outbound.inquiry import inquire
from postern_sidecar.outbound.report import Outcome
from postern_sidecar.outbound.tree import BOXES, Style, draw

from . import inquiring

if TYPE_CHECKING:
    from typing import TextIO

    from postern_sidecar.config.options import Check
    from postern_sidecar.names import Address, Domain
    from postern_sidecar.outbound.report import Report

AT_ONCE: Final = 16  # domains


def run(order: Check) -> int:
    return inquiring.run(_run(order))


async def _run(order: Check) -> int:
    style = style_of(sys.stdout)
    turns = asyncio.Semaphore(AT_ONCE)
    delivered = True
    async with inquiring.desk(inquiring.settings(order.config, order.credentials)) as desk:

        async def one(target: Domain | Address) -> Report:
            async with turns:
                return await desk.perform(inquire(desk.surroundings(), target, connect=order.connect))

        reports = [asyncio.ensure_future(one(target)) for target in order.targets]
        try:
            for each in reports:
                report = await each
                delivered &= report.outcome is Outcome.DELIVER
                _show(report, style, as_json=order.json)
        finally:
            for each in reports:
                each.cancel()
            await asyncio.wait(reports)
    return 0 if delivered else 1


def _show(report: Report, style: Style, *, as_json: bool) -> None:
    lines = [json.dumps(report.json())] if as_json else [*draw(report, style), ""]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def style_of(stream: TextIO) -> Style:
    """Colour on a terminal, unless NO_COLOR is set (no-color.org) or the terminal is dumb."""
    colour = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    try:
        "".join(BOXES).encode(stream.encoding)
    except UnicodeEncodeError:
        return Style(colour)
    return Style(colour, boxes=True)
