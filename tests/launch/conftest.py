"""Roles that follow a script."""

import textwrap

import pytest
from scripted_roles import FAKE_ROLE, REAL_PYTHON

from scalerl.launch import processes


@pytest.fixture
def script_roles(tmp_path, monkeypatch):
    """Let every role run this Python text, which knows `role`, `index`, `folder`, `post` and `step_row`."""

    def script(text: str) -> None:
        body = tmp_path / "role.py"
        body.write_text(FAKE_ROLE + textwrap.dedent(text) + "\nwhile True: time.sleep(0.05)\n")
        executable = tmp_path / "interpreter"
        executable.write_text(f'#!/bin/bash\nexec {REAL_PYTHON} -c "$(cat {body})" "$@"\n')
        executable.chmod(0o755)
        monkeypatch.setattr(processes.sys, "executable", str(executable))

    return script
