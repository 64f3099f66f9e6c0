"""Evaluation requests: answered once, oldest first."""

import pytest
from factories import make_request

from scalerl.spool.evaluations import answer_evaluation, pending_evaluations, request_evaluation

pytestmark = pytest.mark.usefixtures("run_folder")


def test_evaluation_requests_are_answered_once(paths):
    request_evaluation(paths, make_request(20, name="00000020-b"))
    request_evaluation(paths, make_request(0, name="00000000-a"))
    assert [request.step for request in pending_evaluations(paths)] == [0, 20]
    answer_evaluation(paths, make_request(0, name="00000000-a"), {"name": "00000000-a", "pass_rate": 0.5})
    assert [request.step for request in pending_evaluations(paths)] == [20]
    request_evaluation(paths, make_request(0, name="00000000-a"))
    assert [request.step for request in pending_evaluations(paths)] == [20]
    request_evaluation(paths, make_request(0, name="00000000-other"))
    assert [request.step for request in pending_evaluations(paths)] == [0, 20]
