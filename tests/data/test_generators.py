"""`scalerl prepare --generate`: what its argument says, and problems of the real reasoning_gym."""

import json
import math
import re

import pytest

from scalerl.cli import main
from scalerl.data.generators import generate, parse_arguments
from scalerl.data.prepare import SPLITS, Split, prepare_generated
from scalerl.data.problem import load_problems
from scalerl.data.reasoning_gym import check_arguments

pytestmark = pytest.mark.filterwarnings("ignore::SyntaxWarning")  # of a library of the package


@pytest.mark.parametrize(
    ("text", "dataset", "arguments"),
    [
        ("", "", {}),
        ("chain_sum", "chain_sum", {}),
        ("chain_sum,min_terms=3, max_terms = 4", "chain_sum", {"min_terms": 3, "max_terms": 4}),
        (
            "a,b=true,c=0.5,d=x y,e=[1, 2],f='p, q'",
            "a",
            {"b": True, "c": 0.5, "d": "x y", "e": [1, 2], "f": "p, q"},
        ),
        ("min_steps=2", "", {"min_steps": 2}),
    ],
)
def test_arguments(text, dataset, arguments):
    assert parse_arguments(text) == (dataset, arguments)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("arithmetics", "there is no generator 'arithmetics'; did you mean arithmetic"),
        ("x", "there is no generator 'x'; there are arithmetic, reasoning_gym, word_problems"),
        ("arithmetic:chain", "it has no data sets; write arithmetic alone"),
        ("arithmetic:min_step=2", "no key 'min_step'; did you mean min_steps"),
        ("arithmetic:min_steps=two", "min_steps='two', where a whole number is wanted"),
        (
            "reasoning_gym:chain_sum,max_digits",
            "'chain_sum,max_digits' is one data set followed by key=value",
        ),
        ("reasoning_gym:gcd,min_value=1,min_value=2", "min_value is given twice"),
        ("reasoning_gym:chain_sums", "there is no data set 'chain_sums'; did you mean chain_sum"),
    ],
)
def test_a_bad_order_is_refused(tmp_path, order, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare_generated(tmp_path / "data", order, count=1, heldout_fraction=0.1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        ("", {}, "there is no data set ''; there are ab, "),
        ("chain_sum", {"min_term": 3}, "chain_sum has no key 'min_term'; did you mean min_terms"),
        ("chain_sum", {"seed": 3}, "seed is said by --seed"),
        ("chain_sum", {"size": 3}, "size is said by --count"),
        (
            "chain_sum",
            {"min_terms": "x"},
            "min_terms='x': a value of type int is wanted, such as its default 2",
        ),
        ("chain_sum", {"allow_negation": 1}, "allow_negation=1: a value of type bool is wanted"),
        ("chain_sum", {"min_terms": 9}, "chain_sum refuses {'min_terms': 9}: max_terms must be >= min_terms"),
        ("composite", {}, "composite refuses {}: Must specify at least one dataset"),
        ("arc_agi", {"board_format_opts": 1}, "a value of type BoardFormattingOptions is wanted"),
    ],
)
def test_bad_arguments_of_a_data_set_are_refused(dataset, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_arguments(dataset, arguments)


def test_a_bad_count_or_seed_is_refused(tmp_path):
    for count, seed in ((0, 0), (1, -1)):
        with pytest.raises(ValueError, match="give at least 1, and 0 or more"):
            generate("reasoning_gym:gcd", count=count, seed=seed)


def test_without_the_package_prepare_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"`make setup`, or `pip install 'scalerl\[tasks\]'`"):
        generate("reasoning_gym:gcd", count=1, seed=0)


def test_a_prepared_set_of_reasoning_gym(tmp_path, capsys):
    """Prompts and answers by an independent reading: the arithmetic of the prompt itself."""
    order = "reasoning_gym:chain_sum,min_terms=3,max_terms=4"
    command = ["prepare", "--generate", order, "--count", "60", "--heldout-fraction", "0.2"]
    command += ["--test-fraction", "0.1", "--output"]
    main([*command, str(tmp_path / "a")])
    main([*command, str(tmp_path / "b")])
    assert "reasoning_gym:chain_sum" in capsys.readouterr().out
    problems = {}
    split = Split(heldout_fraction=0.2, test_fraction=0.1)
    for name in SPLITS:
        files = [tmp_path / folder / f"{name}.parquet" for folder in ("a", "b")]
        assert files[0].read_bytes() == files[1].read_bytes()
        for problem in load_problems(files[0]):
            assert split.of(problem.prompt) == name
            problems[problem.prompt] = problem
    assert len(problems) == 60
    for prompt, problem in problems.items():
        assert (problem.task, problem.source) == ("reasoning_gym", "reasoning_gym:chain_sum")
        chain = re.fullmatch(r"State the final answer to .* problem: (.*) =", prompt)[1]
        terms = re.sub(r"([+-]) ", r"\1", chain).split()
        assert len(terms) in (3, 4)
        reference = json.loads(problem.answer)
        assert reference["arguments"] == {"min_terms": 3, "max_terms": 4}
        assert reference["entry"]["answer"] == str(sum(map(int, terms)))


def test_seeds_share_next_to_nothing():
    """Entry i of the package is drawn from its seed + i: neighbours would share all entries but one."""
    sets = []
    for seed in (0, 1, 0):
        _, (problems, _) = generate("reasoning_gym:gcd", count=50, seed=seed)
        for problem in problems:
            numbers = map(int, re.findall(r"\d+", problem.prompt))
            assert json.loads(problem.answer)["entry"]["answer"] == str(math.gcd(*numbers))
        sets.append([problem.prompt_id for problem in problems])
    assert sets[0] == sets[2]
    assert len(set(sets[0]) & set(sets[1])) <= 2


def test_the_hashes_of_texts_change_nothing(monkeypatch):
    """This data set draws from a set of words: without care every process has an order of its own."""
    sets = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        sets.append(generate("reasoning_gym:ransom_note", count=5, seed=0))
    assert sets[0] == sets[1]


def test_duplicates_are_replaced_and_counted(tmp_path):
    """Two digits and a sign make 200 different prompts."""
    order = "reasoning_gym:chain_sum,max_terms=2,max_digits=1"
    report = prepare_generated(tmp_path, order, count=150, heldout_fraction=0.1)
    entry = json.loads((tmp_path / "report.json").read_text())["inputs"][0]
    assert report.train + report.heldout == 150
    assert entry["dropped"]["duplicate"]["count"] > 0
    assert entry["rows"] == 150 + entry["dropped"]["duplicate"]["count"]
    assert entry["kept"] == 150
    with pytest.raises(
        ValueError, match=r"200 different prompts is all that turned up .* ask for fewer, or widen"
    ):
        generate(order, count=201, seed=0)
