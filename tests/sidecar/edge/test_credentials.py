"""Secrets as files: what is read, what is not, and that no warning tells what a file holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from postern_sidecar.config.model import Auth, Route
from postern_sidecar.config.scalars import HostPort, Pattern
from postern_sidecar.edge import credentials
from postern_sidecar.outbound.settings import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable


def route(secret: str | None = "relay") -> Route:  # noqa: S107 - a name
    auth = None if secret is None else Auth(secret_name=secret)
    return Route(domains=(Pattern("*"),), via=HostPort("relay.example"), auth=auth)


def secret(folder: Path, username: bytes, password: bytes) -> Path:
    folder.mkdir()
    (folder / "username").write_bytes(username)
    (folder / "password").write_bytes(password)
    return folder


def read(directory: Path, *routes: Route) -> tuple[dict[str, Credentials], list[str]]:
    warnings: list[str] = []
    return credentials.load(directory, routes, warnings.append), warnings


@pytest.mark.parametrize(
    ("username", "password", "expected"),
    [
        (b"app", b"s3cret", Credentials("app", "s3cret")),
        (b"app\n", b"s3cret\r\n", Credentials("app", "s3cret")),
        (b"app\n\n", b" s3 cret \r", Credentials("app\n", " s3 cret ")),
        ("jürgen".encode(), "\u00df\n".encode(), Credentials("jürgen", "\u00df")),
        (b"x" * credentials.MAX_SIZE, b"y", Credentials("x" * 4096, "y")),
    ],
)
def test_what_is_read(tmp_path: Path, username: bytes, password: bytes, expected: Credentials) -> None:
    secret(tmp_path / "relay", username, password)
    assert read(tmp_path, route()) == ({"relay": expected}, [])


def test_each_secret_once_and_only_those_that_routes_name(tmp_path: Path) -> None:
    secret(tmp_path / "one", b"a", b"b")
    secret(tmp_path / "two", b"c", b"d")
    secret(tmp_path / "unnamed", b"", b"")
    known, warnings = read(tmp_path, route("two"), route(None), route("one"), route("two"))
    assert list(known.items()) == [("two", Credentials("c", "d")), ("one", Credentials("a", "b"))]
    assert warnings == []


def test_links_as_the_kubelet_makes_them(tmp_path: Path) -> None:
    folder = tmp_path / "relay"
    folder.mkdir()
    secret(folder / "..2026", b"a", b"b")
    (folder / "..data").symlink_to("..2026")
    for name in ("username", "password"):
        (folder / name).symlink_to(f"..data/{name}")
    assert read(tmp_path, route())[0] == {"relay": Credentials("a", "b")}


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("name", ["username", "password"])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (Path.unlink, "cannot be read: No such file or directory"),
        (_directory, "cannot be read: Is a directory"),
        (_loop, "cannot be read: Too many levels of symbolic links"),
        (_fifo, "is empty"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"\n"), "is empty"),
        (lambda path: path.write_bytes(b"s3cret\xff"), "is not UTF-8"),
        (lambda path: path.write_bytes(b"s3cret\0x"), "has a NUL octet"),
        (lambda path: path.write_bytes(b"s3cret" * 683), "is larger than 4096 octets"),
    ],
)
def test_what_is_not_read(tmp_path: Path, name: str, spoil: Callable[[Path], object], why: str) -> None:
    secret(tmp_path / "other", b"a", b"b")
    folder = secret(tmp_path / "relay", b"s3cret", b"s3cret")
    spoil(folder / name)
    known, warnings = read(tmp_path, route("relay"), route("other"))
    assert known == {"other": Credentials("a", "b")}
    remedy = "mail over routes with the Secret relay is deferred until it is read again, with the configuration"
    assert warnings == [f"{folder / name}: {why}; {remedy}"]
    assert "s3cret" not in warnings[0]


def test_a_fifo_that_somebody_holds_open(tmp_path: Path) -> None:
    folder = secret(tmp_path / "relay", b"a", b"b")
    _fifo(folder / "password")
    held = os.open(folder / "password", os.O_RDWR)
    try:
        known, warnings = read(tmp_path, route())
    finally:
        os.close(held)
    assert known == {}
    assert warnings[0].startswith(f"{folder / 'password'}: is empty; ")


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    folder = secret(tmp_path / "relay", b"a", b"b")
    with (folder / "password").open("wb") as file:
        file.truncate(1 << 40)
    assert read(tmp_path, route())[0] == {}


def test_without_a_directory_it_is_the_clusters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Path("/etc/postern/credentials") == credentials.DIRECTORY
    secret(tmp_path / "relay", b"a", b"b")
    monkeypatch.setattr(credentials, "DIRECTORY", tmp_path)
    assert credentials.load(None, [route()], print) == {"relay": Credentials("a", "b")}


def test_a_password_is_in_no_representation(tmp_path: Path) -> None:
    secret(tmp_path / "relay", b"a", b"s3cret")
    assert "s3cret" not in repr(read(tmp_path, route())[0])
