"""What scalerl makes of Slurm's words, without a Slurm; tests/slurm asks a real one."""

import pytest

from scalerl.cluster import slurm


@pytest.mark.parametrize(
    ("restarts", "state", "reason", "preempted", "expected"),
    [
        (0, "RUNNING", "None", "None", None),
        (0, "RUNNING", "None", "1795524497", slurm.PREEMPTING),
        (0, "SIGNALING", "None", "None", None),  # the warning before the time limit is on its way
        (0, "SIGNALING", "None", "1795524497", slurm.PREEMPTING),
        (0, "SUSPENDED", "None", "None", None),
        (0, "COMPLETING", "TimeLimit", "None", slurm.TIMEOUT),
        (0, "COMPLETING", "None", "None", "COMPLETING"),
        (0, "CANCELLED", "None", "None", "CANCELLED"),
        (1, "RUNNING", "None", "None", "REQUEUED"),
    ],
)
def test_only_a_job_that_loses_its_nodes_is_ending(monkeypatch, restarts, state, reason, preempted, expected):
    told = f"JobId=7 JobState={state} Reason={reason} Restarts={restarts} PreemptTime={preempted}"
    monkeypatch.setattr(slurm, "call", lambda *command: told)
    assert slurm.ending("7", restarts=0) == expected
