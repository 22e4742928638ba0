"""`tinyzero pretrain`: make a tiny base model from a seed, like the bundled ones.

It can also train an existing base further. The loss is next-token prediction on a task's synthetic
corpus. Muon updates the matrices and AdamW the rest; the learning rate is constant at first, and
then decays linearly to zero. The unit of work is a pool of documents that are drawn from (seed,
pool number), so an interrupted run resumes exactly.
"""

from __future__ import annotations

import math
import random
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
                f"width {self.width} must be a multiple of 2 * heads ({2 * self.heads}), and heads "
                f"{self.heads} a multiple of kv_heads {self.kv_heads}"
            )
        return self


class PretrainOptions(BaseModel):
    """Everything that makes a base. The defaults made the one that ships for Countdown."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    task: str = Field(
        corpora.names()[0], description="the task that the base is made for; it must have a corpus"
    )
    start: str = Field(
        "",
        description="start with the weights of this bundled base or folder; empty for random ones",
    )
    chat: bool = Field(False, description="pose problems as chat messages, for --model.prompt chat")
    seed: int = Field(
        0, ge=0, lt=2**32, description="seed of the corpus and of the initial weights"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "cpu", description="the device to train on; auto takes a GPU if there is one"
    )
    pools: int = Field(300, ge=1, le=10**7, description="number of pools of documents to train on")
    pool_documents: int = Field(1024, ge=1, le=10**6, description="documents per pool")
    batch_tokens: int = Field(
        2048, ge=64, le=2**24, description="tokens per batch, padding included"
    )
    longest: int = Field(
        640, ge=64, le=2**20, description="longest document, in tokens; longer ones are dropped"
    )
    muon_lr: float = Field(0.01, gt=0, le=10, description="learning rate of the matrices, for Muon")
    adam_lr: float = Field(
        0.003, gt=0, le=10, description="learning rate of embeddings, norms and biases, for AdamW"
    )
    decay_from: float = Field(
        0.3, ge=0, le=1, description="share of the run after which the learning rates decay to zero"
    )
    save_every: int = Field(10, ge=1, le=10**7, description="pools between checkpoints")
    model: ModelOptions = Field(default_factory=ModelOptions)
    corpus: SerializeAsAny[BaseModel] = Field(
        default_factory=lambda data: corpora.find(data["task"]).options(),
        description="options of the task's corpus",
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
        """Validate the options of the corpus as those of the task's own corpus."""
        if not isinstance(given, dict) or "task" not in info.data:
            return given
        return validate(corpora.find(info.data["task"]).options, given, "pretrain.corpus")

    @model_validator(mode="after")
    def _one_shape(self) -> PretrainOptions:
        if self.start and self.model != ModelOptions():
            raise ValueError(
                f"start {self.start} has its own shape: leave out the options of model"
            )
        return self


_TOKEN = re.compile("|".join(map(re.escape, (*corpora.WORDS, corpora.END))) + "|.", re.DOTALL)


def encode(prompt: str, text: str, vocabulary: dict[str, int]) -> tuple[list[int], int]:
    """The token ids of a document, as the tokenizer makes them, and how many are the prompt."""
    prompt_ids = [vocabulary[token] for token in _TOKEN.findall(prompt)]
    text_ids = [vocabulary[token] for token in _TOKEN.findall(text)]
    return prompt_ids + text_ids, len(prompt_ids)


