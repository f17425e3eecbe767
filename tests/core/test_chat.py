"""Chat templates: what they write, and that a hostile one does nothing."""

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from andon.core.data import chat as tested
from andon.core.data.chat import (
    CPU_SECONDS,
    ChatError,
    ChatTemplate,
    Conversation,
    Request,
    Turn,
    render,
    render_requests,
    render_turns,
)
from andon.core.formats.chat_template import load_template

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TALK = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "four"},
    {"role": "user", "content": "unanswered"},
]


def template(source: str, **tokens: str) -> ChatTemplate:
    """A template as it would come with a model."""
    return ChatTemplate(source, tokens, "model/chat_template.jinja")


def said(source: str, messages: Any = TALK) -> dict[str, Any]:
    """What the renderer answers, in this process."""
    return render_requests({"templates": [source] * 2, "tokens": {}, "requests": [[messages, False, None, {}]]})


@pytest.mark.tier2
def test_answers_are_learned_and_all_else_is_read() -> None:
    """Behavior: turn by turn, the assistant's header belongs to the prompt, and what follows the last answer goes."""
    (found,) = render_turns(template(CHATML), [Conversation("a.jsonl:1", TALK)])
    assert found == [
        Turn("<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n", learned=False),
        Turn("two<|im_end|>\n", learned=True),
        Turn("<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n", learned=False),
        Turn("four<|im_end|>\n", learned=True),
    ]


@pytest.mark.tier3
def test_conversations_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: each conversation gets its own turns, also where several processes render them."""
    monkeypatch.setattr(tested, "CONVERSATIONS_PER_PROCESS", 2)
    talks = [Conversation(f"a.jsonl:{n}", [{"role": "assistant", "content": str(n)}] * (n + 1)) for n in range(5)]
    found = render_turns(template("{% for message in messages %}{{ message.content }}{% endfor %}"), talks)
    assert [[str(n)] * (n + 1) for n in range(5)] == [[turn.text for turn in each if turn.learned] for each in found]


@pytest.mark.tier1
def test_writes_what_transformers_would() -> None:
    """Behavior: named tokens, `tojson` that keeps letters, `{% break %}` and `{% generation %}` are as there."""
    source = "{{ bos_token }}{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{% generation %}\n"
    source += "{{ m | tojson }}{% endgeneration %}{% endfor %}"
    messages = [{"role": "é"}, {"role": "b"}]
    content = {
        "templates": [source] * 2,
        "tokens": {"bos_token": "<s>"},
        "requests": [[messages, True, None, {}]],
    }
    assert {"texts": ['<s>{"role": "é"}']} == render_requests(content)


@pytest.mark.tier1
def test_what_is_learned_does_not_depend_on_the_day() -> None:
    """Behavior: a template that asks for today's date takes its other branch."""
    assert {"texts": ["none"]} == said("{{ strftime_now('%d') if strftime_now is defined else 'none' }}")


