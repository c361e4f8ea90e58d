"""The sidecar's resolver alone, as a program for the laboratory: takes steps, and says what came of each.

    python resolver_steps.py '{"dns": {...}, "state": null, "constants": {"unbound": {"EVERY": 0.2}}, "steps": [...]}'

`constants`: other values, by module of `edge`. Steps: ["tested"] (waits for the first verdict), ["ready"]
(waits until it is), ["ask", name, type], ["signal", number] (to Unbound), ["restarted", n] (waits for so many). On
standard output one JSON object a line: {"event": text} or {"step": [...], "is": ...}.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from postern_sidecar.answers import MX, SOA, Answer, Kind, Question
from postern_sidecar.config.model import DNS
from postern_sidecar.edge import asker, resolving, unbound
from postern_sidecar.edge.resolving import Resolving
from postern_sidecar.names import Domain

if TYPE_CHECKING:
    from collections.abc import Callable


MODULES = {"asker": asker, "resolving": resolving, "unbound": unbound}


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def told(answer: Answer) -> dict[str, Any]:
    fields: dict[str, Any] = {"state": answer.state.value, "name": answer.name, "ttl": answer.ttl}
    fields["records"] = [list(record) if isinstance(record, (MX, SOA)) else str(record) for record in answer.records]
    fields |= {"denied": answer.denied, "nxdomain": answer.nxdomain, "detail": answer.detail}
    return fields


async def until(condition: Callable[[], bool]) -> None:
    """What the resolver tells nobody but those who look."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def take(step: list[Any], resolver: Resolving) -> Any:
    loop = asyncio.get_running_loop()
    began = loop.time()
    match step:
        case ["tested"]:
            await resolver.tested(20)
            return [*resolver.ready, resolver.verdict and resolver.verdict.value]
        case ["ready"]:
            await until(lambda: resolver.ready[0])
            return True
        case ["ask", name, kind]:
            (answer,) = await resolver.ask((Question(Domain(name), Kind[kind]),))
            return {**told(answer), "seconds": loop.time() - began}
        case ["signal", number]:
            pid = resolver._unbound.pid if resolver._unbound is not None else None
            if pid is None:
                raise RuntimeError("there is no Unbound")
            os.kill(pid, number)
            return pid
        case ["restarted", times]:
            await until(lambda: resolver.restarts >= times)
            return loop.time() - began
    raise ValueError(step)


async def main(order: dict[str, Any]) -> None:
    for module, constants in order["constants"].items():
        for name, value in constants.items():
            setattr(MODULES[module], name, value)
    dns = msgspec.convert(order["dns"], DNS, dec_hook=lambda kind, text: kind(text), strict=True)
    state = Path(order["state"]) if order.get("state") else None
    resolver = Resolving(dns, state_dir=state, on_event=lambda text: say(event=text))
    resolver.start()
    for step in order["steps"]:
        say(step=step, **{"is": await take(step, resolver)})
    await resolver.close()
    say(closed=True)


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
