"""The webhook's certificates on a real API server: the first one, its changes, and what is in the way of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from certificates import issue
from postern_operator import certs, kube, rotation
from postern_operator.rotation import Lifetimes
from postern_operator.settings import CertificateMode, Settings, Webhook
from webhook_world import WEBHOOK, configured, first_container, pod, pods, policy, replica, until, webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from cluster.admin import Admin
    from cluster.control import ControlPlane

pytestmark = pytest.mark.real

# Every second or two a new leaf, every five a new authority; all of them good for ten minutes and more.
QUICK = Lifetimes(
    authority=timedelta(seconds=1200),
    authority_renewal=timedelta(seconds=1196),
    leaf=timedelta(seconds=600),
    leaf_renewal=timedelta(seconds=598),
    settle=timedelta(seconds=0.5),
)


@pytest.fixture
def release(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace() as name:
        yield name


@pytest.fixture
def mail(control_plane: ControlPlane) -> Iterator[str]:
    with control_plane.namespace({"postern.dev/inject": "enabled"}) as name:
        yield name


def secret(namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets/postern-webhook-tls"


def secret_data(admin: Admin, namespace: str) -> dict[str, bytes]:
    data: dict[str, str] = admin.get(secret(namespace))["data"]
    return {key: base64.b64decode(value) for key, value in data.items()}


def write_secret(admin: Admin, namespace: str, data: dict[str, bytes]) -> None:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    found = admin.get(secret(namespace)) if admin.exists(secret(namespace)) else None
    if found is not None:
        admin.update(secret(namespace), {**found, "data": encoded})
        return
    metadata = {"name": "postern-webhook-tls"}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": encoded}
    admin.create(f"/api/v1/namespaces/{namespace}/secrets", body)


def bundle_of(admin: Admin, path: str, index: int = 0) -> tuple[x509.Certificate, ...]:
    text = admin.get(path)["webhooks"][index]["clientConfig"].get("caBundle", "")
    return rotation.bundle(base64.b64decode(text))


async def served(port: int) -> bytes:
    """The leaf that a handshake meets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return certificate
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def test_first_replica_makes_all_and_nothing_else_of_the_configuration_changes(
    control_plane: ControlPlane, release: str, mail: str
) -> None:
    admin = control_plane.admin
    async with replica(control_plane, release) as one:
        foreign = {**webhook(1, ["nowhere"], name="first.example.org"), "failurePolicy": "Ignore"}
        with configured(admin, release, foreign, webhook(one.server.port, [mail])) as path:
            before = admin.get(path)
            await until(lambda: one.certificates.ready)
            after = admin.get(path)
            authority = rotation.read(secret_data(admin, release)).authorities
            assert bundle_of(admin, path, 0) == bundle_of(admin, path, 1) == authority
            for each in after["webhooks"]:
                del each["clientConfig"]["caBundle"]
            assert after["webhooks"] == before["webhooks"]
            one.policy(policy(mail))
            made = await asyncio.to_thread(admin.create, pods(mail), pod())
            assert first_container(made) == "postern"
        kind = admin.get(secret(release))
        assert kind["type"] == "kubernetes.io/tls"
        assert kind["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "postern"}
        leaf = rotation.read(secret_data(admin, release)).leaf
        service = f"postern-webhook.{release}.svc"
        assert rotation.names_of(leaf) == {service, f"{service}.cluster.local", "127.0.0.1"}


@pytest.mark.parametrize(("as_the_chart_leaves_it", "code"), [(False, 201), (True, 200)])
async def test_two_replicas_race_for_the_first_secret(
    control_plane: ControlPlane, release: str, caplog: pytest.LogCaptureFixture, as_the_chart_leaves_it: bool, code: int
) -> None:
    if as_the_chart_leaves_it:
        write_secret(control_plane.admin, release, {})
    since = control_plane.mark()
    async with (
        replica(control_plane, release, leads=lambda: False) as one,
        replica(control_plane, release, leads=lambda: False) as two,
    ):
        await until(lambda: one.certificates.serving and two.certificates.serving)
        assert one.certificates.serving == two.certificates.serving
        assert await served(one.server.port) == await served(two.server.port) == one.certificates.serving
    writes = [each for each in control_plane.audit(since, resource="secrets") if each.namespace == release]
    assert [each.code for each in writes if each.kept] == [code]
    assert "anew" not in caplog.text


async def test_rotation_of_leaf_and_authority_refuses_no_pod(
    control_plane: ControlPlane, release: str, mail: str
) -> None:
    """Two replicas behind one webhook: the API server asks the one that does not lead."""
    admin = control_plane.admin
    async with (
        replica(control_plane, release, lifetimes=QUICK, leads=lambda: True),
        replica(control_plane, release, lifetimes=QUICK, leads=lambda: False) as two,
    ):
        with configured(admin, release, webhook(two.server.port, [mail])) as path:
            two.policy(policy(mail))
            await until(lambda: two.certificates.ready and bundle_of(admin, path))
            first = rotation.read(secret_data(admin, release))
            leaves, bundles, done = {two.certificates.serving}, set[int](), asyncio.Event()

            async def create() -> int:
                count = 0
                while not done.is_set():
                    made = await asyncio.to_thread(admin.create, f"{pods(mail)}?dryRun=All", pod())
                    assert first_container(made) == "postern"
                    count += 1
                return count

            async def handshakes() -> None:
                while not done.is_set():
                    leaves.add(await served(two.server.port))
                    bundles.add(len(await asyncio.to_thread(bundle_of, admin, path)))

            def rotated() -> bool:
                now = rotation.read(secret_data(admin, release))
                return len(leaves) > 2 and first.authorities[0] != now.authorities[0] and now.signed_by_first

            async with asyncio.TaskGroup() as group:
                creating = group.create_task(create())
                group.create_task(handshakes())
                await until(rotated)
                issued_by_new = rotation.read(secret_data(admin, release)).leaf
                await until(
                    lambda: x509.load_der_x509_certificate(two.certificates.serving).issuer != first.leaf.issuer
                )
                done.set()
            assert issued_by_new.issuer != first.leaf.issuer
            assert creating.result() > 20
            assert max(bundles) >= 2, "old and new were never trusted at once"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda _data: {"tls.crt": b"", "tls.key": b""}, id="empty"),
        pytest.param(lambda data: {**data, "tls.key": b""}, id="half-written"),
        pytest.param(lambda data: {**data, "tls.crt": data["tls.crt"][:200]}, id="cut"),
        pytest.param(lambda data: {**data, "tls.key": data["ca.key"]}, id="another's key"),
        pytest.param(lambda data: {**data, "ca.crt": issue("foreign", ca=True).pem}, id="foreign authority"),
        pytest.param(lambda data: {**data, "ca.key": b"\xff\0 no PEM"}, id="no text"),
    ],
)
async def test_broken_secret_is_made_anew(
    control_plane: ControlPlane, release: str, mail: str, spoil: Any, caplog: pytest.LogCaptureFixture
) -> None:
    admin = control_plane.admin
    async with replica(control_plane, release) as one:
        with configured(admin, release, webhook(one.server.port, [mail])) as path:
            one.policy(policy(mail))
            await until(lambda: one.certificates.ready)
            before = one.certificates.serving
            with caplog.at_level(logging.WARNING):
                write_secret(admin, release, spoil(secret_data(admin, release)))
                await until(lambda: one.certificates.serving != before)
            pair = rotation.read(secret_data(admin, release))
            await until(lambda: bundle_of(admin, path) == pair.authorities)
            made = await asyncio.to_thread(admin.create, pods(mail), pod())
            assert first_container(made) == "postern"
    assert "makes it anew" in caplog.text
    assert "PRIVATE" not in caplog.text


