"""Chat templates and tokenizers of any folder: right, or rejected in one line."""

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers import models as token_models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tinyzero import config, models
from tinyzero.errors import UserError
from tinyzero.models.chat import MARK
from tinyzero.run.check import check

TURNS = "{% for m in messages %}[{{ m.role }}]\n{{ m.content | trim }}\n{% endfor %}"
OPENS = "{% if add_generation_prompt %}[assistant]\n{% endif %}"
ALTERNATES = (
    "{% for m in messages %}{% if loop.index0 > 0 and m.role == messages[loop.index0 - 1].role %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}]\n{{ m.content }}\n"
    "{% endfor %}"
)
SYSTEM = {"role": "system", "content": "You solve problems."}
USER = {"role": "user", "content": "What is 7 * 8?"}
BEGUN = {"role": "assistant", "content": "Let me solve this step by step.\n<think>"}
CHAT = [SYSTEM, USER, BEGUN]

QWEN3 = """\
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- set content = m.content %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') }}
        {{- '\\n</think>\\n\\n' + content }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""How Qwen3's own template writes an assistant's message that ends the chat, shortened."""


def backend(ends: Sequence[str] = (), digits: bool = False) -> Tokenizer:
    """A byte-level tokenizer without merges, which adds the tokens in `ends` to every text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    merges = [("1", "2"), ("a", "1")] if digits else []
    vocabulary |= {"".join(pair): len(vocabulary) + i for i, pair in enumerate(merges)}

    inner = Tokenizer(token_models.BPE(vocab=vocabulary, merges=merges))
    bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    inner.pre_tokenizer = pre_tokenizers.Sequence([*split, bytes_alone])
    inner.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in ("<end>", "<begin>")]
    inner.add_tokens(special)

    if ends:
        inner.post_processor = processors.TemplateProcessing(
            single=" ".join(ends),
            special_tokens=[(t.content, inner.token_to_id(t.content)) for t in special],
        )
    return inner


def tokenizer(template: str | None = None, ends: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend(ends), bos_token="<begin>", eos_token="<end>", pad_token="<end>"
    )
    made.chat_template = template
    return made


def rendered(
    template: str, messages: Sequence[dict[str, str]], date: str = ""
) -> tuple[str, list[str]]:
    notes: list[str] = []
    text = models.render_chat(tokenizer(template), messages, date, notes.append)
    return text, notes


def error_of(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_some_weights(folder: Path) -> None:
    """Make a folder with a config.json one that is taken for a model's."""
    save_file({"model.norm.weight": torch.ones(4)}, folder / "model.safetensors")


