"""What is decided for a request, from the fleet as it stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helexa.errors import HelexaError
from helexa.gateway.catalogue import Catalogue, Profile, feasible
from helexa.gateway.fleet import SERVING, Backoff, Entry, Fleet, Node, Status
from helexa.gateway.refusals import (
    ColdLoadFailed,
    FeasibleNodeUnhealthy,
    Loading,
    NoFeasibleNeuron,
    NoHealthyNodes,
    NoServableReplica,
    Recovering,
    UnknownModel,
)
from helexa.gateway.routing import (
    AwaitLoad,
    ColdLoad,
    Decision,
    Question,
    RouteTo,
    decide,
    replicas,
)
from helexa.protocol.control import ActivationStatus, Servable
from tests.gateway.fleets import SQ, catalogue, load, loaded, node
from tests.protocol.builders import quick

M = "test-model"
NOW = 1000.0
PROFILE = Profile(M, vram_mb=1_000)
KNOWN = catalogue(PROFILE)
REPLICA = loaded(M)
ROOMY = (32_000,)


def entry(status: Status = "loaded", **facts: Any) -> dict[str, Entry]:
    return {M: Entry(M, status, **facts)}


def ask(*nodes: Node, known: Catalogue | None = None, **facts: Any) -> Decision:
    """The decision on the test model."""
    fleet = Fleet.of(nodes)
    return decide(Question(fleet, known or Catalogue(), M, NOW, **facts))


def backoff(left_s: float, *, since: float = 0.0, refused: bool = False) -> dict[str, Backoff]:
    return {M: Backoff(since, NOW + left_s, "HTTP 500: no", refused, KNOWN)}


@pytest.mark.parametrize(
    ("servable", "can"),
    [(None, True), (Servable(ok=True), True), (SQ, False)],
    ids=["absent", "ok", "not"],
)
def test_g028_servable(servable: Servable | None, can: bool) -> None:
    assert Entry(M, servable=servable).can_serve is can
    routed = ask(node("a", entries=entry(servable=servable)))
    assert routed == RouteTo("a") if can else isinstance(routed, NoServableReplica)


def test_g042_least_busy() -> None:
    a = node("node-a", entries=REPLICA, load={M: load(1, 3)})
    b = node("node-b", entries=REPLICA, load={M: load(0, 0)})
    assert ask(a, b) == RouteTo("node-b")
    a.load, b.load = {M: load(0, 0)}, {M: load(1, 5)}
    assert ask(a, b) == RouteTo("node-a")


def test_g043_tie() -> None:
    assert ask(node("node-b", entries=REPLICA), node("node-a", entries=REPLICA)) == RouteTo(
        "node-a"
    )


@pytest.mark.parametrize(
    ("reported", "own", "own_at_poll", "busy"),
    [
        (0, 0, 0, 0),
        (4, 0, 0, 4),
        (0, 3, 0, 3),
        (4, 3, 3, 4),
        (4, 1, 3, 2),
        (4, 5, 3, 6),
        (1, 2, 2, 2),
    ],
)
def test_the_load_score(reported: int, own: int, own_at_poll: int, busy: int) -> None:
    where = node(load={M: load(reported, 0)}, own={M: own}, own_at_poll={M: own_at_poll})
    assert where.busy(M) == busy


def test_g045_skips_unservable() -> None:
    a, b = node("node-a", entries=entry(servable=SQ)), node("node-b", entries=REPLICA)
    assert ask(a, b) == RouteTo("node-b")


@pytest.mark.parametrize("known", [Catalogue(), KNOWN], ids=["unknown", "catalogued"])
def test_g046_all_unservable(known: Catalogue) -> None:
    decision = ask(node("node-a", free_mb=ROOMY, entries=entry(servable=SQ)), known=known)
    assert isinstance(decision, NoServableReplica)
    assert (decision.status, decision.retry_after_s) == (503, 5)
    assert str(decision) == (
        "model 'test-model' is resident on node 'node-a' but cannot be served: insufficient_vram "
        "— retry shortly"
    )


TWO = catalogue(Profile(M, min_devices=2))


def test_g047_feasible_unhealthy() -> None:
    small, big = node("small", free_mb=(1,)), node("big", free_mb=(1, 1), healthy=False)
    decision = ask(small, big, known=TWO)
    assert isinstance(decision, FeasibleNodeUnhealthy)
    told = (decision.status, decision.retry_after_s, decision.type, decision.code)
    assert told == (503, 3, "api_error", "service_unavailable")


def test_g048_never_feasible() -> None:
    decision = ask(node("big", free_mb=(1,)), known=TWO)
    assert isinstance(decision, NoFeasibleNeuron)
    assert (decision.status, decision.retry_after_s) == (404, None)


def test_g049_on_unhealthy_only() -> None:
    decision = ask(node("a"), node("b", healthy=False, entries=REPLICA))
    assert isinstance(decision, FeasibleNodeUnhealthy)


ACTIVE = ActivationStatus(state="pre_warming", in_progress=M)
PENDING = ActivationStatus(state="pre_warming", pending=(M,))
DOWN: dict[str, Any] = {"healthy": False}


@pytest.mark.parametrize(
    ("nodes", "known", "expected"),
    [
        ([], Catalogue(), NoHealthyNodes),
        ([node("a", healthy=False, entries=REPLICA)], KNOWN, NoHealthyNodes),
        ([node("a")], Catalogue(), UnknownModel),
        ([node("a", entries=entry("reloading"))], Catalogue(), RouteTo("a")),
        ([node("a", entries=entry("loading"))], Catalogue(), Loading),
        ([node("a", activation=ACTIVE)], Catalogue(), Loading),
        ([node("a", activation=PENDING)], Catalogue(), Loading),
        ([node("b", entries=entry("unloaded")), node("a")], Catalogue(), ColdLoad("b", None)),
        (
            [node("b", entries=entry("unloaded")), node("a", entries=entry("loading"))],
            Catalogue(),
            ColdLoad("b", None),
        ),
        ([node("a", free_mb=ROOMY)], KNOWN, ColdLoad("a", PROFILE)),
        ([node("a", discovery=None)], KNOWN, NoFeasibleNeuron),
        ([node("a", discovery=None, activation=ACTIVE)], KNOWN, Loading),
        ([node("a", free_mb=ROOMY, loading={M: 1.0}), node("b")], KNOWN, AwaitLoad("a")),
        (
            [node("a", loading={M: 2.0}), node("b", loading={M: 1.0})],
            KNOWN,
            AwaitLoad("b"),
        ),
        (
            [node("a", loading={M: 1.0}, **DOWN), node("b", free_mb=ROOMY)],
            KNOWN,
            ColdLoad("b", PROFILE),
        ),
        (
            [node("a", free_mb=(1,), activation=PENDING), node("b", free_mb=ROOMY)],
            KNOWN,
            ColdLoad("a", PROFILE),
        ),
        (
            [
                node("a", free_mb=(1,), activation=PENDING),
                node("b", free_mb=(1,), activation=ACTIVE),
                node("c", free_mb=(1,), entries=entry("loading")),
                node("d", free_mb=ROOMY),
            ],
            KNOWN,
            ColdLoad("c", PROFILE),
        ),
        (
            [
                node("a", free_mb=(1,), activation=PENDING),
                node("b", free_mb=(1,), activation=ACTIVE),
            ],
            KNOWN,
            ColdLoad("b", PROFILE),
        ),
        (
            [node("a", free_mb=ROOMY, entries=entry("unloaded", servable=SQ))],
            KNOWN,
            ColdLoad("a", PROFILE),
        ),
        (
            [node("a", free_mb=ROOMY, entries=entry(servable=SQ)), node("b", free_mb=(1,))],
            KNOWN,
            ColdLoad("b", PROFILE),
        ),
    ],
    ids=(
        "no_nodes no_healthy unknown reloading loading activating pending unloaded "
        "unloaded_before_loading placed undiscovered undiscovered_but_coming awaits "
        "awaits_the_first not_of_a_node_that_is_down joins_prewarm joins_loading_first "
        "joins_active_before_pending given_up beside_unservable"
    ).split(),
)
def test_steps(nodes: list[Node], known: Catalogue, expected: Decision | type) -> None:
    decision = ask(*nodes, known=known)
    if isinstance(expected, type):
        assert type(decision) is expected
    else:
        assert decision == expected


def test_activation_knows_models_by_the_id_of_their_source() -> None:
    known = catalogue(replace(PROFILE, source="zz"))
    active = ActivationStatus(state="pre_warming", in_progress=f"zz:{M}")
    nodes = node("a", free_mb=(1,), activation=active), node("b", free_mb=ROOMY)
    decision = ask(*nodes, known=known)
    assert isinstance(decision, ColdLoad) and decision.node == "a"


def test_g063_recovering() -> None:
    sick, free = node("a", entries=entry("recovering")), node("b", free_mb=ROOMY)
    decision = ask(sick, free, known=KNOWN)
    assert isinstance(decision, Recovering)
    assert (decision.status, decision.retry_after_s) == (503, 2)
    assert "recovering" in str(decision) and "retry" in str(decision)


@pytest.mark.parametrize(
    ("probed_at", "exclude", "probed"),
    [
        (None, (), True),
        (NOW - 29.9, (), False),
        (NOW - 30, (), True),
        (None, ("a",), False),
    ],
    ids=["never", "lately", "long_ago", "excluded"],
)
def test_g064_poisoned_probe(
    probed_at: float | None, exclude: tuple[str, ...], probed: bool
) -> None:
    tried = {} if probed_at is None else {M: probed_at}
    sick = node("a", entries=entry("recovering", poisoned=True, servable=SQ), probed_at=tried)
    decision = ask(sick, exclude=exclude)
    assert decision == RouteTo("a", probe=True) if probed else isinstance(decision, Recovering)


def test_a_node_is_left_alone_after_a_failure() -> None:
    a, b = node("a", free_mb=ROOMY, backoff=backoff(30)), node("b", free_mb=(1,))
    assert ask(a, b, known=KNOWN) == ColdLoad("b", PROFILE)
    b.backoff = backoff(12.5, since=1.0)
    decision = ask(a, b, known=KNOWN)
    assert isinstance(decision, ColdLoadFailed)
    assert (decision.node, decision.status, decision.retry_after_s) == ("b", 503, 13)
    assert str(decision) == "cold-load of 'test-model' on 'b' failed: HTTP 500: no"
    a.backoff = backoff(0)
    assert ask(a, b, known=KNOWN) == ColdLoad("a", PROFILE)


def test_a_refusal_is_forgotten_when_the_catalogue_changes() -> None:
    a = node("a", free_mb=ROOMY, backoff=backoff(300, refused=True))
    decision = ask(a, known=KNOWN)
    assert isinstance(decision, ColdLoadFailed)
    assert (decision.status, decision.retry_after_s) == (404, None)
    assert ask(a, known=catalogue(PROFILE)) == ColdLoad("a", PROFILE)
    a.backoff = backoff(300)
    assert isinstance(ask(a, known=catalogue(PROFILE)), ColdLoadFailed)


def test_one_in_backoff_and_one_that_cannot_serve() -> None:
    a = node("a", free_mb=ROOMY, backoff=backoff(30))
    b = node("b", free_mb=ROOMY, entries=entry(servable=SQ))
    assert isinstance(ask(a, b, known=KNOWN), NoServableReplica)


def test_uncatalogued_models_have_backoffs_too() -> None:
    a = node("a", entries=entry("unloaded"), backoff=backoff(30))
    b = node("b", entries=entry("unloaded"))
    assert ask(a, b) == ColdLoad("b", None)
    assert isinstance(ask(a), ColdLoadFailed)


def test_excluded_nodes_are_neither_routed_to_nor_loaded_on() -> None:
    a, b = node("a", free_mb=ROOMY, entries=REPLICA), node("b", free_mb=(1,))
    assert isinstance(ask(a, b, exclude=("a",)), FeasibleNodeUnhealthy)
    assert ask(a, b, known=KNOWN, exclude=("a",)) == ColdLoad("b", PROFILE)
    assert isinstance(ask(a, known=KNOWN, exclude=("a",)), FeasibleNodeUnhealthy)
    assert ask(a, known=KNOWN, no_load=("a",)) == RouteTo("a")


STATUSES: list[Status] = ["loaded", "unloaded", "reloading", "loading", "recovering"]
IDS = st.sampled_from(["m", "n"])


@st.composite
def fleets(draw: st.DrawFn) -> list[Node]:
    def one(name: str) -> Node:
        entries = {
            id: Entry(
                id,
                draw(st.sampled_from(STATUSES)),
                servable=draw(st.sampled_from([None, SQ])),
                poisoned=draw(st.booleans()),
                vram_estimate_mb=draw(st.none() | st.integers(0, 20)),
            )
            for id in draw(st.sets(IDS))
        }
        free = tuple(draw(st.lists(st.integers(0, 20), max_size=3)))
        held = Backoff(0.0, draw(st.sampled_from([NOW - 1, NOW + 1])), "no", False, KNOWN)
        return node(
            name,
            free_mb=free,
            healthy=draw(st.booleans()),
            entries=entries,
            load={id: load(draw(st.integers(0, 3)), 0, id) for id in entries},
            loading=dict.fromkeys(draw(st.sets(IDS, max_size=1)), 1.0),
            backoff=dict.fromkeys(draw(st.sets(IDS, max_size=1)), held),
            activation=draw(st.sampled_from([ActivationStatus(), PENDING])),
        )

    return [one(name) for name in draw(st.sets(st.sampled_from("abcd")))]


PROFILES = st.builds(
    Profile,
    id=IDS,
    vram_mb=st.none() | st.integers(0, 30),
    min_devices=st.integers(0, 3),
    pinned_on=st.sampled_from([(), ("a",), ("a", "b")]),
    residency_priority=st.none() | st.integers(0, 200),
)


@quick
@given(fleets(), st.lists(PROFILES), IDS, st.sets(st.sampled_from("abcd")), st.randoms())
def test_decisions_keep_their_promises(
    nodes: list[Node], profiles: list[Profile], model: str, exclude: set[str], random: Any
) -> None:
    known = catalogue(*profiles)
    question = Question(Fleet.of(nodes), known, model, NOW, exclude)
    decision = decide(question)
    if not isinstance(decision, HelexaError):
        chosen = question.fleet.nodes[decision.node]
        assert chosen.healthy and chosen.name not in exclude
        if isinstance(decision, RouteTo) and not decision.probe:
            assert chosen.entries[model].status in SERVING and chosen.entries[model].can_serve
            assert chosen.busy(model) == min(at.busy(model) for at in replicas(question))
        elif isinstance(decision, ColdLoad):
            profile = decision.profile
            assert profile is known.profiles.get(model)
            assert profile is None or feasible(profile, chosen.name, chosen.devices)
            assert model not in chosen.backoff or chosen.backoff[model].until <= NOW
            assert not replicas(question)
    for at in nodes:
        items = list(at.entries.items())
        random.shuffle(items)
        at.entries = dict(items)
    random.shuffle(nodes)
    again = decide(question._replace(fleet=Fleet.of(nodes)))
    assert again == decision or (type(again), str(again)) == (type(decision), str(decision))
