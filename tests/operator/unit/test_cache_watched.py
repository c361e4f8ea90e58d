"""The cache: events late and out of order, relists without deletions, what stays of a policy that turned invalid."""

from __future__ import annotations

from typing import Any

import pytest

from postern_operator.cache import Cache, Resource
from postern_operator.model import Injection, Key
from postern_operator.records import pod_record, policy_record
from postern_operator.settings import Sidecar

EDGE = Key("mail", "edge")
POD = Key("mail", "mail-0")
Object = dict[str, Any]


def policy(*, uid: str = "u1", generation: int = 1, handover: str = "ProxyV2", name: str = "edge") -> Any:
    inbound = {
        "name": "smtp",
        "port": 25,
        "backend": {"port": 2525, "handover": handover},
        "proxyProtocol": {"requiredFrom": ["10.0.0.0/8"]},
    }
    metadata = {"name": name, "namespace": "mail", "uid": uid, "generation": generation}
    return policy_record({"metadata": metadata, "spec": {"inbound": [inbound]}}, Sidecar())


def pod(*, uid: str = "p1", name: str = "edge") -> Any:
    metadata = {"name": "mail-0", "namespace": "mail", "uid": uid, "labels": {"postern.dev/policy": name}}
    return pod_record({"metadata": metadata})


def test_a_policy_comes_changes_and_goes() -> None:
    cache = Cache()
    assert cache.put_policy(policy(), "5")
    assert cache.policies_of("mail") == (cache.policy(EDGE),)
    first = cache.injection_of(EDGE)
    assert first is not None
    assert cache.put_policy(policy(generation=2, handover="ProxyV1"), "6")
    rendered = cache.rendered(EDGE)
    assert rendered is not None
    assert rendered.hash != first.hash
    assert [record.generation for record in cache.policies()] == [2]
    assert cache.remove(Resource.POLICIES, EDGE, "u1")
    assert cache.policies_of("mail") == ()
    assert (cache.policy(EDGE), cache.rendered(EDGE), cache.injection_of(EDGE)) == (None, None, None)
    assert not cache.remove(Resource.POLICIES, EDGE, "u1")


def test_an_invalid_policy_keeps_the_injection_that_was_accepted_last() -> None:
    cache = Cache()
    cache.put_policy(policy(), "5")
    accepted = cache.injection_of(EDGE)
    cache.put_policy(policy(generation=2, handover="Nothing"), "6")
    assert cache.rendered(EDGE) is None
    assert cache.injection_of(EDGE) == accepted


def test_after_a_restart_the_config_map_tells_and_a_policy_knows_better() -> None:
    cache, told = Cache(), Injection(policy="edge", uid="u1", hash="0")
    cache.remember_injection(EDGE, told)
    assert cache.injection_of(EDGE) is None  # of no policy that we know
    cache.put_policy(policy(handover="Nothing"), "5")
    cache.remember_injection(EDGE, told)
    assert cache.injection_of(EDGE) == told
    cache.put_policy(policy(generation=2), "6")
    cache.remember_injection(EDGE, told)
    assert cache.injection_of(EDGE) != told


@pytest.mark.parametrize("version", ["4", "5"])
def test_what_is_older_or_the_same_is_no_news(version: str) -> None:
    cache = Cache()
    cache.put_policy(policy(generation=2), "5")
    assert not cache.is_news(Resource.POLICIES, EDGE, "u1", version)
    assert not cache.put_policy(policy(generation=1), version)
    assert [record.generation for record in cache.policies()] == [2]


def test_an_odd_version_is_news() -> None:
    cache = Cache()
    cache.put_policy(policy(), "5")
    assert cache.is_news(Resource.POLICIES, EDGE, "u1", "what")
    assert cache.put_policy(policy(generation=3), "²")
    assert not cache.put_policy(policy(generation=2), "6")


def test_the_end_of_an_earlier_object_is_not_the_end_of_its_namesake() -> None:
    cache = Cache()
    cache.put_policy(policy(uid="u2"), "9")
    assert not cache.remove(Resource.POLICIES, EDGE, "u1")
    assert cache.policy(EDGE) is not None


def test_a_status_of_ours_is_known_before_the_watch_tells() -> None:
    cache = Cache()
    cache.put_policy(policy(), "5")
    rendered = cache.rendered(EDGE)
    cache.put_status(EDGE, "u1", 1, {"configHash": "x"}, "7")
    record = cache.policy(EDGE)
    assert record is not None
    assert record.status == {"configHash": "x"}
    assert cache.rendered(EDGE) is rendered
    assert not cache.is_news(Resource.POLICIES, EDGE, "u1", "7")


