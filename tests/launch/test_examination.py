"""Preflight in a run: when it is held, what comes of its verdict, and that it may be killed at any point."""

import os
import signal
import threading

import pytest
from scripted_roles import processes_of, wait_until

from scalerl.cli import main
from scalerl.common.files import read_json
from scalerl.config import RunConfig
from scalerl.launch import examination
from scalerl.launch.supervisor import preflight, run
from scalerl.paths import RunPaths
from scalerl.preflight.report import Finding, Report, read_report, write_report

ROLES = """
exam = arguments.get("--exam")
if exam is None:
    (folder / f"{role}-worked").touch()
    if role == "trainer":
        while not (folder / "generator-worked").exists():
            time.sleep(0.01)
        end()
else:
    assert not (folder / f"{role}-worked").exists()
    assert exam != "reference" or (folder / "preflight" / "trainer.json").exists()
    (folder / "preflight").mkdir(exist_ok=True)
    write(folder / "preflight" / f"{exam}.json", "{}")
    sys.exit(0)
"""
FIGURES = {"samples": {"pass_rate": 0.25, "completions": 64}}
POOR = Finding(refuses=False, text="the pass rate is low")


@pytest.fixture
def verdict(monkeypatch) -> list[Finding]:
    """What the judge will find, to be filled by the test."""
    findings: list[Finding] = []

    def judge(config: RunConfig, paths: RunPaths, on_cpu: bool) -> Report:
        report = Report.of(findings, form=config.launch.preflight, figures=FIGURES)
        write_report(paths, report)
        return report

    monkeypatch.setattr(examination, "judge", judge)
    return findings


@pytest.fixture
def config(make_config) -> RunConfig:
    return make_config("launch.preflight=short")


def exams(paths: RunPaths) -> list[str]:
    """The logs of all exams held so far."""
    return sorted(f"{log.parent.name}/{log.stem}" for log in paths.logs.glob("[0-9]*/*-exam.log"))


def test_a_run_is_examined_once(paths, make_config, config, script_roles, verdict, capsys):
    script_roles(ROLES)
    verdict.append(POOR)
    assert run(config, paths) == 0
    assert exams(paths) == [
        f"0001/{name}-exam" for name in ("generator-0", "reference", "trainer-0", "trainer-1")
    ]
    roles = [interval["role"] for interval in read_json(paths.compute)["intervals"]]
    assert roles.count("trainer") == 4 and roles.count("generator") == 3  # reference: in a generator's place
    assert (
        "preflight: warn, pass rate 0.250 of 64 completions; the pass rate is low" in capsys.readouterr().out
    )
    paths.status.unlink()
    assert run(config, paths) == 0
    # the other runs of a sweep are on the same model; an axis of losses needs no new exam
    beside = RunPaths(paths.root.parent / "beside")
    assert run(make_config("launch.preflight=short", "algo.loss_type=dapo"), beside) == 0
    assert exams(beside) == [] and len(exams(paths)) == 4
    assert beside.certificate.read_text() == paths.certificate.read_text()
    assert capsys.readouterr().out.count("preflight: passed already") == 2


@pytest.mark.parametrize(
    "change", ["algo.temperature=0.7", "length.max_solution_tokens=9", "launch.preflight=full"]
)
def test_what_preflight_depends_on_needs_a_new_one(paths, make_config, config, script_roles, verdict, change):
    script_roles(ROLES)
    assert run(config, paths) == 0
    beside = RunPaths(paths.root.parent / "beside")
    assert run(make_config("launch.preflight=short", change), beside) == 0
    assert len(exams(beside)) == 4


def test_a_changed_model_needs_a_new_one(paths, config, script_roles, verdict, tmp_path):
    script_roles(ROLES)
    assert run(config, paths) == 0
    (tmp_path / "model" / "config.json").write_text('{"vocab_size": 3}')
    paths.status.unlink()
    (paths.root / "trainer-worked").unlink()
    (paths.root / "generator-worked").unlink()
    assert run(config, paths) == 0
    assert len(exams(paths)) == 8


