"""URL paths: the API server's, and names that try to be more than a name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from postern_operator import paths
from postern_operator.model import Key

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = Key("mail", "exim")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (paths.policies(), "/apis/postern.dev/v1alpha1/mailproxypolicies"),
        (paths.policies("mail"), "/apis/postern.dev/v1alpha1/namespaces/mail/mailproxypolicies"),
        (paths.policy(KEY), "/apis/postern.dev/v1alpha1/namespaces/mail/mailproxypolicies/exim"),
        (paths.pods(), "/api/v1/pods"),
        (paths.pod(KEY), "/api/v1/namespaces/mail/pods/exim"),
        (paths.config_maps("mail"), "/api/v1/namespaces/mail/configmaps"),
        (paths.config_map(KEY), "/api/v1/namespaces/mail/configmaps/exim"),
        (paths.namespaces(), "/api/v1/namespaces"),
        (paths.namespace("mail"), "/api/v1/namespaces/mail"),
        (paths.secrets("mail"), "/api/v1/namespaces/mail/secrets"),
        (paths.secret(KEY), "/api/v1/namespaces/mail/secrets/exim"),
        (paths.leases("mail"), "/apis/coordination.k8s.io/v1/namespaces/mail/leases"),
        (paths.lease(KEY), "/apis/coordination.k8s.io/v1/namespaces/mail/leases/exim"),
        (paths.events("mail"), "/apis/events.k8s.io/v1/namespaces/mail/events"),
        (
            paths.webhook_configuration("postern"),
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern",
        ),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


@pytest.mark.parametrize("of", [paths.policy, paths.pod, paths.config_map, paths.secret, paths.lease])
def test_a_name_stays_one_segment(of: Callable[[Key], str]) -> None:
    assert of(Key("mail", "a/../b?c=d#e%2F")).endswith("/a%2F..%2Fb%3Fc%3Dd%23e%252F")
    assert "/namespaces/kube-system%2F..%2Fmail/" in of(Key("kube-system/../mail", "exim"))


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_what_is_above_an_object_is_not_an_object(name: str) -> None:
    makers: list[Callable[[], str]] = [
        lambda: paths.pod(Key("mail", name)),
        lambda: paths.secret(Key(name, "exim")),
        lambda: paths.lease(Key(name, "exim")),
        lambda: paths.events(name),
        lambda: paths.namespace(name),
        lambda: paths.webhook_configuration(name),
    ]
    for make in makers:
        with pytest.raises(ValueError, match="no object's name"):
            make()
