"""The reason that each rule of the grader gives, and that a rule is quick whatever a response holds."""

import time

import pytest

from scalerl.tasks.answers import Answer, find_answer
from scalerl.tasks.grading.rules import judge
from scalerl.verify.pool import VerifierPool


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(num_workers=1, timeout_s=2) as pool:
        yield pool


@pytest.mark.parametrize(
    ("completion", "reference", "reason"),
    [
        ("7-4", "3", "unevaluated"),
        ("\\boxed{\\sum_{n=1}^{100} n}", "5050", "unevaluated"),
        ("\\boxed{\\gcd(84,126)}", "42", "unevaluated"),
        ("\\boxed{36/2}", "18", "unevaluated"),
        ("\\boxed{(x+1)^3}", "x^3+3x^2+3x+1", "unevaluated"),
        ("\\boxed{x^2+3x+2}", "(x+1)(x+2)", "unevaluated"),
        ("\\boxed{\\frac{x^2-1}{x-1}}", "x+1", "unevaluated"),
        ("\\boxed{\\sqrt{2}+\\sqrt{2}}", "2\\sqrt{2}", "unevaluated"),
        ("\\boxed{e^{i\\pi/2}}", "i", "unevaluated"),
        ("\\boxed{2^{10}}", "2^{10}", "equal"),
        ("\\boxed{4^5}", "2^{10}", "equal"),
        ("\\boxed{1e-20}", "6.6e-34", "different"),
        ("\\boxed{10^{-20}x}", "10^{-30}x", "different"),
        ("\\boxed{0.333333}", "\\frac13", "inexact"),
        ("\\boxed{3.1415926535}", "\\pi", "different"),
        ("\\boxed{x \\approx 5}", "5", "inexact"),
        ("\\boxed{BA}", "AB", "other_text"),
        ("\\boxed{(B) 7}", "(D)", "other_text"),
        ("\\boxed{3 \\text{ m}}", "3 \\text{ km}", "other_unit"),
        ("\\boxed{5 \\text{ cents}}", "\\$5", "other_unit"),
        ("\\boxed{20\\%}", "20 \\text{ miles}", "other_unit"),
        ("\\boxed{5 \\text{ million}}", "5", "different"),
        ("\\boxed{4=5}", "5", "several_answers"),
        ("It could be 1, 2, 3, 4, 5", "5", "several_answers"),
        ("#### 4 or 5", "5", "several_answers"),
        ("First 5 dogs; 6 cats.", "5", "several_answers"),
        ("\\boxed{12_6}", "12_5", "different"),
    ],
)
def test_every_rule_gives_its_reason(pool, completion, reference, reason):
    verdict = pool.submit(completion, reference).result(30)
    assert (verdict.reason, verdict.correct) == (reason, reason == "equal")


def test_numbers_and_words_need_no_algebra():
    for text, reference in [
        ("1 1/2", "\\frac32"),
        ("12\\,345", "12345"),
        ("0.\\overline{3}", "1/3"),
        ("1.6e-19", "1.6 \\times 10^{-19}"),
        ("Evelyn", "\\text{Evelyn}"),
        ("\\textbf{(D)} 7", "D"),
        ("5 \\text{ million}", "5000000"),
    ]:
        verdict = judge(Answer(text, boxed=True), reference)
        assert verdict is not None and verdict.correct, text


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize(
    "unit",
    [
        "1,",
        "1 ",
        "{",
        "\\frac",
        "\\text{",
        "a b ",
        "and ",
        "a, and ",
        "$ ",
        "=",
        "1=",
        "(1",
        "^'",
        " ",
        "-",
        "*",
        "1.",
        "answer is ",
        "√",
        "\\begin{pmatrix}",
        "\\\\",
        "5 or ",
        "e1",
        "'",
    ],
)
def test_the_rules_are_quick_whatever_stands_there(unit, boxed):
    text = unit * (9_900 // len(unit)) + "x"
    answer = Answer(text, boxed=True) if boxed else find_answer(text)
    assert answer is not None
    begin_s = time.process_time()
    for reference in ("5", "x^2", "\\text{odd}", "\\text{(C)}", "12_5", "[0,1)"):
        judge(answer, reference)
    assert time.process_time() - begin_s < 1
