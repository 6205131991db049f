"""`python train.py ...` and `initlab ...` in processes that begin with torch, Lightning and MLflow imported.

Imports take five seconds of each command, and tests run a hundred of them. A server imports once, computes nothing, and
forks a child for each command: a process of its own, with its own arguments, folder, environment and output.

    python tests/helpers/warm.py SOCKET              serves
    python tests/helpers/warm.py SOCKET WORD...      runs `python WORD...`, warm if it can be
"""

import json
import os
import runpy
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path

# These start processes of their own from the program that they are, or compute with threads.
COLD = ("hydra/launcher=", "trainer=ddp", "trainer.devices=")


def is_warm(words: list[str], environment: dict[str, str]) -> bool:
    """Whether a command can be run in a process that is forked. words: after `python`."""
    single = environment.get("OMP_NUM_THREADS") == "1"
    return single and words[:1] in (["train.py"], ["initlab"]) and not any(word.startswith(COLD) for word in words)


def run(server: Path, words: list[str], cwd: Path, environment: dict[str, str], output: list[int]) -> int:
    """The exit code of a command, which the server runs. output: file descriptors of stdout and stderr."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server))
        request = json.dumps({"words": words, "cwd": str(cwd), "environment": environment}).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], output)
        connection.sendall(request)
        answer = connection.recv(4)
    return int.from_bytes(answer, "big", signed=True) if answer else -signal.SIGKILL


def serve(path: Path) -> None:
    before = dict(os.environ)
    import initlab.replay.command
    import initlab.report.command
    import initlab.sweep.session
    import initlab.training.fit  # noqa: F401

    warnings.filterwarnings("error", category=EncodingWarning, module="initlab")  # text is UTF-8 on Windows too
    by_imports = {name: value for name, value in os.environ.items() if before.get(name) != value}
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            head, output, *_ = socket.recv_fds(connection, 8, 2)
            if os.fork() == 0:
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                request = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
                code = _execute(request["words"], request["cwd"], by_imports | request["environment"], output)
                connection.sendall(code.to_bytes(4, "big", signed=True))
                os._exit(0)
            for descriptor in output:
                os.close(descriptor)
            connection.close()


def _execute(words: list[str], cwd: str, environment: dict[str, str], output: list[int]) -> int:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for target, descriptor in zip((1, 2), output, strict=True):
        os.dup2(descriptor, target)
    sys.argv, sys.path[0] = words, cwd
    try:
        if words[0] == "initlab":
            from initlab.cli import main

            sys.exit(main())
        runpy.run_path(words[0], run_name="__main__")
        code: object = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    server, *rest = sys.argv[1:]
    if not rest:
        serve(Path(server))
    elif is_warm(rest, dict(os.environ)):
        sys.exit(run(Path(server), rest, Path.cwd(), dict(os.environ), [1, 2]))
    elif rest[0] == "initlab":
        os.execv(Path(sys.executable).with_name("initlab"), rest)
    else:
        os.execv(sys.executable, [sys.executable, *rest])
