"""A small transformer learns Python's documentation, letter by letter: DiLoCo against one process.

    python examples/char_transformer.py             # four processes on this computer, one to four minutes
    python examples/char_transformer.py --json --seed 1
    python examples/char_transformer.py LINK        # one volunteer of the swarm behind LINK

Four processes train on samples of their own and average every ``--sync-every`` steps, as int8. One process
that takes all their samples in one batch per step is what they are compared with. What averaging at every
step would have sent is measured, too: over a few rounds with float32 and float16.

The outer momentum is 0.5 and not DiLoCo's usual 0.9, which needs many more than ten rounds to pay off.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterable
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional

from moshgrid.dht import DHT
from moshgrid.p2p import Node
from moshgrid.swarm import DiLoCo, Run

CONTEXT = 64
WIDTH = 32
LAYERS = 1
LEARNING_RATE = 7e-4
OUTER = {"lr": 1.0, "momentum": 0.5, "nesterov": True}
MEASURED = ("none", "float16")
MEASURED_ROUNDS = 3
PATIENCE = 200.0


class Transformer(nn.Module):
    """Predicts the next letter at each place."""

    def __init__(self, letters: int) -> None:
        super().__init__()
        self.letter = nn.Embedding(letters, WIDTH)
        self.place = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)
        layers = [
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(LAYERS)
        ]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, letters)
        self.register_buffer(
            "mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT), persistent=False
        )

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        x = self.letter(letters) + self.place
        for layer in self.layers:
            x = layer(x, src_mask=self.mask, is_causal=True)
        return self.head(self.norm(x))


def read() -> tuple[torch.Tensor, torch.Tensor, int]:
    """The text as numbers: for training, for the comparison, and how many letters there are."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    number = {letter: index for index, letter in enumerate(sorted(set(text)))}
    numbers = torch.tensor([number[letter] for letter in text])
    cut = len(numbers) * 9 // 10
    return numbers[:cut], numbers[cut:], len(number)


