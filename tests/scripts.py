"""Runs a piece of Python in a process of its own."""

import os
import subprocess
import sys
import textwrap


def run(code, *arguments, check=True, **environment):
    """Run `code` and return the finished process; a crash or a hang fails the test."""
    env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240, check=False)
    if check:
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done
