"""The command line: `postern-sidecar run | drain | validate | version`.

Options in, exit code out. What a sidecar does is `app`, imported only by the commands that need it. Exit codes: 0 as
asked; `run` 1 a failure, 2 the configuration; `validate` 1 problems, 2 a file that cannot be read; 2 for usage, 130
after Ctrl-C. Problems that `validate` finds are its output; everything else that is wrong goes to standard error.
"""

from __future__ import annotations

import argparse
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from postern_sidecar import config
from postern_sidecar.config.options import Options
from postern_sidecar.names import unmapped
from postern_sidecar.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DEFAULT = Options()
_INTERRUPTED = 130  # what a shell says of a process that ended by SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = chosen.command
    try:
        return command(chosen)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(chosen: argparse.Namespace) -> int:
    from postern_sidecar import app

    return app.run(
        Options(
            config=chosen.config,
            admin=chosen.admin,
            state_dir=chosen.state_dir,
            grace=chosen.grace,
            drain_delay=chosen.drain_delay,
            ephemeral_ports=chosen.ephemeral_ports,
            credentials=chosen.credentials,
        )
    )


def _drain(chosen: argparse.Namespace) -> int:
    from postern_sidecar import app

    return app.drain(Options(state_dir=chosen.state_dir))


def _validate(chosen: argparse.Namespace) -> int:
    return max(_validated(name) for name in chosen.files)


def _validated(name: str) -> int:
    """The exit code for one file."""
    shown = "standard input" if name == "-" else name
    try:
        loaded = config.load(sys.stdin.buffer.read() if name == "-" else Path(name), shown)
    except config.Unreadable as problem:
        print(problem, file=sys.stderr)
        return 2
    except config.InvalidPolicy as problem:
        print(problem)
        return 1
    for warning in loaded.warnings:
        print(warning)
    print(f"{shown}: good")
    return 0


def _version(_: argparse.Namespace) -> int:
    print(f"postern-sidecar {VERSION}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="postern-sidecar",
        description="The real client in front of a mail server: terminates the PROXY protocol, decides on the client's "
        "address, and hands the session over with it.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _run_parser(commands.add_parser("run", help="run a policy until SIGTERM"))
    drain = commands.add_parser("drain", help="tell the running sidecar that its pod is going (the preStop hook)")
    drain.set_defaults(command=_drain)
    _state_dir(drain)
    validate = commands.add_parser("validate", help="say all that is wrong with policies, with lines and remedies")
    validate.add_argument(
        "files", metavar="FILE", nargs="+", help="a MailProxyPolicy, YAML or JSON; - is standard input"
    )
    validate.set_defaults(command=_validate)
    commands.add_parser("version", help="print the version").set_defaults(command=_version)
    return parser


def _run_parser(run: argparse.ArgumentParser) -> None:
    run.set_defaults(command=_run)
    run.add_argument("--config", metavar="FILE", type=Path, required=True, help="a MailProxyPolicy, YAML or JSON")
    run.add_argument(
        "--admin",
        metavar="ADDR:PORT",
        type=_admin,
        help=f"health, metrics and /config; all addresses and port {config.ADMIN_PORT} by default",
    )
    _state_dir(run)
    run.add_argument(
        "--grace",
        metavar="SECONDS",
        type=_seconds,
        default=_DEFAULT.grace,
        help="how long sessions may go on after SIGTERM (%(default)s)",
    )
    run.add_argument(
        "--drain-delay",
        metavar="SECONDS",
        type=_seconds,
        default=_DEFAULT.drain_delay,
        help="how long a draining sidecar still accepts (%(default)s)",
    )
    run.add_argument(
        "--ephemeral-ports", action="store_true", help="take free ports instead of the policy's; the log names them"
    )
    run.add_argument(
        "--credentials", metavar="DIR", type=Path, help="one directory of user names and passwords a Secret"
    )


def _state_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        type=Path,
        default=_DEFAULT.state_dir,
        help="the last accepted file, and the socket of `drain` (%(default)s)",
    )


def _admin(text: str) -> tuple[str, int]:
    """`127.0.0.1:15925`, `[::1]:15925`, or `:15925` for all addresses; port 0 takes a free one."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = str(unmapped(ip_address(host[1:-1] if bracketed else host))) if host else ""
        if (
            not colon
            or not port.isascii()
            or not port.isdigit()
            or int(port) > 65535
            or (":" in host and not bracketed)
        ):
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDR:PORT; write 127.0.0.1:15925 or [::1]:15925") from None
    return address, int(port)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; write one from 0 to 86400")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
