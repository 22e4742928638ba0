"""R1-Zero in one file: a tiny language model learns from rewards to search and to check itself.

    python examples/minimal_grpo.py [--steps N] [--seed N]

This needs torch and nothing else, and takes a minute or two on a CPU.

The game is a simple form of Countdown: reach the target with two of the three numbers. The model
writes attempts, each with its value, the target and a verdict, and after # its answer:

    358>11=8-3=05?11✗8+3=11?11✓#8+3

Read from top to bottom: the game and its reward, a weak base model, sampling, and reinforcement
learning.
"""

import argparse
import random
import time
from collections.abc import Sequence
from itertools import combinations, combinations_with_replacement

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- The game, and the only thing that is ever rewarded -------------------------------------------

SYMBOLS = "0123456789+->=?✗✓#\n"  # one token per character; the newline ends a response
END = SYMBOLS.index("\n")
PROMPT_LENGTH = len("358>11=")
LONGEST = PROMPT_LENGTH + 10 * len("8-3=05?11✗") + len("#8+3\n")  # ten attempts and an answer

# The split does not depend on a seed, so the model never trains on the numbers it is tested with.
HANDS = list(combinations_with_replacement("123456789", 3))
random.Random(0).shuffle(HANDS)
HELD_OUT = HANDS[:40]
TRAIN = HANDS[40:]


def expressions(numbers: str) -> dict[str, int]:
    """Every expression of two of the numbers, the larger first, with its value.

    >>> expressions("358")["8+3"]
    11
    """
    values = {}
    for pair in combinations(map(int, numbers), 2):
        larger, smaller = max(pair), min(pair)
        values[f"{larger}+{smaller}"] = larger + smaller
        values[f"{larger}-{smaller}"] = larger - smaller
    return values


def draw_problem(rng: random.Random, hands: Sequence[tuple[str, ...]]) -> str:
    """A prompt such as `358>11=`, with a target that can be reached."""
    numbers = "".join(rng.sample(rng.choice(hands), 3))
    targets = sorted(set(expressions(numbers).values()))
    return f"{numbers}>{rng.choice(targets):02d}="


def reward(problem: str, response: str) -> float:
    """1 for a right answer, else 0.

    Nothing before the # is judged. If attempts and checks become more frequent, it is because they
    lead to right answers.
    """
    answer = response.rpartition("#")[2]
    if not answer.endswith("\n"):
        return 0.0
    value = expressions(problem[:3]).get(answer[:-1])
    return float(value == int(problem[4:6]))


# --- A weak base model ----------------------------------------------------------------------------


class Block(nn.Module):
    """Causal attention (four queries, one key and value) and a small feed-forward network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(width)
        self.norm2 = nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, width // 2, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, new, width) and the cached keys and values -> the next x, and the longer cache."""
        normed = self.norm1(x)
        cache = torch.cat([cache, self.key_value(normed)], dim=1)
        query = self.query(normed).unflatten(2, (4, -1))
        key, value = cache.chunk(2, dim=-1)

        scores = torch.einsum("bthd,bsd->bhts", query, key) / key.shape[-1] ** 0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + key.shape[1] - x.shape[1])
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        mixed = torch.einsum("bhts,bsd->bthd", weights, value)

        x = x + self.out(mixed.flatten(2))
        return x + self.mlp(self.norm2(x)), cache


