"""Messages: names, escapes, and a result that can stand in a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postern_sidecar.config.templates import MAX_TEXT, TemplateError, compile_template
from postern_sidecar.config.vocabulary import ABSENT, Variable

VALUES: dict[str, Variable] = ABSENT | {
    "sender_host_address": "192.0.2.4",
    "sender_host_port": 40211,
    "proxy_session": True,
    "proxy_authority": "ä\r\n250 ok\x7f",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${sender_host_address}:${sender_host_port}", "192.0.2.4:40211"),
        ("${sender_host_name} [${sender_host_address}]", " [192.0.2.4]"),
        ("${proxy_session} ${proxy_failed}", "yes no"),
        ("$${sender_host_name}", "${sender_host_name}"),
        ("$$${sender_host_address}", "$${sender_host_address}"),
        ("$5 and $$ and { }", "$5 and $$ and { }"),
        ("<${proxy_authority}>", r"<\xc3\xa4\x0d\x0a250 ok\x7f>"),
        ("Grüße", r"Gr\xc3\xbc\xc3\x9fe"),
    ],
)
def test_text(text: str, expected: str) -> None:
    assert compile_template(text).fill(VALUES) == expected


def test_names() -> None:
    assert compile_template("a ${proxy_session} ${proxy_session} $${proxy_failed}").names == {"proxy_session"}


def test_all_problems_at_once() -> None:
    with pytest.raises(TemplateError) as caught:
        compile_template("${sender_host_nam} ${} ${1 + 1} ${proxy_failed")
    assert [message for message, _ in caught.value.problems] == [
        "unknown variable 'sender_host_nam'",
        "unknown variable ''",
        "unknown variable '1 + 1'",
        "${ without its }",
    ]
    assert "did you mean sender_host_name?" in caught.value.problems[0][1]
    assert "unknown variable ''; " in str(caught.value)


@given(st.text(max_size=500))
def test_the_result_is_printable_and_bounded(value: str) -> None:
    text = compile_template("${proxy_authority}").fill(VALUES | {"proxy_authority": value})
    assert len(text) <= MAX_TEXT
    assert all(" " <= character <= "~" for character in text)


def test_an_escape_is_never_cut() -> None:
    for padding in range(4):
        text = compile_template("${proxy_authority}").fill({"proxy_authority": "x" * padding + "\n" * 300})
        assert text == "x" * padding + r"\x0a" * ((MAX_TEXT - padding) // 4)
