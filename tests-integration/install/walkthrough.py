"""Follows a page of the documentation word for word: writes its files, types its commands, compares what they print."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MARK = "\x1e"
TIMEOUT = 500  # seconds: a page installs into a fresh environment


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A block with a title: the file of that name."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A line of a console block that begins with ``$``, and what the page says that it prints; ``...`` is anything."""

    line: str
    output: str

    def prints(self, text: str) -> bool:
        """Tell whether ``text`` is what the page says."""
        pattern = re.escape(self.output.strip()).replace(re.escape("..."), ".*")
        return re.fullmatch(pattern, text.strip(), re.DOTALL) is not None


def steps(page: str) -> Iterator[File | Command]:
    """
    Yield what a reader does, in order.

    Raises:
        ValueError: A block is neither a file nor a console, or not a block at the margin: nobody could follow it.
    """
    blocks = FENCE.findall(page)
    if 2 * len(blocks) != page.count("```"):
        raise ValueError("a block is indented, or does not end: write it at the margin")
    for language, title, text in blocks:
        if title:
            yield File(name=title, text=text)
        elif language == "console":
            yield from _commands(text)
        else:
            raise ValueError(
                f"a {language} block without a title, which no reader knows what to do with: {text[:80]!r}"
            )


def _commands(text: str) -> Iterator[Command]:
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield Command(line=line, output=output)


def script(page: list[File | Command]) -> str:
    """Return a program for bash that takes all steps; a mark comes before the output of each command."""
    lines = ["set -euo pipefail"]
    for number, step in enumerate(page):
        if isinstance(step, File):
            lines.append(f"cat > {step.name} <<'END-OF-FILE'\n{step.text}END-OF-FILE")
        elif step.line.endswith("&"):
            lines.append(f"printf '{MARK}'\n{_in_background(step, f'.output-{number}')}")
        else:
            lines.append(f"printf '{MARK}'\n{step.line}")
    return "".join(f"{line}\n" for line in lines)


def _in_background(command: Command, log: str) -> str:
    """Start a server, and go on when it has printed the last line that the page says it prints."""
    awaited = command.output.strip().rpartition("\n")[2].rpartition("...")[2].strip()
    start = f": > {log}\n{command.line.removesuffix('&')} >> {log} 2>&1 &"  # grep may be faster than the shell's child
    return f"{start}\nuntil grep -qF -- {shlex.quote(awaited)} {log}; do kill -0 $! && sleep 0.05; done; cat {log}"


def follow(page: str, folder: Path, environment: Mapping[str, str]) -> None:
    """
    Take every step of ``page`` in ``folder``. What it starts in the background ends.

    Raises:
        AssertionError: A command failed, or printed something else than the page says.
    """
    todo = list(steps(page))
    commands = [step for step in todo if isinstance(step, Command)]
    code, printed = _run(script(todo), folder, environment)
    outputs = COLOUR.sub("", printed).split(MARK)[1:]
    for command, output in zip(commands, outputs, strict=False):
        assert command.prints(output), f"$ {command.line}\nprinted\n{output}\ninstead of\n{command.output}"
    assert code == 0, f"$ {commands[len(outputs) - 1].line}\nended with {code}:\n{printed}"
    assert len(outputs) == len(commands)


def _run(program: str, folder: Path, environment: Mapping[str, str]) -> tuple[int, str]:
    process = subprocess.Popen(
        ["bash", "-c", program],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIMEOUT)
    finally:
        with suppress(ProcessLookupError):  # everything has ended
            os.killpg(process.pid, signal.SIGKILL)  # the session that it began, and nothing else
        process.wait()
    return process.returncode, printed