@pytest.mark.parametrize(("uid", "generation"), [("u2", 1), ("u1", 2)])
def test_a_status_of_a_generation_that_we_have_not_seen_hides_nothing(uid: str, generation: int) -> None:
    """It was written over a change that the watch has still to tell."""
    cache = Cache()
    cache.put_policy(policy(), "5")
    cache.put_status(EDGE, uid, generation, {"configHash": "x"}, "7")
    assert cache.is_news(Resource.POLICIES, EDGE, "u1", "6")
    cache.put_status(Key("mail", "other"), uid, generation, {}, "7")
    assert cache.count(Resource.POLICIES) == 1


def test_pods_are_found_by_their_policy_and_move_with_their_label() -> None:
    cache = Cache()
    assert cache.put_pod(pod(), "5")
    assert [one.uid for one in cache.pods_of(EDGE)] == ["p1"]
    assert cache.put_pod(pod(name="other"), "6")
    assert not cache.put_pod(pod(), "5")
    assert cache.pods_of(EDGE) == ()
    assert cache.pods_of(Key("mail", "other")) == (cache.pod(POD),)
    assert cache.remove(Resource.PODS, POD, "p1")
    assert cache.pods_of(Key("mail", "other")) == ()
    assert cache.pod(POD) is None


def test_namespaces_are_the_enabled_ones() -> None:
    cache = Cache()
    assert cache.put_namespace("mail", "n1", "1")
    assert cache.namespace_enabled("mail")
    assert not cache.namespace_enabled("other")
    assert cache.namespaces() == ["mail"]
    assert cache.remove(Resource.NAMESPACES, Key("", "mail"), "n1")
    assert not cache.namespace_enabled("mail")


def test_what_went_while_nobody_watched_is_found_by_a_list() -> None:
    cache = Cache()
    cache.put_policy(policy(), "5")
    cache.put_policy(policy(name="other", uid="u3"), "5")
    mark = cache.mark()
    assert cache.gone(Resource.POLICIES, {Key("mail", "other"): "u3"}, mark) == [(EDGE, "u1")]
    # A namesake with another UID is another object.
    assert cache.gone(Resource.POLICIES, {EDGE: "u2", Key("mail", "other"): "u3"}, mark) == [(EDGE, "u1")]


def test_what_came_while_the_list_was_read_is_not_gone() -> None:
    cache = Cache()
    mark = cache.mark()
    cache.put_policy(policy(), "5")
    assert cache.gone(Resource.POLICIES, {}, mark) == []
    assert cache.gone(Resource.POLICIES, {}, cache.mark()) == [(EDGE, "u1")]


def test_what_no_watch_has_told_of_is_missing() -> None:
    cache = Cache()
    cache.put_pod(pod(), "5")
    present = {POD: "p1", Key("mail", "mail-1"): "p2"}
    assert cache.missing(Resource.PODS, present) == [Key("mail", "mail-1")]
    assert cache.missing(Resource.PODS, {POD: "p9"}) == [POD]


def test_news_of_one_leave_the_others_as_they_are() -> None:
    cache = Cache()
    cache.put_policy(policy(), "5")
    cache.put_policy(policy(uid="u2", name="other"), "6")
    rendered = cache.rendered(EDGE)
    assert cache.put_policy(policy(), "7")  # the same generation: nothing of the file is another
    assert cache.rendered(EDGE) is rendered
    cache.put_status(EDGE, "u1", 1, {"configHash": "older"}, "6")
    record = cache.policy(EDGE)
    assert record is not None
    assert record.status == {}
    assert cache.remove(Resource.POLICIES, EDGE, "u1")
    assert [one.key.name for one in cache.policies_of("mail")] == ["other"]


def test_of_two_pods_one_goes() -> None:
    cache = Cache()
    metadata = {"name": "mail-1", "namespace": "mail", "uid": "p2", "labels": {"postern.dev/policy": "edge"}}
    second = pod_record({"metadata": metadata})
    cache.put_pod(pod(), "5")
    cache.put_pod(second, "6")
    assert cache.remove(Resource.PODS, POD, "p1")
    assert cache.pods_of(EDGE) == (second,)
