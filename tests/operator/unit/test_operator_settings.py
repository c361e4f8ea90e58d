"""The settings file: what is taken, and what is said about what is not."""

from __future__ import annotations

import pytest

from postern_operator.settings import CertificateMode, FailurePolicy, InvalidSettings, Settings, parsed


@pytest.mark.parametrize("data", [b"", b" \n", b"{}"])
def test_nothing_is_all_defaults(data: bytes) -> None:
    assert parsed(data, "settings.yaml") == Settings()


def test_yaml_and_json_say_the_same() -> None:
    yaml = b"""
namespace: mail-system
watchNamespaces: [a, b]
healthPort: 0
sidecar: {image: "r/s:1", runAsUser: null, allowedImages: ["r/"], resources: {}}
webhook: {failurePolicy: Fail, certificates: CertManager, host: hook.example.org}
"""
    json = (
        b'{"namespace":"mail-system","watchNamespaces":["a","b"],"healthPort":0,"sidecar":{"image":"r/s:1",'
        b'"runAsUser":null,"allowedImages":["r/"],"resources":{}},"webhook":{"failurePolicy":"Fail",'
        b'"certificates":"CertManager","host":"hook.example.org"}}'
    )
    settings = parsed(yaml, "settings.yaml")
    assert settings == parsed(json, "settings.json")
    assert settings.watch_namespaces == ("a", "b")
    assert settings.sidecar.run_as_user is None
    assert settings.webhook.failure_policy is FailurePolicy.FAIL
    assert settings.webhook.certificates is CertificateMode.CERT_MANAGER


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"sidecar: {imag: x}", "f: sidecar.imag: there is no such setting; did you mean image?"),
        (b"namespaces: x", "f: namespaces: there is no such setting; did you mean namespace?"),
        (b"webhook: {zzz: 1}", "f: webhook.zzz: there is no such setting; there are configuration, service, host,"),
        (b"healthPort: 70000", "f: healthPort: expected `int` <= 65535; values.yaml of the chart says what may"),
        (b"healthPort: eighty", "f: healthPort: expected `int`, got `str`; values.yaml of the chart"),
        (b"sidecar: {allowedImages: [1]}", "f: sidecar.allowedImages[0]: expected `str`, got `int`;"),
        (b"webhook: {failurePolicy: ignore}", "f: webhook.failurePolicy: invalid enum value 'ignore';"),
        (b"just text", "f: the whole: expected `object`, got `str`;"),
        (b"a: [", "f: not YAML: "),
        (b"\xff\xfe\x00", "f: not YAML: "),
    ],
)
def test_what_is_wrong_is_named_with_its_place(data: bytes, text: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        parsed(data, "f")
    assert str(refused.value).startswith(text)
    assert "\n" not in str(refused.value)
