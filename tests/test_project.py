"""The repository itself: what a stranger clones has to hold together before any code runs.

Locks name hashes and no index, files name no machine, links lead somewhere, commands in the documentation exist, and
docs/from-exim.md leaves out nothing of Exim's text of 2014.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from postern_operator import __main__ as operator_main
from postern_sidecar.config import source

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked(*patterns: str) -> list[Path]:
    """Files in git that exist; `safe.directory` because CI may clone as one user and test as another."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


DOCUMENTS = tracked("*.md")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- layout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["operator", "sidecar", "tests"])
def test_no_package_shadows_the_standard_library(folder: str) -> None:
    """`operator/__init__.py` with the root on the path makes even `import collections` fail."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()


def test_tests_are_no_packages() -> None:
    assert [name_of(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


# Spelled in pieces, or this file would be the first to name them.
REGISTRIES = ["pypi|org", "files|pythonhosted|org", "registry|npmjs|org", "proxy|golang|org", "index|crates|io"]
REGISTRIES += ["deb|debian|org", "security|debian|org", "snapshot|debian|org"]
FORBIDDEN = {
    "a package registry": re.compile("|".join(rf"\b{name.replace('|', '[.]')}\b" for name in REGISTRIES)),
    "a folder outside the repository": re.compile(r"\.\./" + "shared"),
    "a path of somebody's machine": re.compile(r"(?<![\w.-])/(?:wo" + "rk|ro" + "ot)/"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_files_name_no(what: str) -> None:
    found = [
        f"{name_of(path)}: {match.group()}"
        for path in tracked()
        if (match := FORBIDDEN[what].search(path.read_text(errors="replace")))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a package registry", "https://" + "pypi" + ".org/simple"),
        ("a folder outside the repository", "see .." + "/shared/design.md"),
        ("a path of somebody's machine", "cd /" + "work/main"),
        ("a path of somebody's machine", '"/' + 'root/.cache"'),
    ],
)
def test_forbidden_patterns_find_what_they_are_for(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)


# -- locks -------------------------------------------------------------------------------------------------------------

PIN = re.compile(r"([a-z0-9][a-z0-9-]*)==(\S+)(?: ; .+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
LOCKS = ["requirements/dev.txt", "requirements/operator.txt", "requirements/sidecar.txt"]


def normal(name: str) -> str:
    """A distribution's name without extras and bounds, as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def lock(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Name to (version, hashes). Fails on any line that is not a pin with its hashes: an index, a URL, a path."""
    text = re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    pins: dict[str, tuple[str, frozenset[str]]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+(?=--)", line.strip())
        pin = PIN.fullmatch(requirement)
        assert pin, f"{name}: {line!r} is not a pin"
        assert hashes, f"{name}: {requirement} has no hash"
        assert all(HASH.fullmatch(each) for each in hashes), f"{name}: {line!r}"
        pins[pin[1]] = (pin[2], frozenset(hashes))
    return pins


@pytest.mark.parametrize("name", LOCKS)
def test_lock_has_a_hash_for_every_line_and_no_index(name: str) -> None:
    assert lock(name)
    assert "://" not in (ROOT / name).read_text()


def test_lock_has_everything_that_the_project_asks_for() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    groups = PROJECT["dependency-groups"]
    plain = [entry for group in groups.values() for entry in group if isinstance(entry, str)]
    wanted = {normal(entry) for entry in [*extras["sidecar"], *extras["operator"], *plain]}
    assert wanted - set(lock("requirements/dev.txt")) == set()


@pytest.mark.parametrize(
    ("image", "foreign"),
    [
        ("sidecar", {"kopf", "kubernetes", "aiohttp", "pytest"}),
        ("operator", {"pyopenssl", "aiosmtpd", "dnspython", "pytest"}),
    ],
)
def test_image_carries_what_was_tested_and_no_more(image: str, foreign: set[str]) -> None:
    carried, everything = lock(f"requirements/{image}.txt"), lock("requirements/dev.txt")
    assert {normal(entry) for entry in PROJECT["project"]["optional-dependencies"][image]} <= set(carried)
    assert carried.items() <= everything.items()
    assert set(carried) & foreign == set()


# -- documentation -----------------------------------------------------------------------------------------------------

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """The anchors of a page's headings: lower case, punctuation gone, blanks to hyphens."""
    prose = FENCE.sub("", document.read_text())
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = document.parent / file if file else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_make_has_the_targets_that_people_expect() -> None:
    expected = {"help", "demo", "test", "test-unit", "lint", "types", "imports", "bench", "fuzz", "lock", "clean"}
    assert expected - targets() == set()
    assert re.search(r"^\.DEFAULT_GOAL := help$", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / ".ci/run"], ids=name_of)
def test_make_commands_in_documents_exist(document: Path) -> None:
    commands = re.findall(r"(?:`|^)make ((?:[a-z][a-z-]*(?: |`|$))+)", document.read_text(), re.MULTILINE)
    assert {word for words in commands for word in words.replace("`", "").split()} - targets() == set()


def test_readme_shows_both_commands() -> None:
    blocks = [block for _, block in FENCE.findall((ROOT / "README.md").read_text())]
    assert "make demo\nmake test\n" in blocks


POLICIES = [
    pytest.param(block, id=f"{name_of(document)}-{number}")
    for document in DOCUMENTS
    for number, (language, block) in enumerate(FENCE.findall(document.read_text()))
    if language == "yaml" and "kind: MailProxyPolicy" in block
]


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_in_documents_are_valid(policy: str) -> None:
    """Rules and templates included: reading compiles them."""
    spec = source.load(policy.encode()).policy.spec
    assert spec.inbound or spec.outbound


def test_policy_of_2014_is_among_them() -> None:
    assert any("as-in-2014" in str(each.values[0]) for each in POLICIES)


