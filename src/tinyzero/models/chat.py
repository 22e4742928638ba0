"""Chat templates: from messages to the text that a model continues.

A model's template is a program of its own. It may know no system role, insist that roles
alternate, want messages as lists of parts, say today's date, or write thinking into the answer.
What it makes of a prompt is therefore compared with the prompt.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from tinyzero.errors import UserError, brief

Messages = Sequence[Mapping[str, str]]

MARK = "[[the assistant continues here]]"
"""Stands for the assistant's message while the template is rendered, which thus cannot change it.

transformers has `continue_final_message` for this, but templates that strip a message or split it
at its thinking then lose spaces, newlines or the beginning of the thought.
"""

THOUGHT = "<think>\n[[a thought]]\n</think>\n\n[[an answer]]"
"""Stands for what the assistant said in an earlier turn. A template must not change it."""

THINKING = re.compile(r"<think>\s*(</think>\s*)?\Z")
LONGEST_REASON = 160  # characters of a template's own error that are shown


def silent(_: str) -> None:
    """Tell nobody."""


def once(note: Callable[[str], None]) -> Callable[[str], None]:
    """`note`, but each text is told only the first time."""
    noted: set[str] = set()

    def note_once(text: str) -> None:
        if text not in noted:
            noted.add(text)
            note(text)

    return note_once


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    date: str = "",
    note: Callable[[str], None] = silent,
) -> str:
    """The text that the chat template makes of `messages`, up to where the model goes on.

    An assistant's last message is continued: the text ends with exactly its content. After any
    other message, the assistant's turn is opened. If the template refuses or loses a message,
    messages of one role in a row are joined; if it still does, the system's text goes into the
    user's first message. `note` is told about both.

    `date` is what the template takes for today, as in 2026-11-27; empty for the real date.

    Raises UserError if there is no template, or if it renders none of these forms whole.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "the task's prompt is chat messages, but this model has no chat template: return "
            "text unless the template is 'instruct', or use a model with a chat template"
        )

    reasons = []
    for form, change in _forms(messages):
        for in_parts in (False, True):
            try:
                text, notes = _rendered(tokenizer, form, in_parts, date)
            except UserError as error:
                reasons.append(str(error))
                continue
            for said in filter(None, [change, *notes]):
                note(said)
            return text

    raise UserError(
        f"the chat template of {tokenizer.name_or_path!r} cannot render this prompt "
        f"({reasons[0]}): use a prompt of plain text, as with --model.prompt base, or correct the "
        "template in the folder"
    )


def continues_last_message(messages: Messages) -> bool:
    """Whether the model continues the last message, because the assistant wrote it.

    After any other message the chat template has to open the assistant's turn; without that the
    model would continue the user's question.
    """
    return messages[-1]["role"] == "assistant"


def render_reply(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, reply: str, date: str = ""
) -> str:
    """What follows the assistant's answer to `messages` if the user then says `reply`.

    It is the text between the answer and where the model continues: what ends the assistant's turn,
    the user's message, and what opens the assistant's next turn. The answer itself is not rendered
    again, so the tokens that were sampled stay as they are.

    Raises UserError if the template leaves something out, or rewrites what came before.
    """
    reasons = []
    for form, _ in _forms(messages):
        for in_parts in (False, True):
            try:
                return _reply_of(tokenizer, form, reply, in_parts, date)
            except UserError as error:
                reasons.append(str(error))
    raise UserError(
        f"the chat template of {tokenizer.name_or_path!r} cannot be used for several turns "
        f"({reasons[0]}): use a prompt of plain text, as with --model.prompt base, or another model"
    )


def _reply_of(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, reply: str, in_parts: bool, date: str
) -> str:
    """`render_reply` for one form of the messages."""
    *earlier, last = messages
    asked = earlier if continues_last_message(messages) else [*earlier, last]
    answered = [*asked, {"role": "assistant", "content": THOUGHT}]
    replied = [*answered, {"role": "user", "content": reply}]

    before, _ = _applied(tokenizer, asked, in_parts, False, date)
    after, _ = _applied(tokenizer, replied, in_parts, False, date)
    after += _missing_opening(tokenizer, replied, in_parts, date, after)
    start, thought, rest = after.rpartition(THOUGHT)
    if not thought:
        raise UserError("it rewrites what the assistant said earlier, such as its thinking")
    if not (before.startswith(start) or start.startswith(before)):
        raise UserError("it rewrites the earlier messages once there is another turn")
    if reply.strip() not in rest:
        raise UserError("it leaves out the user's message")
    return rest


