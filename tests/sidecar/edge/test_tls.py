"""TLS engines against others in memory: versions, names, chains, staples, trust, and hands that are not shaken."""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from OpenSSL import SSL

import certificates
from certificates import EXPIRED, NOT_YET_VALID, Certified, issue
from next_hop import LEAF, ROOT, server_tls
from postern_sidecar.config.model import TLSVersion
from postern_sidecar.edge import tls as module
from postern_sidecar.edge.tls import RECORD, Engine, TLSError
from postern_sidecar.names import Domain
from postern_sidecar.outbound.plan import Level, Plan, Staple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = Domain("mx.example.org")
MAY = Plan(Level.MAY, NAME)
BUNDLE = ROOT.pem.decode()
STAPLE = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(Encoding.DER)


class Server:
    """The standard library's, over memory BIOs."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out, server_side=True)

    def shake(self, data: bytes) -> bytes:
        self.into.write(data)
        with suppress(ssl.SSLError):  # it wants more, or it is over
            self.tls.do_handshake()
        return self.out.read()


class StaplingServer:
    """pyOpenSSL's, since the standard library's staples nothing."""

    def __init__(self, staple: bytes, newest: int = SSL.TLS1_3_VERSION) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(newest)
        context.use_certificate(LEAF.certificate)
        context.use_privatekey(LEAF.key)  # type: ignore[arg-type]
        context.set_ocsp_server_callback(lambda *_: staple)
        self.connection = SSL.Connection(context, None)
        self.connection.set_accept_state()

    def shake(self, data: bytes) -> bytes:
        if data:
            self.connection.bio_write(data)
        with suppress(SSL.WantReadError):
            self.connection.do_handshake()
        try:
            return self.connection.bio_read(1 << 20)
        except SSL.WantReadError:
            return b""


def shake(engine: Engine, server: Server | StaplingServer, first: bytes = b"") -> None:
    """`first` comes from the server before its first flight. Raises TLSError."""
    done, said = engine.handshake(b""), b""
    for _ in range(8):
        said = first + server.shake(engine.outgoing())
        first = b""
        if not done and said:
            done = engine.handshake(said)
            said = b""
        if done:
            break
    assert done
    assert engine.decrypt(said + server.shake(engine.outgoing())) == (b"", False)


@pytest.fixture(autouse=True)
def no_contexts() -> Iterator[None]:
    module._context.cache_clear()
    yield
    module._context.cache_clear()


class TestHandshake:
    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_what_it_brought(self, version: ssl.TLSVersion, tmp_path: Path) -> None:
        heard: list[Any] = []
        context = server_tls(tmp_path, newest=version)
        context.sni_callback = lambda *call: heard.append(call[1])
        engine = Engine(MAY)
        shake(engine, Server(context))
        handshake = engine.result(42.0)
        assert handshake.version == version.name.replace("TLSv", "TLS").replace("_", ".")
        assert handshake.cipher in ("TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384")
        assert handshake.chain == (LEAF.der, ROOT.der)
        assert (handshake.staple, handshake.trust, handshake.now) == (b"", "", 42.0)
        assert heard == [NAME]

    def test_no_name_is_sent_where_none_is_known(self, tmp_path: Path) -> None:
        heard: list[Any] = []
        context = server_tls(tmp_path)
        context.sni_callback = lambda *call: heard.append(call[1])
        shake(Engine(Plan(Level.MAY, None)), Server(context))
        assert heard == [None]

    def test_the_chain_is_as_it_was_sent(self, tmp_path: Path) -> None:
        stray = issue("Stray", ca=True)
        engine = Engine(MAY)
        shake(engine, Server(server_tls(tmp_path, LEAF, stray, ROOT, stray)))
        assert engine.result(0).chain == (LEAF.der, stray.der, ROOT.der, stray.der)

    def test_a_chain_of_a_hundred(self, tmp_path: Path) -> None:
        engine = Engine(MAY)
        shake(engine, Server(server_tls(tmp_path, LEAF, *[ROOT] * 99)))
        assert len(engine.result(0).chain) == 100

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_a_warning_that_the_name_is_not_known_is_no_end(self, version: ssl.TLSVersion, tmp_path: Path) -> None:
        """RFC 6066 3; alert 112 at level 1, as some servers send it before their hello."""
        shake(Engine(MAY), Server(server_tls(tmp_path, newest=version)), b"\x15\x03\x03\x00\x02\x01\x70")

    def test_no_session_is_resumed(self, tmp_path: Path) -> None:
        context = server_tls(tmp_path, newest=ssl.TLSVersion.TLSv1_2)
        for _ in range(2):
            server = Server(context)
            shake(Engine(MAY), server)
            assert not server.tls.session_reused


class TestNoHandshake:
    def test_garbage(self) -> None:
        engine = Engine(MAY)
        engine.handshake(b"")
        engine.outgoing()
        with pytest.raises(TLSError, match=r"^wrong version number$"):
            engine.handshake(b"220 mx ESMTP\r\n")

    def test_a_fatal_alert(self) -> None:
        engine = Engine(MAY)
        engine.handshake(b"")
        with pytest.raises(TLSError, match="unrecognized name"):
            engine.handshake(b"\x15\x03\x03\x00\x02\x02\x70")

    def test_a_version_too_old(self, tmp_path: Path) -> None:
        server = Server(server_tls(tmp_path, newest=ssl.TLSVersion.TLSv1_2))
        with pytest.raises(TLSError, match="protocol version"):
            shake(Engine(Plan(Level.MAY, NAME, min_version=TLSVersion.TLS_1_3)), server)

    def test_a_certificate_of_a_mebibyte(self, tmp_path: Path) -> None:
        oid = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
        big = issue("mx.example.org", extensions=[(x509.UnrecognizedExtension(oid, bytes(1 << 20)), False)])
        with pytest.raises(TLSError, match="excessive message size"):
            shake(Engine(MAY), Server(server_tls(tmp_path, big)))

    def test_nobody_without_a_certificate(self) -> None:
        anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        anonymous.maximum_version = ssl.TLSVersion.TLSv1_2
        anonymous.set_ciphers("aNULL:@SECLEVEL=0")
        with pytest.raises(TLSError, match="handshake failure"):
            shake(Engine(MAY), Server(anonymous))

    def test_a_hostile_text_is_bounded(self) -> None:
        assert len(module._reason(SSL.Error([("", "", "x" * 300)] * 9))) == module.DETAIL
        assert module._reason(SSL.Error()) == "Error"
        assert module._reason(SSL.SysCallError(-1, "Unexpected EOF")) == "the connection ended"


def trust(directory: Path, *chain: Certified, bundle: str = BUNDLE) -> str:
    engine = Engine(Plan(Level.VERIFY, NAME, ca_bundle=bundle))
    shake(engine, Server(server_tls(directory, *chain)))
    return engine.result(0).trust


OBJECTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unable to get local issuer certificate", {"by": issue("Stranger", ca=True)}),
    ("certificate has expired", {"by": ROOT, "valid": EXPIRED}),
    ("certificate is not yet valid", {"by": ROOT, "valid": NOT_YET_VALID}),
    ("unsuitable certificate purpose", {"by": ROOT, "purposes": [certificates.CLIENT]}),
    ("EE certificate key too weak", {"by": ROOT, "key": certificates.key("RSA-1024")}),
    ("self-signed certificate", {}),
    ("certificate signature failure", {"by": ROOT, "spoilt": True}),
)


class TestTrust:
    def test_a_chain_to_the_bundle(self, tmp_path: Path) -> None:
        assert trust(tmp_path, LEAF) == ""

    def test_the_bundle_may_have_many(self, tmp_path: Path) -> None:
        assert trust(tmp_path, LEAF, bundle=issue("Other", ca=True).pem.decode() + BUNDLE) == ""

    @pytest.mark.parametrize(("objection", "leaf"), OBJECTIONS, ids=[case[0] for case in OBJECTIONS])
    def test_an_objection_does_not_end_the_handshake(
        self, objection: str, leaf: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if "weak" in objection:  # a key that level 1 has nothing against and level 2 has
            monkeypatch.setattr(module, "CIPHERS", module.CIPHERS.replace(b"LEVEL=1", b"LEVEL=2"))
        assert trust(tmp_path, issue("mx.example.org", **leaf)) == objection

    def test_the_first_objection_is_told_with_its_place(self, tmp_path: Path) -> None:
        between = issue("Between", by=ROOT, ca=True, valid=EXPIRED)
        assert trust(tmp_path, issue("mx", by=between), between) == "certificate has expired (depth 1)"

    def test_a_number_without_a_word(self) -> None:
        seen = module._Seen()

        class Connection:
            def get_app_data(self) -> module._Seen:
                return seen

        assert module._on_certificate(Connection(), None, 999, 0, 0)  # type: ignore[arg-type]
        assert seen.objection == "X509_V_ERR 999"

    def test_the_systems_bundle_without_one_of_our_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "system.pem"
        file.write_bytes(ROOT.pem)
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        assert trust(tmp_path, LEAF, bundle="") == ""

    def test_nothing_is_verified_at_other_levels(self, tmp_path: Path) -> None:
        engine = Engine(Plan(Level.DANE, NAME, ca_bundle=BUNDLE))
        shake(engine, Server(server_tls(tmp_path, issue("mx.example.org", by=ROOT, valid=EXPIRED))))
        assert engine.result(0).trust == ""

    @pytest.mark.parametrize("bundle", ["x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
    def test_a_bundle_that_is_none(self, bundle: str) -> None:
        with pytest.raises(TLSError, match="the CA bundle cannot be read"):
            Engine(Plan(Level.VERIFY, NAME, ca_bundle=bundle))

    def test_contexts_are_made_once_and_not_too_many_are_kept(self) -> None:
        one = module.context_for(Plan(Level.VERIFY, NAME, ca_bundle=BUNDLE))
        assert module.context_for(Plan(Level.VERIFY, None, ca_bundle=BUNDLE, staple=Staple.ASKED)) is one
        assert module.context_for(MAY) is not one
        assert module.context_for(Plan(Level.DANE, NAME, ca_bundle=BUNDLE)) is module.context_for(MAY)
        for number in range(module.CONTEXTS):
            module.context_for(Plan(Level.VERIFY, None, ca_bundle=BUNDLE + "\n" * number))
        assert module._context.cache_info().currsize == module.CONTEXTS


class TestStaple:
    @pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
    @pytest.mark.parametrize(
        ("asked", "staple"), [(Staple.NOT_ASKED, b""), (Staple.ASKED, STAPLE), (Staple.REQUIRED, STAPLE)]
    )
    def test_it_comes_as_it_was_sent_where_it_was_asked_for(self, asked: Staple, staple: bytes, version: int) -> None:
        engine = Engine(Plan(Level.DANE, NAME, staple=asked))
        shake(engine, StaplingServer(STAPLE, version))
        assert engine.result(0).staple == staple

    def test_none_is_nothing_to_fail_for(self) -> None:
        engine = Engine(Plan(Level.DANE, NAME, staple=Staple.REQUIRED))
        shake(engine, StaplingServer(b""))
        assert engine.result(0).staple == b""

    def test_what_openssl_cannot_read_is_none(self) -> None:
        engine = Engine(Plan(Level.DANE, NAME, staple=Staple.ASKED))
        shake(engine, StaplingServer(b"DER"))
        assert engine.result(0).staple == b""


class TestData:
    @pytest.fixture
    def both(self, tmp_path: Path) -> tuple[Engine, Server]:
        engine, server = Engine(MAY), Server(server_tls(tmp_path))
        shake(engine, server)
        return engine, server

    @pytest.mark.parametrize("octets", [1, RECORD - 1, RECORD, RECORD + 1, 262_144, 3_000_000])
    def test_to_the_peer(self, both: tuple[Engine, Server], octets: int) -> None:
        engine, server = both
        server.into.write(engine.encrypt(bytes(octets)))
        heard = 0
        while heard < octets:
            heard += len(server.tls.read(1 << 20))
        assert heard == octets

    def test_big_pieces_cost_a_record_each_and_no_more(self, both: tuple[Engine, Server]) -> None:
        engine, _ = both
        assert len(engine.encrypt(bytes(16 * RECORD))) == 16 * (RECORD + 22)

    def test_from_the_peer_in_any_pieces(self, both: tuple[Engine, Server]) -> None:
        engine, server = both
        said = bytes(range(256)) * 300
        server.tls.write(said)
        sent = server.out.read()
        heard = b"".join(engine.decrypt(sent[at : at + 1000])[0] for at in range(0, len(sent), 1000))
        assert heard == said

    def test_what_was_left_behind_is_sent_with_the_next(self, both: tuple[Engine, Server]) -> None:
        """OpenSSL may have put something of its own in front, a key update say."""
        engine, server = both
        connection = engine._connection
        connection.send(bytes(5000))
        server.into.write(engine.encrypt(b"x"))
        assert len(server.tls.read(1 << 20)) == 5000
        assert server.tls.read(10) == b"x"

    def test_the_end(self, both: tuple[Engine, Server]) -> None:
        engine, server = both
        server.tls.write(b"bye")
        with pytest.raises(ssl.SSLWantReadError):
            server.tls.unwrap()
        assert engine.decrypt(server.out.read()) == (b"bye", True)
        server.into.write(engine.farewell())
        server.tls.unwrap()

    def test_a_renegotiation_is_refused_and_the_refusals_do_not_pile_up(self) -> None:
        engine, server = Engine(MAY), StaplingServer(b"", SSL.TLS1_2_VERSION)
        shake(engine, server)
        server.connection.renegotiate()
        request = server.shake(b"")
        assert engine.decrypt(request) == (b"", False)
        assert engine.owed() == b""  # few: they go with what is sent next
        engine._taken = module.OWED
        refusal = engine.owed()
        assert refusal[:1] == b"\x15"
        assert engine.owed() == b""
        assert engine.encrypt(b"x")

    def test_a_farewell_in_the_middle_of_a_handshake(self) -> None:
        engine = Engine(MAY)
        engine.handshake(b"")
        assert engine.farewell() == b""

    def test_writing_after_the_end(self, both: tuple[Engine, Server]) -> None:
        engine, _ = both
        engine.farewell()
        with pytest.raises(TLSError, match="protocol is shutdown"):
            engine.encrypt(b"x")


def test_the_versions_that_a_policy_can_name() -> None:
    for version in TLSVersion:
        assert isinstance(module.context_for(Plan(Level.MAY, None, min_version=version)), SSL.Context)