# -- console scripts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["postern-sidecar", "postern-operator"])
def test_console_script_resolves(script: str) -> None:
    module, _, function = PROJECT["project"]["scripts"][script].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_operator_tells_its_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(operator_main, "VERSION", "7.8.9")
    assert operator_main.main(["version"]) == 0
    assert capsys.readouterr().out == "postern-operator 7.8.9\n"


@pytest.mark.parametrize("arguments", [[], ["run"], ["inject"], ["version", "extra"], ["serve"]])
def test_operator_refuses_what_it_does_not_know(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        operator_main.main(arguments)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: postern-operator")


# -- Exim's text of 2014 -----------------------------------------------------------------------------------------------

PROXY_HALF = """
    EXPERIMENTAL_PROXY Local/Makefile proxy_required_hosts log_selector PRX= H= P= S=
    proxy_host_address proxy_host_port proxy_target_address proxy_target_port proxy_session proxy_host
    sender_address_host sender_address_port sender_host_address sender_host_port sender_host_name
    received_ip_address received_port warn condition bool eq log_message logwrite defer message
    smtp_accept_max_per_host ratelimit LIMIT iplsearch /etc/exim/proxy_limits
"""
DANE_HALF = """
    hosts_try_dane hosts_require_dane hosts_request_ocsp hosts_require_ocsp hosts_require_tls tls_verify_hosts
    tls_try_verify_hosts tls_verify_certificates tls_crl tls_verify_cert_hostnames dnssec_request_domains
    dnssec_require_domains tls_out_dane tls_out_tlsa_usage CV=dane EXPERIMENTAL_EVENT DANE-TA(2) DANE-EE(3) SPKI(1)
    SHA2-512(2) gen_tlsa
"""
SAYINGS = [
    "log_selector = +proxy",
    "ratelimit = LIMIT / 5s / per_conn / strict",
    "LIMIT = ${lookup{$sender_host_address}iplsearch{/etc/exim/proxy_limits}}",
    "Too many connections from this IP right now",
    "503 Command refused, required Proxy negotiation failed",
    "221 mail.example.net closing connection",
    "Failed required proxy protocol negotiation from ${sender_host_name} [${sender_host_address}]",
    "TODO: specify when fallback happens vs. when the host is not used",
    "openssl x509",
]


def from_exim() -> str:
    return (ROOT / "docs/from-exim.md").read_text()


@pytest.mark.parametrize("name", [*PROXY_HALF.split(), *DANE_HALF.split()])
def test_every_name_of_the_2014_text_has_its_place(name: str) -> None:
    """As a word of its own: `proxy_host` is not found in `proxy_host_address`."""
    end = r"(?!\w)" if re.search(r"\w$", name) else ""
    assert re.search(rf"(?<!\w){re.escape(name)}{end}", from_exim())


@pytest.mark.parametrize("saying", SAYINGS)
def test_every_saying_of_the_2014_text_has_its_place(saying: str) -> None:
    assert saying in from_exim()


# -- scripts/venv ------------------------------------------------------------------------------------------------------

# Stands for the interpreter: makes an environment whose own python only notes how pip was called.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
    mkdir -p "$3/bin"
    printf '#!/bin/sh\\necho "$@" >>pip.log\\n[ ! -e interrupt ]\\n' >"$3/bin/python"
    chmod +x "$3/bin/python"
else
    exec {real} "$@"
fi
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name in ["scripts/venv", "requirements/dev.txt", "pyproject.toml"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON.replace("{real}", sys.executable))
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def make_venv(clone: Path, **settings: str) -> tuple[int, list[str]]:
    """Exit status, and the pip commands that were run."""
    log = clone / "pip.log"
    log.unlink(missing_ok=True)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(clone / "python"), **settings}
    done = subprocess.run([clone / "scripts/venv"], env=environment, capture_output=True, check=False)
    return done.returncode, log.read_text().splitlines() if log.exists() else []


def test_venv_is_made_once_and_with_hashes(clone: Path) -> None:
    status, commands = make_venv(clone)
    assert status == 0
    assert "--require-hashes" in commands[0]
    assert all("--require-hashes" in command or "--no-deps --no-index" in command for command in commands)
    assert make_venv(clone) == (0, [])


def test_interrupted_venv_is_made_anew(clone: Path) -> None:
    (clone / "interrupt").touch()
    status, _ = make_venv(clone)
    assert status != 0
    (clone / ".venv/half-made").touch()
    (clone / "interrupt").unlink()
    status, commands = make_venv(clone)
    assert status == 0
    assert commands
    assert not (clone / ".venv/half-made").exists()


@pytest.mark.parametrize("file", ["requirements/dev.txt", "pyproject.toml"])
def test_venv_follows_what_it_is_made_from(clone: Path, file: str) -> None:
    assert make_venv(clone)[1]
    with (clone / file).open("a") as text:
        text.write("# changed\n")
    assert make_venv(clone)[1]


def test_interrupted_renewal_does_not_pass_for_the_old_one(clone: Path) -> None:
    """The lock changes, the renewal is interrupted, the change is taken back: what is there is still half made."""
    lock_file = clone / "requirements/dev.txt"
    before = lock_file.read_text()
    make_venv(clone)
    lock_file.write_text(before + "# changed\n")
    (clone / "interrupt").touch()
    make_venv(clone)
    (clone / "interrupt").unlink()
    lock_file.write_text(before)
    assert make_venv(clone)[1]


def test_venv_leaves_other_folders_alone(clone: Path) -> None:
    (clone / "letters").mkdir()
    (clone / "letters/to-a-friend").touch()
    assert make_venv(clone, VENV="letters") == (1, [])
    assert (clone / "letters/to-a-friend").exists()
