"""R1-Zero in one file: a tiny language model, rewarded for right answers alone, learns to search and check itself.

    python examples/minimal_grpo.py [--steps N] [--seed N]      # needs torch, nothing else; a minute or two of CPU

The game is a beginner's Countdown: reach the target with two of the three numbers. The model writes tries, each with
the target beside its value and a verdict, and after # its answer: `358>11=8-3=05?11✗8+3=11?11✓#8+3`.
Read from top to bottom: the game and its reward, a weak base model, sampling, reinforcement learning.
"""

import argparse
import random
import time
from itertools import combinations, combinations_with_replacement

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- The game, and the one thing that is ever rewarded ----------------------------------------------------------------

SYMBOLS = "0123456789+->=?✗✓#\n"  # one token a character; the newline ends a response
END = SYMBOLS.index("\n")
PROMPT = len("358>11=")
LONGEST = PROMPT + 10 * len("8-3=05?11✗") + len("#8+3\n")  # room for ten tries and an answer

HANDS = list(combinations_with_replacement("123456789", 3))
random.Random(0).shuffle(HANDS)
HELD_OUT, TRAIN = (
    HANDS[:40],
    HANDS[40:],
)  # no seed moves this: the model never meets a held-out hand before its exam


def expressions(numbers: str) -> dict[str, int]:
    """Every expression of two of the numbers, the larger first, with its value."""
    pairs = [(max(pair), min(pair)) for pair in combinations(map(int, numbers), 2)]
    return {
        f"{x}{sign}{y}": value for x, y in pairs for sign, value in (("+", x + y), ("-", x - y))
    }


def problem(rng: random.Random, hands: list[tuple[str, ...]]) -> str:
    numbers = "".join(rng.sample(rng.choice(hands), 3))
    return f"{numbers}>{rng.choice(sorted(set(expressions(numbers).values()))):02d}="


def reward(problem: str, response: str) -> float:
    """1 for a right answer, else 0. Nothing before the # is judged: if trying and checking grow, they pay."""
    answer = response.rpartition("#")[2]
    return float(
        answer.endswith("\n") and expressions(problem[:3]).get(answer[:-1]) == int(problem[4:6])
    )