class TestATemplate:
    def test_is_used_as_it_is(self) -> None:
        text, notes = rendered(TURNS + OPENS, CHAT)
        assert text == (
            "[system]\nYou solve problems.\n[user]\nWhat is 7 * 8?\n[assistant]\n"
            "Let me solve this step by step.\n<think>"
        )
        assert not notes
        asked, _ = rendered(TURNS + OPENS, [USER])
        assert asked == "[user]\nWhat is 7 * 8?\n[assistant]\n"

    @pytest.mark.parametrize("end", ["<think>", "<think>\n", "  ", "", "x"])
    def test_ends_with_exactly_what_the_assistant_began(self, end: str) -> None:
        text, _ = rendered(TURNS, [USER, {"role": "assistant", "content": end}])
        assert text == f"[user]\nWhat is 7 * 8?\n[assistant]\n{end}"

    def test_that_never_opens_the_assistants_turn_gets_it_opened(self) -> None:
        assert rendered(TURNS, [USER])[0] == "[user]\nWhat is 7 * 8?\n[assistant]\n"
        inline = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %} ->{% endif %}"
        assert rendered(inline + "{% endfor %}", [USER])[0] == "What is 7 * 8? ->"

    def test_that_writes_the_answer_twice_is_refused(self) -> None:
        assert "twice" in error_of(lambda: rendered(TURNS + TURNS, CHAT))

    def test_without_a_system_role_gets_its_text_in_the_users_turn(self) -> None:
        refuses = (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        )
        drops = TURNS.replace("in messages", "in messages if m.role != 'system'")
        for template in (refuses + TURNS, drops):
            text, (note,) = rendered(template, CHAT)
            assert text.startswith("[user]\nYou solve problems.\n\nWhat is 7 * 8?\n[assistant]\n")
            assert "no system role" in note

    def test_that_wants_roles_to_alternate_gets_them_joined(self) -> None:
        twice = [SYSTEM, USER, {"role": "user", "content": "Be brief."}, BEGUN]
        text, (note,) = rendered(ALTERNATES, twice)
        assert "[user]\nWhat is 7 * 8?\n\nBe brief.\n[assistant]" in text
        assert text.startswith("[system]\nYou solve")
        assert "alternate" in note

    def test_that_wants_parts_gets_parts(self) -> None:
        parts = "{% for m in messages %}[{{ m.role }}]\n{{ m.content[0]['text'] }}\n{% endfor %}"
        text, notes = rendered(parts, CHAT)
        assert text == rendered(TURNS, CHAT)[0]
        assert not notes

    @pytest.mark.parametrize(
        "opened",
        [
            "<think>\n\n</think>\n\n",
            "<think>\n",
            "<think>",
        ],
    )
    def test_that_writes_thinking_before_ours_is_corrected(self, opened: str) -> None:
        thinks = (
            "{% for m in messages %}[{{ m.role }}]\n{% if m.role == 'assistant' %}"
            f"{opened}{{% endif %}}{{{{ m.content }}}}\n{{% endfor %}}"
        )
        text, (note,) = rendered(thinks, CHAT)
        assert text == rendered(TURNS, CHAT)[0]
        assert "thinking" in note

    def test_of_qwen3_neither_closes_nor_loses_our_thinking(self) -> None:
        text, _ = rendered(QWEN3, [USER, BEGUN])
        assert text.endswith(f"<|im_end|>\n<|im_start|>assistant\n{BEGUN['content']}")
        closed = {"role": "assistant", "content": "<think>7 * 8 is 56.</think>\n<answer>"}
        text, _ = rendered(QWEN3, [USER, closed])
        assert text.endswith(f"<|im_start|>assistant\n{closed['content']}")
        # without thinking of our own, the closed block is how such a model answers at once
        plain = {"role": "assistant", "content": "The answer is"}
        assert rendered(QWEN3, [USER, plain])[0].endswith("</think>\n\nThe answer is")

    def test_that_says_the_date_says_the_runs(self) -> None:
        dated = "Today is {{ strftime_now('%d %b %Y') }}.\n" + TURNS
        text, (note,) = rendered(dated, CHAT, "2024-02-03")
        assert text.startswith("Today is 03 Feb 2024.\n")
        assert "2024-02-03" in note
        for date in ("2024-02-03", "2025-01-01"):
            assert rendered(TURNS, CHAT, date) == rendered(TURNS, CHAT)

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            ("{{ options.style }}", "'options' is undefined"),
            ("{{ raise_exception('not for you') }}", "not for you"),
            ("{{ 1 // 0 }}", "ZeroDivisionError"),
            ("{% for m in %}", "TemplateSyntaxError"),
            ("{{ messages + 1 }}", "TypeError"),
            ("[user]\n{{ messages[1].content }}", "leaves out"),
            ("nothing", "leaves out"),
        ],
    )
    def test_that_cannot_render_is_one_line_with_the_fix(self, template: str, reason: str) -> None:
        message = error_of(lambda: rendered(template, CHAT))
        assert reason in message
        assert "--model.prompt base" in message
        assert USER["content"] not in message
        assert MARK not in message

    def test_note_is_heard_once(self) -> None:
        heard: list[str] = []
        note = models.once(heard.append)
        for text in ("a", "b", "a"):
            note(text)
        assert heard == ["a", "b"]


