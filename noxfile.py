"""The project's checks: ``nox`` runs those of every change, ``nox -t full`` the long ones; ``nox -l`` lists all."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.11.12"  # sessions that require others
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"  # pins make a second run cheap; sessions that must start fresh say so

TOOLS = nox.project.load_toml("pyproject.toml")


@dataclasses.dataclass(frozen=True)
class Member:
    """One distribution of the workspace."""

    path: Path

    @property
    def name(self) -> str:
        """The distribution's name."""
        return self.path.name

    @property
    def import_name(self) -> str:
        """The package that it installs."""
        return next(self.path.glob("src/*/py.typed")).parent.name

    @property
    def coverage_floor(self) -> int:
        """Percent of its lines and branches that its own tests must run."""
        return 97 if self.name == "clstr-core" else 92

    @property
    def wheel(self) -> Path:
        """Its wheel, as the session ``build`` left it."""
        return next(Path("dist").glob(f"{self.name.replace('-', '_')}-*.whl"))

    @property
    def proof(self) -> list[str]:
        """The tests that show that it works as installed: a transport's conformance suite, else its own tests."""
        suite = self.path / "tests" / "test_conformance.py"
        # The mutants of the conformance suite prove the suite, however it was installed.
        own = [str(self.path / "tests"), "--ignore", str(self.path / "tests" / "conformance")]
        return [str(suite)] if suite.exists() else own

    def lower_bounds(self) -> Iterator[str]:
        """Yield its third-party dependencies, each pinned to the lowest version that it admits."""
        for line in nox.project.load_toml(self.path / "pyproject.toml")["project"]["dependencies"]:
            requirement = Requirement(line)
            if not requirement.name.startswith("clstr-"):
                yield lowest(requirement)


def lowest(requirement: Requirement) -> str:
    """Turn ``msgspec>=0.20`` into ``msgspec==0.20``, extras and marker kept."""
    floor = next(part.version for part in requirement.specifier if part.operator in {">=", "==", "~="})
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return f"{requirement.name}{extras}=={floor}{marker}"


FOLDERS = (Path("packages"), Path("plugins"))
MEMBERS = [Member(file.parent) for folder in FOLDERS for file in sorted(folder.glob("*/pyproject.toml"))]

PARALLEL = "--numprocesses=3"  # on two cores, since most tests wait for brokers and other processes

# Each transport's subclass of the conformance suite; "unix" is the link that exists for tests alone.
SUITES = {
    path.parts[1].removeprefix("clstr-"): path for path in sorted(Path("plugins").glob("*/tests/test_conformance.py"))
}
SUITES["unix"] = Path("tests-integration/clusters/test_conformance.py")


FULL = ["full"]  # the tag of what CI runs after a plain `nox`
INTEGRATION = [f"tests-integration/{name}" for name in ("bench", "chaos", "clusters", "fuzz", "pages", "simulation")]

# Hundreds of broken transports, each of which runs the whole conformance suite.
MUTANTS = Path("packages/clstr-testing/tests/conformance/test_mutants.py")

# What shows that links lose their connections and come back.
LINK_TESTS = [
    Path("tests-integration/clusters/test_broker_links.py"),
    *(path for name in ("link", "session") for path in sorted(Path("plugins").glob(f"*/tests/test_{name}.py"))),
]


def pins(*groups: str) -> list[str]:
    """List the requirements of dependency groups."""
    return [*nox.project.dependency_groups(TOOLS, *groups)]


