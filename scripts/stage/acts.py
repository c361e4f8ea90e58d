"""All acts of the demo, in their order: inbound, outbound where the ground has it, and the counters of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.stage import inbound, outbound
from scripts.stage.act import Act, looks, require
from scripts.stage.movement import moved, samples

if TYPE_CHECKING:
    from scripts.stage.act import Stage
    from scripts.stage.ground import Ground
    from scripts.stage.movement import Moved

NOT_OURS = ("probe", "empty")  # health checks go on all the while


def counted(stage: Stage) -> None:
    """Waits for the counters: a session is counted when it has ended, which its client does not see."""
    for text in looks(stage):
        changes = moved(stage.before, samples(text))
        outcomes = by_labels(changes, "postern_inbound_connections_total", "outcome")
        outcomes = {name: by for name, by in outcomes.items() if name not in NOT_OURS}
        deliveries = by_labels(changes, "postern_outbound_deliveries_total", "outcome", "level")
        if outcomes == stage.outcomes and deliveries == stage.deliveries:
            break
    width = max(len(str(each)) for each in changes) + 2
    stage.changes = [f"{each!s:<{width}}{each.before} -> {each.after}" for each in changes]
    require(outcomes == stage.outcomes, f"the metrics should count {dict(stage.outcomes)}, not {outcomes}")
    require(deliveries == stage.deliveries, f"the metrics should count {dict(stage.deliveries)}, not {deliveries}")
    bugs = stage.ground.sidecar_log.matches("internal_error|Traceback")
    require(not bugs, "the sidecar should not have met a bug of its own")


def by_labels(changes: list[Moved], name: str, *labels: str) -> dict[str, int]:
    """How much that metric moved, by the values of these labels."""
    return {" ".join(map(each.label, labels)): each.by for each in changes if each.name == name}


def acts(ground: Ground) -> list[Act]:
    what = "connections and messages" if ground.relays else "connections"
    end = Act(f"The metrics have counted each of these {what}, once", "", counted, quiet=True)
    return [*inbound.acts(ground), *(outbound.acts() if ground.relays else ()), end]
