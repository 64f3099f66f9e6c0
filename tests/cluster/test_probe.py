"""The doctor's probe: two tasks try out a shared file system, here as threads of one process."""

import json
import threading
import time

import pytest

from scalerl.cluster import probe


def run_both(folder):
    """The reports of both ranks, as threads of this process."""
    reports = {}

    def run(rank):
        reports[rank] = probe.probe(folder, rank, f"n{rank}")

    threads = [threading.Thread(target=run, args=[rank]) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [reports[0], reports[1]]


def test_two_tasks_on_a_good_file_system(tmp_path):
    (tmp_path / probe.INVITATION).touch()
    reports = run_both(tmp_path)
    assert sum(report.won for report in reports) == probe.NUM_CONTESTS
    assert [report.torn for report in reports] == [[], []]
    assert max(report.visible_s for report in reports) < 2


def test_writes_in_place_are_seen_as_torn(tmp_path, monkeypatch):
    (tmp_path / probe.INVITATION).touch()

    def write_in_place(path, value):
        with path.open("w") as file:
            for part in json.dumps(value).partition("]"):
                file.write(part)
                file.flush()
                time.sleep(0.002)

    monkeypatch.setattr(probe, "write_json", write_in_place)
    assert any(report.torn for report in run_both(tmp_path))


def test_a_task_says_whom_it_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "DEADLINE_S", 0.1)
    with pytest.raises(
        TimeoutError, match=f"n0: no sight of what the login node wrote to {tmp_path} within 0 s"
    ):
        probe.probe(tmp_path, 0, "n0")
    (tmp_path / probe.INVITATION).touch()
    with pytest.raises(TimeoutError, match="n0: no sight of what the other node wrote"):
        probe.probe(tmp_path, 0, "n0")
