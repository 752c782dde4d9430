"""Checkpoints: whole or not at all, damaged ones found out, and a resumed training that goes on exactly."""

import errno
import logging
import os
import random
import struct

import numpy as np
import pytest
import torch

from moshgrid.p2p import ConfigurationError, Identity, Node
from moshgrid.swarm import DiLoCo, Run
from moshgrid.swarm.checkpoint import CheckpointError, checkpoint_file, read_checkpoint, write_checkpoint


def test_a_tree_comes_back_as_it_was(tmp_path):
    tree = {
        "a": [1, 2.5, float("inf"), None, True, "text", b"\x00\xff", (1, (2, [3]))],
        "odd": {3: "three", (1, 2): "pair", "$tensor": "no tensor"},
        "tensors": [
            torch.arange(5),
            torch.randn(3, 4).to(torch.bfloat16),
            torch.zeros(0, 2),
            torch.tensor(7.0),
        ],
        "numpy": np.arange(3, dtype=np.uint32),
        "scalar": np.float64(0.1),
        "big": 2**200,
    }
    write_checkpoint(tmp_path / "c", tree)
    assert [file.name for file in (tmp_path / "c").iterdir()] == ["checkpoint.safetensors"]
    back = read_checkpoint(tmp_path / "c").tree
    for given, got in zip(tree["tensors"], back.pop("tensors"), strict=True):
        assert given.dtype == got.dtype and torch.equal(given, got)
    numbers = back.pop("numpy")
    assert numbers.dtype == np.uint32 and (numbers == tree["numpy"]).all()
    assert back == {key: value for key, value in tree.items() if key not in ("tensors", "numpy")}


def test_what_has_no_place_is_said(tmp_path):
    with pytest.raises(ConfigurationError, match=r"a\.0\.b is a set"):
        write_checkpoint(tmp_path / "c", {"a": [{"b": {1}}]})
    assert not (tmp_path / "c").exists()


def test_every_torn_file_and_every_flipped_bit_is_found_out(tmp_path):
    tree = {"values": torch.arange(6.0), "position": {"epoch": 3}}
    file = write_checkpoint(tmp_path / "small.safetensors", tree)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="left as it is"):
            read_checkpoint(file)
        assert file.read_bytes() == whole[:length]
    for bit in range(8 * len(whole)):
        spoiled = bytearray(whole)
        spoiled[bit // 8] ^= 1 << bit % 8
        file.write_bytes(spoiled)
        try:
            back = read_checkpoint(file).tree
        except CheckpointError:
            continue
        # White space in the header means nothing; what is read is what was written.
        assert torch.equal(back["values"], tree["values"]) and back["position"] == {"epoch": 3}
    file.write_bytes(whole + b"more")
    with pytest.raises(CheckpointError):
        read_checkpoint(file)


def test_a_header_that_claims_much_is_refused(tmp_path):
    file = tmp_path / "c.safetensors"
    file.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "nowhere")


def test_an_identity_is_never_overwritten(tmp_path):
    key = tmp_path / "identity.key"
    Identity.load_or_create(key)
    before = key.read_bytes()
    for act in (lambda: write_checkpoint(key, {}), lambda: read_checkpoint(key)):
        with pytest.raises(ConfigurationError, match="no checkpoint; it was left as it is"):
            act()
    assert key.read_bytes() == before
    assert checkpoint_file(tmp_path / "new.pt") == tmp_path / "new.pt" / "checkpoint.safetensors"


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    file = write_checkpoint(tmp_path, {"n": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_checkpoint(tmp_path, {"n": 2})
    assert read_checkpoint(file).tree == {"n": 1}
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


# Runs -----------------------------------------------------------------------------------------------


def make(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 12), torch.nn.BatchNorm1d(12), torch.nn.Dropout(0.3), torch.nn.Linear(12, 1)
    )


def train(model, optimizer, scheduler, start, stop):
    for _ in range(start, stop):
        noise = random.random() + float(np.random.rand())
        x = torch.randn(8, 6)
        loss = ((model(x) - noise * x.sum(1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()


def bytes_of(model, optimizer):
    tensors = [*model.state_dict().values()]
    for state in optimizer.state_dict()["state"].values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)


def options():
    return {"listen": ["/ip4/127.0.0.1/tcp/0"], "network": "checkpoints"}


@pytest.mark.parametrize("kind", ["bare", "diloco"])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, kind):
    def optimizers(run, model):
        inner = torch.optim.AdamW(model.parameters(), 1e-2, amsgrad=True)
        optimizer = inner if kind == "bare" else DiLoCo(run, inner, sync_every=1000)
        return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.7)

    def seeded():
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)

    with Node(**options()) as node:
        model = make()
        with Run(node, "r", model, progress=False) as run:
            optimizer, scheduler = optimizers(run, model)
            seeded()
            train(model, optimizer, scheduler, 0, 20)
            expected = bytes_of(model, optimizer)
    with Node(**options()) as node:
        model = make()
        with Run(node, "r", model, progress=False) as run:
            optimizer, scheduler = optimizers(run, model)
            seeded()
            train(model, optimizer, scheduler, 0, 9)
            assert run.save(tmp_path / "c", optimizer, [scheduler], position={"step": 9})
    torch.manual_seed(99)
    with Node(**options()) as node:
        model = make(seed=1)
        with Run.load(tmp_path / "c", node, model=model, progress=False) as run:
            assert run.run_id == "r"
            optimizer, scheduler = optimizers(run, model)
            position = run.resume(optimizer, [scheduler])
            assert position == {"step": 9}
            train(model, optimizer, scheduler, position["step"], 20)
            assert bytes_of(model, optimizer) == expected
            with pytest.raises(ConfigurationError, match="nothing to resume"):
                run.resume()


def test_another_model_is_said_and_nothing_changed(tmp_path):
    with Node(**options()) as node:
        with Run(node, "r", make(), progress=False) as run:
            run.save(tmp_path)
        other = torch.nn.Linear(6, 12)
        before = other.weight.detach().clone()
        with pytest.raises(CheckpointError, match=r"0\.weight: yours nothing, saved \(12, 6\) float32"):
            Run.load(tmp_path, node, model=other)
        assert torch.equal(other.weight, before)


def test_a_disk_that_cannot_be_written_is_one_warning_and_the_run_goes_on(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with Node(**options()) as node, Run(node, "r", make(), progress=False) as run:
        with caplog.at_level(logging.WARNING, "moshgrid.swarm"):
            for _ in range(3):
                assert not run.save(tmp_path / "file" / "checkpoints")
            assert run.save(tmp_path / "elsewhere")
        assert [each.message for each in caplog.records if "cannot be written" in each.message] != []
        assert sum("cannot be written" in each.message for each in caplog.records) == 1
        assert (tmp_path / "file").read_text() == "in the way"