@pytest.mark.tier1
@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({'role': 'system', 'content': 'mine'}) }}",
        "{{ cycler.__init__.__globals__.os.popen('touch owned').read() }}",
        "{{ self._TemplateReference__context.environment.globals.update({}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system('touch owned') }}",
        "{{ raise_exception.__globals__ }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{{ '\\ud800' }}",
    ],
)
def test_hostile_template_does_nothing(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: what reaches for the interpreter, files or the conversation itself is an error and leaves no trace."""
    monkeypatch.chdir(tmp_path)
    talk = [dict(message) for message in TALK]
    found = said(source, talk)
    assert "error" in found or "Undefined" in found["texts"][0] or found["texts"] == [""], found
    assert talk == TALK
    assert [] == list(tmp_path.iterdir())


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "took more than 1 s"),
        ("{{ 7 ** 9999999999 }}", "took more than 1 s"),
        ("{% set x = namespace(v='aa') %}{% for i in range(60) %}{% set x.v = x.v ~ x.v %}{% endfor %}", "MemoryError"),
        ("{{ ('a' * 3 * 10 ** 9) | length }}", "MemoryError"),
        ("{{ ('%3000000000d' % 1) | length }}", "MemoryError"),
        ("{% for i in range(50) %}{{ 'a' * 99999 }}{% endfor %}", "more than 4,194,304 characters"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
    ],
)
def test_template_without_end_is_stopped(source: str, complaint: str) -> None:
    """Behavior: time, memory and output are bounded; the error names the template and the next step."""
    with pytest.raises(ChatError, match=r"model/chat_template.jinja: the chat template .*--chat-template") as caught:
        render(
            template(source),
            [Request(Conversation("a.jsonl:1", TALK), len(TALK), header=False)],
            seconds=1 if "1 s" in complaint else CPU_SECONDS,
        )
    assert complaint in str(caught.value)


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{% for %}", "TemplateSyntaxError: line 1"),
        ("{{ raise_exception('roles must alternate') }}", "TemplateError: roles must alternate, for a.jsonl:2"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{{ messages | length }}", "changes a turn once another follows, for a.jsonl:1"),
    ],
)
def test_template_that_fails_is_named(source: str, complaint: str) -> None:
    """Behavior: a template's own complaint comes with file, line and the sample that it was about."""
    talks = [Conversation("a.jsonl:1", TALK), Conversation("a.jsonl:2", TALK)]
    if "raise" in source:
        source = "{% if messages[0].content == 'odd' %}" + source + "{% endif %}"
        talks[1] = Conversation("a.jsonl:2", [{"role": "user", "content": "odd"}, *TALK[1:]])
    with pytest.raises(ChatError) as caught:
        render_turns(template(source), talks)
    assert str(caught.value).startswith("model/chat_template.jinja: the chat template ")
    assert complaint in str(caught.value)


@pytest.mark.tier1
def test_conversation_without_an_answer_is_named() -> None:
    """Behavior: a conversation in which nobody answers is refused by file and line."""
    with pytest.raises(ChatError, match=r"a\.jsonl:7: holds no message with the role 'assistant'"):
        render_turns(template(CHATML), [Conversation("a.jsonl:7", TALK[:1])])


@pytest.mark.tier1
def test_template_is_found_where_models_keep_it(tmp_path: Path) -> None:
    """Behavior: chat_template.jinja goes before tokenizer_config.json; of several there, the default one is taken."""
    assert load_template(tmp_path) is None
    fields: dict[str, Any] = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    assert load_template(tmp_path) is None
    fields["chat_template"] = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    assert load_template(tmp_path) == ChatTemplate("d", tokens, str(tmp_path / "tokenizer_config.json"))
    (tmp_path / "chat_template.jinja").write_text("j")
    assert load_template(tmp_path) == ChatTemplate("j", tokens, str(tmp_path / "chat_template.jinja"))
    file = tmp_path / "chat_template.jinja"
    assert load_template(file) == ChatTemplate("j", {}, str(file))


@pytest.mark.tier2
def test_template_of_a_gguf_file(tmp_path: Path) -> None:
    """Behavior: a GGUF file's template comes with the names of its first and last token; without one there is none."""
    for name, chat in (("plain", None), ("chat", "{{ eos_token }}")):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        writer.add_token_list(["a", "<end>"])
        writer.add_eos_token_id(1)
        writer.add_tensor("x", np.zeros(1, np.float32))
        if chat:
            writer.add_chat_template(chat)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    assert load_template(tmp_path / "plain.gguf") is None
    path = tmp_path / "chat.gguf"
    assert load_template(path) == ChatTemplate("{{ eos_token }}", {"eos_token": "<end>"}, str(path))


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not valid JSON"),
        ("[]", "is not a JSON object"),
        ('{"chat_template": 3}', "chat_template is not text"),
        ('{"chat_template": "\\ud800"}', "chat_template is not text"),
    ],
)
def test_damaged_configuration_is_named(content: str, complaint: str, tmp_path: Path) -> None:
    """Behavior: a tokenizer_config.json that cannot be read is named, and so is a template that is not text."""
    path = tmp_path / "tokenizer_config.json"
    path.write_text(content)
    with pytest.raises(ChatError, match=f"{path.name}: {complaint}"):
        load_template(tmp_path)


@pytest.mark.tier1
def test_absent_template_is_named(tmp_path: Path) -> None:
    """Behavior: a file that is not there, or is not text, is refused by name."""
    with pytest.raises(ChatError, match=r"absent\.jinja: cannot be read"):
        load_template(tmp_path / "absent.jinja")
    (tmp_path / "binary.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ChatError, match=r"binary\.jinja: is not text"):
        load_template(tmp_path / "binary.jinja")
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ChatError, match=r"tokenizer_config\.json: is not text"):
        load_template(tmp_path)


@pytest.mark.tier2
def test_template_of_a_gguf_file_must_be_text(tmp_path: Path) -> None:
    """Behavior: a number in its place is refused by file and key."""
    path, key = tmp_path / "m.gguf", b"tokenizer.chat_template"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + struct.pack("<IB", 0, 7))
    with pytest.raises(ChatError, match=r"m\.gguf: tokenizer\.chat_template is not text; name a \.jinja file"):
        load_template(path)