def test_a_refused_run_trains_nothing(config, script_roles, verdict, tmp_path, capsys):
    script_roles(ROLES)
    paths = RunPaths(tmp_path / "sweep" / "run")
    verdict += [POOR, Finding(refuses=True, text="nothing was right: set data.instruction")]
    for number in (1, 2):
        assert run(config, paths) == 1
        assert len(exams(paths)) == 4 * number, "it is judged anew"
    status = read_json(paths.status)
    assert status["state"] == "failed"
    assert status["reason"].startswith("preflight refuses the run: nothing was right: set data.instruction (")
    assert "launch.preflight=off trains all the same" in status["reason"]
    capsys.readouterr()
    assert main(["status", str(paths.root.parent)]) == 0
    assert "preflight refuses the run: nothing was right" in capsys.readouterr().out
    assert not (paths.root / "trainer-worked").exists() and not paths.certificate.exists()
    assert processes_of(paths) == []


def test_an_exam_that_fails_says_why(paths, config, script_roles, verdict):
    script_roles(
        """
        if "--exam" in arguments and role == "generator":
            print("ValueError: prompt p has 40 tokens; raise length.max_prompt_tokens")
            sys.exit(1)
        """
    )
    assert run(config, paths) == 1
    reason = read_json(paths.status)["reason"]
    assert "generator-0-exam failed: ValueError: prompt p has 40 tokens; raise length.max_prom" in reason
    report = read_report(paths)
    assert (
        report is not None
        and report.verdict == "refuse"
        and "raise length.max_prompt_tokens" in report.reasons[0]
    )
    assert processes_of(paths) == []


def test_an_exam_that_hangs_ends_at_its_deadline(paths, make_config, script_roles, verdict):
    script_roles("")
    config = make_config("launch.preflight=short", "launch.preflight_deadline_s=0.5")
    assert run(config, paths) == 1
    assert "took over 0 s (launch.preflight_deadline_s)" in read_json(paths.status)["reason"]
    assert processes_of(paths) == []


def test_an_exam_of_code_zero_without_figures_is_none(paths, config, script_roles, verdict):
    script_roles('if "--exam" in arguments: sys.exit(0)')
    assert run(config, paths) == 1
    assert "-exam failed" in read_json(paths.status)["reason"]


def test_a_run_interrupted_in_its_preflight_goes_on(paths, config, script_roles, verdict):
    script_roles("")

    def interrupt() -> None:
        wait_until(lambda: len(exams(paths)) == 3, "the exams")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert run(config, paths) == 130
    thread.join()
    assert read_json(paths.status)["state"] == "stopped"
    assert processes_of(paths) == []
    (paths.preflight).mkdir(exist_ok=True)
    paths.exam("generator").touch()  # what a killed one may leave
    script_roles(ROLES)
    assert run(config, paths) == 0
    assert not paths.exam("generator").exists() and paths.certificate.exists()


def test_preflight_alone_starts_no_role(paths, make_config, script_roles, verdict):
    script_roles(ROLES)
    config = make_config("launch.preflight=full")
    report = preflight(config, paths)
    assert report is not None and report.verdict == "pass"
    assert not (paths.root / "trainer-worked").exists()
    assert run(make_config("launch.preflight=short"), paths) == 0
    assert len(exams(paths)) == 4, "the run has its certificate"


def test_preflight_alone_refuses_bad_inputs(paths, make_config, tmp_path):
    (tmp_path / "model" / "config.json").write_text('{"quantization_config": {"quant_method": "fp8"}}')
    report = preflight(make_config("launch.preflight=full"), paths)
    assert report is not None and report.verdict == "refuse"
    assert "is quantised (fp8)" in report.reasons[0] and not paths.root.exists()
