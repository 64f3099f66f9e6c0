"""What runs inside the sandbox: `python -I -S -c <this text> FD`; a program that is graded lives and dies in this process.

FD is a file that holds, in marshal format, {program, fn_name, arguments, limits, memory_exit}. Without fn_name the program reads the test on stdin and
answers on stdout. With it, the function of that name (of the class Solution, where there is one) is called, and its result goes
to stdout as JSON; what it prints goes nowhere. Nothing here is worth protecting: no expected output ever comes here.
"""

import marshal
import os
import sys
import types


def take(descriptor):
    """Read the task and empty its file, which tells the outside that the sandbox works."""
    with open(descriptor, "r+b") as file:
        task = file.read()
        file.truncate(0)
    return marshal.loads(task)


def limit(limits):
    import resource

    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))


def call(module, fn_name, arguments):
    result = os.dup(1)
    os.dup2(2, 1)
    exec(module.__dict__.pop("__code__"), module.__dict__)
    owner = module.Solution() if hasattr(module, "Solution") else module
    value = getattr(owner, fn_name)(*arguments)
    import json

    with open(result, "w") as file:
        json.dump(value, file)


def main():
    task = take(int(sys.argv[1]))
    sys.argv = ["program.py"]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    limit(task["limits"])
    try:
        module.__dict__["__code__"] = compile(task["program"], "program.py", "exec")
        if task["fn_name"]:
            call(module, task["fn_name"], task["arguments"])
        else:
            exec(module.__dict__.pop("__code__"), module.__dict__)
    except MemoryError:
        os._exit(task["memory_exit"])


main()
