"""What `python train.py --help` says is so, and Tab completes what it names, in a real shell."""

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
from conftest import ROOT, environment
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

CONF = ROOT / "conf"
CHOICES = {
    group.name: {path.stem for path in group.glob("*.yaml")}
    for group in CONF.iterdir()
    if any(group.glob("*.yaml")) and group.name != "hydra"  # Hydra's own settings are no choice
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """{title up to its colon: text} of what it prints."""
    done = subprocess.run(
        [sys.executable, "train.py", "--help"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    titles = re.findall(r"^== (.*) ==$", done.stdout, re.MULTILINE)
    texts = re.split(r"^== .* ==$", done.stdout, flags=re.MULTILINE)[1:]
    return {title.split(":")[0]: text for title, text in zip(titles, texts, strict=True)}


def test_groups_are_all_there_and_the_star_is_the_default(sections: dict[str, str]) -> None:
    found: dict[str, set[str]] = {}
    starred = {}
    group = ""
    for line in sections["Groups"].strip().splitlines():
        if row := re.fullmatch(r"(\w*) +(\* )?(\w+(?:, \w+)*)(?: {2,}\S.*)?", line):
            group = row[1] or group
            found.setdefault(group, set()).update(row[3].split(", "))
            if row[2]:
                starred[group] = row[3]
    assert found == {group: choices for group, choices in CHOICES.items() if group != "experiment"}
    default = composed().hydra.runtime.choices
    assert starred == {group: default[group] for group in found}


def test_presets_are_all_there(sections: dict[str, str]) -> None:
    lines = re.findall(r"^experiment=(\w+(?:, \w+)*)", sections["Presets"], re.MULTILINE)
    assert sorted(", ".join(lines).split(", ")) == sorted(CHOICES["experiment"])


def test_values_are_what_they_are(sections: dict[str, str]) -> None:
    values = re.findall(r"^'?([\w.]+)=(\S+?)'?  ", sections["Values"], re.MULTILINE)
    assert len(values) == 10
    config = composed()
    for key, value in values:
        assert OmegaConf.select(config, key) == OmegaConf.create(f"x: {value}").x
    rates = r"(\S+) for momentum, (\S+) for adam, (\S+) with mse"
    (said,) = re.findall(rates, sections["Values"])
    found = [composed(choice).optimizer.lr for choice in ("optimizer=momentum", "optimizer=adam", "loss=mse")]
    assert [float(value) for value in said] == found


def test_every_command_composes(sections: dict[str, str]) -> None:
    """Each job of each sweep. tests/test_commands.py runs them."""
    lines = re.findall(r"python train\.py (?!-sc)(.*)", "\n".join(sections.values()))
    assert len(lines) == 6
    for line in lines:
        swept = []
        for word in shlex.split(line):
            key, given, value = word.partition("=")
            if given:
                choices = sorted(CHOICES[key]) if value == "glob(*)" else value.split(",")
                swept.append([f"{key}={choice}" for choice in choices])
        for overrides in product(*swept):
            assert composed(*overrides)


def test_it_is_quick_to_read(sections: dict[str, str]) -> None:
    """Five things; with what goes before it, less than three screens."""
    five, beside = (part.splitlines() for part in sections["The five things people do most"].strip().split("\n\n"))
    assert len(five) == 5
    assert all(" python train.py " in line for line in five)
    assert len(beside) == 4
    assert sum(text.count("\n") for text in sections.values()) < 72


class Terminal:
    """A bash that somebody types at, in the project's root."""

    def __init__(self) -> None:
        ours, theirs = pty.openpty()
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile", "-i"],
            cwd=ROOT,
            env=environment()
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PS1": "READY> ",
                "TERM": "dumb",
                "COLUMNS": "200",
                "INPUTRC": "/dev/null",
            },
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.file = ours
        self.read_to("READY> ")

    def type(self, keys: str, until: str) -> str:
        """What the terminal shows from these keys on, up to a text."""
        os.write(self.file, keys.encode())
        return self.read_to(until)

    def read_to(self, text: str) -> str:
        seen, end = "", time.monotonic() + 30
        while text not in seen:
            if not select.select([self.file], [], [], max(0, end - time.monotonic()))[0]:
                pytest.fail(f"no {text!r} in {seen!r}")
            seen += os.read(self.file, 4096).decode()
        return seen

    def close(self) -> None:
        self.shell.kill()
        self.shell.wait()
        os.close(self.file)


def test_tab_in_a_real_shell() -> None:
    """As docs/quickstart.md has it: Tab, twice, lists what there is, or finishes a word, and nothing else is said."""
    (line,) = re.findall(
        r"^eval .*install=bash.*$", (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    terminal = Terminal()
    try:
        assert terminal.type(f"{line}\n", "READY> ").count("\n") == 1  # its own echo
        shown = terminal.type("python train.py init=\t\t", "READY> python train.py init=")
        names = re.findall(r"\S+", shown.replace("\x07", "").split("\n", 1)[1].split("READY> ")[0])
        assert sorted(names) == sorted(f"init={name}" for name in CHOICES["init"])
        assert terminal.type("kaiming_f\t", "an_out") == "kaiming_fan_out"
    finally:
        terminal.close()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("experiment=", {f"experiment={preset}" for preset in CHOICES["experiment"]}),
        ("init=kaiming mo", {"model=", "model."}),
        ("optimizer.", {"optimizer.lr=", "optimizer._target_=", "optimizer._partial_="}),
        ("-m init=kaiming,", set()),  # after a comma there is nothing, as the page says
    ],
)
def test_what_is_offered(typed: str, offered: set[str]) -> None:
    """To bash and fish alike, with no noise."""
    line = f"python train.py {typed}"
    for shell in ("bash", "fish"):
        done = subprocess.run(
            [sys.executable, "train.py", "-sc", f"query={shell}"],
            cwd=ROOT,
            env=environment() | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=True,
        )
        assert set(done.stdout.split()) == offered
        assert done.stderr == ""