@pytest.mark.tier2
def test_template_whose_process_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: where the limits within the process do not end it, its time from outside does."""

    def hang(command: list[str], *, timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(ChatError, match="the chat template did not end within 27 s; name another"):
        render(template(CHATML), [Request(Conversation("a.jsonl:1", TALK), len(TALK), header=False)], seconds=3)


@pytest.mark.tier2
def test_tools_reach_the_template() -> None:
    """Behavior: a line's tools are told to the template, to the one for tools where the model has two."""
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with_tools = "{{ tools[0].name }}:" + source
    talk = Conversation("a.jsonl:1", TALK[:2], [{"name": "get_tide"}])
    plain = Conversation("a.jsonl:2", TALK[:2])
    for given in (
        template("{% if tools %}{{ tools[0].name }}:{% endif %}" + source),
        template(source)._replace(tool_use=with_tools),
    ):
        found = render_turns(given, [talk, plain])
        assert ["get_tide:one", "one"] == [turns[0].text for turns in found]


@pytest.mark.tier2
def test_a_template_that_reads_no_tools_is_refused() -> None:
    """Behavior: tools and calls of them would be left out without an error, so the line and the key are named."""
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ChatError, match=r"does not read 'tools', which a\.jsonl:1 gives; name another"):
        render_turns(template(source), [Conversation("a.jsonl:1", TALK[:2], [{"name": "get_tide"}])])
    call = [TALK[0], {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "get_tide"}}]}]
    with pytest.raises(ChatError, match=r"does not read 'tool_calls', which a\.jsonl:2 gives"):
        render_turns(template(source), [Conversation("a.jsonl:2", call)])


@pytest.mark.tier2
def test_an_answer_of_weight_0_is_context() -> None:
    """Behavior: it is read by what follows and not learned; one at the end is left out, and none left is refused."""
    weighed = [message | ({"weight": 0} if message["content"] == "two" else {}) for message in TALK]
    (found,) = render_turns(template(CHATML), [Conversation("a.jsonl:1", weighed)])
    assert ["four<|im_end|>\n"] == [turn.text for turn in found if turn.learned]
    assert "two" in found[0].text
    assert "weight" not in render(template("{{ messages }}"), [Request(Conversation("x", weighed), 4, header=False)])[0]
    last = [message | ({"weight": 0} if message["content"] == "four" else {}) for message in TALK]
    assert "four" not in "".join(turn.text for turn in render_turns(template(CHATML), [Conversation("x", last)])[0])
    none = [message | ({"weight": 0} if message["role"] == "assistant" else {}) for message in TALK]
    with pytest.raises(ChatError, match="x: holds only messages of weight 0 with the role 'assistant'"):
        render_turns(template(CHATML), [Conversation("x", none)])


@pytest.mark.tier2
def test_messages_are_told_as_transformers_tells_them() -> None:
    """Reference: keys without a value are left out, reasoning goes by the name templates read, and more is told."""
    talk = [{"role": "assistant", "content": "a", "thinking": "why", "name": None}]
    asked = Conversation("x", talk, None, {"enable_thinking": False})
    source = "{{ messages[0].reasoning_content }},{{ messages[0].name is defined }},{{ enable_thinking }}"
    assert ["why,False,False"] == render(template(source), [Request(asked, 1, header=False)])


@pytest.mark.tier2
def test_a_template_that_must_have_the_date_is_told_why_not() -> None:
    """Behavior: one that calls strftime_now regardless is refused with the reason and the next step."""
    asked = Request(Conversation("x", TALK), 1, header=False)
    with pytest.raises(ChatError, match=r"asks for today's date \(strftime_now\).*depend on the day.*--chat-template"):
        render(template("{%- set today = strftime_now('%d') %}{{ today }}"), [asked])


@pytest.mark.tier1
def test_several_templates_need_a_default(tmp_path: Path) -> None:
    """Behavior: of named templates, the one for tools is kept beside the default one, without which none is taken."""
    entries = [{"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": entries}))
    with pytest.raises(ChatError, match="chat_template has no default among tool_use, rag"):
        load_template(tmp_path)
    entries.append({"name": "default", "template": "d"})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": entries}))
    found = load_template(tmp_path)
    assert found is not None
    assert ("d", "t") == (found.source, found.tool_use)
