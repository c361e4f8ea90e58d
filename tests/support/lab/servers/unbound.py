"""Unbound in the laboratory: a validating resolver in the pod, where every resolv.conf points.

Its root is the world's; it keeps nothing on disk, and its answers are the independent word on what state a zone is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import trees
from ..program import Program

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..namespaces import Namespaces
    from ..program import Process
    from ..world import World

ADDRESS = "127.0.0.1"

# A silent server shall cost two seconds, not twenty; and a client whose question took longer than 1.9 s gets an answer
# all the same, which is not so by default.

SETTINGS = """\
server:
    interface: {address}
    port: {port}
    chroot: ""
    username: ""
    directory: /run
    pidfile: ""
    use-syslog: no
    logfile: ""
    verbosity: 1
    num-threads: 1
    do-ip6: no
    module-config: "validator iterator"
    root-hints: /etc/unbound/root.hints
    trust-anchor: "{anchor}"
    val-log-level: 1
    log-servfail: yes
    so-rcvbuf: 0
    qname-minimisation: no
    aggressive-nsec: no
    outbound-msg-retry: 2
    discard-timeout: 20000
{extra}
remote-control:
    control-enable: no
"""


def start(
    lab: Namespaces, etc: Mapping[str, str], world: World, *, extra: str, port: int, host: str, anchor: bool
) -> Process:
    hints = _hints(world)
    settings = SETTINGS.format(address=ADDRESS, port=port, anchor=world.trust_anchor, extra=extra)
    if not anchor:
        settings = settings.replace("    trust-anchor:", "    # trust-anchor:")
    program = Program(
        argv=["unbound", "-d", "-c", "/etc/unbound/unbound.conf"],
        host=host,
        trees=[trees.tree("unbound")],
        files={**etc, "/etc/unbound/unbound.conf": settings, "/etc/unbound/root.hints": hints},
    )
    process = lab.start(program, "unbound")
    process.log.wait_for(r"info: start of service")
    return process


def root_files(world: World, tree: Path) -> Path:
    """A tree with what dns-root-data has of the internet's root, of this world's: to be laid over that."""
    folder = tree / "usr/share/dns"
    folder.mkdir(parents=True)
    (folder / "root.key").write_text(f"{world.trust_anchor}\n")
    (folder / "root.hints").write_text(_hints(world))
    return tree


def _hints(world: World) -> str:
    return "".join(
        f". 3600 IN NS {hint['name']}.\n" + "".join(f"{hint['name']}. 3600 IN A {a}\n" for a in hint["addresses"])
        for hint in world.root_hints
    )
