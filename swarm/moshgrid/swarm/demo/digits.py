"""The demo's data: handwritten digits, dealt to volunteers who each know only a few of the ten classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["CLASSES", "MAX_CLASSES_EACH", "TEST_IMAGES", "Digits", "Share", "deal", "load"]

CLASSES = 10
MAX_CLASSES_EACH = 4
TEST_IMAGES = 450

_TEST_SET_SEED = 0
"""The test set is the same for every seed of the demo, so that accuracies can be compared."""


@dataclass(frozen=True)
class Digits:
    """All 1,797 images of 8 x 8 pixels, scaled to 0…1, with the test images set apart."""

    train_x: npt.NDArray[np.float32]
    train_y: npt.NDArray[np.int64]
    test_x: npt.NDArray[np.float32]
    test_y: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """What one volunteer holds: indices into the training images, and the classes among them."""

    indices: npt.NDArray[np.int64]
    classes: tuple[int, ...]


def load() -> Digits:
    """The digits that scikit-learn ships; nothing is downloaded."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    x = np.asarray(bunch.data / 16.0, dtype=np.float32)
    y = np.asarray(bunch.target, dtype=np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=TEST_IMAGES, stratify=y, random_state=_TEST_SET_SEED
    )
    return Digits(train_x, train_y, test_x, test_y)


def deal(labels: npt.NDArray[np.int64], peers: int, seed: int) -> list[Share]:
    """Deals every image to exactly one of ``peers`` volunteers, in uneven amounts.

    Classes are dealt like cards from decks of ten, four to a volunteer, so any first ``m``
    volunteers hold each class ``4 m // 10`` times or once more: whoever leaves from the end of the
    list, no class is lost while three remain.
    """
    rng = np.random.default_rng(seed)
    hands = _deal_classes(peers, rng)
    appetite = rng.uniform(0.5, 1.8, size=peers)
    piles: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(peers)]
    for label in range(CLASSES):
        images = rng.permutation(np.flatnonzero(labels == label))
        holders = [peer for peer in range(peers) if label in hands[peer]]
        wanted = appetite[holders] * rng.uniform(0.7, 1.4, size=len(holders))
        ends = np.round(np.cumsum(wanted / wanted.sum())[:-1] * len(images)).astype(np.int64)
        for peer, pile in zip(holders, np.split(images, ends), strict=True):
            piles[peer].append(pile)
    return [
        Share(np.sort(np.concatenate(piles[peer])).astype(np.int64), tuple(sorted(hands[peer])))
        for peer in range(peers)
    ]


def _deal_classes(peers: int, rng: np.random.Generator) -> list[list[int]]:
    """Four different classes for each volunteer, all decks of ten used up before the next one opens."""
    hands: list[list[int]] = []
    deck: list[int] = []
    for _ in range(peers):
        hand: list[int] = []
        if len(deck) < MAX_CLASSES_EACH:
            hand, deck = deck, []
        if not deck:
            # Classes that the hand holds already go to the end of the new deck.
            fresh = [int(label) for label in rng.permutation(CLASSES)]
            deck = [label for label in fresh if label not in hand] + [c for c in fresh if c in hand]
        missing = MAX_CLASSES_EACH - len(hand)
        hand, deck = hand + deck[:missing], deck[missing:]
        hands.append(hand)
    return hands
