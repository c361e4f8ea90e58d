"""The command line: `postern-sidecar run | drain | routes | check | tlsa | validate | version`.

Options in, exit code out. What a command does is imported by that command only. Exit codes: 0 as asked; `run` 1 a
failure, 2 the configuration; `routes` 1 the kernel refused; `check` 1 some mail would not be delivered, 2 the
configuration; `tlsa` 1 a mismatch or a warning, 2 a file that is none; `validate` 1 problems, 2 a file that cannot be
read; 2 for usage, 130 after Ctrl-C, 141 where nobody reads on (`| head`). Problems that `validate` finds are its
output; everything else that is wrong goes to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from postern_sidecar import config
from postern_sidecar.config.options import Check, Options, TLSARecords
from postern_sidecar.names import domain, unmapped
from postern_sidecar.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from postern_sidecar.config.scalars import HostPort
    from postern_sidecar.names import Address, Domain

_DEFAULT = Options()
_INTERRUPTED = 130  # what a shell says of a process that ended by SIGINT
_NOT_READ = 141  # and by SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = chosen.command
    try:
        status = command(chosen)
        print(end="", flush=True)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return _NOT_READ
    return status


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


def _routes(_: argparse.Namespace) -> int:
    from postern_sidecar.edge import routes

    return routes.run()


def _check(chosen: argparse.Namespace) -> int:
    from postern_sidecar.edge import check

    return check.run(
        Check(tuple(chosen.targets), chosen.config, chosen.credentials, json=chosen.json, connect=not chosen.no_connect)
    )


def _tlsa(chosen: argparse.Namespace) -> int:
    if chosen.certificate is None and chosen.verify is None:
        chosen.parser.error("give a PEM file, or a host after --verify, or both")
    from postern_sidecar.edge import tlsa

    return tlsa.run(
        TLSARecords(
            chosen.certificate,
            chosen.usage,
            chosen.selector,
            chosen.matching,
            chosen.name,
            chosen.verify,
            chosen.config,
        )
    )


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
        description="The gate beside a mail server: hands sessions over with the real client's address, out of a PROXY "
        "header, and relays mail over TLS that DNSSEC and TLSA records authenticate (DANE).",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _run_parser(commands.add_parser("run", help="run a policy until SIGTERM"))
    drain = commands.add_parser("drain", help="tell the running sidecar that its pod is going (the preStop hook)")
    drain.set_defaults(command=_drain)
    _state_dir(drain)
    routes = commands.add_parser("routes", help="set the routing rules of hand-over Transparent (needs NET_ADMIN)")
    routes.set_defaults(command=_routes)
    _check_parser(commands.add_parser("check", help="say what would happen to mail for a domain, and send none"))
    _tlsa_parser(commands.add_parser("tlsa", help="write TLSA records, or compare a host with those in its DNS"))
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
    _credentials(run)


def _check_parser(check: argparse.ArgumentParser) -> None:
    check.description = "Looks up, connects and verifies as a delivery would, and says QUIT before MAIL."
    check.epilog = "Exit status: 0 all would be delivered, 1 some would not, 2 usage or configuration."
    check.set_defaults(command=_check)
    check.add_argument(
        "targets", metavar="DOMAIN", nargs="+", type=_target, help="a domain, user@domain, or [192.0.2.1]"
    )
    _policy(check)
    check.add_argument("--json", action="store_true", help="one object a domain and line")
    check.add_argument("--no-connect", action="store_true", help="ask the DNS only")
    _credentials(check)


def _tlsa_parser(tlsa: argparse.ArgumentParser) -> None:
    tlsa.description = "The TLSA record of a certificate, for a zone file; with --verify, what is wrong with a host's."
    tlsa.epilog = "Exit status: 0 a match, 1 a mismatch or a warning, 2 usage."
    tlsa.set_defaults(command=_tlsa, parser=tlsa)
    tlsa.add_argument(
        "certificate", metavar="CERT.pem", nargs="?", type=Path, help="the server's certificate, then its authorities'"
    )
    tlsa.add_argument("--usage", type=int, default=3, help="3: the first certificate of the file; 2: the last (3)")
    tlsa.add_argument("--selector", type=int, default=1, help="1: the key; 0: the whole certificate (1)")
    tlsa.add_argument("--matching", type=int, default=1, help="1: SHA2-256; 2: SHA2-512; 0: no digest (1)")
    tlsa.add_argument("--name", type=_owner, help="of the record, such as _25._tcp.mx.example.org")
    tlsa.add_argument(
        "--verify",
        metavar="HOST[:PORT]",
        type=_host_port,
        help="compare what DNS publishes with what the host shows (port 25), and with CERT.pem, if given",
    )
    _policy(tlsa)


def _policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help="a MailProxyPolicy, YAML or JSON; the defaults without"
    )


def _credentials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
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


def _target(text: str) -> Domain | Address:
    from postern_sidecar.outbound.inquiry import parsed

    try:
        return parsed(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"{text!r} {problem}") from None


def _owner(text: str) -> Domain:
    """`_25._tcp.mx.example.org`"""
    try:
        name = domain(text)
    except ValueError:
        name = None
    if name is None or re.fullmatch(r"_[0-9]{1,5}\._tcp\..+", name) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a TLSA record; write _25._tcp.mx.example.org")
    return name


def _host_port(text: str) -> HostPort:
    from postern_sidecar.config.scalars import HostPort

    with contextlib.suppress(ValueError):
        found = HostPort(text)
        if isinstance(found.host, str):
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is not a host's name; write mx.example.org or mx.example.org:465")


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
