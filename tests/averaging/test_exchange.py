"""The exchange, one transition at a time: three members, part i owned by member i."""

from moshgrid.averaging.effects import Emit, Reduce, Send, SendPart, SendResult
from moshgrid.averaging.exchange import MAX_VERSIONS, Exchange
from moshgrid.averaging.messages import TakingOver

ALL = frozenset({0, 1, 2})


def exchange(me=0, senders=ALL, reducers=ALL, owners=(0, 1, 2)):
    return Exchange(me, 3, owners, senders, reducers)


def ready(machine, *members):
    return [effect for member in members for effect in machine.ready(member)]


def test_a_member_that_countersigned_is_sent_the_parts_it_owns_and_nothing_before():
    machine = exchange()
    assert machine.start() == []
    assert machine.ready(1) == [Emit("exchange_started"), SendPart(1, 1)]
    assert machine.ready(1) == []
    assert machine.ready(2) == [SendPart(2, 2)]


def test_a_part_is_reduced_when_every_live_sender_delivered_it():
    machine = exchange()
    ready(machine, 1, 2)
    assert machine.part_arrived(1, 0) == []
    assert machine.part_arrived(1, 0) == []
    assert machine.part_arrived(2, 0) == [Reduce(0, (0, 1, 2))]


def test_a_result_goes_to_everybody_who_is_there_and_later_to_who_comes():
    machine = exchange()
    ready(machine, 1)
    assert machine.reduced(0, b"r", ()) == [Emit("result_sent", {"part": 0}), SendResult(1, 0, b"r")]
    assert SendResult(2, 0, b"r") in machine.ready(2)
    assert machine.first_results() == (b"r", b"", b"")


def test_a_sender_that_is_lost_counts_for_what_it_delivered():
    machine = exchange(owners=(0, 0, 0))
    ready(machine, 1, 2)
    machine.part_arrived(2, 0)
    machine.part_arrived(1, 1)
    machine.part_arrived(1, 2)
    assert machine.part_arrived(1, 0) == [Reduce(0, (0, 1, 2))]
    assert machine.lost(2) == [Reduce(1, (0, 1)), Reduce(2, (0, 1))]


def test_the_next_member_takes_over_and_asks_for_what_was_not_delivered_to_it():
    machine = exchange(me=2)
    ready(machine, 0, 1)
    effects = machine.lost(1)
    assert effects == [
        Emit("takeover", {"parts": [1], "instead_of": 1}),
        Send(0, TakingOver((1,), 1)),
        Send(1, TakingOver((1,), 1)),
    ]
    assert machine.part_arrived(0, 1) == [Reduce(1, (0, 2))]


def test_senders_send_again_to_who_takes_over():
    machine = exchange(me=0)
    ready(machine, 1, 2)
    assert machine.lost(1) == [SendPart(2, 1)]
    assert machine.owner_of(1) == 2
    assert machine.taking_over(2, [1]) == []  # sent already


def test_who_takes_over_is_believed_even_without_sharing_the_suspicion():
    machine = exchange(me=0)
    ready(machine, 1, 2)
    assert machine.taking_over(2, [1, 99]) == [SendPart(2, 1)]


def test_a_result_that_a_lost_owner_left_behind_is_passed_on_instead_of_made_again():
    machine = exchange(me=2)
    ready(machine, 0, 1)
    machine.result_arrived(1, 1, b"r")
    effects = machine.lost(1)
    assert SendResult(0, 1, b"r") in effects
    assert not [effect for effect in effects if isinstance(effect, Reduce)]
    # and one that came to somebody else is handed to who takes over
    other = exchange(me=0)
    ready(other, 1, 2)
    other.result_arrived(1, 1, b"r")
    assert other.lost(1) == [SendResult(2, 1, b"r")]


def test_takeover_moves_on_when_that_member_is_lost_too():
    machine = exchange(me=0)
    ready(machine, 1, 2)
    machine.lost(1)
    effects = machine.lost(2)
    assert machine.owner_of(1) == machine.owner_of(2) == 0
    assert {effect.part for effect in effects if isinstance(effect, Reduce)} == {0, 1, 2}


def test_a_client_never_takes_over_while_a_reducer_is_there():
    machine = exchange(me=0, reducers=frozenset({0, 1}))
    ready(machine, 1, 2)
    machine.lost(1)
    assert machine.owner_of(1) == 0


def test_refused_values_do_not_count_and_a_part_that_nobody_filled_is_tried_again():
    machine = exchange(me=0, senders=frozenset({1, 2}))
    ready(machine, 1, 2)
    machine.part_arrived(1, 0)
    assert machine.part_arrived(2, 0) == [Reduce(0, (1, 2))]
    assert machine.reduced(0, b"", (1, 2)) == []
    machine.lost(1)
    assert machine.part_arrived(2, 0) == [Reduce(0, (2,))]


def test_it_waits_for_owners_and_for_senders_of_its_own_part():
    machine = exchange()
    ready(machine, 1, 2)
    assert machine.waits_for_values == machine.waits_for_results == {1, 2}
    machine.part_arrived(1, 0)
    assert machine.waits_for_values == {2}
    machine.result_arrived(1, 1, b"r")
    assert machine.waits_for_results == {2}
    machine.result_arrived(2, 2, b"r")
    assert machine.waits_for_values == {2}
    assert not machine.waits_for_results
    machine.part_arrived(2, 0)
    assert not machine.waits_for_values


def test_versions_of_a_part_are_bounded():
    machine = exchange()
    for version in range(MAX_VERSIONS):
        machine.result_arrived(1, 1, b"%d" % version)
    assert not machine.wants_another(1, b"new")
    assert machine.wants_another(1, b"0")


def test_complete_means_a_result_of_every_part():
    machine = exchange()
    for part in range(3):
        assert not machine.complete
        machine.result_arrived(1, part, b"r")
    assert machine.complete
    assert machine.holds(2, b"r")
    assert not machine.holds(2, b"s")
