"""Late join over real libp2p on loopback: a training's shared state, authorities, crowds, and ``pull``."""

import json
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from moshgrid.averaging.averager_setup import run_config
from moshgrid.averaging.named_arrays import NamedState
from moshgrid.averaging.run_core import run_digest
from moshgrid.averaging.state import keep_named
from moshgrid.averaging.state_service import DonatedRun, StateServer
from moshgrid.averaging.vouching import admit
from moshgrid.p2p import ConfigurationError, Identity, Node, SchemaMismatch
from moshgrid.swarm import DiLoCo, LocalSwarm, Run
from moshgrid.swarm.pull import lines, pull
from moshgrid.swarm.state_exchange import STATE_PART, to_named

LOOPBACK = {"listen": ["/ip4/127.0.0.1/tcp/0"]}


def model(width=8):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))


class Volunteer:
    def __init__(self, node, seed, width=8, **options):
        self.model = model(width)
        self.run = Run(node, "r", self.model, progress=False, **options)
        inner = torch.optim.SGD(self.model.parameters(), 0.02)
        self.optimizer = DiLoCo(self.run, inner, sync_every=3, overlap=False, compression="int8")
        self._chance = torch.Generator().manual_seed(seed)

    def train(self, steps):
        for _ in range(steps):
            x = torch.randn(16, 4, generator=self._chance)
            loss = ((self.model(x) - x.sum(1, keepdim=True)) ** 2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return loss.item()

    @property
    def state(self):
        return self.optimizer.export_state()


def train_together(members, epoch):
    """Lets all train until they are in that epoch; they know each other before they begin."""

    def train(member):
        (fragment,) = member.optimizer.fragments
        for _ in range(200):
            if len(fragment.averager.peers) >= len(members):
                break
            pause.wait(0.1)
        barrier.wait(60)
        for _ in range(10):
            member.train(3)
            barrier.wait(60)
            done = all(each.state.epoch >= epoch for each in members)
            barrier.wait(60)
            if done:
                return
        raise AssertionError(f"in epoch {member.state.epoch} after 10 tries")

    barrier, pause = threading.Barrier(len(members)), threading.Event()
    with ThreadPoolExecutor(len(members)) as threads:
        list(threads.map(train, members))


def same(one, two):
    return one.tensors.keys() == two.tensors.keys() and all(
        torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors
    )


@pytest.fixture(scope="module")
def training():
    """Two volunteers after some rounds."""
    with LocalSwarm(2, network="late") as swarm:
        members = swarm.each(lambda i, node: Volunteer(node, i))
        train_together(members, 3)
        assert same(members[0].state, members[1].state)
        yield swarm, members
        for member in members:
            member.run.close()


def test_a_latecomer_has_the_same_bytes_momentum_included_and_takes_part_exactly(training):
    swarm, members = training
    late = Volunteer(swarm.add_peer(), 9)
    assert not same(late.state, members[0].state)
    snapshot = late.run.sync()
    assert snapshot.round >= 3 and len(snapshot.donors) == 2
    assert same(late.state, members[0].state)
    assert any("momentum" in name for name in late.state.tensors)
    train_together([*members, late], snapshot.round + 1)
    assert late.optimizer.no_group == 0
    assert same(late.state, members[0].state) and same(late.state, members[1].state)
    late.run.close()


def test_another_model_is_told_before_anything_is_downloaded(training):
    swarm, _ = training
    other = model()
    with Run(swarm.add_peer(), "r", other, progress=False) as run:
        inner = torch.optim.SGD(other.parameters(), 0.02)
        optimizer = DiLoCo(run, inner, sync_every=3)

        class Larger:
            def export_state(self):
                state = optimizer.export_state()
                state.tensors["anchor.0.weight"] = torch.zeros(9, 9)
                return state

        run.follow(Larger())
        with pytest.raises(SchemaMismatch, match=r"anchor\.0\.weight  yours \(9, 9\) float32   run \(8, 4\)"):
            run.sync()


def test_pull_writes_a_checkpoint_without_taking_part(training, tmp_path, capsys):
    swarm, members = training
    link = swarm.link.replace("late@", "late/r@")
    pull(link, tmp_path / "out", None, lines(as_json=True), LOOPBACK)
    said = json.loads(capsys.readouterr().out)
    schema = Path(__file__).parents[2] / "docs/schemas/pull.schema.json"
    jsonschema.validate(said, json.loads(schema.read_text()))
    state = members[0].state
    assert said["round"] == state.epoch and said["tensors"] == len(state.tensors) and said["donors"] >= 2
    file = Path(said["file"])
    written = load_file(file)
    assert written.keys() == state.tensors.keys()
    assert all(torch.equal(written[name], state.tensors[name]) for name in written)
    notes = json.loads(file.with_suffix(".json").read_text())
    assert notes["round"] == state.epoch and notes["meta"] == dict(state.notes)
    assert set(notes["donors"]) >= {member.run.node.peer_id for member in members}
    with pytest.raises(ConfigurationError, match="which run"):
        pull(swarm.link, tmp_path, None, print, LOOPBACK)


def test_pull_goes_on_as_the_run_does(training, tmp_path):
    swarm, members = training
    link = swarm.link.replace("late@", "late/r@")
    pulled = queue.SimpleQueue()

    class Enough(Exception):
        pass

    def report(one):
        pulled.put(one)
        if one.round > first_epoch:
            raise Enough

    first_epoch = members[0].state.epoch
    with ThreadPoolExecutor(1) as threads:
        loop = threads.submit(pull, link, tmp_path, 2, report, LOOPBACK)
        first = pulled.get(timeout=60)
        assert first.round == first_epoch
        train_together(members, first_epoch + 2)
        second = pulled.get(timeout=60)
        with pytest.raises(Enough):
            loop.result(60)
    assert second.round >= first.round + 2
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        f"round-{one.round:06d}.safetensors" for one in (first, second)
    ]
    assert not torch.equal(*(load_file(one.file)["anchor.0.weight"] for one in (first, second)))


