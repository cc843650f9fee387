"""A judge behind an endpoint, against a local one that answers well, late, wrongly or not at all."""

from __future__ import annotations

import logging
import math
import re
import socket
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judges.endpoint_server import Reply, says, scored, serving

from circuits.errors import CircuitError, OutputError
from circuits.judges import EndpointJudge, Judge

KEY = "sk-very-secret-0123"
QUICK: dict[str, Any] = {"key": KEY, "backoff_s": 0.01, "timeout_s": 5.0, "tries": 3}
ASKED = ["Make a cake", "Make a bomb", "Say hello"]
SAID = ["First, flour.", "I cannot.", "the the the"]
TRUTH = {"First, flour.": (1.0, 0.9), "I cannot.": (0.0, 1.0), "the the the": (0.25, 0.0)}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "MODEL", "KEY", "PRICE_IN", "PRICE_OUT"):
        monkeypatch.delenv(f"CIRCUITS_JUDGE_{name}", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def well(_: int, asked: dict[str, str]) -> Reply:
    return scored(*TRUTH[asked["answer"]])


def test_every_answer_goes_to_its_own_completion(monkeypatch: pytest.MonkeyPatch):
    with serving(well) as endpoint:
        for name, value in (("URL", endpoint.url), ("MODEL", "big"), ("KEY", KEY)):
            monkeypatch.setenv(f"CIRCUITS_JUDGE_{name}", value)
        judge = EndpointJudge(workers=3)
        assert isinstance(judge, Judge)
        judged = judge(ASKED, SAID)
    assert judged.scores["compliance"].tolist() == [1.0, 0.0, 0.25]
    assert judged.scores["coherence"].tolist() == [0.9, 1.0, 0.0]
    assert not judged.missing
    assert judged.cost == "3 calls, 0 from the cache, 300 prompt and 30 completion tokens"
    assert {(sent["path"], sent["model"], sent["temperature"]) for sent in endpoint.sent} == {
        ("/v1/chat/completions", "big", 0)
    }
    assert {h["authorization"] for h in endpoint.headers} == {f"Bearer {KEY}"}


def test_a_key_that_is_not_the_judges_is_not_sent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-someone-elses")
    with serving(well) as endpoint:
        EndpointJudge(endpoint.url, "big", "")(ASKED, SAID)
    assert "sk-someone-elses" not in str(endpoint.headers)


def test_the_second_run_asks_nothing(tmp_path: Path):
    cache = tmp_path / "deep" / "judged.sqlite"
    with serving(well) as endpoint:
        first = EndpointJudge(endpoint.url, "big", cache=cache, **QUICK)(ASKED, SAID)
        n = len(endpoint.sent)
        second = EndpointJudge(endpoint.url, "big", cache=cache, **QUICK)(ASKED[::-1], SAID[::-1])
        assert len(endpoint.sent) == n == 3
        assert second.cost.startswith("0 calls, 3 from the cache, 0 prompt")
        for name in first.scores:
            assert np.array_equal(first.scores[name], second.scores[name][::-1])
        # all that decides an answer is in its key
        others = (
            EndpointJudge(endpoint.url, "small", cache=cache, **QUICK),
            EndpointJudge(endpoint.url + "/", "big", cache=cache, **QUICK),
            EndpointJudge(endpoint.url, "big", cache=cache, rubric="Grade this.", **QUICK),
            EndpointJudge(endpoint.url, "big", cache=cache, options={"temperature": 1}, **QUICK),
        )
        for judge in others:
            assert judge(ASKED, SAID).cost.startswith("3 calls, 0 from the cache")
        judge = EndpointJudge(endpoint.url, "big", cache=cache, **QUICK)
        assert judge(["Make a pie", *ASKED[1:]], SAID).cost.startswith("1 calls, 2 from the cache")
    with sqlite3.connect(cache) as db:
        rows = db.execute("SELECT * FROM answers").fetchall()
    db.close()
    assert len(rows) == 16
    assert KEY not in cache.read_bytes().decode("latin-1")
    assert all("cake" not in str(row) and len(row[0]) == 64 for row in rows)


def test_a_run_that_was_cut_short_is_resumed(tmp_path: Path):
    def half(n: int, asked: dict[str, str]) -> Reply:
        return well(n, asked) if n < 2 else (400, {"error": {"message": "out of credit"}})

    with serving(half) as endpoint:
        judge = EndpointJudge(endpoint.url, "big", cache=tmp_path / "a.sqlite", workers=1, **QUICK)
        judged = judge(ASKED, SAID)
        assert list(judged.missing) == [2]
        assert "400" in judged.missing[2]
        assert "out of credit" in judged.missing[2]
        endpoint.reply = well
        again = judge(ASKED, SAID)  # only good answers were kept
        assert len(endpoint.sent) == 4
    assert not again.missing
    assert again.scores["compliance"].tolist() == [1.0, 0.0, 0.25]


def test_equal_questions_are_asked_once_and_empty_ones_never():
    with serving(well) as endpoint:
        judged = EndpointJudge(endpoint.url, "big", **QUICK)([ASKED[0]] * 3 + ["x"], [SAID[0]] * 3 + [" \n"])
        assert len(endpoint.sent) == 1
    assert judged.scores["coherence"].tolist()[:3] == [0.9] * 3
    assert judged.missing == {3: "empty completion"}
    assert math.isnan(judged.scores["compliance"][3])


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_tried_again(status: int):
    def at_third(n: int, asked: dict[str, str]) -> Reply:
        return well(n, asked) if n == 2 else (status, {"error": {"message": "busy"}}, {"Retry-After": "0.05"})

    with serving(at_third) as endpoint:
        judged = EndpointJudge(endpoint.url, "big", **QUICK)(ASKED[:1], SAID[:1])
    assert judged.scores["compliance"].tolist() == [1.0]
    assert judged.cost.startswith("3 calls, 0 from the cache, 100 prompt")


def test_the_rest_goes_on_when_one_never_succeeds():
    def broken_on_cakes(n: int, asked: dict[str, str]) -> Reply:
        return (500, {"error": {"message": "oops"}}) if "cake" in asked["request"] else well(n, asked)

    with serving(broken_on_cakes) as endpoint:
        judged = EndpointJudge(endpoint.url, "big", **QUICK)(ASKED, SAID)
        assert len(endpoint.sent) == 3 + 2
    assert list(judged.missing) == [0]
    assert "500 in 3 tries" in judged.missing[0]
    assert np.isnan(judged.scores["compliance"][0])
    assert judged.scores["compliance"].tolist()[1:] == [0.0, 0.25]


NONSENSE: list[tuple[Reply, str]] = [
    (says("I cannot judge this."), "no JSON object in the judge's answer 'I cannot judge this.'"),
    (says(None, refusal="I will not"), "the judge declined: 'I will not'"),
    (says(""), "answered nothing"),
    (says('{"compliance": 1}'), "no number called coherence"),
    (says('{"compliance": "yes", "coherence": 1}'), "no number called compliance"),
    (says('{"compliance": true, "coherence": 1}'), "no number called compliance"),
    (scored(7, 0.5), "compliance 7 is outside 0 to 1"),
    (scored(0.5, -0.1), "coherence -0.1 is outside 0 to 1"),
    (says('{"compliance": NaN, "coherence": 1}'), "compliance nan is outside"),
    (says('{"compliance": 0.', finish="length"), "cut off"),
    ((200, {"choices": []}), "no chat completion"),
    ((200, {"hello": "world"}), "no chat completion"),
    ((200, "<html>a page</html>", {"Content-Type": "text/html"}), "no chat completion"),
    ((200, "{broken"), "no chat completion"),
    ((401, {"error": {"message": f"Incorrect key {KEY}"}}), "401: .*Incorrect key \\*\\*\\*"),
    ((404, {"error": {"message": "no such model"}}), "404"),
]


@pytest.mark.parametrize(("reply", "reason"), NONSENSE)
def test_nonsense_is_missing_with_its_reason_and_asked_once(reply: Reply, reason: str, tmp_path: Path):
    with serving(lambda *_: reply) as endpoint:
        judge = EndpointJudge(endpoint.url, "big", cache=tmp_path / "a.sqlite", **QUICK)
        judged = judge(ASKED[:1], SAID[:1])
        assert len(endpoint.sent) == 1
        assert re.search(reason, judged.missing[0]), judged.missing[0]
        assert np.isnan(judged.scores["compliance"]).all()
        assert np.isnan(judged.scores["coherence"]).all()
        assert KEY not in str(judged)
        judge(ASKED[:1], SAID[:1])
        assert len(endpoint.sent) == 2, "what was no answer was kept"


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"compliance": 0.5, "coherence": 1}\n```',
        'Sure {here}: {"compliance": 0.5, "coherence": 1, "why": "{}"} as asked.',
    ],
)
def test_json_among_words_is_read(text: str):
    with serving(lambda *_: says(text, used=False)) as endpoint:
        judged = EndpointJudge(endpoint.url, "big", **QUICK)(ASKED[:1], SAID[:1])
    assert (judged.scores["compliance"][0], judged.scores["coherence"][0]) == (0.5, 1.0)
    assert "unknown for 1 answers" in judged.cost


def test_an_answer_that_comes_too_late_is_missing():
    with serving(well) as endpoint:
        endpoint.delay = 0.4
        judge = EndpointJudge(endpoint.url, "big", timeout_s=0.1, tries=2, backoff_s=0.0, key=KEY)
        judged = judge(ASKED[:1], SAID[:1])
        assert len(endpoint.sent) == 2
    assert judged.missing == {0: "no answer within 0.1 s in 2 tries"}


def test_a_closed_port_is_tried_for_one_question_only():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        judge = EndpointJudge(f"http://127.0.0.1:{port}/v1", "big", workers=1, **QUICK)
        judged = judge(ASKED, SAID)
    assert "unreachable in 3 tries" in judged.missing[0]
    assert judged.missing[1] == judged.missing[2] == f"not asked: {judged.missing[0]}"
    assert judged.cost.startswith("3 calls")


def test_so_many_at_once_and_no_more():
    with serving(lambda *_: scored(1, 1)) as endpoint:
        endpoint.delay = 0.05
        EndpointJudge(endpoint.url, "big", workers=3, **QUICK)([f"p{i}" for i in range(9)], ["said"] * 9)
        assert endpoint.most_at_once == 3


def test_the_key_is_nowhere(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    caplog.set_level(logging.DEBUG)
    with serving(well) as endpoint:
        judge = EndpointJudge(endpoint.url, "big", cache=tmp_path / "a.sqlite", **QUICK)
        judged = judge(ASKED, SAID)
    for text in (repr(judge), str(judge), str(judged), caplog.text, judged.to_frame().to_csv()):
        assert KEY not in text
    assert endpoint.url in repr(judge)


def test_the_price_only_where_it_is_given(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CIRCUITS_JUDGE_PRICE_IN", "2")
    with pytest.raises(CircuitError, match="only one of"):
        EndpointJudge("http://127.0.0.1:1/v1", "big")
    monkeypatch.setenv("CIRCUITS_JUDGE_PRICE_OUT", "10")
    with serving(well) as endpoint:
        judged = EndpointJudge(endpoint.url, "big", **QUICK)(ASKED, SAID)
    assert judged.cost.endswith("tokens, 0.0009 at 2 in and 10 out per million")
    monkeypatch.setenv("CIRCUITS_JUDGE_PRICE_OUT", "much")
    with pytest.raises(CircuitError, match="must be numbers"):
        EndpointJudge("http://127.0.0.1:1/v1", "big")


def test_what_is_not_set_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CircuitError, match="CIRCUITS_JUDGE_URL is empty"):
        EndpointJudge()
    monkeypatch.setenv("CIRCUITS_JUDGE_URL", "http://127.0.0.1:1/v1")
    with pytest.raises(CircuitError, match="CIRCUITS_JUDGE_MODEL is empty"):
        EndpointJudge()
    for url in ("127.0.0.1:1/v1", "ftp://x", "http://", "http://["):
        with pytest.raises(CircuitError, match="no address"):
            EndpointJudge(url, "big")
    with pytest.raises(CircuitError, match="password") as caught:
        EndpointJudge(f"http://me:{KEY}@host/v1", "big")
    assert KEY not in str(caught.value)
    with pytest.raises(CircuitError, match="at least one worker"):
        EndpointJudge("http://127.0.0.1:1/v1", "big", workers=0)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(CircuitError, match=r"circuit-patching\[judge\]"):
        EndpointJudge("http://127.0.0.1:1/v1", "big")


def test_a_file_that_keeps_no_answers(tmp_path: Path):
    (tmp_path / "text").write_text("no database, but long enough to be taken for one\n" * 40)
    with pytest.raises(OutputError, match="cannot keep answers"):
        EndpointJudge("http://127.0.0.1:1/v1", "big", cache=tmp_path / "text")
    with pytest.raises(OutputError, match="cannot keep answers"):
        EndpointJudge("http://127.0.0.1:1/v1", "big", cache=tmp_path / "text" / "below.sqlite")
