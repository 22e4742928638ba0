"""`tinyzero pretrain`: make a base as the bundled ones were made, from nothing but a seed, or train one further.

Next-token prediction on the synthetic corpus, Muon for the matrices and AdamW for the rest, a
constant learning rate and then a linear decay to zero. The unit of work is a pool of documents drawn
from (seed, pool number), so an interrupted run resumes exactly.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from tinyzero import models
from tinyzero.errors import NonFiniteError, UserError
from tinyzero.registry import validate
from tinyzero.run import checkpoint, outputs
from tinyzero.run.stopping import stop_requested
from tinyzero.tasks import corpora
from tinyzero.tools.pretrain.muon import Muon

FIX = "name another folder with --out"


class ModelOptions(BaseModel):
    """The shape of the network: a small Qwen2."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    layers: int = Field(4, ge=1, le=1_000, description="transformer layers")
    width: int = Field(128, ge=16, le=65_536, description="hidden size")
    heads: int = Field(4, ge=1, le=1_024, description="query heads")
    feed_forward: int = Field(
        384, ge=16, le=2**20, description="inner size of the feed-forward layers"
    )
    kv_heads: int = Field(1, ge=1, le=1_024, description="key-value heads")
    context: int = Field(1024, ge=64, le=2**20, description="longest sequence, in tokens")

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelOptions:
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise ValueError(
                f"width {self.width} must be an even number of each of {self.heads} heads, and these a multiple of "
                f"kv_heads {self.kv_heads}"
            )
        return self


class PretrainOptions(BaseModel):
    """Everything that makes the base; the defaults made the bundled one."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    task: str = Field(
        corpora.names()[0], description="the task the base is made for, one that has a corpus"
    )
    start: str = Field(
        "",
        description="begin with this model's weights: a bundled base or a folder; empty for random",
    )
    chat: bool = Field(False, description="pose problems as chats, for --model.prompt chat")
    seed: int = Field(0, ge=0, lt=2**32, description="fixes the corpus and the initial weights")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "cpu", description="where to compute; auto takes a GPU if any"
    )
    pools: int = Field(300, ge=1, le=10**7, description="pools of documents to train on")
    pool_documents: int = Field(1024, ge=1, le=10**6, description="documents a pool")
    batch_tokens: int = Field(
        2048, ge=64, le=2**24, description="tokens of a batch, padding included"
    )
    longest: int = Field(
        640, ge=64, le=2**20, description="documents longer than this many tokens are dropped"
    )
    muon_lr: float = Field(0.01, gt=0, le=10, description="learning rate of the matrices")
    adam_lr: float = Field(
        0.003, gt=0, le=10, description="learning rate of embeddings, norms and biases"
    )
    decay_from: float = Field(
        0.3, ge=0, le=1, description="share of the run after which the rates fall to zero"
    )
    save_every: int = Field(10, ge=1, le=10**7, description="pools between checkpoints")
    model: ModelOptions = Field(default_factory=ModelOptions)
    corpus: SerializeAsAny[BaseModel] = Field(
        default_factory=lambda data: corpora.find(data["task"]).options(),
        description="the text of the task",
    )

    @field_validator("task")
    @classmethod
    def _has_a_corpus(cls, given: str) -> str:
        if given not in corpora.names():
            raise ValueError(f"it has no corpus: use one of {', '.join(corpora.names())}")
        return given

    @field_validator("corpus", mode="before")
    @classmethod
    def _of_the_task(cls, given: Any, info: ValidationInfo) -> Any:
        """Values for the corpus are checked as those of the task's."""
        if not isinstance(given, dict) or "task" not in info.data:
            return given
        return validate(corpora.find(info.data["task"]).options, given, "pretrain.corpus")

    @model_validator(mode="after")
    def _one_shape(self) -> PretrainOptions:
        if self.start and self.model != ModelOptions():
            raise ValueError(
                f"start {self.start} has a shape of its own: leave out the options of model"
            )
        return self


_TOKEN = re.compile("|".join(map(re.escape, (*corpora.WORDS, corpora.END))) + "|.", re.DOTALL)


