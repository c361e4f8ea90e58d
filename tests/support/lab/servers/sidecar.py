"""The sidecar in the laboratory: `python -m postern_sidecar run` in the pod, with no privilege but those asked for, and
with Unbound where its policy has an outbound section when it starts."""

from __future__ import annotations

import dataclasses
import http.client
import itertools
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from .. import trees
from ..program import PATIENCE, Log, Process, Program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..namespaces import Namespaces

SOURCES = Path(__file__).resolve().parents[4] / "sidecar"
ADMIN = ("127.0.0.1", 15925)
STARTED = r'\bconfig hash=|"event":"config"'  # the last line of a start
NET_RAW = 13  # capabilities(7): what Transparent needs

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    status: int
    body: str

    @property
    def data(self) -> Any:
        return json.loads(self.body)


def manifest(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "postern.dev/v1alpha1",
        "kind": "MailProxyPolicy",
        "metadata": {"name": "edge", "namespace": "mail"},
        "spec": {"hostname": "mail.example.org", **spec},
    }


class Sidecar:
    """A running sidecar, its configuration file and its admin port."""

    def __init__(
        self,
        lab: Namespaces,
        etc: Mapping[str, str],
        *,
        filename: str,
        arguments: Sequence[str],
        net_raw: bool,
        system: Sequence[Path],
    ) -> None:
        self._lab = lab
        self._system = system
        self._etc = etc
        self._capabilities = [NET_RAW] if net_raw else []
        self._folder = lab.folder / f"sidecar-{next(_numbers)}"
        self.state = self._folder / "state"
        self.state.mkdir(parents=True)
        self.config = self._folder / filename
        self._arguments = arguments
        self.process: Process

    @property
    def log(self) -> Log:
        return self.process.log

    def start(self, *, wait: bool = True) -> None:
        """Returns once it accepts; without `wait`, at once (for configurations that it should refuse)."""
        admin = f"{ADMIN[0]}:{ADMIN[1]}"
        where = ["--config", str(self.config), "--admin", admin, "--state-dir", str(self.state)]
        self.process = self._lab.start(self._program(["run", *where, *self._arguments]), "sidecar")
        if wait:
            self.log.wait_for(STARTED)

    def write(self, spec: Mapping[str, Any]) -> None:
        """Replaces the configuration file, at once and whole."""
        self.write_text(json.dumps(manifest(spec), indent=1))

    def write_text(self, text: str) -> None:
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)

    def command(
        self, *arguments: str, timeout: float = PATIENCE, check: bool = True, env: Mapping[str, str] | None = None
    ) -> Process:
        """Another subcommand, beside the running sidecar: `command("drain", "--state-dir", str(state))`."""
        program = self._program(arguments)
        program = dataclasses.replace(program, env={**program.env, **(env or {})})
        return self._lab.run(program, timeout=timeout, check=check)

    def get(self, path: str, *, timeout: float = PATIENCE) -> Answer:
        connection = http.client.HTTPConnection(*ADMIN)
        connection.sock = self._lab.pod.connect(ADMIN, timeout=timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that carry these labels; 0 where there is none."""
        families = text_string_to_metric_families(self.get("/metrics").body)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def stop(self) -> int:
        return self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    def _program(self, arguments: Sequence[str]) -> Program:
        return Program(
            argv=[sys.executable, "-m", "postern_sidecar", *arguments],
            trees=[*self._system, *([trees.tree("unbound")] if self._relays() else [])],
            files=self._etc,
            env={"PYTHONPATH": str(SOURCES), "PYTHONUNBUFFERED": "", "HOME": os.environ.get("HOME", "/")},
            capabilities=self._capabilities,
        )

    def _relays(self) -> bool:
        return self.config.exists() and re.search(r"\boutbound\b", self.config.read_text()) is not None
