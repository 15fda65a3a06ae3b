import gc
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluvial.errors import InputError, ModelError, TooLargeError
from fluvial.model import gguf
from fluvial.model.renderer import Renderer
from fluvial.model.template import CHATML, MAX_CONTENT_CHARS, MAX_SOURCE_CHARS, Template
from fluvial.model.tokenizer import Tokenizer
from fluvial.types import Message
from tests.model.corpus import make_lines
from tests.model.piece_sample import make_pieces
from tests.model.sample import CONTROLS, KINDS, TOKENS, USERS, make_metadata, write_folder

WORDS = Tokenizer.from_gguf(make_metadata())
START, END = TOKENS.index("<|im_start|>"), TOKENS.index("<|im_end|>")
SPECIALS = {*CONTROLS, *USERS}
FRAGMENTS = st.sampled_from(
    [*SPECIALS, "<|", "|>", "im_end", "im_start", "end|>", "|", "<", ">", " ", "\n", "system", "字"]
)
HOSTILE = st.one_of(st.text(max_size=20), st.lists(FRAGMENTS, max_size=8).map("".join))
TURNS = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=HOSTILE),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def chatml() -> Iterator[Template]:
    template = Template.from_gguf(make_metadata())
    yield template
    template.close()


def ask(content: str) -> list[Message]:
    return [Message(role="user", content=content)]


def render(source: str, messages: list[Message] | None = None, **names: str) -> str:
    """Return what the template writes, special tokens included."""
    template = Template(source, names=names, render_limit_s=1)
    try:
        ids = template.encode(messages or ask("x"), tokenizer=WORDS)
    finally:
        template.close()
    special = {i: t.encode() for i, t in enumerate(TOKENS) if t in SPECIALS}
    return b"".join(special.get(i) or WORDS.token_bytes(i) for i in ids).decode()


def test_a_conversation_is_written_up_to_the_answer(chatml: Template) -> None:
    messages = [Message(role="system", content="s"), *ask("u")]
    assert chatml.encode(messages, tokenizer=WORDS) == [
        *(START, *WORDS.encode("system\ns"), END, *WORDS.encode("\n")),
        *(START, *WORDS.encode("user\nu"), END, *WORDS.encode("\n")),
        *(START, *WORDS.encode("assistant\n")),
    ]


@given(TURNS)
@settings(max_examples=300, deadline=None)
def test_no_content_becomes_a_special_token(chatml: Template, messages: list[Message]) -> None:
    ids = chatml.encode(messages, tokenizer=WORDS)
    expected: list[int] = []
    for message in messages:
        expected += [START, *WORDS.encode(f"{message.role}\n{message.content}"), END]
        expected += WORDS.encode("\n")
    assert ids == [*expected, START, *WORDS.encode("assistant\n")]


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content }}",
        "<|im_{{ messages[0].content }}",
        "{{ messages[0].content }}|>",
        "<{{ messages[0].content }}>",
        "<|{{ messages[0].content | trim }}|>",
        "{{ messages[0].content | replace('-', '') }}",
        "{{ messages[0].content | lower }}",
        "{{ messages[0].content.split('-') | join }}",
        "{{ messages[0].content[:12] }}",
        "{{ messages[0].content | tojson }}",
        "{{ '%s' | format(messages[0].content) }}",
        "{{ messages[0].content | string | list | join }}",
        "{{ messages[0].content | e }}",
    ],
)
def test_no_template_helps_a_content_to_become_special(source: str) -> None:
    template = Template(source, names={})
    for content in (
        "<|im_end|>",
        "end|>",
        "<|im_end",
        "<|im_-end|>",
        " <|IM_END|> ",
        "<-|im_end|-->",
    ):
        ids = template.encode(ask(content), tokenizer=WORDS)
        assert not {i for i in ids if TOKENS[i] in SPECIALS}, content
    template.close()


def test_templates_see_what_transformers_gives_them() -> None:
    source = (
        "{%- if tools is none and documents is none and add_generation_prompt %}\n"
        "    {{- bos_token ~ (eos_token is defined) ~ messages | length }}\n"
        "{%- endif %}\n"
        "  {% for m in messages %}\n"
        "    {% if loop.index > 1 %}{% break %}{% endif %}\n"
        "{{ {'b': 'é<', 'a': [1, none]} | tojson }}\n"
        "  {% endfor %}\n"
        "{% set ns = namespace(n=1) %}"
        "{% generation %}{% set ns.n = 2 %}{{ ns.n }}{% endgeneration %}"
        "{{ strftime_now('%Y') | length }}"
    )
    text = render(source, [*ask("a"), *ask("b")], bos_token="<|endoftext|>")
    assert text == '<|endoftext|>False2{"b": "é<", "a": [1, null]}\n24'


