"""A control plane: one etcd and one kube-apiserver on loopback, in a folder of their own. Nothing is mocked; there are
no nodes, and controllers only where a test starts them (`controller_manager`).

    with ControlPlane() as control_plane:
        with control_plane.namespace({"postern.dev/inject": "enabled"}) as namespace:
            control_plane.admin.create(f"/api/v1/namespaces/{namespace}/configmaps", {...})

In tests it is the session's fixture `control_plane`. Raises ControlPlaneError, BinaryMissingError.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.client
import ipaddress
import itertools
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import serialization

import certificates

from . import audit
from .admin import Admin, ApiError, Object
from .binaries import binary
from .process import Program, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from .audit import Write

START = 60.0  # seconds until /readyz; 5 are usual
TRIES = 5  # with other ports, where another program was faster
TAKEN = "address already in use"
PREFIX = "postern-control-plane-"


class ControlPlaneError(Exception):
    """It did not start; the text ends with the log's end."""


class ControlPlane:
    def __init__(self) -> None:
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._held = _hold(self.folder)
        self._numbers = itertools.count(1)
        self._etcd: Program | None = None
        self._server: Program | None = None
        self.url = ""
        try:
            self._prepare()
            self._start()
        except BaseException:
            self.stop()
            raise

    # -- who asks ------------------------------------------------------------------------------------------------------

    def token(self, namespace: str, service_account: str, seconds: int = 3600) -> str:
        """Of a ServiceAccount, by TokenRequest."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        token: str = self.admin.create(path, body)["status"]["token"]
        return token

    def kubeconfig_for(self, token: str, namespace: str = "default") -> Path:
        """A file that is gone with the control plane."""
        path = self.folder / f"kubeconfig-{next(self._numbers)}"
        path.write_text(json.dumps(_kubeconfig(self.url, self.ca, token, namespace)))
        path.chmod(0o600)
        return path

    def client(self, token: str) -> contextlib.closing[Admin]:
        """`with control_plane.client(token) as user:` the same requests as another user."""
        return contextlib.closing(Admin(self.url, self.ca, token))

    def kubectl(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: A002
        return self._tool("kubectl", args, input, check)

    def helm(self, *args: str, input: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:  # noqa: A002
        return self._tool("helm", args, input, check)

    # -- what is in it -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def namespace(self, labels: Mapping[str, str] | None = None, *, name: str = "") -> Iterator[str]:
        """The name of a fresh namespace with its ServiceAccount `default`; all that is in it goes with it."""
        name = name or f"test-{secrets.token_hex(4)}"
        metadata = {"name": name, "labels": dict(labels or {})}
        self.admin.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        try:
            # A controller makes it elsewhere, and admission lets no pod in without it.
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
            with contextlib.suppress(ApiError):  # a controller is here and was first
                self.admin.create(f"/api/v1/namespaces/{name}/serviceaccounts", account)
            yield name
        finally:
            self.remove_namespace(name)

    def remove_namespace(self, name: str) -> None:
        """What the namespace controller does, in an instant. A missing one is no error."""
        path = f"/api/v1/namespaces/{name}"
        try:
            self.admin.delete(path)  # first: from now on nothing new gets in
            for collection in self._collections():
                self._empty(collection.replace("{namespace}", name))
            body: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {}}
            self.admin.update(f"{path}/finalize", body)
        except ApiError as problem:
            if problem.status not in (404, 409) or self.admin.exists(path):
                raise

    def mark(self) -> int:
        """For `audit`: what is written from now on."""
        self._flush()
        return self._audit.stat().st_size

    def audit(self, since: int = 0, *, user: str = "", resource: str = "", verb: str = "") -> list[Write]:
        """The writes since a mark, complete up to this call, refused ones and dry runs too. `user` is the end of the
        name: `:postern-operator` for a ServiceAccount in any namespace."""
        self._flush()
        return [
            write
            for write in audit.read(self._audit, since)
            if write.agent != _FLUSH
            and (not user or write.user.endswith(user))
            and (not resource or write.resource == resource)
            and (not verb or write.verb == verb)
        ]

    # -- life ----------------------------------------------------------------------------------------------------------

    @property
    def pids(self) -> list[int]:
        return [program.pid for program in (self._server, self._etcd) if program is not None]

    @property
    def server_log(self) -> str:
        return self._server.log if self._server else ""

    def kill(self) -> None:
        """The API server, at once. etcd stays."""
        if self._server:
            self._server.kill()
            self._server = None

    def restart(self) -> None:
        """The API server anew, on the same port and the same etcd; back when it is ready."""
        self.kill()
        self.start_server()
        self.wait_ready()

    def start_server(self) -> None:
        """Without waiting for it."""
        self._server = self._run("kube-apiserver", *self._server_flags())

    def wait_ready(self) -> None:
        assert self._server is not None
        with contextlib.closing(Admin(self.url, self.ca, self._admin_token, timeout=5.0)) as probe:
            self._wait(self._server, f"{self.url}/readyz", functools.partial(_is_ready, probe))

    @contextlib.contextmanager
    def controller_manager(self, *controllers: str) -> Iterator[Program]:
        """kube-controller-manager while the block runs, with these controllers (`*` if none is named)."""
        program = self._run(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--authentication-kubeconfig={self.kubeconfig}",
            f"--authorization-kubeconfig={self.kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            f"--root-ca-file={self.ca}",
            "--use-service-account-credentials",
            f"--controllers={','.join(controllers) or '*'}",
        )
        try:
            yield program
            if not program.running:
                raise ControlPlaneError(f"kube-controller-manager ended. Its log ends:\n{program.end_of_log}")
        finally:
            program.stop()

    def stop(self) -> None:
        """The API server first, then etcd, then the folder. Both at once: there is nothing that they should keep."""
        if self.url:
            self.admin.close()
        for program in (self._server, self._etcd):
            if program is not None:
                program.kill()
        self._server = self._etcd = None
        self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        self.ca = self.folder / "ca.crt"
        self.kubeconfig = self.folder / "kubeconfig"
        self._audit = self.folder / "audit.log"
        self._audit.touch()
        self._admin_token = secrets.token_hex(16)
        authority = certificates.issue("postern tests", ca=True, identifiers=True)
        addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "10.96.0.1")]
        names = ["localhost", "kubernetes.default.svc"]
        serving = certificates.issue("kube-apiserver", by=authority, dns=names, san=addresses, identifiers=True)
        self.ca.write_bytes(authority.pem)
        (self.folder / "serving.crt").write_bytes(serving.pem)
        (self.folder / "serving.key").write_bytes(serving.key_pem)
        accounts = certificates.issue("service accounts", key=certificates.key("RSA-2048"))
        (self.folder / "accounts.key").write_bytes(accounts.key_pem)
        public = accounts.certificate.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.folder / "accounts.pub").write_bytes(public)
        (self.folder / "tokens.csv").write_text(f'{self._admin_token},admin,admin,"system:masters"\n')
        (self.folder / "audit.json").write_text(json.dumps(audit.POLICY))

    def _start(self) -> None:
        self._etcd = self._started_etcd()
        for attempt in range(1, TRIES + 1):
            self.url = f"https://127.0.0.1:{free_port()}"
            self.admin = Admin(self.url, self.ca, self._admin_token)
            self.start_server()
            try:
                self.wait_ready()
            except ControlPlaneError as problem:
                self.admin.close()
                self.kill()
                if TAKEN not in str(problem) or attempt == TRIES:
                    raise
                continue
            break
        self.kubeconfig.write_text(json.dumps(_kubeconfig(self.url, self.ca, self._admin_token, "default")))
        self.kubeconfig.chmod(0o600)

    def _started_etcd(self) -> Program:
        for attempt in range(1, TRIES + 1):
            clients, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
            program = self._run(
                "etcd",
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={clients}",
                f"--advertise-client-urls={clients}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
                "--unsafe-no-fsync",  # nothing here outlives the machine's power
            )
            try:
                self._wait(program, f"{clients}/health", functools.partial(_is_healthy, f"{clients}/health"))
            except ControlPlaneError as problem:
                program.kill()
                if TAKEN not in str(problem) or attempt == TRIES:
                    raise
                shutil.rmtree(self.folder / "etcd", ignore_errors=True)
                continue
            self._etcd_url = clients
            return program
        raise AssertionError("unreachable")

    def _server_flags(self) -> list[str]:
        folder = self.folder
        return [
            f"--etcd-servers={self._etcd_url}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.url.rpartition(':')[2]}",
            f"--tls-cert-file={folder / 'serving.crt'}",
            f"--tls-private-key-file={folder / 'serving.key'}",
            "--endpoint-reconciler-type=none",  # an address of the machine would be asked for: there may be none
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            f"--service-account-key-file={folder / 'accounts.pub'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--audit-policy-file={folder / 'audit.json'}",
            f"--audit-log-path={self._audit}",
            "--audit-log-mode=blocking-strict",  # it is in the log before the answer is out
            "--shutdown-delay-duration=0s",
        ]

    def _run(self, name: str, *flags: str) -> Program:
        log = self.folder / f"{name}-{next(self._numbers)}.log"
        return Program([binary(name), *flags], log, cwd=self.folder)

    def _wait(self, program: Program, url: str, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + START
        while not ready():
            if not program.running or time.monotonic() > until:
                why = "does not answer" if program.running else "ended"
                raise ControlPlaneError(f"{program.name} {why} ({url}). Its log ends:\n{program.end_of_log}")
            time.sleep(0.05)

    def _tool(
        self, name: str, args: tuple[str, ...], given: str | None, check: bool
    ) -> subprocess.CompletedProcess[str]:
        home = self.folder / "home"  # caches and settings of the tools: none of the user's
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
        }
        argv = [str(binary(name)), *args]
        done = subprocess.run(argv, input=given, env=env, capture_output=True, text=True, check=False, timeout=100)
        if check and done.returncode != 0:
            raise AssertionError(f"{name} {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def _collections(self) -> list[str]:
        """Paths of all namespaced kinds that can be deleted, asked for anew: a CRD may have come."""
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        paths = []
        for root in ("/api", "/apis"):
            for group in self.admin.request("GET", root, accept=accept)["items"]:
                name = group["metadata"].get("name", "")
                version = group["versions"][0]  # the preferred one
                base = f"/apis/{name}/{version['version']}" if name else f"/api/{version['version']}"
                paths += [
                    f"{base}/namespaces/{{namespace}}/{resource['resource']}"
                    for resource in version.get("resources", [])
                    if resource["scope"] == "Namespaced" and "deletecollection" in resource["verbs"]
                ]
        return paths

    def _empty(self, collection: str) -> None:
        """Finalizers are taken off: whoever waits for them has gone."""
        try:
            left = self.admin.list(collection)
        except ApiError as problem:
            if problem.status != 404:
                raise
            left = []  # discovery still shows a definition that is gone, and what it defined is gone too
        if not left:
            return
        for item in left:
            if item["metadata"].get("finalizers"):
                self.admin.merge(f"{collection}/{item['metadata']['name']}", {"metadata": {"finalizers": None}})
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        self.admin.request("DELETE", collection, body)

    def _flush(self) -> None:
        """A write of our own that is in the log: so is all that was answered before it."""
        size = self._audit.stat().st_size
        self.admin.request(
            "POST",
            "/api/v1/namespaces?dryRun=All",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "flush"}},
            agent=_FLUSH,
        )
        if self._audit.stat().st_size <= size:
            raise ControlPlaneError("the audit log is not written before the answer")


_FLUSH = "postern-tests-flush"


def _kubeconfig(url: str, ca: Path, token: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": str(ca)}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "current-context": "test",
    }


def _is_ready(probe: Admin) -> bool:
    try:
        return probe.text("/readyz") == "ok"
    except (OSError, http.client.HTTPException, ApiError):
        return False


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - http on loopback
            return bool(json.load(answer).get("health") == "true")
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _hold(folder: Path) -> IO[str]:
    """A lock that says: its owner lives."""
    held = (folder / "owner").open("w")
    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return held


def _sweep() -> None:
    """Folders whose owner was killed; their programs went with it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (folder / "owner").open() as held:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it is in use, it is just being made, or it is somebody else's
            continue