def encode(prompt: str, text: str, vocabulary: dict[str, int]) -> tuple[list[int], int]:
    """Token ids of a document, the same as the tokenizer's, and how many of them are the prompt's."""
    ids = [vocabulary[t] for t in _TOKEN.findall(prompt)]
    return ids + [vocabulary[t] for t in _TOKEN.findall(text)], len(ids)


def batches(
    o: PretrainOptions, pool: int, vocabulary: dict[str, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one pool: tokens (B, T) and where there is loss (B, T), documents of like length together."""
    rng = random.Random(f"corpus:{o.seed}:{pool}")
    document = corpora.find(o.task).document
    drawn = (document(rng, o.corpus) for _ in range(o.pool_documents))
    documents = [encode(*(corpora.as_chat(*d) if o.chat else d), vocabulary) for d in drawn]
    documents = sorted((d for d in documents if len(d[0]) <= o.longest), key=lambda d: len(d[0]))
    cuts: list[list[tuple[list[int], int]]] = [[]]
    for d in documents:
        if cuts[-1] and (len(cuts[-1]) + 1) * len(d[0]) > o.batch_tokens:
            cuts.append([])
        cuts[-1].append(d)
    rng.shuffle(cuts)
    for rows in cuts:
        length = max(len(ids) for ids, _ in rows)
        yield (
            torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in rows]),
            torch.tensor([[prompt <= t < len(ids) for t in range(length)] for ids, prompt in rows]),
        )


def rate(o: PretrainOptions, pool: float) -> float:
    """Share of the full learning rates after `pool` pools."""
    progress = pool / o.pools
    return 1.0 if progress < o.decay_from else (1 - progress) / (1 - o.decay_from)


def pretrain(o: PretrainOptions, folder: Path, report: Callable[[str], None] = print) -> Path:
    """Train the base into `folder`/model, resuming what is there; returns that path.

    Raises UserError where the folder cannot be written, holds a run of other options, or the device is not there,
    NonFiniteError where the loss breaks down, KeyboardInterrupt after a clean stop.
    """
    outputs.refuse_others(folder / "model", outputs.is_base, FIX)
    device = models.pick_device(o.device)
    template = corpora.CHAT_TEMPLATE if o.chat else None
    tokenizer = models.build_tokenizer(corpora.CHARACTERS, corpora.WORDS, corpora.END, template)
    words = {str(tokenizer.decode([i])): i for i in range(len(tokenizer))}
    model = _begun(o, len(tokenizer)).to(device)
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        Muon(matrices, lr=o.muon_lr),
        torch.optim.AdamW(others, lr=o.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [o.muon_lr, o.adam_lr]
    first, seconds, tokens = 0, 0.0, 0
    if found := checkpoint.load_latest(folder, report):
        state = found[1]
        if state.get("options") != o.model_dump():
            raise UserError(
                f"{folder} holds a pretraining with other options: name another folder with --out"
            )
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first, seconds, tokens = state["pool"], state["seconds"], state["tokens"]
        report(f"resuming at pool {first} of {o.pools}")

    def save(done: int) -> None:
        state = {
            "model": model.state_dict(),
            "optimizers": [x.state_dict() for x in optimizers],
            "pool": done,
            "options": o.model_dump(),
            "seconds": seconds,
            "tokens": tokens,
        }
        checkpoint.save(
            folder, done, lambda path: models.save_model(model, tokenizer, path), state, keep=2
        )

    model.train()
    with stop_requested("pool") as stopping:
        for pool in range(first, o.pools):
            started, losses = time.perf_counter(), []
            drawn = list(batches(o, pool, words))
            for i, (ids, mask) in enumerate(drawn):
                share = rate(o, pool + i / len(drawn))
                for optimizer, peak in zip(optimizers, peaks, strict=True):
                    for group in optimizer.param_groups:
                        group["lr"] = peak * share
                losses.append(_train_step(model, ids.to(device), mask.to(device), optimizers))
                if not math.isfinite(losses[-1]):
                    raise NonFiniteError(
                        f"the loss of pool {pool + 1} is not finite: lower muon_lr or adam_lr"
                    )
                tokens += int((ids != 0).sum())
            seconds += time.perf_counter() - started
            loss, left = sum(losses) / len(losses), seconds / (pool + 1) * (o.pools - pool - 1) / 60
            report(
                f"pool {pool + 1}/{o.pools}  loss {loss:.4f}  {tokens / seconds:,.0f} tokens/s  {left:.0f} min left"
            )
            if stopping or (pool + 1) % o.save_every == 0 or pool + 1 == o.pools:
                save(pool + 1)
            if stopping and pool + 1 < o.pools:
                report(f"stopped after pool {pool + 1}: the same command goes on")
                raise KeyboardInterrupt
    return _write(o, model, tokenizer, folder / "model", tokens, seconds)


def _begun(o: PretrainOptions, words: int) -> models.Backbone:
    """The model that training begins with: random, or `start`."""
    if not o.start:
        return models.build_model(model_config(o.model, words), o.seed)
    model = models.load_model(o.start)
    if model.config.vocab_size != words:
        raise UserError(
            f"pretrain.start is {o.start!r}: its vocabulary is another; give one that pretrain made"
        )
    return model


def _write(
    o: PretrainOptions,
    model: models.Backbone,
    tokenizer: Any,
    path: Path,
    tokens: int,
    seconds: float,
) -> Path:
    """The base in bf16, with its card; returns `path`."""
    parameters = sum(p.numel() for p in model.parameters())
    text = model_card(o, parameters, tokens, seconds, torch.get_num_threads())
    with outputs.whole(path, outputs.is_base, FIX) as temporary:
        temporary.mkdir()
        try:
            models.save_model(model, tokenizer, temporary, torch.bfloat16)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        (temporary / "README.md").write_text(text)
    return path


def _train_step(model: models.Backbone, ids: Tensor, mask: Tensor, optimizers: list[Any]) -> float:
    """One optimizer step on the next-token loss of ids (B, T) where `mask` (B, T) holds; returns the loss."""
    logits = model.logits(ids[:, :-1])
    loss = F.cross_entropy(logits[mask[:, 1:]], ids[:, 1:][mask[:, 1:]])
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def model_config(o: ModelOptions, vocabulary: int) -> dict[str, Any]:
    """The transformers configuration of the network."""
    return {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": o.width,
        "num_hidden_layers": o.layers,
        "num_attention_heads": o.heads,
        "num_key_value_heads": o.kv_heads,
        "intermediate_size": o.feed_forward,
        "max_position_embeddings": o.context,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def model_card(
    o: PretrainOptions, parameters: int, tokens: int, seconds: float, threads: int
) -> str:
    """What the model is, what made it, and what it is not."""
    source = corpora.find(o.task).document.__module__.replace(".", "/")
    corpus = corpora.find(o.task)
    return f"""# TinyZero's tiny base for {o.task}

A language model of {parameters:,} parameters (Qwen2 architecture, one token a character), trained on synthetic text to
stand in for a pretrained base model, so that what reinforcement learning adds can be watched in minutes on a laptop. It
is nothing more than that: it knows {corpus.knows}, and no language.

Made by `{command(o)}`: {tokens:,} tokens in {seconds / 3600:.2f} hours on {threads} CPU
thread{"s" * (threads > 1)}, stored in bf16. What the corpus holds is said in `{source}.py`. All the problems
it poses are of the train split{corpus.note}.

What it can do before any reinforcement learning is measured by {corpus.measured_by}.
"""


def command(o: PretrainOptions) -> str:
    """The command that makes the model: what differs from the defaults."""
    default = PretrainOptions(task=o.task).model_dump()
    default_task = PretrainOptions.model_fields["task"].default
    options = [] if o.task == default_task else [f"--task {o.task}"]
    for key, value in o.model_dump().items():
        if isinstance(value, dict):
            options += [f"--{key}.{k} {v}" for k, v in value.items() if v != default[key][k]]
        elif key != "task" and value != default[key]:
            options.append(f"--{key} {str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(["tinyzero pretrain", *options])