def batches(
    options: PretrainOptions, pool: int, vocabulary: dict[str, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one pool: token ids (B, T), and a mask (B, T) of the tokens that have loss.

    Documents of similar length are in the same batch. Padding has the id 0 and no loss.
    """
    rng = random.Random(f"corpus:{options.seed}:{pool}")
    documents = _documents(options, rng, vocabulary)
    documents.sort(key=lambda document: len(document[0]))

    groups: list[list[tuple[list[int], int]]] = [[]]
    for ids, prompt_length in documents:
        if groups[-1] and (len(groups[-1]) + 1) * len(ids) > options.batch_tokens:
            groups.append([])
        groups[-1].append((ids, prompt_length))
    rng.shuffle(groups)

    for group in groups:
        length = max(len(ids) for ids, _ in group)
        padded = []
        mask = []
        for ids, prompt_length in group:
            padded.append(ids + [0] * (length - len(ids)))
            mask.append([prompt_length <= index < len(ids) for index in range(length)])
        yield torch.tensor(padded), torch.tensor(mask)


def _documents(
    options: PretrainOptions, rng: random.Random, vocabulary: dict[str, int]
) -> list[tuple[list[int], int]]:
    """The encoded documents of a pool, without those that are too long."""
    draw = corpora.find(options.task).document
    documents = []
    for _ in range(options.pool_documents):
        prompt, text = draw(rng, options.corpus)
        if options.chat:
            prompt, text = corpora.as_chat(prompt, text)
        ids, prompt_length = encode(prompt, text, vocabulary)
        if len(ids) <= options.longest:
            documents.append((ids, prompt_length))
    return documents


def rate(options: PretrainOptions, pool: float) -> float:
    """The share of the full learning rates that is used after `pool` pools, from 1 down to 0."""
    progress = pool / options.pools
    if progress < options.decay_from:
        return 1.0
    return (1 - progress) / (1 - options.decay_from)


def pretrain(options: PretrainOptions, folder: Path, report: Callable[[str], None] = print) -> Path:
    """Train the base into `folder`/model, resuming a run that is there; returns that path.

    `report` is called with one line per pool.

    Raises UserError if the folder cannot be written, if it holds a run with other options, or if
    the device is missing. Raises NonFiniteError if the loss is not finite, and KeyboardInterrupt
    after a clean stop.
    """
    outputs.refuse_others(folder / "model", outputs.is_base, FIX)
    device = models.pick_device(options.device)
    template = corpora.CHAT_TEMPLATE if options.chat else None
    tokenizer = models.build_tokenizer(corpora.CHARACTERS, corpora.WORDS, corpora.END, template)
    vocabulary = {str(tokenizer.decode([i])): i for i in range(len(tokenizer))}

    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
    model = _initial_model(options, len(tokenizer)).to(device)
    training = _Training(options, model, _optimizers(options, model))
    if latest := checkpoint.load_latest(folder, report):
        training.load(latest[1], folder)
        report(f"resuming at pool {training.pools} of {options.pools}")

    model.train()
    with stop_requested("pool") as stopping:
        while training.pools < options.pools:
            loss = training.train_pool(vocabulary, device)
            report(training.progress(loss))

            is_last = training.pools == options.pools
            if stopping or is_last or training.pools % options.save_every == 0:
                checkpoint.save(
                    folder,
                    training.pools,
                    lambda path: models.save_model(model, tokenizer, path),
                    training.state(),
                    keep=2,
                )
            if stopping and not is_last:
                report(f"stopped after pool {training.pools}: the same command resumes")
                raise KeyboardInterrupt

    return _write(options, model, tokenizer, folder / "model", training.tokens, training.seconds)


@dataclass
class _Training:
    """A model in training, with its optimizers and what has been done so far."""

    options: PretrainOptions
    model: models.Backbone
    optimizers: list[Any]
    pools: int = 0
    """How many pools are done."""
    seconds: float = 0.0
    tokens: int = 0

    def train_pool(self, vocabulary: dict[str, int], device: str) -> float:
        """Train on the next pool; returns the mean loss per batch.

        Raises NonFiniteError if a loss is not finite.
        """
        started = time.perf_counter()
        pool_batches = list(batches(self.options, self.pools, vocabulary))
        losses = []
        for index, (ids, mask) in enumerate(pool_batches):
            self._set_learning_rates(self.pools + index / len(pool_batches))
            loss = _train_step(self.model, ids.to(device), mask.to(device), self.optimizers)
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"the loss of pool {self.pools + 1} is not finite: lower muon_lr or adam_lr"
                )
            losses.append(loss)
            self.tokens += int((ids != 0).sum())

        self.seconds += time.perf_counter() - started
        self.pools += 1
        return sum(losses) / len(losses)

    def progress(self, loss: float) -> str:
        """One line about the latest pool, whose mean loss is `loss`."""
        remaining = self.options.pools - self.pools
        minutes_left = self.seconds / self.pools * remaining / 60
        return (
            f"pool {self.pools}/{self.options.pools}  loss {loss:.4f}  "
            f"{self.tokens / self.seconds:,.0f} tokens/s  {minutes_left:.0f} min left"
        )

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint must hold."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "pool": self.pools,
            "options": self.options.model_dump(),
            "seconds": self.seconds,
            "tokens": self.tokens,
        }

    def load(self, state: dict[str, Any], folder: Path) -> None:
        """Continue from the state of a checkpoint in `folder`.

        Raises UserError if it was made with other options.
        """
        if state.get("options") != self.options.model_dump():
            raise UserError(
                f"{folder} holds a base made with other options: name another folder with --out"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.pools = state["pool"]
        self.seconds = state["seconds"]
        self.tokens = state["tokens"]

    def _set_learning_rates(self, pool: float) -> None:
        """Set the learning rates for the time after `pool` pools."""
        share = rate(self.options, pool)
        full_rates = (self.options.muon_lr, self.options.adam_lr)
        for optimizer, full_rate in zip(self.optimizers, full_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = full_rate * share


def _optimizers(options: PretrainOptions, model: models.Backbone) -> list[Any]:
    """Muon for the matrices inside the network, and AdamW for everything else."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and "embed" not in name
        (matrices if is_matrix else others).append(parameter)
    return [
        Muon(matrices, lr=options.muon_lr),
        torch.optim.AdamW(others, lr=options.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _initial_model(options: PretrainOptions, vocabulary_size: int) -> models.Backbone:
    """The model that training starts with: random weights, or those of `start`."""
    if not options.start:
        return models.build_model(model_config(options.model, vocabulary_size), options.seed)

    model = models.load_model(options.start)
    if model.config.vocab_size != vocabulary_size:
        raise UserError(
            f"pretrain.start is {options.start!r}, which has another vocabulary: "
            "give a model that `tinyzero pretrain` made"
        )
    return model


def _write(
    options: PretrainOptions,
    model: models.Backbone,
    tokenizer: Any,
    path: Path,
    tokens: int,
    seconds: float,
) -> Path:
    """Write the base in bf16, with its model card; returns `path`."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    text = model_card(options, parameters, tokens, seconds, torch.get_num_threads())

    with outputs.whole(path, outputs.is_base, FIX) as temporary:
        temporary.mkdir()
        try:
            models.save_model(model, tokenizer, temporary, torch.bfloat16)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        (temporary / "README.md").write_text(text)
    return path


def _train_step(model: models.Backbone, ids: Tensor, mask: Tensor, optimizers: list[Any]) -> float:
    """Take one optimizer step on token ids (B, T); returns the loss.

    The loss is the mean cross entropy of the next token, over the tokens in `mask` (B, T).
    """
    logits = model.logits(ids[:, :-1])
    targets = ids[:, 1:]
    has_loss = mask[:, 1:]
    loss = F.cross_entropy(logits[has_loss], targets[has_loss])

    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def model_config(options: ModelOptions, vocabulary: int) -> dict[str, Any]:
    """The transformers configuration of the network, for that many words in the vocabulary."""
    return {
        "model_type": "qwen2",
        "vocab_size": vocabulary,
        "hidden_size": options.width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads,
        "num_key_value_heads": options.kv_heads,
        "intermediate_size": options.feed_forward,
        "max_position_embeddings": options.context,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def model_card(
    options: PretrainOptions, parameters: int, tokens: int, seconds: float, threads: int
) -> str:
    """The README.md of the base: what it is, what it knows, and the command that made it."""
    corpus = corpora.find(options.task)
    source = corpus.document.__module__.replace(".", "/")
    cpu_threads = f"{threads} CPU thread{'s' * (threads > 1)}"
    return f"""# TinyZero's tiny base for {options.task}

This is a language model of {parameters:,} parameters (Qwen2 architecture, one token per character).
It was trained on synthetic text to stand in for a pretrained base model, so that one can watch what
reinforcement learning adds, in minutes on a laptop. It knows {corpus.knows}.
It does not know any language.

- Made by `{command(options)}`: {tokens:,} tokens in {seconds / 3600:.2f} hours on {cpu_threads}.
- Stored in bf16.
- `{source}.py` describes its corpus. All problems in the corpus are from the train
  split{corpus.note}.
- {corpus.measured_by} measures what it can do before any reinforcement learning.
"""


def command(options: PretrainOptions) -> str:
    """The command that makes the base, with every option that is not the default.

    >>> command(PretrainOptions(chat=True, pools=40))
    'tinyzero pretrain --chat true --pools 40'
    """
    defaults = PretrainOptions(task=options.task).model_dump()
    arguments = []
    if options.task != PretrainOptions.model_fields["task"].default:
        arguments += ["--task", options.task]

    for key, value in options.model_dump().items():
        if isinstance(value, dict):
            for name, inner in value.items():
                if inner != defaults[key][name]:
                    arguments += [f"--{key}.{name}", str(inner)]
        elif key != "task" and value != defaults[key]:
            shown = str(value).lower() if isinstance(value, bool) else value
            arguments += [f"--{key}", str(shown)]
    return shlex.join(["tinyzero", "pretrain", *arguments])
