"""What edge/doors.py takes for granted of aiosmtpd. Where one of these fails, aiosmtpd has changed: read what it does
there now, beside the override or the kept method that the test names, and then write the new digest down here."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import inspect
import re
import textwrap
from importlib.metadata import version

import pytest
from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP

from postern_sidecar.edge.doors import KEPT, REPLACED, Door, LMTPDoor
from relaying import house

DIGESTS = {
    "connection_made": "0096cde9fccd04c8",
    "_cb_client_connected": "5207c86ab3e642d7",
    "_set_rset_state": "9737e90e5ad7555e",
    "_set_post_data_state": "5ba57233145a4836",
    "_create_session": "fa0a38942ef72967",
    "_create_envelope": "070f28a6ba3f9961",
    "__init__": "09553bcb94a7b745",
    "_handle_client": "49324c69de994eb0",
    "_reset_timeout": "a6ee240dba077e03",
    "_timeout_cb": "2fed1205429f2e0f",
    "connection_lost": "113bdb9e32d673b6",
    "eof_received": "48498c9c41ba9b37",
}


def source(name: str) -> str:
    return textwrap.dedent(inspect.getsource(getattr(SMTP, name)))


def test_every_place_is_watched() -> None:
    assert set(DIGESTS) == {*KEPT, *REPLACED} - {"data_received"}
    assert "data_received" not in vars(SMTP), "it was asyncio's own; look at Door.data_received"


@pytest.mark.parametrize("name", DIGESTS)
def test_a_method_is_what_it_was(name: str) -> None:
    digest = hashlib.sha256(source(name).encode()).hexdigest()[:16]
    what = "kept as it is" if name in KEPT else "replaced"
    assert digest == DIGESTS[name], (
        f"aiosmtpd {version('aiosmtpd')} changed SMTP.{name}, which edge/doors.py has {what}: read it anew"
    )


def test_what_the_kept_methods_read_is_there() -> None:
    """`Door.__init__` does not call aiosmtpd's."""
    read = {
        node.attr
        for name in KEPT
        for node in ast.walk(ast.parse(source(name)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    # set there, or read in the branch for STARTTLS, which there is not
    elsewhere = {"_reader", "_writer", "_tls_protocol", "_tls_handshake_okay"}

    async def made() -> set[str]:
        async with house() as home:
            return {name for name in read - elsewhere if not hasattr(Door(home.open.house), name)}

    assert asyncio.run(made()) == set()
    assert elsewhere <= read


@pytest.mark.parametrize(("door", "theirs"), [(Door, SMTP), (LMTPDoor, LMTP)])
def test_every_command_that_we_take_is_ours(door: type[Door], theirs: type[SMTP]) -> None:
    """None of aiosmtpd's own commands is reached, so one that it learns is not there before we say so."""
    for name in door.verbs.values():
        assert getattr(door, name) is not getattr(theirs, name), name
    untaken = {name for name in dir(theirs) if name.startswith("smtp_")} - set(door.verbs.values())
    assert untaken <= {"smtp_AUTH", "smtp_STARTTLS", "smtp_EXPN", "smtp_EHLO", "smtp_HELO"}, (
        "aiosmtpd has a new command"
    )


def test_the_version_is_one_that_was_read() -> None:
    assert re.match(r"1\.4\.", version("aiosmtpd")), "look through edge/doors.py, with aiosmtpd's changes beside it"
