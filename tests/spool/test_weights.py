"""Published weights: names that never mean two contents, and what is kept."""

import pytest
from factories import make_request

from scalerl.spool.evaluations import request_evaluation
from scalerl.spool.weights import check_weights, collect_old_weights, publish_weights

pytestmark = pytest.mark.usefixtures("run_folder")


def publish(paths, version, content):
    return publish_weights(paths, version, lambda folder: (folder / "model.safetensors").write_bytes(content))


def test_a_name_never_means_two_contents(paths):
    name, sha256 = publish(paths, 7, b"weights")
    assert name.startswith("00000007-")
    assert sha256.startswith(name.removeprefix("00000007-"))
    assert publish(paths, 7, b"weights") == (name, sha256)
    other, _ = publish(paths, 7, b"other weights")
    assert other != name
    assert (paths.weights / name / "model.safetensors").read_bytes() == b"weights"


def test_a_wrong_file_is_noticed(paths):
    name, sha256 = publish(paths, 1, b"weights")
    check_weights(paths.weights / name, sha256)
    (paths.weights / name / "model.safetensors").write_bytes(b"weights of another policy")
    with pytest.raises(ValueError, match="served a wrong file"):
        check_weights(paths.weights / name, sha256)


def test_a_failed_publication_leaves_nothing(paths):
    def fail(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish_weights(paths, 1, fail)
    assert list(paths.weights.iterdir()) == []


def test_weights_are_kept_while_an_evaluation_needs_them(paths):
    names = [publish(paths, version, bytes([version]))[0] for version in range(4)]
    request_evaluation(paths, make_request(1, name=names[1]))
    assert collect_old_weights(paths, keep=[names[3]]) == 2
    assert sorted(folder.name for folder in paths.weights.iterdir()) == [names[1], names[3]]
