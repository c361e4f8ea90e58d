"""The webhook's certificates in the cluster: the Secret, the caBundle, and the one SSLContext that the server keeps.

Every replica asks for the Secret and the webhook configuration every ten seconds, give or take two. It polls and does
not watch: by resourceNames RBAC grants `get`, and a changed pair is in no hurry, because a leaf changes only after its
authority has been in the caBundle for a minute. `rotation` decides what is to be done; here it is done. Whichever
replica is first creates the Secret (409: it reads what won); later writes, the caBundle's too, are the Lease holder's,
each guarded by resourceVersion or a JSON patch test. Only a caBundle that trusts nothing of the Secret for five seconds
is written by any replica: all write the same. In CertManager mode the pair is two files and nothing is written;
a caBundle that stays empty is right there if the issuer is public (`webhook.url`, and no ca.crt beside the pair).

A new pair is loaded into a scratch context first: a broken one is logged, and the old one is served on. What is asked
of the API server and fails is tried again at the next look. `step` raises KubeError, `run` nothing but CancelledError.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import random
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from . import paths, rotation, signing
from .kube import Conflict, Invalid, KubeError, NotFound, TooManyRequests
from .model import MANAGED_BY, POSTERN, Key
from .rotation import Broken, Lifetimes, Step
from .settings import CertificateMode

if TYPE_CHECKING:
    from cryptography import x509

    from .kube import Kube, Object
    from .rotation import Pair
    from .settings import Settings

log = logging.getLogger(__name__)

POLL = 10.0
POLL_UNREADY = 1.0
"""Seconds; `helm install --wait` waits for it."""
ABANDONED = timedelta(seconds=5)
"""A holder in CertManager mode never writes the caBundle, and keeps the Lease until a replica in Operator mode is
ready, which waits for the caBundle: the roll-out from the one to the other would stand still."""
MAX_FILE = rotation.MAX_PEM
Clock = Callable[[], datetime]


def utc() -> datetime:
    return datetime.now(UTC)


def server_context() -> ssl.SSLContext:
    """Without a pair yet: handshakes fail until one is loaded. HTTP/1.1, because the server speaks that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def load(context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """Raises ssl.SSLError, and then the context is as it was. The key stays in memory: no file system sees it."""
    descriptor = os.memfd_create("postern-webhook", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(key + b"\n" + chain)
        path = f"/proc/self/fd/{descriptor}"
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password=_no_password)
        context.load_cert_chain(path, password=_no_password)
    finally:
        os.close(descriptor)


def names(settings: Settings) -> frozenset[str]:
    """What the leaf must carry: the Service as the API server calls it, and `webhook.url`'s host."""
    service = f"{settings.webhook.service}.{settings.namespace}.svc"
    return frozenset(filter(None, (service, f"{service}.cluster.local", settings.webhook.host)))


class Certificates:
    """`may_write`: does this replica hold the Lease now?"""

    def __init__(
        self,
        kube: Kube,
        settings: Settings,
        context: ssl.SSLContext,
        *,
        may_write: Callable[[], bool],
        lifetimes: Lifetimes | None = None,
        now: Clock = utc,
        poll: float = POLL,
    ) -> None:
        self._kube, self._settings, self._context = kube, settings, context
        self._may_write, self._now, self._poll = may_write, now, poll
        self._lifetimes = lifetimes or Lifetimes()
        self._names = names(settings)
        self._serving: tuple[x509.Certificate, ...] = ()
        self._secret = Key(settings.namespace, settings.webhook.secret)
        self._seen_since: tuple[x509.Certificate, datetime] | None = None
        self._untrusted_since: datetime | None = None
        self._bundle_seen = False
        self._signature: object = None  # of the files
        self._said: dict[str, str] = {}

    @property
    def expires(self) -> datetime | None:
        """Of the leaf that is served."""
        return self._serving[0].not_valid_after_utc if self._serving else None

    @property
    def serving(self) -> bytes:
        """The leaf as DER, b"" without one: readiness compares it with what the webhook answers with."""
        return self._serving[0].public_bytes(Encoding.DER) if self._serving else b""

    @property
    def ready(self) -> bool:
        """A pair is loaded and in date, and the caBundle has been seen to hold its authority once."""
        expires = self.expires
        return expires is not None and expires > self._now() and self._bundle_seen

    async def run(self) -> None:
        while True:
            wait = 0.0
            try:
                await self.step()
            except KubeError as problem:
                self._say("cluster", f"certificates: the API server: {problem}")
                if isinstance(problem, TooManyRequests):
                    wait = problem.retry_after
            except Exception:
                log.exception("certificates: an internal error; tried again")
            else:
                self._said.pop("cluster", None)
            pause = self._poll if self.ready else min(POLL_UNREADY, self._poll)
            await asyncio.sleep(max(wait, pause * random.uniform(0.8, 1.2)))  # noqa: S311 - spreads load

    async def step(self) -> None:
        """One look at everything, and the one thing that is next."""
        if self._settings.webhook.certificates is CertificateMode.CERT_MANAGER:
            await self._follow_files()
            configuration = await self._configuration()
            self._notice(_trusted_by(configuration))
            self._bundle_seen = self._bundle_seen or await self._publicly_trusted(configuration)
        else:
            await self._follow_secret()

    # -- the Secret ----------------------------------------------------------------------------------------------------

    async def _follow_secret(self) -> None:
        secret = await self._read_secret()
        configuration = await self._configuration()
        pair = self._pair_of(secret)
        seen = _trusted_by(configuration)
        if _blank(secret) or self._may_write():
            pair = await self._rotate(secret, pair, seen)
        if pair is None:
            return
        if configuration is not None and (self._may_write() or self._abandoned(pair, seen)):
            seen = await self._publish(configuration, pair, seen)
        if rotation.may_serve(pair, self._serving[0] if self._serving else None, seen, self._now()):
            self._serve(pair.chain_pem, pair.leaf_key)
        self._notice(seen)

    async def _read_secret(self) -> Object | None:
        try:
            return await self._kube.get(paths.secret(self._secret))
        except NotFound:
            return None

    def _pair_of(self, secret: Object | None) -> Pair | None:
        if secret is None or _blank(secret):
            return None
        try:
            pair = rotation.read(_decoded(secret.get("data")))
        except Broken as problem:
            self._say("secret", f"certificates: Secret {self._secret}: {problem}; the Lease holder makes it anew")
            return None
        self._said.pop("secret", None)
        return pair

    async def _rotate(
        self, secret: Object | None, pair: Pair | None, seen: tuple[x509.Certificate, ...]
    ) -> Pair | None:
        """The pair that the Secret holds now."""
        now = self._now()
        settled = pair is not None and self._settled(pair.authorities[0], seen, now)
        step = rotation.decide(pair, settled=settled, names=self._names, now=now, lifetimes=self._lifetimes)
        if step is Step.NOTHING:
            return pair
        made = await asyncio.to_thread(self._made, step, pair, now)
        try:
            written = await self._write(secret, made)
        except Conflict:
            log.info("certificates: another replica was first with Secret %s", self._secret)
            return self._pair_of(await self._read_secret())
        except Invalid as problem:
            self._say("write", f"certificates: Secret {self._secret} cannot be written: {problem}; delete it")
            return pair
        log.info("certificates: Secret %s: %s", self._secret, step.value)
        return self._pair_of(written)

    def _made(self, step: Step, pair: Pair | None, now: datetime) -> Pair:
        if pair is None or step is Step.MAKE:
            return signing.pair(self._names, now, self._lifetimes)
        if step is Step.ADD_AUTHORITY:
            return signing.with_authority(pair, now, self._lifetimes)
        if step is Step.RENEW_LEAF:
            return signing.with_leaf(pair, self._names, now, self._lifetimes)
        return rotation.without_older(pair)

    async def _write(self, secret: Object | None, pair: Pair) -> Object:
        data = {key: base64.b64encode(value).decode() for key, value in rotation.written(pair).items()}
        if secret is not None:
            return await self._kube.update(paths.secret(self._secret), {**secret, "data": data})
        metadata = {"name": self._secret.name, "namespace": self._secret.namespace, "labels": {MANAGED_BY: POSTERN}}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": data}
        return await self._kube.create(paths.secrets(self._secret.namespace), body)

    def _settled(self, authority: x509.Certificate, seen: tuple[x509.Certificate, ...], now: datetime) -> bool:
        if authority not in seen:
            self._seen_since = None
            return False
        if self._seen_since is None or self._seen_since[0] != authority:
            self._seen_since = (authority, now)
        return now - self._seen_since[1] >= self._lifetimes.settle

    # -- the caBundle --------------------------------------------------------------------------------------------------

    async def _configuration(self) -> Object | None:
        name = self._settings.webhook.configuration
        try:
            found = await self._kube.get(paths.webhook_configuration(name))
        except NotFound:
            self._say(
                "configuration",
                f"certificates: MutatingWebhookConfiguration {name} does not exist, so no pod is injected",
            )
            return None
        self._said.pop("configuration", None)
        return found

    async def _publish(
        self, configuration: Object, pair: Pair, seen: tuple[x509.Certificate, ...]
    ) -> tuple[x509.Certificate, ...]:
        """Nothing but the caBundle is touched. One that holds another's authorities is ours all the same: the chart
        leaves it to the operator in this mode."""
        text = base64.b64encode(rotation.pem(pair.authorities)).decode()
        operations: list[Object] = []
        for index, webhook in enumerate(configuration.get("webhooks") or ()):
            if rotation.bundle_differs(pair.authorities, _bundle_of(webhook)):
                operations += (
                    {"op": "test", "path": f"/webhooks/{index}/name", "value": webhook["name"]},
                    {"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": text},
                )
        if not operations:
            return seen
        path = paths.webhook_configuration(self._settings.webhook.configuration)
        try:
            patched = await self._kube.json_patch(path, operations)
        except (Conflict, Invalid) as problem:  # the list has changed since
            log.info("certificates: the caBundle is written at the next look: %s", problem)
            return seen
        log.info("certificates: caBundle of %s: authorities: %d", path, len(pair.authorities))
        return _trusted_by(patched)

    def _abandoned(self, pair: Pair, seen: tuple[x509.Certificate, ...]) -> bool:
        """The Lease holder has had its time, and the caBundle trusts nothing of what every replica is to serve."""
        if any(authority in seen for authority in pair.authorities):
            self._untrusted_since = None
            return False
        self._untrusted_since = self._untrusted_since or self._now()
        return self._now() - self._untrusted_since >= ABANDONED

    def _notice(self, seen: tuple[x509.Certificate, ...]) -> None:
        self._bundle_seen = self._bundle_seen or rotation.trusted(self._serving, seen)

    # -- files ---------------------------------------------------------------------------------------------------------

    async def _follow_files(self) -> None:
        directory = Path(self._settings.webhook.certificates_dir)
        try:
            signature, chain, key = await asyncio.to_thread(_files, directory, self._signature)
        except OSError as problem:
            self._say("files", f"certificates: {directory}: {problem.strerror}: cert-manager has not written it yet?")
            return
        self._signature = signature
        if chain is not None and key is not None:
            self._serve(chain, key)

    async def _publicly_trusted(self, configuration: Object | None) -> bool:
        """The API server's own authorities decide where no caBundle is, and for a public issuer cert-manager names none
        (no ca.crt), so there never will be one. Only with `webhook.url`: a Service's name has no public certificate."""
        webhooks = (configuration or {}).get("webhooks") or ()
        if not (self._serving and self._settings.webhook.host and webhooks):
            return False
        if any((each.get("clientConfig") or {}).get("caBundle") for each in webhooks):
            return False
        return not await asyncio.to_thread(_names_authority, Path(self._settings.webhook.certificates_dir))

    # -- what is served ------------------------------------------------------------------------------------------------

    def _serve(self, chain: bytes, key: bytes) -> None:
        try:
            certificates = rotation.certificates(chain, "tls.crt")
            if certificates == self._serving:
                return
            load(self._context, chain, key)
        except (Broken, ssl.SSLError) as problem:
            self._say("serve", f"certificates: the new pair is not usable, the old one is served on: {problem}")
            return
        self._said.pop("serve", None)
        self._serving = certificates
        log.info("certificates: served until %s", certificates[0].not_valid_after_utc.isoformat())

    def _say(self, about: str, text: str) -> None:
        """Once, until it changes or is over."""
        if self._said.get(about) != text:
            self._said[about] = text
            log.warning("%s", text)


def _blank(secret: Object | None) -> bool:
    """Not there yet, or as the chart leaves it: whoever is first writes the pair, others meet a Conflict."""
    return secret is None or not secret.get("data")


def _trusted_by(configuration: Object | None) -> tuple[x509.Certificate, ...]:
    """What all webhooks of the configuration trust."""
    webhooks = (configuration or {}).get("webhooks") or ()
    bundles = [_bundle_of(webhook) for webhook in webhooks]
    if not bundles:
        return ()
    first, *others = bundles
    return tuple(each for each in first if all(each in other for other in others))


def _bundle_of(webhook: Object) -> tuple[x509.Certificate, ...]:
    return rotation.bundle(_base64((webhook.get("clientConfig") or {}).get("caBundle")))


def _decoded(data: object) -> dict[str, bytes]:
    return {key: _base64(value) for key, value in data.items()} if isinstance(data, dict) else {}


def _base64(value: object) -> bytes:
    try:
        return base64.b64decode(value) if isinstance(value, str) else b""
    except binascii.Error:
        return b""


def _no_password() -> str:
    """An encrypted key is an error: OpenSSL would ask a terminal for its password."""
    return ""


def _files(directory: Path, known: object) -> tuple[object, bytes | None, bytes | None]:
    """(signature, chain, key); None where nothing has changed. A pair that changes while it is read has another
    signature at the next look. Raises OSError."""
    files = (directory / "tls.crt", directory / "tls.key")
    signature = tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in map(os.stat, files))
    if signature == known:
        return signature, None, None
    chain, key = (_start(file) for file in files)
    return signature, chain, key


def _names_authority(directory: Path) -> bool:
    try:
        return (directory / "ca.crt").stat().st_size > 0
    except OSError:
        return False


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(MAX_FILE)
