"""AdmissionReviews posted straight to the webhook over kept-alive TLS, beside a small Go webhook doing the same patch.

Postern's webhook and bench/webhook_go take turns; the load is Go's for both, 20 requests at once. What counts is the
ratio of the medians of their p99s: at most 3. The exit status says whether it was.

    python bench/admission.py [--requests 6000] [--parallel 20] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.extend(str(Path(__file__).resolve().parents[1] / part) for part in ("operator", "sidecar", "tests/support"))

import uvloop

from fuzzed_reviews import review
from postern_operator import certs, kube, rotation, signing
from postern_operator.admission import Server
from webhook_world import alone, deaf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postern_operator.rotation import Pair

LIMIT = 3.0
HERE = Path(__file__).resolve().parent


def built(folder: Path) -> Path:
    binary = folder / "webhook"
    subprocess.run(["go", "build", "-o", binary, "."], cwd=HERE / "webhook_go", check=True)
    return binary


def body() -> bytes:
    """As an API server sends a Deployment's pod: some 3 KB."""
    made = review()
    container = made["request"]["object"]["spec"]["containers"][0]
    container["env"] = [{"name": f"SETTING_{number}", "value": "x" * 60} for number in range(20)]
    return json.dumps(made, separators=(",", ":")).encode()


async def _server(folder: Path) -> None:
    """Postern's, in a process of its own: its port on standard output, until standard input ends."""
    context = certs.server_context()
    certs.load(context, (folder / "tls.crt").read_bytes(), (folder / "tls.key").read_bytes())
    async with kube.connected(str(folder / "kubeconfig")) as client:
        admission = alone(client)
        patch = json.loads((await admission.answer((folder / "review.json").read_bytes())).body)["response"]["patch"]
        (folder / "patch.json").write_bytes(base64.b64decode(patch))
        server = Server(admission, context, address="127.0.0.1")
        await server.start()
        gc.collect()
        gc.freeze()
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.close()


@contextlib.contextmanager
def served(*command: str | Path) -> Iterator[str]:
    """The URL of a webhook that runs meanwhile."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"https://127.0.0.1:{int(process.stdout.readline())}/inject"
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(10)


def load(binary: Path, url: str, folder: Path, parallel: int, requests: int) -> dict[str, float]:
    command: list[str | Path] = [
        binary,
        "load",
        url,
        folder / "ca.crt",
        folder / "review.json",
        str(parallel),
        str(requests),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    assert result["failed"] == 0
    return result


def prepare(folder: Path) -> None:
    pair: Pair = signing.pair({"127.0.0.1"}, certs.utc(), rotation.Lifetimes())
    (folder / "ca.crt").write_bytes(rotation.pem(pair.authorities))
    (folder / "tls.crt").write_bytes(pair.chain_pem)
    (folder / "tls.key").write_bytes(pair.leaf_key)
    (folder / "review.json").write_bytes(body())
    deaf(folder)


def injection(patch: list[dict[str, Any]]) -> dict[str, Any]:
    """What the Go webhook adds, from what Postern's did."""
    added: dict[str, Any] = {each["path"]: each["value"] for each in patch}
    names = {path.rpartition("/")[2].replace("~1", "/"): value for path, value in added.items()}
    return {
        "container": added["/spec/initContainers"][0],
        "volumes": added["/spec/volumes"][1:],
        "labels": {
            name: value for name, value in names.items() if f"/metadata/labels/{name.replace('/', '~1')}" in added
        },
        "annotations": {
            name: value for name, value in names.items() if f"/metadata/annotations/{name.replace('/', '~1')}" in added
        },
        "securityContext": added["/spec/securityContext"],
    }


def compare(folder: Path, options: argparse.Namespace) -> float:
    binary = built(folder)
    prepare(folder)
    results: dict[str, list[dict[str, float]]] = {"postern": [], "go": []}
    with served(sys.executable, __file__, "--serve", folder) as postern:
        patch = json.loads((folder / "patch.json").read_bytes())
        (folder / "injection.json").write_text(json.dumps(injection(patch)))
        pair = (folder / "tls.crt", folder / "tls.key")
        with served(binary, "serve", *pair, folder / "injection.json") as go:
            for _ in range(options.rounds):
                for name, url in (("postern", postern), ("go", go)):
                    results[name].append(load(binary, url, folder, options.parallel, options.requests))
    for name, rounds in results.items():
        for each in rounds:
            print(
                f"{name:>8}  {each['perSecond']:>7.0f}/s  p50 {each['p50']:>6.2f} ms  p99 {each['p99']:>6.2f} ms"
                f"  max {each['max']:>6.2f} ms  answer {each['answerBytes']:.0f} octets"
            )
    ours, theirs = (statistics.median(each["p99"] for each in results[name]) for name in ("postern", "go"))
    return ours / theirs


def main() -> int:
    parser = argparse.ArgumentParser(description="The webhook beside a Go webhook.")
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--parallel", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        uvloop.run(_server(options.serve))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        ratio = compare(Path(folder), options)
    print(f"p99: {ratio:.2f} times the Go webhook's; the limit is {LIMIT:g}")
    return 0 if ratio <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