async def test_broken_secret_is_left_to_the_lease_holder(control_plane: ControlPlane, release: str) -> None:
    admin = control_plane.admin
    write_secret(admin, release, {"tls.crt": b"broken"})
    async with replica(control_plane, release, leads=lambda: False) as one:
        await one.certificates.step()
        assert not one.certificates.serving
        assert secret_data(admin, release) == {"tls.crt": b"broken"}


async def test_foreign_edit_of_the_bundle_is_put_right(control_plane: ControlPlane, release: str, mail: str) -> None:
    admin = control_plane.admin
    async with replica(control_plane, release) as one:
        with configured(admin, release, webhook(one.server.port, [mail])) as path:
            await until(lambda: one.certificates.ready)
            good = bundle_of(admin, path)
            found = admin.get(path)
            other = base64.b64encode(issue("other", ca=True).pem).decode()
            found["webhooks"][0]["clientConfig"]["caBundle"] = other
            found["webhooks"][0]["timeoutSeconds"] = 3
            admin.update(path, found)
            await until(lambda: bundle_of(admin, path) == good)
            assert admin.get(path)["webhooks"][0]["timeoutSeconds"] == 3


async def test_nothing_is_written_while_nothing_changes(control_plane: ControlPlane, release: str, mail: str) -> None:
    admin = control_plane.admin
    async with replica(control_plane, release) as one:
        with configured(admin, release, webhook(one.server.port, [mail])) as path:
            await until(lambda: one.certificates.ready)
            versions = [admin.get(each)["metadata"]["resourceVersion"] for each in (path, secret(release))]
            for _ in range(3):
                await one.certificates.step()
            assert [admin.get(each)["metadata"]["resourceVersion"] for each in (path, secret(release))] == versions


