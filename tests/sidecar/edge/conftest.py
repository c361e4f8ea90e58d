"""What talks to other processes runs on both event loops: uvloop, which the sidecar has, and asyncio's own. Where the
order of a transport's last calls matters, it is uvloop alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

_UVLOOP = ("test_counts.py",)
_BOTH = (
    "test_admin.py",
    "test_asker.py",
    "test_channel.py",
    "test_control.py",
    "test_dial.py",
    "test_doors.py",
    "test_perform.py",
    "test_resolver.py",
    "test_resolving.py",
    "test_unbound_child.py",
)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in _BOTH:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    if item.path.name in _UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
