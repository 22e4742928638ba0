"""`tinyzero play`: pose problems to a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from tinyzero.cli.arguments import port
from tinyzero.cli.opening import model_arguments, open_player, settings_of
from tinyzero.errors import UserError, printable
from tinyzero.grading import Verdict
from tinyzero.rollouts import Player
from tinyzero.tasks import load_task
from tinyzero.tools.web.play import shown
from tinyzero.types import SamplingParams


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """The command and its arguments."""
    parser = verb("play", run, "pose problems to a model and watch it think")
    model_arguments(parser)
    parser.add_argument(
        "other", nargs="?", metavar="model2", help="another model to ask beside it, with --web"
    )
    parser.add_argument("--web", action="store_true", help="on a page in the browser")
    parser.add_argument(
        "--host",
        help="address the page listens on, with --web (default: 127.0.0.1, this machine only)",
    )
    parser.add_argument(
        "--port", type=port, help="port the page listens on, with --web; 0 for any (default: 8000)"
    )


def run(given: argparse.Namespace, rest: list[str]) -> int:
    if given.web:
        return _play_on_a_page(given, rest)
    for name, value in (
        ("a second model", given.other),
        ("--host", given.host),
        ("--port", given.port),
    ):
        if value is not None:
            raise UserError(f"{name} ({value}) is for the page: add --web")
    with open_player(given, *settings_of(given, rest)) as (player, params):
        return _converse(player, params)


def _converse(player: Player, params: SamplingParams) -> int:
    """Pose problems until the input ends."""
    if player.task.is_posable:
        example = player.task.line(player.task.problem("test", 0))
        print(f"a problem, as in `{example}` (Enter alone draws one; Ctrl-D ends)")
    else:
        print("Enter draws a problem (Ctrl-D ends)")
    drawn = 0
    while True:
        try:
            line = input("> ").strip()
            _think(player, params, line, drawn)
            drawn += 1
        except UnicodeDecodeError as error:
            print(f"this line is no UTF-8: {error.reason}")
        except UserError as error:
            print(error)
        except EOFError:
            print()
            return 0


def _think(player: Player, params: SamplingParams, line: str, drawn: int) -> None:
    """Pose what `line` says, or if nothing the next problem; show the model's answer and whether it is right.

    Raises UserError if it cannot be posed.
    """
    task = player.task
    problem = task.pose(line) if line and task.is_posable else task.problem("test", drawn)
    ids = player.prompt_ids(problem)
    print(printable(shown(player, problem)))
    text = ""
    for piece in player.stream(ids, replace(params, seed=params.seed + drawn + 1)):
        print(printable(piece), end="", flush=True)
        text += piece
    print(f"\n[{_said(player.judge(problem, text))}]")


def _said(verdict: Verdict) -> str:
    """A verdict in words."""
    if verdict.error:
        return f"the reward function raised {verdict.error}"
    assert verdict.reward is not None
    right = verdict.reward.right
    return f"reward {verdict.reward.value:g}" if right is None else "right" if right else "wrong"


def _play_on_a_page(given: argparse.Namespace, rest: list[str]) -> int:
    from tinyzero.tools.web.play import MAX_TEMPERATURE, Candidate, Playground, Server

    if given.temperature > MAX_TEMPERATURE:
        raise UserError(
            f"--temperature is {given.temperature:g}: the page goes up to {MAX_TEMPERATURE}"
        )
    names = [given.model, *([given.other] if given.other else [])]
    asked = [argparse.Namespace(**vars(given) | {"model": name}) for name in names]
    settings = [settings_of(one, rest) for one in asked]
    posed = [(c.task.name, load_task(c.task.name, c.task.options).given) for c, _ in settings]
    if posed[0] != posed[-1]:
        raise UserError(
            f"{given.model} and {given.other} were made for different tasks or with different options of one: "
            "name one with --task, or a recipe with --recipe"
        )
    with ExitStack() as stack:
        players = []
        for one, (config, model) in zip(asked, settings, strict=True):
            player, params = stack.enter_context(open_player(one, config, model))
            size = sum(p.numel() for p in player.sampler.model.parameters())  # type: ignore[attr-defined]
            players.append(Candidate(one.model, size, player, params))
        host, number = given.host or "127.0.0.1", 8000 if given.port is None else given.port
        server = stack.enter_context(Server(Playground(players), host, number))
        print(f"the page is at {server.url} (Ctrl-C ends)", flush=True)
        if not server.is_private:
            print("anyone who can reach this machine can use it: there is no password")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
