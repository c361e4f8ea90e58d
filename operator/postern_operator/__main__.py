"""The command line: `postern-operator run | inject | check | version`.

Options in, exit code out. What a command does is imported by that command only. Exit codes: 0 as asked; `run` 1 a
failure, 2 the settings; `inject` 1 something was skipped or a policy is wrong, 2 a file that cannot be read; `check` 1
something is to be done, 2 the cluster cannot be asked; 2 for usage, 130 after Ctrl-C, 141 where nobody reads on
(`| head`). Manifests and findings go to standard output, reasons and everything that is wrong to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from postern_sidecar.version import VERSION

from .settings import InvalidSettings, Settings, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_INTERRUPTED = 130  # what a shell says of a process that ended by SIGINT
_NOT_READ = 141  # and by SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = chosen.command
    try:
        status = command(chosen)
        print(end="", flush=True)
    except InvalidSettings as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return _NOT_READ
    return status


def _run(chosen: argparse.Namespace) -> int:
    settings = _settings(chosen.settings)
    from . import app

    return app.run(settings)


def _inject(chosen: argparse.Namespace) -> int:
    from . import offline

    order = offline.Order(tuple(chosen.files), tuple(chosen.policies), chosen.output)
    return offline.run(order, _settings(chosen.settings), VERSION)


def _check(chosen: argparse.Namespace) -> int:
    from . import checking

    return checking.run(
        None if chosen.settings is None else _settings(chosen.settings),
        release=chosen.release_namespace,
        namespaces=tuple(chosen.namespaces),
        connect=chosen.connect_backends,
        json=chosen.json,
        strict=chosen.strict,
        kubeconfig=chosen.kubeconfig,
    )


def _version(_: argparse.Namespace) -> int:
    print(f"postern-operator {VERSION}")
    return 0


def _settings(file: Path | None) -> Settings:
    """The defaults without a file. Raises InvalidSettings."""
    if file is None:
        return Settings()
    try:
        return parsed(file.read_bytes(), str(file))
    except OSError as problem:
        raise InvalidSettings(f"{file}: {problem.strerror}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="postern-operator",
        description="Turns MailProxyPolicies into sidecars: their configuration, and their place in the pods that a "
        "policy selects.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = commands.add_parser("run", help="serve the webhook and keep policies, until SIGTERM")
    run.set_defaults(command=_run)
    run.add_argument("--settings", metavar="FILE", type=Path, required=True, help="settings.yaml of the chart")
    _inject_parser(commands.add_parser("inject", help="do to manifests what the webhook would do to their pods"))
    _check_parser(commands.add_parser("check", help="look for what is wrong with Postern in a cluster"))
    commands.add_parser("version", help="print the version").set_defaults(command=_version)
    return parser


def _inject_parser(inject: argparse.ArgumentParser) -> None:
    inject.description = (
        "Reads pods, Deployments, StatefulSets, DaemonSets, Jobs and CronJobs, also in lists and in several documents, "
        "and writes them injected. Reasons are written to standard error."
    )
    inject.epilog = "Exit status: 0 all were injected, 1 something was skipped or a policy is wrong, 2 unreadable."
    inject.set_defaults(command=_inject)
    inject.add_argument(
        "-f", "--filename", dest="files", metavar="FILE", action="append", required=True, help="- is standard input"
    )
    inject.add_argument(
        "--policy",
        dest="policies",
        metavar="FILE",
        action="append",
        default=[],
        help="a MailProxyPolicy, if it is not among the manifests; of several the winner counts, pod by pod",
    )
    inject.add_argument("--settings", metavar="FILE", type=Path, help="the operator's; the chart's defaults without")
    inject.add_argument("--output", choices=("manifest", "diff", "json"), default="manifest", help="(%(default)s)")


def _check_parser(check: argparse.ArgumentParser) -> None:
    check.description = (
        "Looks at the installation, the webhook, namespaces, policies and their pods, and says what to do. Nothing in "
        "the cluster is changed: pods are created in dry runs. Whatever the user may not read is skipped."
    )
    check.epilog = (
        "Exit status: 0 nothing has to be done (there may be warnings), 1 something has, 2 usage, or no cluster that "
        "answers."
    )
    check.set_defaults(command=_check)
    check.add_argument("--settings", metavar="FILE", type=Path, help="the operator's; those in the cluster without")
    check.add_argument(
        "--release-namespace", metavar="NAME", default="", help="of the chart's release (found by its labels)"
    )
    check.add_argument(
        "--namespace",
        dest="namespaces",
        metavar="NAME",
        action="append",
        default=[],
        help="look at the policies and pods of this one (all that have policies)",
    )
    check.add_argument(
        "--connect-backends",
        action=argparse.BooleanOptionalAction,
        help="try whether mail servers answer past their sidecars, by a TCP connection (in a pod of the cluster only)",
    )
    check.add_argument("--strict", action="store_true", help="warnings count: exit status 1")
    check.add_argument("--json", action="store_true", help="findings as one JSON object")
    check.add_argument(
        "--kubeconfig", metavar="FILE", default="", help="($KUBECONFIG, the pod's account, ~/.kube/config)"
    )


if __name__ == "__main__":
    sys.exit(main())
