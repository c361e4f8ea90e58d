"""The demo from its first line to its last: what it needs, what it shows, how it ends.

Which ground it plays on is decided here, and the exit status: 0 if all that it claims held, 1 if not, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from scripts.stage import real
from scripts.stage.act import Act, NotHeld, Stage
from scripts.stage.acts import acts
from scripts.stage.ground import CLIENT
from scripts.stage.interrupts import Interrupts
from scripts.stage.movement import samples
from scripts.stage.page import Page
from scripts.stage.real import Real
from scripts.stage.standins import StandIns

from lab.trees import TreeMissingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripts.stage.ground import Ground, Part

NOT_HELD = 1
INTERRUPTED = 130  # what a shell says of a process that ended by SIGINT
NOBODY_READS = 141  # likewise by SIGPIPE
CAST = (28, 18)  # columns for a program's name and its place
KEPT = 18  # and for the labels of the summary


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="real mail through postern-sidecar, with evidence")
    parser.add_argument("--stand-ins", action="store_true", help="do without the real programs, also where they are")
    chosen = parser.parse_args(arguments)
    page = Page.on(sys.stdout, os.environ)
    interrupts = Interrupts()
    with interrupts.caught():
        try:
            return show(page, interrupts, ground_here(stand_ins=chosen.stand_ins))
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):  # the terminal may be gone
                page.blank()
                page.bad("Interrupted. Nothing is left running.")
            return INTERRUPTED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
            return NOBODY_READS


def ground_here(*, stand_ins: bool) -> Ground:
    """The best that this machine has."""
    why = "--stand-ins was given" if stand_ins else real.why_not()
    if why is not None:
        return StandIns(why)
    try:
        return Real()
    except (
        AssertionError,
        OSError,
        RuntimeError,
        TreeMissingError,
    ) as problem:  # such as a kernel without overlay mounts
        return StandIns(f"the real ones cannot be had here ({str(problem).splitlines()[0]})")


def show(page: Page, interrupts: Interrupts, ground: Ground, programme: Sequence[Act] | None = None) -> int:
    """All of it, from the title to the last line; the exit status. Ends the ground."""
    started = time.monotonic()
    programme = programme or acts(ground)
    try:
        try:
            introduce(page, interrupts, ground)
        except (AssertionError, OSError, RuntimeError) as problem:
            interrupts.check()  # Ctrl-C may have hit a child before it had a session of its own: then that is why
            page.bad("The demo could not be set up:")
            page.plain(str(problem))
            return NOT_HELD
        with interrupts.allowed():
            page.plain(f"\nThe policy:\n\n{ground.policy}")
            stage = Stage(page, ground, samples(ground.metrics()))
            held = [play(stage, number, act) for number, act in enumerate(programme, 1)]
            summarize(stage, programme, held)
    finally:
        ground.close()
    page.blank()
    took = f"in {time.monotonic() - started:.0f} s. Nothing is left running."
    if all(held):
        page.good(f"All {len(held)} claims held, {took}")
        return 0
    page.bad(f"{held.count(False)} of {len(held)} claims did NOT hold, {took}")
    return NOT_HELD


def introduce(page: Page, interrupts: Interrupts, ground: Ground) -> None:
    """Starts the programs one by one; an interruption waits until the next is up."""
    page.title("Postern: the real client in front of your mail server, and DANE behind it")
    page.blank()
    parts = []
    for part in ground.start():
        with interrupts.allowed():
            parts.append(part)
    with interrupts.allowed():
        chain(page, "a client", CLIENT, [part for part in parts if not part.outbound])
        if ground.relays:
            page.blank()
            chain(page, "a program in the pod", "127.0.0.1", [part for part in parts if part.outbound])
        for note in ground.notes:
            page.blank()
            page.paragraph(note)


def chain(page: Page, who: str, where: str, parts: Sequence[Part]) -> None:
    """The way of the mail; the parts started the other way round."""
    page.row(who, where, "sends mail", widths=CAST)
    for part in reversed(parts):
        page.row(f"-> {part.name}", part.where, part.does, widths=CAST)


def play(stage: Stage, number: int, act: Act) -> bool:
    if not act.quiet:
        stage.page.claim(number, act.claim, act.saying)
    try:
        act.play(stage)
    except (NotHeld, AssertionError, OSError) as problem:
        stage.page.not_held(str(problem))
        return False
    stage.page.pause()
    return True


def summarize(stage: Stage, programme: Sequence[Act], held: Sequence[bool]) -> None:
    """What the demo was for, on one page."""
    page = stage.page
    page.blank()
    page.title("In short")
    for label, text, mark in stage.kept:
        page.evidence(label, text, mark=mark, width=KEPT)
    page.plain("\nMetrics that moved (labels listener and handover left out):\n\n" + "\n".join(stage.changes))
    page.blank()
    for act, good in zip(programme, held, strict=True):
        (page.held if good else page.not_held)(act.claim)
