"""`postern-operator check`: what is wrong with Postern in a cluster, and what to do about it.

`gathering` reads the cluster into `facts`, which the pure checks of `cluster`, `webhook` and `policies` judge one by
one; `report` writes what came of it. Nothing in the cluster is changed. Raises nothing.
"""

from .command import run

__all__ = ["run"]