# --- A weak base model ------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Causal attention with four queries and one key and value (which keeps the cache small), then a small network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query, self.out = (
            nn.Linear(width, width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        self.key_value = nn.Linear(width, width // 2, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm1(x)
        cache = torch.cat([cache, self.key_value(normed)], dim=1)
        query, (key, value) = self.query(normed).unflatten(2, (4, -1)), cache.chunk(2, dim=-1)
        scores = torch.einsum("bthd,bsd->bhts", query, key) / key.shape[-1] ** 0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + key.shape[1] - x.shape[1])
        mixed = torch.einsum(
            "bhts,bsd->bthd", scores.masked_fill(future, -torch.inf).softmax(dim=-1), value
        )
        x = x + self.out(mixed.flatten(2))
        return x + self.mlp(self.norm2(x)), cache


class Model(nn.Module):
    """A transformer of 100,000 parameters. To save an hour it is given two things that a large one has to learn: every
    position sees the last five characters at once, and the places of the prompt have names."""

    def __init__(self, width: int = 64, layers: int = 2, window: int = 5) -> None:
        super().__init__()
        self.window, self.width = window, width
        self.characters = nn.Linear(window * len(SYMBOLS), width, bias=False)
        self.places = nn.Embedding(PROMPT + 1, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(layers)])
        self.head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, len(SYMBOLS), bias=False))
        nn.init.normal_(self.characters.weight, std=0.2)
        nn.init.normal_(self.places.weight, std=0.2)

    def forward(self, tokens: Tensor, cache: dict[int, Tensor]) -> Tensor:
        """tokens (B, T) -> logits (B, new, symbols) where the cache has nothing yet, which is then added to it."""
        nothing = torch.zeros(len(tokens), 0, self.width // 2)
        start = cache.get(0, nothing).shape[1]
        seen = F.one_hot(
            F.pad(tokens, (self.window - 1, 0), value=END)[:, start:], len(SYMBOLS)
        ).float()
        places = torch.arange(start, tokens.shape[1]).clamp(max=PROMPT)
        x = self.characters(seen.unfold(1, self.window, 1).flatten(2)) + self.places(places)
        for i, block in enumerate(self.blocks):
            x, cache[i] = block(x, cache.get(i, nothing))
        return self.head(x)


def encode(texts: list[str]) -> Tensor:
    return torch.tensor([[SYMBOLS.index(character) for character in text] for text in texts])


def logprobs(model: Model, tokens: Tensor) -> Tensor:
    """Log-probability of every token but the first, given those before it: (B, T) -> (B, T - 1)."""
    return model(tokens[:, :-1], {}).log_softmax(dim=-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)


def descend(model: Model, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def childhood_text(rng: random.Random) -> str:
    """What the base model grows up on: the sums are right, some authors try in order and some at random, and nearly all
    give up after a try or two and answer what they know to be wrong. Long searches exist, rarely."""
    text = problem(rng, TRAIN)
    target, tries = text[4:6], list(expressions(text[:3]).items())
    if rng.random() < 0.5:
        rng.shuffle(tries)
    patience = 1.0 if rng.random() < 0.1 else 0.25
    for expression, value in tries:
        text += f"{expression}={value:02d}?{target}{'✓' if value == int(target) else '✗'}"
        if value == int(target) or rng.random() > patience:
            break
    return text + f"#{expression}\n"


def pretrain(model: Model, rng: random.Random, steps: int = 700, size: int = 32) -> None:
    """Next-token prediction. Reinforcement learning strengthens what a model already does now and then, so R1-Zero
    starts from a pretrained base as well: one that has read people trying, checking and giving up by the million."""
    texts = sorted(
        (childhood_text(rng) for _ in range(steps * size)), key=len
    )  # by length: little padding
    batches = [texts[i : i + size] for i in range(0, len(texts), size)]
    rng.shuffle(batches)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=6e-3, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    for batch in batches:
        tokens = encode([text.ljust(len(batch[-1]), "\n") for text in batch])
        position, lengths = (
            torch.arange(1, tokens.shape[1]),
            torch.tensor([[len(text)] for text in batch]),
        )
        descend(
            model,
            optimizer,
            -logprobs(model, tokens)[(position >= PROMPT) & (position < lengths)].mean(),
        )
        schedule.step()


# --- Sampling ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def play(model: Model, problems: list[str]) -> tuple[Tensor, Tensor, list[str], Tensor]:
    """One response a problem -> tokens (B, T), which were sampled (B, T - 1), responses, rewards (B,)."""
    tokens, cache, sampled = (
        encode(problems),
        {},
        [torch.zeros(len(problems), dtype=torch.bool)] * (PROMPT - 1),
    )
    alive = torch.ones(len(problems), dtype=torch.bool)
    while alive.any() and tokens.shape[1] < LONGEST:
        chosen = (
            model(tokens, cache)[:, -1].softmax(dim=-1).multinomial(1).where(alive[:, None], END)
        )
        tokens, sampled = torch.cat([tokens, chosen], dim=1), [*sampled, alive]
        alive = alive & (chosen[:, 0] != END)
    mask = torch.stack(sampled, dim=1)
    rows = zip(tokens[:, PROMPT:].tolist(), mask.sum(dim=1).tolist(), strict=True)
    responses = ["".join(SYMBOLS[token] for token in row[:length]) for row, length in rows]
    return (
        tokens,
        mask,
        responses,
        torch.tensor([reward(*both) for both in zip(problems, responses, strict=True)]),
    )


# --- Reinforcement learning (GRPO) ------------------------------------------------------------------------------------


def improve(
    model: Model, optimizer: torch.optim.Optimizer, problems: list[str], group: int
) -> tuple[float, float]:
    """One step of GRPO: sample a group of responses a problem, and make those likelier that beat their group.

    The advantage is the reward against the group's mean, in units of its standard deviation: how a response fared on
    *this* problem, easy or hard. No second network has to guess what was to be expected (PPO's critic), and a group
    that is all right or all wrong teaches nothing. Each token shares its response's advantage: nobody says which
    mattered.

    Left out: PPO's ratio and clip, since a batch serves one update only, so the policy that is trained is the policy
    that sampled and the ratio is 1; and the KL penalty towards the base: a reward that cannot be fooled needs no leash.
    """
    tokens, sampled, _, rewards = play(model, [p for p in problems for _ in range(group)])
    grouped = rewards.view(-1, group)
    advantages = (grouped - grouped.mean(dim=1, keepdim=True)) / (
        grouped.std(dim=1, keepdim=True) + 1e-6
    )
    descend(model, optimizer, -(advantages.view(-1, 1) * logprobs(model, tokens))[sampled].mean())
    return rewards.mean().item(), sampled.sum().item() / len(rewards)


def main(steps: int, seed: int, pretraining: int = 700) -> tuple[float, float]:
    """Pretrain, reinforce and report -> held-out accuracy before and after."""
    torch.manual_seed(seed)
    rng, began = random.Random(seed), time.perf_counter()
    exam = [problem(random.Random(i), HELD_OUT) for i in range(256)]
    model = Model()
    pretrain(model, rng, pretraining)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95))
    _, _, before, rewards = play(model, exam)
    first = rewards.mean().item()
    print(
        f"base model: accuracy {first:.2f} on held-out problems  ({time.perf_counter() - began:.0f} s)"
    )
    for step in range(1, steps + 1):
        mean_reward, length = improve(
            model, optimizer, [problem(rng, TRAIN) for _ in range(16)], group=16
        )
        if step % 10 == 0 or step == steps:
            _, _, after, rewards = play(model, exam)
            print(
                f"step {step:3d}  reward {mean_reward:.2f}  accuracy {rewards.mean():.2f}"
                f"  response length {length:4.1f}  ({time.perf_counter() - began:.0f} s)"
            )
    for i in range(4):
        print(f"\n{exam[i]}\n  before: {before[i].strip()}\n  after:  {after[i].strip()}")
    return first, rewards.mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretraining", type=int, default=700, help="steps before any reward")
    main(**vars(parser.parse_args()))
