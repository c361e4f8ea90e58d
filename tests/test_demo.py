"""`make demo` as a stranger sees it: what it shows, that it fails where its evidence does, that it leaves nothing."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from scripts.stage import outbound
from scripts.stage.act import Act, NotHeld
from scripts.stage.acts import acts
from scripts.stage.beyond import Destinations
from scripts.stage.interrupts import Interrupts
from scripts.stage.movement import Moved, moved, samples
from scripts.stage.page import Page
from scripts.stage.real import TREES, Real
from scripts.stage.show import show
from scripts.stage.standins import StandIns

from lab import trees
from lab.program import Log

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripts.stage.act import Stage
    from scripts.stage.ground import Ground

    from lab.conversation import Conversation

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "scripts" / "demo.py"
PATIENCE = 30.0

REAL = pytest.param([], id="real", marks=pytest.mark.real)
STAND_INS = pytest.param(["--stand-ins"], id="stand-ins")


def unpacked_for_it(place: Path) -> dict[str, str]:
    """The cache of unpacked servers as `make demo` fills it, with nothing more in it."""
    here = place / "cache" / "postern" / "debian" / trees.cache().name
    here.mkdir(parents=True)
    for name in TREES:
        (here / name).symlink_to(trees.cache() / name)
    return {"XDG_CACHE_HOME": str(place / "cache")}


class Demo:
    """The demo in a process group and with a temporary folder of its own, so that what it leaves can be told."""

    def __init__(self, place: Path, options: list[str]) -> None:
        folder = self.folder = place / "temporary"
        folder.mkdir()
        self.mark = f"DEMO_OF={folder}"
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, str(DEMO), *options],
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            env={**os.environ, **unpacked_for_it(place), "TMPDIR": str(folder), "DEMO_OF": str(folder), "NO_COLOR": ""},
            process_group=0,
        )
        os.close(writing)
        self.log = Log(reading, "demo")

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        self.log.wait_for_end()
        return status

    def programs(self) -> list[int]:
        """Processes that the demo has started, or that those have. What the laboratory runs ends with the first."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # gone, or somebody else's
                if self.mark.encode() in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parent.name))
        return [pid for pid in found if pid != self.process.pid]

    def files(self) -> list[str]:
        return [file.name for file in self.folder.iterdir()]


@pytest.fixture
def demo(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Demo]:
    running = Demo(tmp_path, request.param)
    yield running
    running.process.kill()
    running.wait()


# -- what it shows -----------------------------------------------------------------------------------------------------

SHOWN_BY_BOTH = [
    r"connect H=\[192\.0\.2\.10\]:\d+ I=\S+ TGT=\S+ PRX=\S+ V=2 HO=ProxyV2",
    r"from client\.test \(\S* ?\[192\.0\.2\.10\]\) by mail\.example\.org",
    r'postern_inbound_probes_total\{listener="smtp",result="up"\} [1-9]',
    r"they say PROXY TCP4 192\.0\.2\.10 .* they hear (220 .*)?421 4\.3\.2 .* R=header_from_untrusted_source ",
    r"they say PROXY TCP4 127\.0\.0\.1 .* they hear 421 .* R=source_not_allowed .*nobody may claim 127\.0\.0\.1",
    r"they say EHLO .* they hear 421 4\.3\.2 .* R=not_a_header",
    r"they hear 554 5\.5\.0 SMTP synchronization error .* R=early_talker",
    r"192\.0\.2\.20 421 4\.7\.0 mail\.example\.org Too many connections from 192\.0\.2\.20: .*try again in \d+ s",
    r"refused H=\[192\.0\.2\.20\]:\d+ PRX=\S+ R=rate_per_client C=\"421 4\.7\.0 .*192\.0\.2\.21 220 ",
    r"198\.51\.100\.7 554 5\.7\.1 No mail from 198\.51\.100\.7, .*detail=\"rule unwanted\"",
    r"config_refused .*did you mean ratePerClient\?",
    r"In short the session \S+ \S+ \S+ connect H=\[192\.0\.2\.10\]",
    r"a forged header .* a spoofed client .* no header at all .* a limited client 421 4\.7\.0 ",
    r'postern_inbound_connections_total\{outcome="handed_over"\} 0 -> [67]',
    r'postern_inbound_header_failures_total\{reason="source_not_allowed"\} 0 -> 1',
    r'postern_inbound_limited_total\{kind="rate_per_client"\} 0 -> 1',
]
SHOWN = {
    "real": [
        r"-> HAProxy \d\S+ 10\.0\.3\.7:25 .*-> Postfix \d\S+ 127\.0\.0\.1:2525",
        r"postfix/smtpd\[\d+\]: connect from lb\.example\.net\[10\.0\.3\.7\]",
        r"postfix/smtpd\[\d+\]: connect from client\.example\.net\[192\.0\.2\.10\]",
        r"from client\.test \(client\.example\.net \[192\.0\.2\.10\]\) by mail\.example\.org \(Postfix\)",
        r"TGT=\[10\.0\.3\.7\]:25 PRX=10\.0\.3\.7 V=2",
        r"Health check for server port0/backend succeeded, reason: Layer7 check passed",
        r"-> postern-sidecar \S+ 127\.0\.0\.1:11025 .*-> Unbound \d\S+ 127\.0\.0\.1 .*-> NSD \d\S+ .*-> Postfix ",
        r"trustAnchors: - \. IN DS \d+ 13 2 [0-9a-f]{64} ",
        (
            r"RCPT TO:<anna@safe\.example>: 250 2\.1\.5 Ok the message: 250 2\.0\.0 Ok: queued as (\w+) .*"
            r" TLS connection established from mail\.example\.org\[10\.0\.9\.12\]: TLSv1\.3 .* => anna@safe\.example "
            r"H=mx\.safe\.example \[198\.51\.100\.25\]:25 X=TLS1\.3:\S+ CV=dane .* \1: .*status=sent"
        ),
        (
            r"the message, <bert@school\.example>: 250 2\.0\.0 Ok: queued as (\w+) "
            r".* => bert@school\.example \S+ \S+ \S+ CV=dane .* \1: .*status=sent"
        ),
        (
            r"carl@rolled\.example>: 451 4\.7\.5 .* R=tlsa_mismatch .* ehlo=1 starttls=1 commands=2 ask "
            r"postern-sidecar check .* rolled\.example: defer .* => carl@rolled\.example .* CV=dane"
        ),
        r"dora@stripped\.example>: 451 4\.7\.4 .* R=starttls_missing .* becomes 250-XXXXXXXX > \(the end\)",
        r"a message .* CV=dane .* a mismatch .* R=tlsa_mismatch .* no STARTTLS ",
        r'postern_outbound_deliveries_total\{level="dane",outcome="delivered"\} 0 -> 4',
        r'postern_dane_failures_total\{reason="tlsa_mismatch"\} 0 -> 1',
        r"All 16 claims held, in \d+ s\. Nothing is left running\.$",
    ],
    "stand-ins": [
        r"What is different: --stand-ins was given\. So a small load balancer in Python stands in for HAProxy",
        r"message 1 from \S+ client=\[127\.0\.0\.1\]: stored",
        r"message 2 from \S+ client=\[192\.0\.2\.10\]: stored",
        r"by mail\.example\.org \(aiosmtpd ",
        r"And there is no outbound half: .* NSD, Unbound, and Postfix as the destination\.",
        r"All 11 claims held, in \d+ s\. Nothing is left running\.$",
    ],
}