class Model(nn.Module):
    """A transformer with 100,000 parameters.

    It has two things built in that a large model learns, which saves an hour of training: each
    position sees the last five characters at once, and the positions of the prompt are numbered.
    """

    def __init__(self, width: int = 64, layers: int = 2, window: int = 5) -> None:
        super().__init__()
        self.window = window
        self.width = width
        self.characters = nn.Linear(window * len(SYMBOLS), width, bias=False)
        self.positions = nn.Embedding(PROMPT_LENGTH + 1, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(layers)])
        self.head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, len(SYMBOLS), bias=False))
        nn.init.normal_(self.characters.weight, std=0.2)
        nn.init.normal_(self.positions.weight, std=0.2)

    def forward(self, tokens: Tensor, cache: dict[int, Tensor]) -> Tensor:
        """tokens (B, T) -> logits (B, new, symbols) of the tokens that are not in the cache yet.

        `cache` has keys and values by layer. They are added to it.
        """
        empty = torch.zeros(len(tokens), 0, self.width // 2)
        start = cache.get(0, empty).shape[1]

        padded = F.pad(tokens, (self.window - 1, 0), value=END)[:, start:]
        one_hot = F.one_hot(padded, len(SYMBOLS)).float()
        positions = torch.arange(start, tokens.shape[1]).clamp(max=PROMPT_LENGTH)
        x = self.characters(one_hot.unfold(1, self.window, 1).flatten(2))
        x = x + self.positions(positions)

        for layer, block in enumerate(self.blocks):
            x, cache[layer] = block(x, cache.get(layer, empty))
        logits: Tensor = self.head(x)
        return logits


def encode(texts: list[str]) -> Tensor:
    """Texts of equal length -> token ids (B, T)."""
    return torch.tensor([[SYMBOLS.index(character) for character in text] for text in texts])


def logprobs(model: Model, tokens: Tensor) -> Tensor:
    """Log-probability of each token but the first, given those before it: (B, T) -> (B, T - 1)."""
    all_logprobs: Tensor = model(tokens[:, :-1], {}).log_softmax(dim=-1)
    return all_logprobs.gather(-1, tokens[:, 1:, None]).squeeze(-1)


def descend(model: Model, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimizer step."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def pretraining_text(rng: random.Random) -> str:
    """One text of the corpus that the base model reads.

    The arithmetic is right. Some authors try expressions in order and some at random. Nearly all
    give up after an attempt or two and give an answer that they know to be wrong. Long searches are
    rare.
    """
    text = draw_problem(rng, TRAIN)
    target = text[4:6]
    attempts = list(expressions(text[:3]).items())
    if rng.random() < 0.5:
        rng.shuffle(attempts)
    patience = 1.0 if rng.random() < 0.1 else 0.25

    for expression, value in attempts:
        verdict = "✓" if value == int(target) else "✗"
        text += f"{expression}={value:02d}?{target}{verdict}"
        if value == int(target) or rng.random() > patience:
            break
    return text + f"#{expression}\n"


def pretrain(model: Model, rng: random.Random, steps: int = 700, batch_size: int = 32) -> None:
    """Train the base model to predict the next token.

    Reinforcement learning strengthens what a model already does now and then. R1-Zero started from
    a pretrained base too: one that had read millions of people trying, checking and giving up.
    """
    texts = [pretraining_text(rng) for _ in range(steps * batch_size)]
    texts.sort(key=len)  # texts of similar length need little padding
    batches = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
    rng.shuffle(batches)

    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    for batch in batches:
        tokens = encode([text.ljust(len(batch[-1]), "\n") for text in batch])
        position = torch.arange(1, tokens.shape[1])
        lengths = torch.tensor([[len(text)] for text in batch])
        in_response = (position >= PROMPT_LENGTH) & (position < lengths)

        descend(model, optimizer, -logprobs(model, tokens)[in_response].mean())
        schedule.step()


# --- Sampling -------------------------------------------------------------------------------------


@torch.no_grad()
def play(model: Model, problems: list[str]) -> tuple[Tensor, Tensor, list[str], Tensor]:
    """Write one response per problem.

    Returns the tokens (B, T), a mask of those that were sampled (B, T - 1), the responses as text,
    and the rewards (B,).
    """
    tokens = encode(problems)
    cache: dict[int, Tensor] = {}
    sampled = [torch.zeros(len(problems), dtype=torch.bool)] * (PROMPT_LENGTH - 1)
    alive = torch.ones(len(problems), dtype=torch.bool)

    while alive.any() and tokens.shape[1] < LONGEST:
        probabilities = model(tokens, cache)[:, -1].softmax(dim=-1)
        chosen = probabilities.multinomial(1).where(alive[:, None], END)
        tokens = torch.cat([tokens, chosen], dim=1)
        sampled.append(alive)
        alive = alive & (chosen[:, 0] != END)

    mask = torch.stack(sampled, dim=1)
    responses = []
    for row, length in zip(
        tokens[:, PROMPT_LENGTH:].tolist(), mask.sum(dim=1).tolist(), strict=True
    ):
        responses.append("".join(SYMBOLS[token] for token in row[:length]))
    rewards = [
        reward(problem, response) for problem, response in zip(problems, responses, strict=True)
    ]
    return tokens, mask, responses, torch.tensor(rewards)


# --- Reinforcement learning (GRPO) ----------------------------------------------------------------


def improve(
    model: Model, optimizer: torch.optim.Optimizer, problems: list[str], group_size: int
) -> tuple[float, float]:
    """One step of GRPO: sample a group of responses per problem, and prefer the better ones.

    The advantage of a response is its reward minus the mean of its group, divided by the standard
    deviation of the group: how well it did on *this* problem, easy or hard. PPO trains a second
    network, the critic, to predict what was to be expected; here the group does that. If all
    responses of a group are right or all are wrong, their advantages are zero. Every token has the
    advantage of its response, because the reward does not say which tokens mattered.

    Two things are left out. PPO's ratio and clip: each batch serves one update, so the policy that
    is trained is the policy that sampled, and the ratio is 1. And the KL penalty that holds a model
    near its base: this reward cannot be fooled.

    Returns the mean reward and the mean length of a response.
    """
    repeated = [problem for problem in problems for _ in range(group_size)]
    tokens, sampled, _, rewards = play(model, repeated)

    grouped = rewards.view(-1, group_size)
    deviation = grouped.std(dim=1, keepdim=True)
    advantages = (grouped - grouped.mean(dim=1, keepdim=True)) / (deviation + 1e-6)

    weighted = advantages.view(-1, 1) * logprobs(model, tokens)
    descend(model, optimizer, -weighted[sampled].mean())
    return rewards.mean().item(), sampled.sum().item() / len(rewards)


def main(steps: int, seed: int, pretraining: int = 700) -> tuple[float, float]:
    """Pretrain, reinforce and report. Returns the held-out accuracy before and after."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    started = time.perf_counter()

    exam = [draw_problem(random.Random(i), HELD_OUT) for i in range(256)]
    model = Model()
    pretrain(model, rng, pretraining)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95))

    _, _, before, rewards = play(model, exam)
    first_accuracy = rewards.mean().item()
    seconds = time.perf_counter() - started
    print(f"base model: accuracy {first_accuracy:.2f} on held-out problems  ({seconds:.0f} s)")

    for step in range(1, steps + 1):
        problems = [draw_problem(rng, TRAIN) for _ in range(16)]
        mean_reward, length = improve(model, optimizer, problems, group_size=16)
        if step % 10 == 0 or step == steps:
            _, _, after, rewards = play(model, exam)
            print(
                f"step {step:3d}  reward {mean_reward:.2f}  accuracy {rewards.mean():.2f}"
                f"  response length {length:4.1f}  ({time.perf_counter() - started:.0f} s)"
            )

    for i in range(4):
        print(f"\n{exam[i]}\n  before: {before[i].strip()}\n  after:  {after[i].strip()}")
    return first_accuracy, rewards.mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60, help="steps of reinforcement learning")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything but the split")
    parser.add_argument("--pretraining", type=int, default=700, help="steps of pretraining")
    main(**vars(parser.parse_args()))
