"""Error feedback: what is left out is sent later, churn drifts and resync repairs, state survives."""

import numpy as np
import pytest

from moshgrid.compression import EF14, EF21, EF21M, get_codec

RNG = np.random.default_rng


def compressed(values):
    """A hard compressor: the largest tenth."""
    kept = np.zeros_like(values)
    best = np.argsort(-np.abs(values))[: values.size // 10]
    kept[best] = values[best]
    return kept


def test_ef14_sends_everything_in_the_end():
    memory, total = EF14(50), np.zeros(50, np.float64)
    gradients = RNG(0).standard_normal((200, 50)).astype(np.float32)
    for gradient in gradients:
        decoded = compressed(memory.outgoing(gradient))
        memory.sent(decoded)
        total += memory.received(decoded)
    np.testing.assert_allclose(total + memory.residual, gradients.sum(axis=0), atol=1e-3)


def test_ef14_keeps_what_a_lost_round_would_have_sent():
    memory = EF14(2)
    assert memory.outgoing(np.float32([1, 2])).tolist() == [1, 2]
    memory.lost()
    assert memory.outgoing(np.float32([10, 20])).tolist() == [11, 22]
    # a round that nobody ended counts as lost
    assert memory.outgoing(np.float32([0, 0])).tolist() == [11, 22]
    memory.sent(np.float32([11, 20]))
    assert memory.residual.tolist() == [0, 2]
    memory.sent(np.float32([11, 20]))
    assert memory.residual.tolist() == [0, 2], "a round is counted once"


def test_ef14_with_decay_forgets():
    memory = EF14(1, decay=0.5)
    memory.outgoing(np.float32([8]))
    memory.sent(np.float32([0]))
    assert memory.outgoing(np.float32([0])).tolist() == [4]


def test_ef21_follows_a_constant_gradient_exactly():
    memory, gradient = EF21(40), RNG(1).standard_normal(40).astype(np.float32)
    direction = None
    for _ in range(12):
        decoded = compressed(memory.outgoing(gradient))
        memory.sent(decoded)
        direction = memory.received(decoded)
    np.testing.assert_allclose(direction, gradient, atol=1e-6)
    np.testing.assert_allclose(memory.local, gradient, atol=1e-6)


def test_ef21m_follows_the_momentum():
    memory = EF21M(1, eta=0.25)
    assert memory.outgoing(np.float32([8])).tolist() == [8]
    memory.lost()
    assert memory.outgoing(np.float32([0])).tolist() == [6]
    with pytest.raises(ValueError, match="eta"):
        EF21M(1, eta=0)


def test_a_missed_message_drifts_until_resync():
    one, two = EF21(1), EF21(1)
    one.outgoing(np.float32([4]))
    two.outgoing(np.float32([8]))
    one.sent(np.float32([4]))
    two.sent(np.float32([8]))  # but only one's message was heard
    assert one.received(np.float32([4])) == two.received(np.float32([4])) == 4
    for memory in (one, two):
        memory.resync((one.local + two.local) / 2)
    assert one.shared == two.shared == 6


@pytest.mark.parametrize("make", [EF14, EF21, EF21M])
def test_a_memory_goes_on_from_its_checkpoint(make):
    codec, rng = get_codec("int4"), RNG(2)

    def step(memory, gradient):
        out = memory.outgoing(gradient)
        decoded = codec.decode(codec.encode(out).data, out.size, out.dtype)
        memory.sent(decoded)
        return memory.received(decoded)

    memory, again = make(300), make(300)
    again.load_state_dict(make(300).state_dict())
    for _ in range(5):
        step(memory, rng.standard_normal(300).astype(np.float32))
    state = memory.state_dict()
    assert all(isinstance(value, np.ndarray) for name, value in state.items() if name != "kind")
    again.load_state_dict(state)
    for _ in range(3):
        gradient = rng.standard_normal(300).astype(np.float32)
        assert (step(memory, gradient) == step(again, gradient)).all()
    assert any((state[name] != memory.state_dict()[name]).any() for name in state if name != "kind")


def test_ef14_saves_what_a_round_in_progress_has_not_sent():
    memory, again = EF14(1), EF14(1)
    memory.outgoing(np.float32([3]))
    again.load_state_dict(memory.state_dict())
    assert again.outgoing(np.float32([0])) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "ef14"}, "kind ef21"),
        ({"local": np.zeros(3, np.float32)}, "4 float32"),
        ({"local": np.zeros(4)}, "4 float32"),
        ({"shared": np.float32([0, 0, np.nan, 0])}, "NaN"),
        ({"extra": np.zeros(4, np.float32)}, "local, shared"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(change, words):
    memory = EF21(4)
    with pytest.raises(ValueError, match=words):
        memory.load_state_dict({**memory.state_dict(), **change})
    with pytest.raises(ValueError, match="expected 4 values"):
        memory.outgoing(np.zeros(5, np.float32))