@pytest.mark.parametrize("demo", [REAL, STAND_INS], indirect=True)
def test_it_shows_what_it_claims(demo: Demo, request: pytest.FixtureRequest) -> None:
    assert demo.wait() == 0, str(demo.log)
    text = " ".join(str(demo.log).split())  # lines are folded where they are long
    ground = request.node.callspec.id
    assert [pattern for pattern in [*SHOWN_BY_BOTH, *SHOWN[ground]] if not re.search(pattern, text)] == []
    assert max(len(line) for line in demo.log.lines) <= 100
    assert all(character == "\n" or " " <= character <= "~" for character in str(demo.log))
    assert (demo.programs(), demo.files()) == ([], [])


def test_make_unpacks_what_the_demo_needs() -> None:
    assert f"scripts/debian.py {' '.join(TREES)} ||" in (ROOT / "Makefile").read_text()


def test_the_readme_shows_this_demo() -> None:
    shown = re.search(
        r"<!-- demo output: begin -->(.*)<!-- demo output: end -->", (ROOT / "README.md").read_text(), re.S
    )
    assert shown
    claims = [act.claim for act in acts(cast("Ground", Real))]
    assert re.findall(r"^   held +(.*)$", shown[1], re.MULTILINE) == claims
    assert f"All {len(claims)} claims held" in shown[1]


# -- how it ends otherwise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("^Postern: ", signal.SIGINT),  # nothing runs yet
        ("^   kind: MailProxyPolicy", signal.SIGINT),  # everything runs
        ("^2  ", signal.SIGINT),
        ("^2  ", signal.SIGTERM),
        ("^2  ", signal.SIGHUP),
        ("^9  ", signal.SIGINT),
        ("^In short", signal.SIGINT),  # almost over
    ],
)
@pytest.mark.parametrize("demo", [REAL, STAND_INS], indirect=True)
def test_an_interruption_leaves_nothing(demo: Demo, moment: str, number: signal.Signals) -> None:
    demo.log.wait_for(moment)
    os.killpg(demo.process.pid, number)  # as the terminal does
    status = demo.wait()
    assert status == 130 or (moment == "^In short" and status == 0), str(demo.log)
    assert "Traceback" not in str(demo.log)
    assert demo.log.lines[-1].endswith("Nothing is left running.")
    assert (demo.programs(), demo.files()) == ([], [])


@pytest.mark.real
@pytest.mark.parametrize("demo", [[]], indirect=True)
def test_an_interruption_in_the_outbound_half_leaves_nothing(demo: Demo) -> None:
    demo.log.wait_for("^13 ")
    os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.wait() == 130, str(demo.log)
    assert (demo.programs(), demo.files()) == ([], [])


