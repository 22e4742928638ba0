"""`tinyzero play`: give problems to a model, in the terminal or on a page."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from tinyzero.cli.arguments import port
from tinyzero.cli.opening import model_arguments, model_options, open_player, settings_of
from tinyzero.errors import UserError, printable
from tinyzero.grading import Verdict
from tinyzero.rollouts import Player
from tinyzero.tasks import load_task
from tinyzero.types import Problem, SamplingParams

EXAMPLES = """\
  tinyzero play runs/laptop-grpo-0              in the terminal
  tinyzero play tiny runs/laptop-grpo-0 --web   before and after, in the browser"""


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its arguments."""
    parser = verb(
        "play",
        run,
        "give a model problems to solve and watch it think",
        options=model_options,
        examples=EXAMPLES,
        usage="MODEL [MODEL2]",
    )
    model_arguments(parser)
    parser.add_argument(
        "other",
        nargs="?",
        metavar="MODEL2",
        help="another model that answers the same problems, with --web",
    )
    parser.add_argument("--web", action="store_true", help="play on a page in the browser")
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help="address of the page, with --web (default: 127.0.0.1, for this machine only)",
    )
    parser.add_argument(
        "--port",
        type=port,
        metavar="N",
        help="port of the page, with --web; 0 for any that is free (default: 8000)",
    )


def run(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Play in the terminal or on a page."""
    if given.web:
        return _play_on_a_page(given, overrides)

    page_only = {"a second model": given.other, "--host": given.host, "--port": given.port}
    for name, value in page_only.items():
        if value is not None:
            raise UserError(f"{name} ({value}) is for the page: add --web")
    with open_player(given, *settings_of(given, overrides)) as (player, params):
        return _converse(player, params)


def _converse(player: Player, params: SamplingParams) -> int:
    """Give the model problems until the input ends."""
    if player.task.is_posable:
        example = player.task.line(player.task.problem("test", 0))
        print(f"type a problem such as `{example}`, or Enter for a random one (Ctrl-D ends)")
    else:
        print("problems of this task cannot be typed: press Enter for the next one (Ctrl-D ends)")

    drawn = 0
    while True:
        try:
            line = input("> ").strip()
            _think(player, params, line, drawn)
            drawn += 1
        except UnicodeDecodeError as error:
            print(f"this line is not UTF-8: {error.reason}")
        except UserError as error:
            print(error)
        except EOFError:
            print()
            return 0


def _think(player: Player, params: SamplingParams, line: str, drawn: int) -> None:
    """Show how the model solves the problem in `line`, or the next one if the line is empty.

    Raises UserError if there is no such problem.
    """
    task = player.task
    if line and not task.is_posable:
        raise UserError("this task takes no typed problems: press Enter for one")
    problem = task.pose(line) if line else task.problem("test", drawn)
    ids = player.prompt_ids(problem)
    params = replace(params, seed=params.seed + drawn + 1)
    if not line:
        from tinyzero.tools.web.play import shown

        print(printable(shown(player, problem)))

    if task.plays_episodes:
        _converse_about(player, problem, params)
        return
    text = ""
    for piece in player.stream(ids, params):
        print(printable(piece), end="", flush=True)
        text += piece
    print(f"\n[{_in_words(player.judge(problem, text))}]")


def _converse_about(player: Player, problem: Problem, params: SamplingParams) -> None:
    """Show the turns of the model and of the environment, whose words are in ⟨brackets⟩."""
    for piece in player.perform(problem, params):
        if isinstance(piece, Verdict):
            print(f"\n[{_in_words(piece)}]")
        else:
            said = printable(piece.text)
            print(said if piece.by_model else f"⟨{said}⟩", end="", flush=True)


def _in_words(verdict: Verdict) -> str:
    """What the grader says."""
    if verdict.error:
        return f"the reward function raised {verdict.error}"
    assert verdict.reward is not None
    if verdict.reward.right is None:
        return f"reward {verdict.reward.value:g}"
    return "right" if verdict.reward.right else "wrong"


def _play_on_a_page(given: argparse.Namespace, overrides: dict[str, Any]) -> int:
    """Serve the page until Ctrl-C."""
    from tinyzero.tools.web.play import MAX_TEMPERATURE, Candidate, Playground, Server

    names = [given.model, given.other] if given.other else [given.model]
    commands = [argparse.Namespace(**vars(given) | {"model": name}) for name in names]
    settings = [settings_of(command, overrides) for command in commands]
    temperature = given.temperature
    if temperature is None:
        temperature = settings[0][0].eval_temperature
    if temperature > MAX_TEMPERATURE:
        raise UserError(f"--temperature is {temperature:g}: the page goes up to {MAX_TEMPERATURE}")

    tasks = [config.task for config, _ in settings]
    options = [load_task(task.name, task.options).given for task in tasks]
    if (tasks[0].name, options[0]) != (tasks[-1].name, options[-1]):
        raise UserError(
            f"{given.model} and {given.other} were trained on different tasks, or with different "
            "options of one: name one with --task, or a recipe with --recipe"
        )

    with ExitStack() as stack:
        players = []
        for command, (config, model) in zip(commands, settings, strict=True):
            player, params = stack.enter_context(open_player(command, config, model))
            parameters = player.sampler.model.parameters()  # type: ignore[attr-defined]
            size = sum(weights.numel() for weights in parameters)
            players.append(Candidate(command.model, size, player, params))

        host = given.host or "127.0.0.1"
        number = 8000 if given.port is None else given.port
        server = stack.enter_context(Server(Playground(players), host, number))
        print(f"the page is at {server.url} (Ctrl-C ends)", flush=True)
        if not server.is_private:
            print("anyone who can reach this machine can use it: there is no password")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