# -- cert-manager ------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def following(
    control_plane: ControlPlane, directory: Path, name: str, *, host: str = ""
) -> AsyncIterator[tuple[certs.Certificates, ssl.SSLContext]]:
    mode = CertificateMode.CERT_MANAGER
    managed = Webhook(configuration=name, host=host, certificates=mode, certificates_dir=str(directory))
    context = certs.server_context()
    async with kube.connected(str(control_plane.kubeconfig)) as client:
        yield certs.Certificates(client, Settings(webhook=managed), context, may_write=lambda: True), context


def mounted(directory: Path, crt: bytes, key: bytes) -> None:
    """As a kubelet does it: a new directory, and a link that turns to it."""
    data = directory / f"..{len(list(directory.iterdir()))}"
    data.mkdir()
    (data / "tls.crt").write_bytes(crt)
    (data / "tls.key").write_bytes(key)
    link = directory / "..next"
    link.symlink_to(data.name)
    os.replace(link, directory / "..data")  # noqa: PTH105 - of a link, not of what it points to
    for name in ("tls.crt", "tls.key"):
        with contextlib.suppress(FileExistsError):
            (directory / name).symlink_to(f"..data/{name}")


async def test_cert_managers_pair_is_followed_and_a_half_written_one_survived(
    control_plane: ControlPlane, tmp_path: Path, release: str, caplog: pytest.LogCaptureFixture
) -> None:
    admin = control_plane.admin
    authority = issue("authority", ca=True)
    old, new = (issue(name, by=authority, dns=[name]) for name in ("old.test", "new.test"))
    async with following(control_plane, tmp_path, release) as (certificates, _context):
        with configured(admin, release, webhook(1, ["nowhere"])) as path:
            await certificates.step()
            assert not certificates.serving
            assert "cert-manager" in caplog.text
            mounted(tmp_path, old.pem, old.key_pem)
            await certificates.step()
            assert certificates.serving == old.der
            assert not certificates.ready, "the caBundle is empty yet"
            for crt, key in ((new.pem, old.key_pem), (new.pem[:100], new.key_pem), (b"", b"")):
                mounted(tmp_path, crt, key)
                await certificates.step()
                assert certificates.serving == old.der
            assert "the old one is served on" in caplog.text
            found = admin.get(path)
            found["webhooks"][0]["clientConfig"]["caBundle"] = base64.b64encode(authority.pem).decode()
            admin.update(path, found)  # cainjector
            version = admin.get(path)["metadata"]["resourceVersion"]
            mounted(tmp_path, new.pem, new.key_pem)
            await certificates.step()
            assert certificates.serving == new.der
            assert certificates.ready
            assert admin.get(path)["metadata"]["resourceVersion"] == version
    assert not admin.exists(secret(release))


@pytest.mark.parametrize(("host", "authority"), [("mail.example", False), ("mail.example", True), ("", False)])
async def test_an_empty_ca_bundle_is_right_for_a_public_issuer_only(
    control_plane: ControlPlane, tmp_path: Path, release: str, host: str, authority: bool
) -> None:
    """cert-manager names no authority then, and the API server's own decide. With one, cainjector is yet to come."""
    leaf = issue("leaf", by=issue("authority", ca=True), dns=["mail.example"])
    mounted(tmp_path, leaf.pem, leaf.key_pem)
    (tmp_path / "ca.crt").write_bytes(leaf.pem if authority else b"")
    async with following(control_plane, tmp_path, release, host=host) as (certificates, _context):
        with configured(control_plane.admin, release, webhook(1, ["nowhere"])):
            await certificates.step()
            assert certificates.serving
            assert certificates.ready == (bool(host) and not authority)


async def test_run_outlives_what_goes_wrong(
    control_plane: ControlPlane, release: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No webhook configuration: said once, and the webhook serves all the same."""
    async with replica(control_plane, release) as one:
        await until(lambda: one.certificates.serving)
        await one.certificates.step()
        assert not one.certificates.ready
        assert caplog.text.count("does not exist") == 1
        assert WEBHOOK not in caplog.text
