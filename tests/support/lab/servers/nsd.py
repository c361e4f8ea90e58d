"""NSD in the laboratory: authoritative for a world's zones, on addresses of `outside`.

A process for each level of the tree, and one whose zones are delegated to the liar that stands before it.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from .. import trees
from ..program import Program
from ..world import DEEP, LAME, LIAR, NSD, TOP, TRUTH
from . import liar

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..namespaces import Namespaces
    from ..program import Process
    from ..world import World, Zone

SETTINGS = """\
server:
    server-count: 1
    username: ""
    pidfile: ""
    zonelistfile: /run/zone.list
    xfrdfile: ""
    xfrdir: /run
    database: ""
    rrl-ratelimit: 0
    verbosity: 1
remote-control:
    control-enable: no
"""


class NameServers:
    def __init__(self, lab: Namespaces, etc: Mapping[str, str], world: World) -> None:
        self._lab = lab
        self._etc = etc
        self._world = world
        self._folder = lab.folder / "zones"
        self._folder.mkdir()
        self._table = lab.folder / "misanswers.json"
        self.processes: list[Process] = []
        argv = [sys.executable, "-u", liar.__file__, str(self._table)]
        self.liar = lab.start(Program(argv=argv, host="outside", files=etc), "liar")
        self._serve()
        self.liar.log.wait_for("^ready$")

    def reload(self) -> None:
        """Serves what the world holds now. A tenth of a second without answers: NSD's own reload loses a request that
        comes too soon after another."""
        for process in self.processes:
            process.kill()
        self._serve()

    def _serve(self) -> None:
        self._write()
        self.processes = [
            self._start(self._world.served(TOP), TOP),
            self._start(self._world.served(NSD), NSD),
            self._start(self._world.served(DEEP), DEEP, LAME),
            self._start(self._world.served(LIAR), TRUTH),
        ]
        for process in self.processes:
            process.log.wait_for(r"nsd started")
            if process.log.matches(" error: "):
                raise AssertionError(f"NSD refuses a zone:\n{process.log}")

    def _start(self, zones: list[Zone], *addresses: str) -> Process:
        settings = SETTINGS.replace("server:\n", "server:\n" + "".join(f"    ip-address: {a}\n" for a in addresses), 1)
        for zone in zones:
            settings += f'zone:\n    name: "{zone.name}"\n    zonefile: "{self._file(zone)}"\n'
        program = Program(
            argv=["nsd", "-d", "-c", "/etc/nsd/nsd.conf"],
            host="outside",
            trees=[trees.tree("nsd")],
            files={**self._etc, "/etc/nsd/nsd.conf": settings},
        )
        return self._lab.start(program, "nsd")

    def _write(self) -> None:
        for zone, text in self._world.take_changed():
            self._file(zone).write_text(text)
        new = self._table.with_suffix(".new")
        new.write_text(json.dumps(self._world.misanswers))
        new.replace(self._table)

    def _file(self, zone: Zone) -> Path:
        return self._folder / f"{zone.name.to_text(omit_final_dot=True) or 'root'}.zone"
