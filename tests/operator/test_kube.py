"""The client against a real API server: what it asks, what it raises, and how it lives through the server's death."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from postern_operator import kube as kube_module
from postern_operator import paths
from postern_operator.kube import (
    Client,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    Unauthorized,
    Unreachable,
    connected,
)
from postern_operator.model import Key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from cluster.control import ControlPlane
    from postern_operator.kube import Object

pytestmark = pytest.mark.real


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


@pytest_asyncio.fixture
async def kube(control_plane: ControlPlane) -> AsyncIterator[Client]:
    async with connected(str(control_plane.kubeconfig)) as client:
        yield client


def config_map(name: str, **data: str) -> Object:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def token_kubeconfig(control_plane: ControlPlane, path: Path, token_file: Path) -> str:
    config = json.loads(control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"tokenFile": str(token_file)}
    path.write_text(json.dumps(config))
    return str(path)


async def test_objects_are_made_read_replaced_patched_and_deleted(kube: Client, namespace: str) -> None:
    path = paths.config_map(Key(namespace, "one"))
    made = await kube.create(paths.config_maps(namespace), config_map("one", a="1"))
    assert (await kube.get(path))["data"] == {"a": "1"}
    assert made["metadata"]["managedFields"][0]["manager"] == "postern-operator"
    replaced = await kube.update(path, {**made, "data": {"a": "2"}})
    assert replaced["data"] == {"a": "2"}
    await kube.merge(path, {"data": {"b": "3"}, "metadata": {"annotations": {"x": "y"}}})
    patched = await kube.json_patch(path, [{"op": "remove", "path": "/data/a"}])
    assert patched["data"] == {"b": "3"}
    assert patched["metadata"]["annotations"] == {"x": "y"}
    with pytest.raises(Conflict):
        await kube.delete(path, preconditions={"uid": "another"})
    await kube.delete(path, preconditions={"uid": made["metadata"]["uid"]})
    with pytest.raises(NotFound):
        await kube.delete(path)


async def test_the_same_apply_twice_changes_nothing(kube: Client, namespace: str) -> None:
    path = paths.config_map(Key(namespace, "one"))
    first = await kube.apply(path, config_map("one", a="1"))
    again = await kube.apply(path, config_map("one", a="1"))
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert [(m["manager"], m["operation"]) for m in again["metadata"]["managedFields"]] == [
        ("postern-operator", "Apply")
    ]


async def test_an_apply_overrides_another_manager_only_by_force(
    control_plane: ControlPlane, kube: Client, namespace: str
) -> None:
    path = paths.config_map(Key(namespace, "one"))
    control_plane.admin.apply(path, config_map("one", a="theirs"), "somebody")
    with pytest.raises(Conflict, match="somebody"):
        await kube.apply(path, config_map("one", a="ours"), force=False)
    assert (await kube.apply(path, config_map("one", a="ours")))["data"] == {"a": "ours"}


async def test_a_dry_run_keeps_nothing(kube: Client, namespace: str) -> None:
    made = await kube.create(paths.config_maps(namespace), config_map("one"), dry_run=True)
    assert made["metadata"]["uid"]
    with pytest.raises(NotFound):
        await kube.get(paths.config_map(Key(namespace, "one")))


async def test_refusals_have_kinds(kube: Client, namespace: str) -> None:
    collection = paths.config_maps(namespace)
    old = await kube.create(collection, config_map("one"))
    await kube.merge(paths.config_map(Key(namespace, "one")), {"data": {"a": "1"}})
    with pytest.raises(Conflict) as conflict:
        await kube.update(paths.config_map(Key(namespace, "one")), {**old, "data": {"a": "2"}})
    assert (conflict.value.status, conflict.value.reason) == (409, "Conflict")
    with pytest.raises(Conflict) as exists:
        await kube.create(collection, config_map("one"))
    assert exists.value.reason == "AlreadyExists"
    with pytest.raises(NotFound) as missing:
        await kube.get(paths.config_map(Key(namespace, "two")))
    assert str(missing.value).endswith('404: configmaps "two" not found')
    with pytest.raises(Invalid) as invalid:
        await kube.create(collection, config_map("Not A Name"))
    assert invalid.value.status == 422
    with pytest.raises(Invalid) as malformed:
        await kube.create(collection, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}})
    assert malformed.value.status == 400


async def test_a_refusal_is_short_and_printable_whatever_was_sent(kube: Client, namespace: str) -> None:
    with pytest.raises(Invalid) as refused:
        await kube.create(paths.config_maps(namespace), config_map("\x1b[31m\n\u202e" + "A" * 3000))
    text = str(refused.value)
    assert text.isprintable()
    assert len(text) < 700


async def test_what_rbac_does_not_allow_is_forbidden(control_plane: ControlPlane, namespace: str) -> None:
    kubeconfig = control_plane.kubeconfig_for(control_plane.token(namespace, "default"))
    async with connected(str(kubeconfig)) as nobody:
        with pytest.raises(Forbidden) as refused:
            await nobody.get(paths.config_map(Key(namespace, "one")))
    assert f"system:serviceaccount:{namespace}:default" in str(refused.value)


async def test_pages_hold_all_that_is_selected_once(kube: Client, namespace: str) -> None:
    for number in range(7):
        body = config_map(f"c{number}", a="1")
        body["metadata"]["labels"] = {"app": "mail", "n": str(number)}
        await kube.create(paths.config_maps(namespace), body)
    listing = kube.pages(paths.config_maps(namespace), selector="app in (mail),n!=3", limit=2, metadata_only=True)
    pages = [page async for page in listing]
    assert [len(page) for page in pages] == [2, 2, 2]
    found = [item for page in pages for item in page]
    assert [item["metadata"]["name"] for item in found] == ["c0", "c1", "c2", "c4", "c5", "c6"]
    assert all(set(item) == {"apiVersion", "kind", "metadata"} for item in found)
    full = [item async for page in kube.pages(paths.config_maps(namespace)) for item in page]
    assert [item["data"] for item in full] == [{"a": "1"}] * 7


def compact(control_plane: ControlPlane, revision: str) -> None:
    body = json.dumps({"revision": revision, "physical": True}).encode()
    with urllib.request.urlopen(f"{control_plane._etcd_url}/v3/kv/compaction", body) as answer:  # noqa: S310
        assert answer.status == 200


class Aged(Client):
    """Its first continuation is from before anything was."""

    aged = 0

    async def _call(self, method: str, path: str, query: Any = None, *args: Any, **options: Any) -> bytes:
        if query and self.aged == 0:
            query = [(name, self._older(value) if name == "continue" else value) for name, value in query]
        return await super()._call(method, path, query, *args, **options)

    def _older(self, token: str) -> str:
        self.aged += 1
        decoded = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return base64.urlsafe_b64encode(json.dumps({**decoded, "rv": 1}).encode()).decode().rstrip("=")


async def test_an_expired_continuation_goes_on_without_repeating(control_plane: ControlPlane, namespace: str) -> None:
    for number in range(5):
        control_plane.admin.create(paths.config_maps(namespace), config_map(f"c{number}"))
    revision = control_plane.admin.get(paths.config_maps(namespace))["metadata"]["resourceVersion"]
    compact(control_plane, revision)
    control_plane.restart()  # it remembers what etcd has forgotten
    client = await Aged.connect(str(control_plane.kubeconfig))
    try:
        found = [item async for page in client.pages(paths.config_maps(namespace), limit=2) for item in page]
    finally:
        await client.close()
    assert client.aged == 1
    assert [item["metadata"]["name"] for item in found] == [f"c{number}" for number in range(5)]


async def test_a_new_token_is_read_when_the_old_one_is_refused(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("no such token")
    async with connected(token_kubeconfig(control_plane, tmp_path / "config", token_file)) as client:
        with pytest.raises(Unauthorized) as refused:
            await client.get(paths.namespace(namespace))
        assert refused.value.status == 401
        token_file.write_text(json.loads(control_plane.kubeconfig.read_text())["users"][0]["user"]["token"])
        found = await asyncio.gather(*(client.get(paths.namespace(namespace)) for _ in range(20)))
    assert {item["metadata"]["name"] for item in found} == {namespace}


async def test_in_a_pod_the_service_account_speaks_and_its_token_is_followed(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(control_plane.token(namespace, "default") + "\n")
    (tmp_path / "ca.crt").write_bytes(control_plane.ca.read_bytes())
    host, port = control_plane.url.removeprefix("https://").split(":")
    monkeypatch.setattr(kube_module, "_SERVICE_ACCOUNT", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    async with connected() as client:
        with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:default"):
            await client.get(paths.namespace(namespace))
        # As a kubelet does, long before the old one ends; nothing refuses the old one.
        admin = json.loads(control_plane.kubeconfig.read_text())["users"][0]["user"]["token"]
        (tmp_path / "token").write_text(admin)
        with pytest.raises(Forbidden):
            await client.get(paths.namespace(namespace))
        monkeypatch.setattr(kube_module, "CREDENTIALS_FOR", 0.0)
        assert await client.get(paths.namespace(namespace))
        (tmp_path / "token").write_text("")  # caught in the middle of a change
        assert await client.get(paths.namespace(namespace))


async def test_credentials_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unauthorized, match="nowhere"):
        await Client.connect(str(tmp_path / "nowhere"))
    (tmp_path / "broken").write_text("{]")
    with pytest.raises(Unauthorized, match="broken"):
        await Client.connect(str(tmp_path / "broken"))
    (tmp_path / "empty").write_text("{}")
    with pytest.raises(Unauthorized, match="empty"):
        await Client.connect(str(tmp_path / "empty"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(kube_module, "_SERVICE_ACCOUNT", str(tmp_path / "none"))
    with pytest.raises(Unauthorized, match="ServiceAccount"):
        await Client.connect()


async def test_another_authority_is_not_believed(control_plane: ControlPlane, tmp_path: Path) -> None:
    config = json.loads(control_plane.kubeconfig.read_text())
    other = tmp_path / "other.crt"
    import certificates

    other.write_bytes(certificates.issue("another", ca=True, identifiers=True).pem)
    config["clusters"][0]["cluster"] = {"server": control_plane.url, "certificate-authority": str(other)}
    (tmp_path / "config").write_text(json.dumps(config))
    async with connected(str(tmp_path / "config")) as client:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await client.get("/version")
    other.write_text("no certificate")
    with pytest.raises(Unauthorized, match="CA"):
        await Client.connect(str(tmp_path / "config"))


async def test_an_api_server_that_hangs_is_unreachable_in_time(
    control_plane: ControlPlane, kube: Client, namespace: str
) -> None:
    await kube.get(paths.namespace(namespace))
    os.kill(control_plane.pids[0], signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(Unreachable, match=r"no answer within 0\.3 s") as hung:
            await kube.get(paths.namespace(namespace), timeout=0.3)
        assert time.monotonic() - begun < 2.0
        assert hung.value.status == 0
    finally:
        os.kill(control_plane.pids[0], signal.SIGCONT)
    assert await kube.get(paths.namespace(namespace))


async def test_an_api_server_that_is_gone_is_unreachable_and_found_again(
    control_plane: ControlPlane, kube: Client, namespace: str
) -> None:
    await asyncio.gather(*(kube.get(paths.namespace(namespace)) for _ in range(5)))
    control_plane.kill()
    try:
        with pytest.raises(Unreachable):
            await kube.get(paths.namespace(namespace))
        with pytest.raises(Unreachable):
            await kube.create(paths.config_maps(namespace), config_map("one"))
    finally:
        await asyncio.to_thread(control_plane.restart)
    assert await kube.create(paths.config_maps(namespace), config_map("one"))


async def test_no_call_raises_anything_else_than_a_kube_error(kube: Client, namespace: str) -> None:
    key = Key(namespace, "one")
    with pytest.raises(KubeError):
        await kube.get("/no/such/path")
    with pytest.raises(KubeError):
        await kube.create("/version", {})
    with pytest.raises(KubeError):
        await kube.update(paths.namespaces(), {})
    with pytest.raises(KubeError):
        await kube.apply(paths.config_map(key), {"no": "kind"})
    with pytest.raises(KubeError):
        await kube.json_patch(paths.namespace(namespace), [{"op": "jump"}])
    with pytest.raises(KubeError):
        await kube.get("/healthz")  # 200, and not JSON