def install(session: nox.Session, *requirements: str, editable: bool = True) -> None:
    """Install ``requirements`` and every member; one build backend for all saves seconds for each."""
    flag = "--editable=" if editable else ""
    session.install(*pins("backend"))
    session.install("--no-build-isolation", *requirements, *(f"{flag}{member.path}" for member in MEMBERS))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, imports against their rules and dependencies, and the changelog's fragments."""
    session.install(*pins("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    sources = os.pathsep.join(str(member.path / "src") for member in MEMBERS)
    for member in MEMBERS:
        config = f"--config={member.path / 'pyproject.toml'}"
        session.run("lint-imports", "--no-cache", "--no-logo", config, env={"PYTHONPATH": sources})
        session.run("deptry", config, member.path / "src")
    session.run("towncrier", "build", "--draft", "--version=next", silent=True)


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check the types of sources and tests, and that the installed packages' public types are complete."""
    install(session, *pins("typecheck"), editable=False)
    for member in MEMBERS:
        session.run("mypy", member.path / "src", member.path / "tests", *session.posargs)
    session.run("mypy", "noxfile.py", "conftest.py", *sorted(Path("docs/examples").glob("*.py")), *session.posargs)
    session.run("mypy", "tests-integration", *session.posargs)
    python = f"--pythonpath={session.bin}/python"  # else it takes a .venv that it finds
    session.run("basedpyright", python, "packages/clstr-core/tests/typing/reply_types.py")  # infers as mypy does
    for member in MEMBERS:
        session.run("basedpyright", "--ignoreexternal", "--verifytypes", member.import_name)


@nox.session
def tests(session: nox.Session) -> None:
    """Run each member's tests and hold it to its coverage; with arguments, run pytest with them."""
    install(session, *pins("test"))
    if session.posargs:  # a selection covers only a part
        session.run("pytest", *session.posargs)
        return
    for member in MEMBERS:
        source = f"--source={member.import_name}"
        session.run("coverage", "run", source, "-m", "pytest", PARALLEL, member.path / "tests", f"--ignore={MUTANTS}")
        session.run("coverage", "combine", "--quiet")
        session.run("coverage", "report", f"--fail-under={member.coverage_floor}")


@nox.session(tags=FULL, default=False)
def mutants(session: nox.Session) -> None:
    """Hold the conformance suite against transports that break the contract; apart from ``tests``: it takes minutes."""
    install(session, *pins("test"))
    session.run("pytest", PARALLEL, MUTANTS, *session.posargs)


@nox.session(python=["3.12", "3.13"], default=False)
def tests_on(session: nox.Session) -> None:
    """Run the members' tests on another Python."""
    install(session, *pins("test"))
    session.run("pytest", PARALLEL, *session.posargs)


@nox.session(default=False)
def tests_uvloop(session: nox.Session) -> None:
    """Run the members' tests on uvloop."""
    install(session, *pins("uvloop"))
    session.run("pytest", PARALLEL, "--uvloop", *session.posargs)


@nox.session(tags=FULL, default=False)
def build(session: nox.Session) -> None:
    """Build every member's sdist and wheel into dist/."""
    session.install(*pins("build"))
    shutil.rmtree("dist", ignore_errors=True)
    environments = Path(session.create_tmp()).resolve()  # hatch would keep them in the user's home
    # No arguments of the command line: they are those of release-check, which this session precedes.
    session.run("hatch", "build", "--all", env={"HATCH_DATA_DIR": str(environments)})


@nox.session(requires=["build"], reuse_venv=False, tags=FULL, default=False)
@nox.parametrize("member", [nox.param(member, id=member.name) for member in MEMBERS])
def wheels(session: nox.Session, member: Member) -> None:
    """
    Test a wheel beside those of clstr-core and clstr-testing alone, a transport's by its conformance suite.

    Every dependency has the lowest version that is admitted: the session ``tests`` has the newest.
    """
    present = [other for other in MEMBERS if other.name in {member.name, "clstr-core", "clstr-testing"}]
    bounds = (bound for other in present for bound in other.lower_bounds())
    chosen = {Requirement(line).name: line for line in [*pins("test"), *bounds]}  # a bound replaces a tool's pin
    session.install(*chosen.values(), *(str(other.wheel) for other in present))
    session.run("pytest", PARALLEL, *member.proof, *session.posargs)


@nox.session(requires=["build"], tags=FULL, default=False)
def installs(session: nox.Session) -> None:
    """Install the wheels into fresh environments, as readers of the documentation would."""
    session.install(*pins("installs"))
    session.run("pytest", "tests-integration/install", *session.posargs)


@nox.session(name="release-check", requires=["build"], tags=FULL, default=False)
def release_check(session: nox.Session) -> None:
    """Hold what is built, the changelog and the interfaces to what a release needs: ``-- --release v0.1.0`` for one."""
    session.install(*pins("release"))
    session.run("pytest", "tests-integration/release", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, and look at it in a browser; a broken link or reference fails."""
    session.install(*pins("docs"))
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    session.run("pytest", "tests-integration/website", *session.posargs)


@nox.session(default=False)  # the sessions `tests` and `integration` run all of these, among others
@nox.parametrize("suite", [nox.param(suite, id=name) for name, suite in SUITES.items()])
def conformance(session: nox.Session, suite: Path) -> None:
    """Hold a transport against the contract that every transport owes."""
    install(session, *pins("test"))
    session.run("pytest", suite, *session.posargs)


@nox.session(tags=FULL, default=False)
def integration(session: nox.Session) -> None:
    """Run the tests that need several distributions, processes or brokers at once."""
    install(session, *pins("integration"))
    session.run("pytest", PARALLEL, "--dist=loadgroup", *INTEGRATION, *session.posargs)
    if not session.posargs:  # uvloop's sockets fail in other ways than asyncio's; the rest is run by `tests_uvloop`
        session.run("pytest", PARALLEL, "--uvloop", *LINK_TESTS)


@nox.session(tags=FULL, default=False)
def fuzz(session: nox.Session) -> None:
    """Feed everything that reads bytes of strangers with what nobody should send: ``-- --seconds 3600`` for long."""
    install(session, *pins("fuzz"))
    session.run("python", "tests-integration/fuzz/run.py", *session.posargs)


@nox.session(tags=FULL, default=False)
def chaos(session: nox.Session) -> None:
    """Break clusters of real processes at random, and judge them; with arguments: ``-- --minutes 30 --seed 7``."""
    install(session, *pins("chaos"))
    session.run("python", "tests-integration/chaos/run.py", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """Load each transport for an hour and see what grows; ``-- --transport nats --minutes 5 --chart soak.svg``."""
    install(session, *pins("brokers", "charts"))
    session.run("python", "tests-integration/chaos/soak.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure clstr beside bare clients and other libraries; ``-- --scenario 'nats-*' --loop uvloop --json FILE``."""
    install(session, *pins("bench"))
    session.run("python", "tests-integration/bench/run.py", *session.posargs)


@nox.session(tags=FULL, default=False)
def demo(session: nox.Session) -> None:
    """Show a cluster at work: nodes, keyed requests, a hand-over; with ``-- --broker nats`` on a real broker."""
    install(session, *pins("brokers"))
    session.run("python", "docs/examples/demo.py", *session.posargs)
