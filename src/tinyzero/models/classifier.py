"""Sequence classifiers, such as reward models: loading, scoring, making one, and saving it.

A classifier reads a question and an answer and gives one number. Causal models read the chat
template's text if the tokenizer has one, and otherwise the question followed by the answer. Models
with a separator token, such as BERT, read the two as a pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from tinyzero.errors import UserError, brief, first_line
from tinyzero.models.backbone import context_of
from tinyzero.models.chat import once
from tinyzero.models.folder import ModelFolder, read_folder, view
from tinyzero.models.hub import fetched, find_model, ignore, is_hub_id, pick_device, same_bits
from tinyzero.models.origin import origin_of, write_origin
from tinyzero.models.tokens import load_tokenizer
from tinyzero.types import Prompt

BATCH = 16  # texts that are scored at once
HEADS = ("score.", "classifier.", "classification_head.", "pre_classifier.")
"""How the names of a classifier's own weights begin, in any architecture of transformers."""

PROBES = (("What is 2 + 2?", "4"), ("Solve 24 = (7 - 3) * 6.", "I do not know."))


class Classifier(nn.Module):
    """A sequence classifier of transformers with its tokenizer.

    `label` is the row of its output that is the score; None if it has one row only. `context` is
    the most tokens that it reads. `note` is told once if a text is longer.

    Example: `load_classifier("my-reward-model").score(["Why?"], ["Because."])` is a list of one.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        label: int | None,
        note: Callable[[str], None] = ignore,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.label = model, tokenizer, label
        known = context_of(model.config.get_text_config())
        limits = [limit for limit in (known, tokenizer.model_max_length) if limit]
        self.context = min(limits, default=10**9)
        self.note = once(note)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.model.device
        return device

    def encode(self, question: Prompt, answer: str) -> list[int]:
        """The token ids of a question with its answer, at most `context`.

        Special tokens in the answer are left out, so it cannot pretend that a turn has ended. What
        is too long loses its beginning, or as a pair the end of its longer part.
        """
        tokenizer = self.tokenizer
        for token in tokenizer.all_special_tokens:
            answer = answer.replace(str(token), "")

        if tokenizer.chat_template:
            messages = _messages(question, answer)
            try:
                text = tokenizer.apply_chat_template(messages, tokenize=False)
            except Exception as error:  # a template is a program, and raises what it likes
                raise UserError(
                    f"the classifier's chat template cannot render an answer: {brief(error)}"
                ) from None
            ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        elif tokenizer.sep_token_id is not None:
            ids = list(tokenizer(_text(question), answer)["input_ids"])
        else:
            asked = _text(question)
            gap = "" if asked.endswith(("\n", " ")) or not asked else "\n"
            ids = list(tokenizer(f"{asked}{gap}{answer}")["input_ids"])

        if len(ids) <= self.context:
            return ids or [self.model.config.pad_token_id or 0]
        self.note(
            f"a text of {len(ids)} tokens exceeds the classifier's context of {self.context}: such "
            "texts are cut to it"
        )
        if tokenizer.chat_template or tokenizer.sep_token_id is None:
            return ids[-self.context :]
        cut = tokenizer(_text(question), answer, truncation=True, max_length=self.context)
        return list(cut["input_ids"])

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """The scores (rows,) in float32 of rows of token ids, which may differ in length."""
        pad = self.model.config.pad_token_id or 0
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])

        inputs = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        logits: Tensor = self.model(**inputs).logits.float()
        if self.label is None:
            return logits[:, 0]
        if self.model.config.problem_type == "multi_label_classification":
            return logits[:, self.label].sigmoid()
        return logits.softmax(-1)[:, self.label]

    def score(self, questions: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """One score per question and answer: the output, or the probability of its label.

        Texts of similar length are scored together, in batches.
        """
        rows = [self.encode(*pair) for pair in zip(questions, answers, strict=True)]
        by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        # without a padding token transformers takes the last token of a single row only
        batch = BATCH if self.model.config.pad_token_id is not None else 1

        scores = [0.0] * len(rows)
        with torch.inference_mode():
            for first in range(0, len(rows), batch):
                chosen = by_length[first : first + batch]
                outputs = self.forward([rows[row] for row in chosen])
                for row, score in zip(chosen, outputs.tolist(), strict=True):
                    scores[row] = score
        return scores


def load_classifier(
    name: str, device: str = "cpu", label: str = "", note: Callable[[str], None] = ignore
) -> Classifier:
    """The sequence classifier in a folder or on the hub, frozen, in float32. Its code is not run.

    `label` chooses one of several outputs, by its name or number. Raises UserError if it is not a
    sequence classifier, is incomplete or damaged, or its output is not one number.
    """
    where = pick_device(device)
    path = find_model(name, classifier=True)
    folder = read_folder(
        name, fetched(name, path, classifier=True) if is_hub_id(path) else Path(path), True
    )
    model, info = _load(folder)
    missing = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if missing:
        raise UserError(
            f"{name!r} is incomplete: {len(missing)} weights are missing or have the wrong shape, "
            f"the first is {missing[0]}"
        )
    for line in folder.notes:
        note(line)

    tokenizer = load_tokenizer(name, path)
    row = _row_of(name, model.config, label)
    return Classifier(model.eval().to(where).requires_grad_(False), tokenizer, row, note)


def load_scorer(
    name: str, device: str = "cpu", label: str = ""
) -> Callable[[Sequence[Prompt], Sequence[str]], list[float]]:
    """The function from questions and answers to scores of a classifier; see `load_classifier`."""
    return load_classifier(name, device, label, print).score


def new_classifier(
    name: str, seed: int = 0, device: str = "cpu", note: Callable[[str], None] = ignore
) -> Classifier:
    """A classifier with one output, made of a language model: its head begins at zero.

    All texts then have the score 0. Raises UserError if there is no such model, or transformers has
    no classifier of its type.
    """
    where = pick_device(device)
    path = find_model(name)
    folder = read_folder(name, fetched(name, path) if is_hub_id(path) else Path(path))
    tokenizer = load_tokenizer(name, path)
    torch.manual_seed(seed)
    model, info = _load(folder, num_labels=1)

    missing = [key for key in sorted(info["missing_keys"]) if not key.startswith(HEADS)]
    if missing or info["mismatched_keys"]:
        first = (missing or [entry[0] for entry in info["mismatched_keys"]])[0]
        raise UserError(
            f"{name!r} is incomplete: its weight {first} is missing or has another shape"
        )
    for key, weight in model.named_parameters():
        if key in info["missing_keys"] and key.startswith("score."):
            nn.init.zeros_(weight)

    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id
    if model.config.pad_token_id is None:
        raise UserError(f"{name!r} has no padding and no end token: add one to its tokenizer")
    for line in folder.notes:
        note(line)
    return Classifier(model.to(where), tokenizer, None, note)


def save_classifier(classifier: Classifier, folder: Path, base: str) -> None:
    """Write a folder that transformers loads, with the licence of `base`, and read it back.

    Raises UserError if what was read back differs in a weight or a score.
    """
    classifier.eval()
    try:
        classifier.model.save_pretrained(folder)
        classifier.tokenizer.save_pretrained(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from None
    write_origin(origin_of(base), folder)

    loaded = load_classifier(str(folder))
    theirs = loaded.model.state_dict()
    for name, weight in classifier.model.state_dict().items():
        if name not in theirs or not same_bits(weight.detach().cpu(), theirs[name]):
            raise UserError(f"{folder}: {name} was not stored as it is: check the disk")

    questions, answers = zip(*PROBES, strict=True)
    before, after = (torch.tensor(c.score(questions, answers)) for c in (classifier, loaded))
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-4):
        raise UserError(f"{folder}: it gives other scores after loading: {before} and {after}")


def _load(folder: ModelFolder, **settings: Any) -> tuple[Any, dict[str, Any]]:
    """The model in float32, and what transformers says about its weights."""
    try:
        with view(folder) as seen:
            loaded: tuple[Any, dict[str, Any]] = AutoModelForSequenceClassification.from_pretrained(
                seen,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                key_mapping=dict(folder.renamed) or None,
                **settings,
            )
    except Exception as error:  # a damaged folder raises many types of exceptions
        reason = first_line(error)
        if "Unrecognized configuration class" in reason:
            reason = "transformers has no sequence classifier of this type"
        raise UserError(f"cannot load a classifier from {folder.name!r}: {reason}") from error
    return loaded


def _row_of(name: str, config: Any, label: str) -> int | None:
    """The row of the output that `label` names; None if the classifier has one row only."""
    labels = {int(row): str(text) for row, text in config.id2label.items()}
    if config.num_labels == 1:
        if label:
            raise UserError(f"{name!r} has one output, so it needs no label: leave out task.label")
        return None
    matching = [row for row, text in labels.items() if label in (text, str(row))]
    if not matching:
        listed = json.dumps(list(labels.values()))
        raise UserError(
            f"{name!r} has {config.num_labels} labels, and {label!r} is not one of them: choose "
            f"the one to reward with --task.label, from {listed:.200}"
        )
    return matching[0]


def _messages(question: Prompt, answer: str) -> list[dict[str, str]]:
    """A conversation that ends with the answer."""
    asked = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return [*map(dict, asked), {"role": "assistant", "content": answer}]


def _text(question: Prompt) -> str:
    """A question as one text."""
    if isinstance(question, str):
        return question
    return "\n".join(message["content"] for message in question)
