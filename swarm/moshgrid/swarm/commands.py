"""The commands of ``moshgrid``: their options, and nothing of what they do."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from moshgrid.p2p.errors import ConfigurationError, MoshgridError
from moshgrid.swarm.bench_commands import bench_app
from moshgrid.swarm.dht_commands import dht_app

__all__ = ["run"]

app = typer.Typer(
    name="moshgrid",
    help="Decentralized averaging and training among computers that nobody controls.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
identities = typer.Typer(help="Identities: the key files that peers are known by.", no_args_is_help=True)
app.add_typer(identities, name="id")
app.add_typer(dht_app, name="dht")
app.add_typer(bench_app, name="bench")

_DEMO_NEEDS = ("torch", "sklearn", "matplotlib")

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON to stdout.")]


def run() -> None:
    """Runs the command that ``sys.argv`` names."""
    try:
        app()
    except ConfigurationError as error:
        print(f"moshgrid: {error}", file=sys.stderr)
        sys.exit(2)
    except MoshgridError as error:
        print(f"moshgrid: {error}", file=sys.stderr)
        sys.exit(1)


# Numbers are taken as text: a bad one then gets the same one line that says what is allowed.
@app.command()
def demo(
    seed: Annotated[str, typer.Option(help="Who gets which images, and the order of chance.")] = "0",
    peers: Annotated[str, typer.Option(help="Volunteers, each a process: 4 to 32.")] = "8",
    rounds: Annotated[str, typer.Option(help="Averaging rounds: 6 to 1000.")] = "40",
    codec: Annotated[str, typer.Option(help="How parts are encoded: none, float16, …")] = "float16",
    kill: Annotated[str, typer.Option(help="How many volunteers are killed in the middle of a round.")] = "2",
    out: Annotated[Path, typer.Option(help="The folder for the report.")] = Path("demo-report"),
    as_json: JsonOption = False,
) -> None:
    """Train a real model across volunteers on this computer, and kill some of them."""
    from moshgrid.compression import codec_names
    from moshgrid.swarm.demo.settings import PEERS, ROUNDS, SEEDS, DemoSettings

    settings = DemoSettings(
        seed=_whole("--seed", seed, SEEDS),
        peers=_whole("--peers", peers, PEERS),
        rounds=_whole("--rounds", rounds, ROUNDS),
        kill=_whole("--kill", kill, range(PEERS.stop - 3)),
        codec=codec,
        out=out,
        codecs=codec_names(),
    )
    missing = [name for name in _DEMO_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"the demo needs {', '.join(missing)}:  pip install 'moshgrid[demo]'")
    from moshgrid.swarm.demo.program import run_demo

    run_demo(settings, as_json)


@app.command()
def node(
    listen: Annotated[
        list[str] | None, typer.Option(help="Address to listen on; may be given more than once.")
    ] = None,
    identity: Annotated[
        Path, typer.Option(help="Key file; made on first use. Keep it: the link names its peer id.")
    ] = Path("~/.config/moshgrid/identity.key"),
    network: Annotated[
        str, typer.Option(help="Name of the network; peers of others are ignored.")
    ] = "public",
    bootstrap: Annotated[
        list[str] | None, typer.Option(help="Address of a peer to join through; may be given more than once.")
    ] = None,
    relay: Annotated[
        bool,
        typer.Option("--relay", help="Also pass connections on to peers behind routers that let nobody in."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a node that others join through, until Ctrl+C."""
    from moshgrid.swarm.bootstrap_node import serve

    serve(listen or ["/ip4/0.0.0.0/tcp/31337"], bootstrap or [], identity, network, relay, as_json)