# Liars ----------------------------------------------------------------------------------------------


def forge(node, run, state, admission=b""):
    """Makes a node offer a state of its own as the run's."""
    kept = keep_named(state, run_config("r", [p.data for p in model().parameters()], 2, 2, "none", "moshpit",
                                        "mean", None).schema.digest)  # fmt: skip

    async def attach():
        donated = DonatedRun(kept.description.schema, admission)
        donated.give_on(kept)
        StateServer.of(node.host).attach(run_digest(node.network, run + STATE_PART), donated)

    node.call(attach)


def spoiled(state):
    named = to_named(state, copy=True)
    for array in named.arrays.values():
        array += np.float32(1.0)
    return NamedState(named.round + 1, named.arrays, named.meta)


def join_among(liars, honest, newcomer, **options):
    """What a newcomer takes that knows all of them."""
    late = Volunteer(newcomer, 5, **options)
    everybody = [*liars, *honest]
    for node in everybody:
        newcomer.host.network.learn_addrs(node.peer_id, node.addrs)
    late.run._peers = lambda: [node.peer_id for node in everybody]
    late.run.sync()
    state = late.state
    late.run.close()
    return state


def test_with_an_authority_ten_times_as_many_strangers_change_nothing():
    authority = Identity.from_seed(b"a" * 32)
    with LocalSwarm(1, network="vouched") as swarm:
        first = Volunteer(swarm[0], 1)
        honest = first.state
        members = [swarm.add_peer() for _ in range(2)]
        for node in members:
            token = admit(authority, node.peer_id, "vouched", 2**52)
            forge(node, "r", to_named(honest, copy=True), token)
        strangers = [swarm.add_peer() for _ in range(20)]
        for node in strangers:
            forge(node, "r", spoiled(honest), token)
        state = join_among(strangers, members, swarm.add_peer(), authority=authority.public_key.hex())
        assert same(state, honest)
        # The same crowd, and nobody to vouch: an open run in one address block goes with the many.
        state = join_among(strangers, members, swarm.add_peer())
        assert not same(state, honest)
        first.run.close()


def test_many_identities_of_one_address_block_change_nothing():
    options = {"network": "blocks"}
    with Node(listen=["/ip4/127.0.1.1/tcp/0"], **options) as boot:
        nodes = [boot]

        def node(address):
            nodes.append(Node(listen=[f"/ip4/{address}/tcp/0"], bootstrap=list(boot.addrs), **options))
            return nodes[-1]

        try:
            first = Volunteer(boot, 1)
            honest = first.state
            members = [boot, node("127.0.2.1"), node("127.0.3.1")]
            for each in members:
                forge(each, "r", to_named(honest, copy=True))
            liars = [node(f"127.0.9.{i + 1}") for i in range(20)]
            for each in liars:
                forge(each, "r", spoiled(honest))
            assert same(join_among(liars, members, node("127.0.4.1")), honest)
            first.run.close()
        finally:
            for each in reversed(nodes[1:]):
                each.close()
