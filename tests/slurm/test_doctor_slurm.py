"""scalerl doctor on a real cluster: healthy, wrongly described, crowded, and with a runs folder that the
nodes do not share."""

from pathlib import Path

import pytest

from scalerl.cluster import doctor
from scalerl.cluster.site import load_site

CHECKS = [
    *(
        "python",
        "sandbox",
        "runs_dir",
        "slurm",
        "partition",
        "time limit",
        "nodes",
        "accounting",
        "account",
        "qos",
        "requeue",
        "arrays",
    ),
    *("submission", "shared folder", "clocks", "engines"),
]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


@pytest.fixture
def make_site(tmp_path):
    """make_site(**slurm): the test site, its runs in a new folder."""

    def make(container=(), **changes):
        site = load_site()
        slurm, steps = (
            site.slurm.model_copy(update=changes),
            site.steps.model_copy(update={"container": list(container)}),
        )
        return site.model_copy(update={"runs_dir": str(tmp_path / "runs"), "slurm": slurm, "steps": steps})

    return make


def examine(site):
    return {finding.name: finding for finding in doctor.examine(site)}


def test_the_test_site_is_healthy(make_site, tmp_path, capsys):
    code = doctor.main(
        make_site(container=["env"], account="research", qos="normal", setup=["export A='one two'"])
    )
    lines = capsys.readouterr().out.splitlines()
    assert code == 0, lines
    assert [line[5:].partition(":")[0] for line in lines] == CHECKS
    assert [line for line in lines if not line.startswith("ok ") and "GB free" not in line] == []
    assert "node1 and node2" in lines[CHECKS.index("shared folder")]
    assert list((tmp_path / "runs").iterdir()) == []


def test_wrong_hardware_is_named_with_what_there_is(make_site):
    findings = examine(make_site(gpu_type="h100"))
    assert findings["nodes"].level == findings["submission"].level == "FAIL"
    assert "no node of low has 4 GPUs of type h100" in findings["nodes"].text
    assert "4 of gpu:fake:4, 8 CPUs, 16 GiB" in findings["nodes"].text
    assert findings["two nodes"].text == "not checked"


def test_a_folder_that_nodes_do_not_share_fails(make_site, tmp_path):
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {tmp_path}/runs && exec "$@"', "sh"]
    findings = examine(make_site(container=hide))
    assert findings["shared folder"].level == "FAIL"
    assert "No such file or directory" in findings["shared folder"].text


def test_an_environment_that_does_not_start_fails(make_site):
    findings = examine(make_site(setup=["echo no modules here; exit 3"]))
    assert findings["two nodes"].level == "FAIL"
    assert findings["two nodes"].text == "no modules here"


def test_crowded_nodes_leave_the_probe_out(cluster, make_site, monkeypatch):
    job = cluster.submit("sleep 60", "--nodes=3", "--exclusive")
    cluster.wait_state(job, "RUNNING")
    monkeypatch.setattr(doctor, "IMMEDIATE_S", 2)
    findings = examine(make_site())
    assert (findings["two nodes"].level, findings["submission"].level) == ("warn", "ok")
    assert "no two nodes were free within 2 s" in findings["two nodes"].text


def test_a_probe_that_hangs_is_ended_with_its_tasks(cluster, make_site, monkeypatch):
    monkeypatch.setattr(doctor, "PROBE_S", 4)
    findings = examine(make_site(setup=["sleep 300"]))
    assert findings["two nodes"].level == "FAIL"
    cluster.wait_idle(deadline_s=30)