@pytest.mark.parametrize("demo", [REAL, STAND_INS], indirect=True)
def test_a_second_interruption_does_not_stop_the_tidying_up(demo: Demo) -> None:
    demo.log.wait_for("^2  ")
    for _ in range(5):
        os.killpg(demo.process.pid, signal.SIGINT)
    assert demo.wait() == 130, str(demo.log)
    assert (demo.programs(), demo.files()) == ([], [])


@pytest.mark.parametrize("demo", [REAL, STAND_INS], indirect=True)
def test_not_even_a_killed_demo_leaves_programs(demo: Demo) -> None:
    demo.log.wait_for("^2  ")
    programs = demo.programs()
    assert programs
    demo.process.kill()
    for pid in programs:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            ended, _, _ = select.select([descriptor], [], [], PATIENCE)
            os.close(descriptor)
            assert ended


def played(ground: Ground, programme: list[Act] | None = None) -> tuple[int, str]:
    """A demo in this process; its exit status and its text."""
    text = io.StringIO()
    return show(Page(text), Interrupts(), ground, programme), text.getvalue()


class Bypassed(StandIns):
    """A load balancer that leads past the sidecar: mail comes through, and the server sees the wrong client."""

    def through(self, client: str, *, past_postern: bool = False) -> Conversation:  # noqa: ARG002
        return super().through(client, past_postern=True)


def test_a_claim_that_the_evidence_does_not_bear_out_fails_the_demo() -> None:
    ground = Bypassed("this is a test")
    first, second, *_ = acts(ground)
    ground.patience = 0.2
    status, text = played(ground, [first, second])
    assert status == 1
    assert re.findall(r"^   (held|NOT HELD)  +(\S.*)", text, re.MULTILINE)[-2:] == [
        ("held", first.claim),
        ("NOT HELD", second.claim),
    ]
    assert "1 of 2 claims did NOT hold" in text


@pytest.mark.real
def test_without_dane_no_outbound_claim_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "    dane: {try: [elsewhere.example]}\n"
    section = Destinations.section
    monkeypatch.setattr(Destinations, "section", lambda self: section(self) + elsewhere)
    ground = Real()
    ground.patience = 0.2
    status, text = played(ground, outbound.acts())
    assert status == 1
    assert "5 of 5 claims did NOT hold" in text


def test_after_a_claim_that_failed_the_others_are_still_shown() -> None:
    def fail(stage: Stage) -> None:
        raise NotHeld("the moon should be up")

    ground = StandIns("this is a test")
    status, text = played(ground, [Act("The moon is up", "Look.", fail), acts(ground)[0]])
    assert status == 1
    assert "NOT HELD  the moon should be up" in text
    assert "held      Without Postern" in text


def test_a_ground_that_does_not_start_is_told_and_tidied_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.stage.standins.policy", lambda **_: "kind: Nonsense\n")
    ground = StandIns("this is a test")
    status, text = played(ground)
    assert status == 1
    assert "The demo could not be set up:" in text
    assert "Nonsense" in text
    assert not ground.folder.exists()


# -- the page ----------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "coloured"),
    [
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": ""}, True),
        (Terminal(), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(stream: io.StringIO, environ: dict[str, str], coloured: bool) -> None:
    Page.on(stream, environ).good("well")
    assert ("\x1b[" in stream.getvalue()) == coloured


def test_evidence_is_folded_and_otherwise_as_it_was() -> None:
    text = io.StringIO()
    line = "connect " + " ".join(f"item{number}=value-{number}" for number in range(20))
    Page(text, width=60).evidence("Postern", line)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert " ".join(text.getvalue().split()) == f"Postern {line}"


BEFORE = """\
# TYPE postern_inbound_connections_total counter
postern_inbound_connections_total{handover="ProxyV2",listener="smtp",outcome="limited"} 1.0
postern_inbound_handover_seconds_bucket{handover="ProxyV2",le="0.1",listener="smtp"} 3.0
postern_config_reloads_total{result="accepted"} 1.0
postern_dns_ready 1.0
"""
AFTER = """\
postern_inbound_connections_total{handover="ProxyV2",listener="smtp",outcome="limited"} 1.0
postern_inbound_connections_total{handover="ProxyV2",listener="smtp",outcome="handed_over"} 5.0
postern_inbound_handover_seconds_bucket{handover="ProxyV2",le="0.1",listener="smtp"} 4.0
postern_config_reloads_total{result="accepted"} 2.0
postern_dns_ready 1.0
postern_dane_failures_total{reason="tlsa_mismatch"} 1.0
"""


def test_metrics_that_moved() -> None:
    changes = moved(samples(BEFORE), samples(AFTER))
    assert changes == [
        Moved("postern_dane_failures_total", 'reason="tlsa_mismatch"', 0, 1),
        Moved("postern_inbound_connections_total", 'outcome="handed_over"', 0, 5),
    ]
    assert str(changes[1]) == 'postern_inbound_connections_total{outcome="handed_over"}'
