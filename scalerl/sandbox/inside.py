"""What runs inside the sandbox: `python -I -S -c <this text> FD`.

A program that is graded lives and dies in this process. FD is a file that holds, in marshal format, {program,
fn_name, arguments, limits, memory_exit}. Without fn_name the program reads the test on stdin and answers on
stdout. With it, the program is imported, the function of that name (of the class Solution, where there is
one) is called, and its result goes to stdout as JSON; what it prints goes to stderr. Nothing here is worth
protecting from the program: no expected output ever comes here.
"""

import builtins
import io
import marshal
import os
import sys
import types

OFFERED = (
    "bisect",
    "collections",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "random",
    "re",
    "string",
    "typing",
)
"""The modules that sites of such problems import before a solution that is called: its starter code says
List[int], and imports nothing."""

STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
"""What programs open by name, though there is no /dev."""


def take(descriptor):
    """Read the task and empty its file, which tells the outside that the sandbox works."""
    with open(descriptor, "r+b") as file:
        task = file.read()
        file.truncate(0)
    return marshal.loads(task)


def limit(limits):
    """Set limits for good: soft and hard."""
    import resource

    for name, value in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        # The job that this runs in may allow less already, which nobody can take back.
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def open_stream(file, *arguments, _open=io.open, **options):
    """Open a file, or a standard stream by its name in /dev."""
    stream = None if isinstance(file, int) else STREAMS.get(os.fspath(file))
    return _open(file if stream is None else os.dup(stream), *arguments, **options)


def run(program, name, namespace):
    """Run the program as the module `name`, and return it."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(namespace)
    exec(compile(program, "program.py", "exec"), module.__dict__)
    return module


def offered():
    """Return the modules of OFFERED and their public names.

    A builtin is not shadowed, nor a module by a name of another.
    """
    modules = {name: __import__(name) for name in OFFERED}
    names = {
        name: getattr(module, name)
        for module in modules.values()
        for name in getattr(module, "__all__", dir(module))
    }
    names = {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and not hasattr(builtins, name)
    }
    return {**names, **modules}


def call(program, fn_name, arguments):
    """Run the program, call its function, write the result to what was stdout."""
    result = os.dup(1)
    os.dup2(2, 1)
    module = run(program, "solution", offered())
    owner = module.Solution() if hasattr(module, "Solution") else module
    value = getattr(owner, fn_name)(*arguments)
    import json

    with open(result, "w") as file:
        json.dump(value, file)


def main():
    """Do the task of this process."""
    task = take(int(sys.argv[1]))
    sys.argv = ["program.py"]
    for name in ("exit", "quit"):  # as `site` gives them, which -S leaves out
        setattr(builtins, name, sys.exit)
    builtins.open = io.open = open_stream
    limit(task["limits"])
    try:
        if task["fn_name"]:
            call(task["program"], task["fn_name"], task["arguments"])
        else:
            run(task["program"], "__main__", {})
    except MemoryError:
        os._exit(task["memory_exit"])


if __name__ == "__main__":
    main()