class TestATokenizer:
    def test_that_adds_an_end_token_does_not_end_the_prompt(self) -> None:
        notes: list[str] = []
        made = tokenizer(ends=("<begin>", "$A", "<end>"))
        ids = models.encode_prompt(made, "7 * 8 =", note=notes.append)
        assert made.decode(ids) == "<begin>7 * 8 ="
        assert "<end>" in notes[0]

    def test_that_begins_with_an_end_token_does_not_either(self) -> None:
        made = tokenizer(ends=("<end>", "$A"))
        assert made.decode(models.encode_prompt(made, "7")) == "7"

    def test_writes_one_begin_token(self) -> None:
        made = tokenizer("{{ bos_token }}" + TURNS, ends=("<begin>", "$A"))
        begin = made.bos_token_id
        for prompt in ("7", "<begin>7", CHAT):
            ids = models.encode_prompt(made, prompt)  # type: ignore[arg-type]
            assert ids[0] == begin
            assert ids.count(begin) == 1

    def test_refuses_a_prompt_that_ends_with_the_end_token(self) -> None:
        assert "end token '<end>'" in error_of(lambda: models.encode_prompt(tokenizer(), "7<end>"))

    def test_refuses_a_token_that_the_model_does_not_have(self) -> None:
        made = tokenizer()
        message = error_of(lambda: models.encode_prompt(made, "<begin>7", rows=257))
        assert "'<begin>', number 257" in message
        assert models.encode_prompt(made, "<begin>7", rows=258)

    def test_must_have_its_end_token_in_the_model(self, tmp_path: Path) -> None:
        tokenizer().save_pretrained(tmp_path)
        write_some_weights(tmp_path)
        for rows, fits in ((256, False), (257, True), (300, True)):
            shape = {"model_type": "llama", "vocab_size": rows}
            (tmp_path / "config.json").write_text(json.dumps(shape))
            assert models.known_vocabulary(str(tmp_path)) == rows
            if fits:
                models.load_tokenizer(str(tmp_path))
            else:
                assert "number 256" in error_of(lambda: models.load_tokenizer(str(tmp_path)))

    def test_smaller_than_the_model_reads_what_it_lacks_as_nothing(self) -> None:
        made = tokenizer()
        assert models.decoder(made)([len(made), *made("7")["input_ids"], len(made) + 9]) == "7"

    def test_splits_text_as_its_file_says(self, tmp_path: Path) -> None:
        """transformers drops the digit splitting of this file, because of the class it names."""
        PreTrainedTokenizerFast(
            tokenizer_object=backend(digits=True), eos_token="<end>"
        ).save_pretrained(tmp_path)
        path = tmp_path / "tokenizer_config.json"
        named = json.loads(path.read_text()) | {"tokenizer_class": "GPT2Tokenizer"}
        path.write_text(json.dumps(named))
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
        write_some_weights(tmp_path)

        text = "a12 1"
        right = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
        dropped = AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
        assert dropped != right, "transformers keeps it now: is this check still needed?"

        found = models.load_tokenizer(str(tmp_path))
        assert found(text)["input_ids"] == right
        assert found.eos_token == "<end>"
        found.save_pretrained(tmp_path / "again")
        assert AutoTokenizer.from_pretrained(tmp_path / "again")(text)["input_ids"] == right


def test_the_date_of_a_run_is_a_date() -> None:
    assert config.resolve({}, {"model.date": "2026-11-27"}).model.date == "2026-11-27"
    for wrong in ("27.11.2026", "yesterday", "2026-13-01"):
        with pytest.raises(UserError, match="year, month and day"):
            config.resolve({}, {"model.date": wrong})


def test_a_run_keeps_the_day_on_which_it_started() -> None:
    today = datetime.date.today().isoformat()
    assert check(config.resolve({}, {}), here=False).config.model.date == today
    begun = config.resolve({}, {"model.date": "2024-02-03"})
    assert check(begun, here=False).config.model.date == "2024-02-03"
    assert config.lasting(begun)["model.date"] == "2024-02-03", "a resumed run may not change it"


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NEXT = "<|im_end|>\n<|im_start|>user\nhigher<|im_end|>\n<|im_start|>assistant\n"


def with_template(template: str) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=backend(), eos_token="<|im_end|>")
    made.chat_template = template
    return made


@pytest.mark.parametrize("messages", [[USER], [SYSTEM, USER], CHAT])
def test_only_what_comes_between_two_turns_is_rendered(messages: Any) -> None:
    tokenizer = with_template(CHATML)
    by_stop_string = models.encode_reply(tokenizer, messages, "higher", None)
    assert tokenizer.decode(by_stop_string) == NEXT

    by_token = models.encode_reply(tokenizer, messages, "higher", tokenizer.eos_token_id)
    assert tokenizer.decode(by_token) == NEXT.removeprefix("<|im_end|>")
    assert tokenizer.decode(models.encode_reply(tokenizer, "", "240", None)) == "240"


def test_sampled_turns_and_replies_add_up_to_the_template() -> None:
    """Prompt, a turn that ended with the end token, the reply and the next turn."""
    tokenizer = with_template(CHATML)
    prompt = models.encode_prompt(tokenizer, [SYSTEM, USER])
    said = tokenizer("<guess>5</guess><|im_end|>", add_special_tokens=False)["input_ids"]
    reply = models.encode_reply(tokenizer, [SYSTEM, USER], "higher", said[-1])

    answered = {"role": "assistant", "content": "<guess>5</guess>"}
    whole = [SYSTEM, USER, answered, {"role": "user", "content": "higher"}]
    assert (*prompt, *said, *reply) == models.encode_prompt(tokenizer, whole)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}"),
            "rewrites what the assistant said earlier",
        ),
        (
            CHATML.replace(
                "{{ m.content }}",
                "{% if loop.last %}Be brief. {% endif %}{{ m.content }}",
            ),
            "rewrites the earlier messages",
        ),
        (
            CHATML.replace("{{ m.content }}", "{% if loop.index < 3 %}{{ m.content }}{% endif %}"),
            "leaves out the user's message",
        ),
    ],
)
def test_a_template_that_rewrites_history_is_rejected(template: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        models.encode_reply(with_template(template), [USER], "higher", None)
    assert "\n" not in str(caught.value)
    assert "--model.prompt base" in str(caught.value)