def batch_of(text: torch.Tensor, size: int, chance: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    starts = torch.randint(len(text) - CONTEXT - 1, (size,), generator=chance)
    windows = torch.stack([text[start : start + CONTEXT + 1] for start in starts])
    return windows[:, :-1], windows[:, 1:]


def samples_of(process: int, seed: int) -> torch.Generator:
    """Which samples a process draws."""
    return torch.Generator().manual_seed(1000 * seed + 100 + process)


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def held_out(model: nn.Module, text: torch.Tensor) -> float:
    """The loss on text that nobody trained on."""
    chance = torch.Generator().manual_seed(1)
    return sum(loss_of(model, *batch_of(text, 64, chance)).item() for _ in range(16)) / 16


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm up, then down to a tenth along a cosine."""
    warm = max(1, steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.55 + 0.45 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train_alone(options: argparse.Namespace) -> float:
    """One process with the samples of all: the loss on text that it has not seen."""
    torch.set_num_threads(1)
    text, unseen, letters = read()
    torch.manual_seed(options.seed)
    model = Transformer(letters)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    rate = schedule(optimizer, options.steps)
    chances = [samples_of(number, options.seed) for number in range(options.peers)]
    for _ in range(options.steps):
        parts = [batch_of(text, options.batch, chance) for chance in chances]
        loss = loss_of(model, torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return held_out(model, unseen)


def volunteer(options: argparse.Namespace) -> dict[str, object]:
    """One member of the swarm: trains, averages now and then, and says how it went."""
    torch.set_num_threads(1)
    text, unseen, letters = read()
    torch.manual_seed(options.seed)  # all begin with the same model
    model = Transformer(letters)
    chance = samples_of(options.number, options.seed)
    moved = {"sent": 0, "received": 0, "rounds": 0}

    def count(report) -> None:
        moved["sent"] += report.bytes_sent
        moved["received"] += report.bytes_received
        moved["rounds"] += report.committed

    with Run.join(options.link, "char-transformer", model=model) as run:
        run.on_round(count)
        opt = DiLoCo(
            run,
            torch.optim.AdamW(model.parameters(), LEARNING_RATE),
            torch.optim.SGD(model.parameters(), **OUTER),
            sync_every=options.sync_every,
            compression="int8",
            batch_size_per_step=options.batch,
        )
        rate = schedule(opt, options.steps)
        until = time.monotonic() + PATIENCE
        averager = opt.fragments[0].averager
        while min(run.progress.peers, len(averager.peers)) < options.peers:
            # A volunteer need not wait; a comparison has to.
            if time.monotonic() > until:
                sys.exit(f"only {run.progress.peers} of {options.peers} came within {PATIENCE:.0f} s")
            time.sleep(0.05)
        started = time.monotonic()
        for step in range(1, options.steps + 1):
            loss = loss_of(model, *batch_of(text, options.batch, chance))
            loss.backward()
            opt.step()
            opt.zero_grad()
            rate.step()
            if step % options.sync_every == 0 and not options.json:
                print(f"step {step}: loss {loss.item():.3f}, {moved['rounds']} rounds", file=sys.stderr)
        opt.synchronize()
        seconds = time.monotonic() - started
        result = {"loss": held_out(model, unseen), "no_group": opt.no_group, "seconds": seconds, **moved}
        if options.measure:
            result["every_step"] = {name: every_step(run, model, name, options.peers) for name in MEASURED}
        time.sleep(1)  # others may still need this peer's part of the last round
    return result


def every_step(run: Run, model: nn.Module, codec: str, peers: int) -> float:
    """Bytes that this peer sends and receives in a round that averages one value per parameter."""
    arrays = [p.detach().clone() for p in model.parameters()]
    averager = run.averager_for(f"every-step-{codec}", arrays, codec)
    done = []
    for _ in range(5 * MEASURED_ROUNDS):  # a group may be incomplete on a busy computer
        report = averager.step(arrays)
        if report.committed:
            members = len(report.group)  # each moves (members - 1) / members of the values, twice
            whole = (peers - 1) / peers / ((members - 1) / members)
            done.append((report.bytes_sent + report.bytes_received) * whole)
        if averager.round >= MEASURED_ROUNDS and done:
            break
    return sum(done) / len(done) if done else float("nan")


def mean_of(values: Iterable[float]) -> float:
    """Of those that could be measured."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def compare(options: argparse.Namespace) -> dict[str, object]:
    """Starts the swarm and the lone process, and puts them side by side."""
    with Node(listen=["/ip4/127.0.0.1/tcp/0"], network="char-transformer") as node, DHT(node):
        command = [sys.executable, __file__, node.link, "--json", "--measure"]
        for name in ("peers", "steps", "batch", "sync_every", "seed"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        members = [
            subprocess.Popen([*command, "--number", str(i)], stdout=subprocess.PIPE, text=True)
            for i in range(options.peers)
        ]
        results = [json.loads(member.communicate()[0]) for member in members]
    if any(math.isnan(mean_of(result["every_step"][codec] for result in results)) for codec in MEASURED):
        sys.exit("no round could be measured: is this computer very busy?")
    alone = train_alone(options)
    loss = sum(result["loss"] for result in results) / len(results)
    moved = sum(result["sent"] + result["received"] for result in results)
    every = {
        codec: options.steps * options.peers * mean_of(result["every_step"][codec] for result in results)
        for codec in ("none", "float16")
    }
    return {
        "peers": options.peers,
        "steps": options.steps,
        "batch": options.batch,
        "sync_every": options.sync_every,
        "seed": options.seed,
        "rounds": max(result["rounds"] for result in results),
        "no_group": sum(result["no_group"] for result in results),
        "seconds": round(max(result["seconds"] for result in results), 2),
        "loss": round(loss, 4),
        "loss_alone": round(alone, 4),
        "loss_ratio": round(loss / alone, 4),
        "bytes": moved,
        "bytes_every_step_float32": round(every["none"]),
        "bytes_every_step_float16": round(every["float16"]),
        "fewer_bytes_than_float32": round(every["none"] / moved, 1),
        "fewer_bytes_than_float16": round(every["float16"] / moved, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("link", nargs="?")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16, help="samples per step of each process")
    parser.add_argument("--sync-every", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="another one: another model and other samples")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.link is None:
        result = compare(options)
    else:
        if not options.measure:
            options.peers = 1
        result = volunteer(options)
    if options.json:
        print(json.dumps(result))
    elif options.link is None:
        print(
            f"held-out loss {result['loss']} with {result['peers']} processes that averaged "
            f"{result['rounds']} times, {result['loss_alone']} with one process and all their samples "
            f"(ratio {result['loss_ratio']})\n"
            f"{result['bytes'] / 1e6:.2f} MB moved: {result['fewer_bytes_than_float32']} times less than "
            f"float32 at every step, {result['fewer_bytes_than_float16']} times less than float16"
        )
    else:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