def test_the_prompt_equals_transformers_rendering() -> None:
    pytest.importorskip("transformers")
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (
        "{%- for m in messages %}\n  {%- if m.role == 'user' %}\n{{ m.content | trim }}\n"
        "   {% else %}\n[{{ m['content'] }}]{%- endif %}\n\n{% endfor %}\n end\n"
    )
    turns = [{"role": "user", "content": " a\n"}, {"role": "assistant", "content": "\n b"}]
    rendered, _ = render_jinja_template([turns], chat_template=source, add_generation_prompt=True)
    messages = [Message(**turn) for turn in turns]
    assert render(source, messages) == rendered[0]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 'a' * 10**9 }}", "stopped|MemoryError|writes more"),
        ("{{ [0] * 10**9 }}", "MemoryError|stopped"),
        ("{{ 'a'.center(10**12) }}", "MemoryError"),
        ("{{ '%1000000000d' % 1 }}", "stopped|MemoryError"),
        ("{{ 10 ** (10 ** 8) }}", "stopped|ValueError|MemoryError"),
        ("{{ (7 ** (10 ** 6)) | string }}", "ValueError"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "used more than 1 s",
        ),
        ("{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "writes more than"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ ''['__class__'].__base__ }}", "SecurityError|UndefinedError"),
        ("{{ ('' | attr('__class__')).__base__ }}", "SecurityError|UndefinedError"),
        ("{{ raise_exception.__globals__.os }}", "SecurityError"),
        ("{{ self.__init__.__globals__ }}", "SecurityError|UndefinedError"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
        ("{{ lipsum.__globals__ }}", "'lipsum' is undefined"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages[0].update(role='system') }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "no loader|TypeError"),
        ("{% import 'os' as os %}", "no loader|TypeError"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ '\ud801' }}", "lone surrogate"),
        ("a" * (MAX_SOURCE_CHARS + 1), "at most 131,072"),
    ],
)
def test_hostile_templates_are_stopped(source: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        render(source)


def test_a_template_that_was_stopped_can_be_used_again() -> None:
    source = "{% for i in range(99999) %}{% for j in range(messages[0].content | length ** 9) %}"
    template = Template(source + "{% endfor %}{% endfor %}ok", names={}, render_limit_s=1)
    with pytest.raises(ModelError, match="stopped"):
        template.encode(ask("aaa"), tokenizer=WORDS)
    assert WORDS.decode(template.encode(ask(""), tokenizer=WORDS)) == "ok"
    template.close()


def test_a_child_that_died_is_replaced() -> None:
    template = Template("ok", names={})
    before = template.encode(ask("x"), tokenizer=WORDS)
    process = template._renderer._children[0]._process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert template.encode(ask("x"), tokenizer=WORDS) == before
    template.close()


def test_a_dropped_template_leaves_no_process() -> None:
    template = Template("ok", names={})
    process = template._renderer._children[0]._process
    del template
    gc.collect()
    assert process.poll() is not None


def test_templates_can_neither_open_nor_write_files(tmp_path: Path) -> None:
    from tests.model.confinement import run_confined

    assert run_confined(f"open({str(tmp_path / 'x')!r}, 'w')") == "OSError"
    assert run_confined("__import__('socket').socket()") == "OSError"
    assert run_confined("__import__('os').write(1, b'')") == "nothing"
    assert run_confined("bytearray(2 * 2**30)") == "MemoryError"


def test_threads_share_a_template(chatml: Template) -> None:
    texts = [f"question {i} " * 50 for i in range(16)]
    results: dict[str, list[int]] = {}

    def work(text: str) -> None:
        results[text] = chatml.encode(ask(text), tokenizer=WORDS)

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(text in WORDS.decode(results[text]) for text in texts)


def test_a_refusal_of_the_template_is_the_callers_error() -> None:
    template = Template("{{ raise_exception('roles must alternate') }}", names={})
    with pytest.raises(InputError, match="refuses these messages: roles must alternate"):
        template.encode(ask("x"), tokenizer=WORDS)
    template.close()


def test_wrong_messages_are_refused(chatml: Template) -> None:
    with pytest.raises(InputError, match="send at least one"):
        chatml.encode([], tokenizer=WORDS)
    with pytest.raises(InputError, match="unknown role 'root'"):
        chatml.encode([Message(role="root", content="")], tokenizer=WORDS)
    with pytest.raises(InputError, match="lone surrogate"):
        chatml.encode(ask("\udc00"), tokenizer=WORDS)
    with pytest.raises(TooLargeError, match="at most 8,388,608"):
        chatml.encode(ask("a" * (MAX_CONTENT_CHARS + 1)), tokenizer=WORDS)


def test_the_longest_content_fits_in_the_memory_of_the_child() -> None:
    renderer = Renderer(CHATML, limit_s=60)
    turns = [{"role": "user", "content": "\udc00🧠" * (MAX_CONTENT_CHARS // 2)}]
    text = renderer.render({"messages": turns}, limit_chars=2 * MAX_CONTENT_CHARS)
    renderer.close()
    assert text == "<|im_start|>user\n" + turns[0]["content"] + "<|im_end|>\n"


@pytest.mark.parametrize(
    "source",
    [
        "{{ '{0.__class__}'.format('') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ messages.__class__ }}",
        "{{ (messages | attr('__class__')) }}",
    ],
)
def test_internals_of_python_read_as_nothing(source: str) -> None:
    assert render(source + "ok") == "ok"


def test_a_model_without_a_template_gets_chatml_if_it_has_the_tokens() -> None:
    template = Template.from_gguf(make_metadata(chat_template=None))
    assert template.source == CHATML
    expected = Template.from_gguf(make_metadata())
    messages = [*ask("\n a \n"), *ask("b")]
    assert template.encode(messages, tokenizer=WORDS) == expected.encode(messages, tokenizer=WORDS)
    template.close()
    expected.close()


def test_a_model_without_a_template_gets_gemmas_turns_if_it_has_those() -> None:
    words = Tokenizer.from_gguf(make_pieces())
    template = Template.from_gguf(make_pieces())
    messages = [
        Message(role="system", content="s"),
        *ask("u"),
        Message(role="assistant", content="a"),
        *ask("<end_of_turn>"),
    ]
    ids = template.encode(messages, tokenizer=words)
    template.close()
    turn, end = words.marks["<start_of_turn>"], words.marks["<end_of_turn>"]
    assert ids == [
        *(words.bos_id, turn, *words.encode("user\ns\n\nu"), end, *words.encode("\n")),
        *(turn, *words.encode("model\na"), end, *words.encode("\n")),
        *(turn, *words.encode("user\n<end_of_turn>"), end, *words.encode("\n")),
        *(turn, *words.encode("model\n")),
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chat_template": 7}, "not a string"),
        (
            {"chat_template": None, "token_type": np.array((1, 1, 1, *KINDS[3:]))},
            "has neither <.im_start.> <.im_end.> nor <bos>",
        ),
        ({"tokens": None}, "tokens is missing"),
        ({"bos_token_id": 10**6}, "bos_token_id is 1000000"),
    ],
)
def test_metadata_without_a_usable_template_is_refused(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        Template.from_gguf(make_metadata(**changes))


def test_templates_come_out_of_folders_in_all_three_forms(tmp_path: Path) -> None:
    write_folder(tmp_path, config={"chat_template": "config {{ bos_token }}", "bos_token": "B"})
    forms = [read_folder(tmp_path)]
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": "named"}]
    write_folder(tmp_path, config={"chat_template": named})
    forms.append(read_folder(tmp_path))
    (tmp_path / "chat_template.jinja").write_text("file")
    forms.append(read_folder(tmp_path))
    assert forms == ["config B", "named", "file"]


def test_folders_without_a_template_get_chatml(tmp_path: Path) -> None:
    write_folder(tmp_path, config={"chat_template": None})
    assert read_folder(tmp_path).startswith("user\nx\n")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match="not UTF-8"):
        Template.from_folder(tmp_path)


def read_folder(path: Path) -> str:
    template = Template.from_folder(path)
    text = WORDS.decode(template.encode(ask("x"), tokenizer=WORDS))
    template.close()
    return text


@pytest.mark.model
def test_prompts_equal_transformers_for_the_small_model(small_model_path: Path) -> None:
    from tests.model.oracle import build_smollm

    compare(small_model_path, build_smollm)


@pytest.mark.slow
def test_prompts_equal_transformers_for_the_default_model(default_model_path: Path) -> None:
    from tests.model.oracle import build_qwen2

    compare(default_model_path, build_qwen2)


def compare(path: Path, build: Any) -> None:
    metadata = gguf.read(path).metadata
    words, template = Tokenizer.from_gguf(metadata), Template.from_gguf(metadata)
    oracle = build(metadata)
    lines = ["", "\n", "\n\n x", " x ", "x\n", "'s", "1", *make_lines(400)]
    roles = ("system", "user", "assistant", "user")
    for start in range(0, len(lines) - 4):
        some = roles[start % 2 : start % 2 + 1 + start % 3]
        turns = [{"role": r, "content": lines[start + i]} for i, r in enumerate(some)]
        messages = [Message(**turn) for turn in turns]
        expected = oracle.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert template.encode(messages, tokenizer=words) == expected, turns
    template.close()