def _forms(messages: Messages) -> Iterator[tuple[Messages, str]]:
    """The messages as they are, and in forms for stricter templates, each with what was changed."""
    yield messages, ""

    joined = _joined(messages)
    if len(joined) < len(messages):
        yield joined, "the chat template wants roles to alternate: messages of one role are joined"

    as_user = [
        {**message, "role": "user"} if message["role"] == "system" else message
        for message in messages
    ]
    if as_user != list(messages):
        yield (
            _joined(as_user),
            "the chat template has no system role: the system's text begins the user's message",
        )


def _joined(messages: Messages) -> list[Mapping[str, str]]:
    """The messages with those of one role in a row as one.

    >>> _joined([{"role": "user", "content": "Add."}, {"role": "user", "content": "1 + 2"}])
    [{'role': 'user', 'content': 'Add.\\n\\n1 + 2'}]
    """
    joined: list[Mapping[str, str]] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            content = f"{joined[-1]['content']}\n\n{message['content']}"
            joined[-1] = {**joined[-1], "content": content}
        else:
            joined.append(message)
    return joined


def _rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, in_parts: bool, date: str
) -> tuple[str, list[str]]:
    """The text of `messages`, and what to tell the user about it.

    With `in_parts`, the template gets each message as a list of parts. Raises UserError, whose
    text is the reason, if the template raises or leaves something out.
    """
    *earlier, last = messages
    continues = continues_last_message(messages)
    shown = [*earlier, {**last, "content": MARK}] if continues else messages
    text, says_date = _applied(tokenizer, shown, in_parts, continues, date)
    if not continues:
        text += _missing_opening(tokenizer, messages, in_parts, date, text)
    notes = [f"the chat template says the date: it stays {says_date}"] if says_date else []

    if continues:
        text, mark, _ = text.rpartition(MARK)
        if not mark:
            raise UserError("it leaves out the assistant's message")
        if MARK in text:
            raise UserError("it writes the assistant's message twice")
        if "<think>" in last["content"]:
            opened = THINKING.sub("", text)
            if opened != text:
                notes.append(
                    "the chat template writes thinking of its own before the prompt's: "
                    "it is left out"
                )
            text = opened
        text += last["content"]

    if in_parts and "'type': 'text'" in text:
        raise UserError("it writes a list of parts as it is")
    _require_all(text, messages)
    return text, notes


def _missing_opening(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    in_parts: bool,
    date: str,
    text: str,
) -> str:
    """What opens the assistant's turn, if a template that was asked for it did not write it.

    It is what the template writes between `text` and an answer.
    """
    try:
        unasked, _ = _applied(tokenizer, messages, in_parts, True, date)
        answered = [*messages, {"role": "assistant", "content": MARK}]
        begins, mark, _ = _applied(tokenizer, answered, in_parts, True, date)[0].rpartition(MARK)
    except UserError:  # it refuses such messages, and thus says nothing about an opening
        return ""
    is_ignored = unasked == text and mark and MARK not in begins and begins.startswith(text)
    return begins.removeprefix(text) if is_ignored else ""


def _applied(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    in_parts: bool,
    continues: bool,
    date: str,
) -> tuple[str, str]:
    """What the template writes for `messages`, and the date if it asked for that, or else ""."""
    given = datetime.date.fromisoformat(date) if date else datetime.date.today()
    midnight = datetime.datetime.combine(given, datetime.time())
    asked: list[str] = []

    def strftime_now(pattern: str) -> str:
        asked.append(pattern)
        return midnight.strftime(pattern)

    try:
        text = tokenizer.apply_chat_template(
            [_in_parts(message) if in_parts else dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=not continues,
            strftime_now=strftime_now,
        )
    except Exception as error:  # a template is a program, and can raise anything
        raise UserError(brief(error)[:LONGEST_REASON]) from error
    return str(text), given.isoformat() if asked else ""


def _in_parts(message: Mapping[str, str]) -> dict[str, Any]:
    """A message whose content is a list of parts, as templates of multimodal models want it."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def _require_all(text: str, messages: Messages) -> None:
    """Raise UserError, whose text is the reason, if a message is not in `text`.

    Templates may strip a message, and leave out what an assistant thought earlier.
    """
    said = [(message["role"], message["content"]) for message in messages]
    said = [(role, content.rpartition("</think>")[2].strip()) for role, content in said]
    for role, content in sorted(said, key=lambda entry: len(entry[1]), reverse=True):
        if content not in text:
            raise UserError(f"it leaves out the {role}'s message")
        text = text.replace(content, "", 1)