@app.command()
def doctor(
    link: Annotated[
        str | None, typer.Argument(help="Link of a network; without it only this computer is looked at.")
    ] = None,
    listen: Annotated[list[str] | None, typer.Option(help="Address to listen on, as your node does.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how this computer is connected: 0 good, 1 reachable with the help of others, 2 broken."""
    from moshgrid.swarm.doctor import run_doctor

    sys.exit(run_doctor(link, listen or ["/ip4/0.0.0.0/tcp/31337"], as_json))


@app.command()
def pull(
    link: Annotated[str, typer.Argument(help="The run: moshgrid://NETWORK/RUN@HOST:PORT/PEER")],
    out: Annotated[Path, typer.Option(help="The folder for the checkpoints.")] = Path("checkpoints"),
    every: Annotated[
        str | None, typer.Option(help="Go on, and write one each time so many rounds went by.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write checkpoints of a run that others train, verified, from several of them, without training."""
    missing = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"pulling needs {', '.join(missing)}:  pip install 'moshgrid[torch]'")
    rounds = None if every is None else _whole("--every", every, range(1, 2**31))
    if rounds is not None and rounds < 1:
        raise ConfigurationError(f"--every must be a whole number of at least 1, not {every!r}")
    from moshgrid.swarm.pull import lines
    from moshgrid.swarm.pull import pull as pull_run

    pull_run(link, out, rounds, lines(as_json))


@app.command()
def sim(
    peers: Annotated[str, typer.Option(help="Peers: 4 to 4096.")] = "1024",
    group_size: Annotated[str, typer.Option(help="The most peers in a group: 2 to 64.")] = "32",
    rounds: Annotated[str, typer.Option(help="Rounds after which a restart is given up.")] = "50",
    failure: Annotated[str, typer.Option(help="Probability that a peer misses a round: 0 to 0.9.")] = "0.01",
    restarts: Annotated[str, typer.Option(help="Runs to take the mean of.")] = "40",
    seed: Annotated[str, typer.Option(help="The order of chance.")] = "0",
    out: Annotated[Path, typer.Option(help="The folder for sim.json and sim.png.")] = Path("sim-report"),
    table: Annotated[
        bool, typer.Option("--table", help="Also 512 to 1024 peers with p = 0 to 0.01: some minutes more.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate how fast averaging converges when peers miss rounds, in groups and otherwise."""
    from moshgrid.swarm.sim.program import run_sim
    from moshgrid.swarm.sim.settings import SimSettings

    settings = SimSettings(
        peers=_whole("--peers", peers, range(4, 4097)),
        group_size=_whole("--group-size", group_size, range(2, 65)),
        rounds=_whole("--rounds", rounds, range(1, 1001)),
        failure=_number("--failure", failure),
        restarts=_whole("--restarts", restarts, range(1, 1001)),
        seed=_whole("--seed", seed, range(2**31)),
        out=out,
    )
    run_sim(settings, table, as_json)


@identities.command("new")
def new_identity(file: Path, as_json: JsonOption = False) -> None:
    """Make a key file; a file that is there already is left alone."""
    from moshgrid.p2p.identity import Identity

    if file.expanduser().exists():
        raise ConfigurationError(
            f"{file} exists already; give a new name, or see it with: moshgrid id show {file}"
        )
    _print_identity(file, Identity.load_or_create(file).peer_id, as_json)


@identities.command("show")
def show_identity(file: Path, as_json: JsonOption = False) -> None:
    """Print the peer id of a key file."""
    from moshgrid.p2p.identity import Identity

    if not file.expanduser().exists():
        raise ConfigurationError(f"there is no {file}; make one with: moshgrid id new {file}")
    _print_identity(file, Identity.load_or_create(file).peer_id, as_json)


def _print_identity(file: Path, peer_id: str, as_json: bool) -> None:
    value: dict[str, Any] = {"peer_id": peer_id, "file": str(file)}
    print(json.dumps(value) if as_json else peer_id)


def _whole(option: str, text: str, allowed: range) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(
            f"{option} must be a whole number from {allowed.start} to {allowed.stop - 1}, not {text!r}"
        ) from None


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{option} must be a number, not {text!r}") from None
