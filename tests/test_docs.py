"""Pages: links that lead somewhere, commands and options that exist, containers that are what they say."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from vivim_runtime.live.screens.base import ScreenOptions
from vivim_runtime.live.screens.web import WebViewer
from vivim_runtime.live.status import Controls

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = {"commands.md", "python.md"}  # of docs/reference, by docs/tools/reference.py
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
MODULES = {
    "vivim-run": "vivim_runtime.commands.run",
    "vivim-export": "vivim_export.commands",
    "vivim-check": "vivim_runtime.commands.check",
    "vivim-calibrate": "vivim_calibration.commands",
    "vivim-eval": "vivim_runtime.commands.evaluate",
    "vivim-train": "vivim.commands.train",
    "vivim-doctor": "vivim_runtime.commands.doctor",
    "vivim-plugins": "vivim_runtime.commands.plugins",
    "vivim-bench": "vivim_runtime.commands.bench",
}
STUDIES = {"vivim-bench": "vivim.commands.paper"}  # what a command has besides, from a package that needs torch
# Scripts of the checkout that pages name, and the options of other people's tools.
SCRIPTS = [path for name in ("benchmarks", "docs/tools", "examples", "plugins") for path in (ROOT / name).rglob("*.py")]
OTHERS = {
    "pip, venv": {"--force-reinstall", "--no-build-isolation", "--system-site-packages"},
    "CMake": {"--build", "--preset"},
    "Docker": {"--rm", "--target", "--user"},
    "torchrun": {"--nproc-per-node"},
    "trtexec": {
        "--exportProfile",
        "--dynamicPlugins",
        "--onnx",
        "--saveEngine",
        "--setPluginsToSerialize",
        "--staticPlugins",
        "--stronglyTyped",
    },
    "Polygraphy": {"--data-loader-script", "--onnxrt", "--plugins", "--save-outputs", "--strongly-typed", "--trt"},
    "tritonserver": {"--backend-config", "--model-repository"},
}
COMMON = {"--help", "-h", "--version", "--install-completion", "--show-completion"}


def anchors(page: Path) -> set[str]:
    """As GitHub and MkDocs make them of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", title)) for title in titles)
    return {re.sub(r"\s+", "-", title.strip().lower()) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists() or (found.parent.name == "reference" and found.name in GENERATED), target
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), target


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r": ([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    made = {f"reference/{name}" for name in GENERATED}
    assert sorted(listed) == sorted(pages | made)


def options() -> dict[str, set[str]]:
    """The options of every command with a program of its own; those of its subcommands too."""

    def below(command: Any) -> Iterator[str]:
        for inner in getattr(command, "commands", {}).values():
            yield from below(inner)
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)

    def of(module: str) -> set[str]:
        return set(below(get_command(importlib.import_module(module).app)))

    studies = {name: of(module) for name, module in STUDIES.items()}
    return {name: COMMON | of(module) | studies.get(name, set()) for name, module in MODULES.items()}


def lines_of_commands(text: str) -> Iterator[tuple[str, str]]:
    """(program, words) of every line in a block of code that begins with one of our commands."""
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL):
        joined = re.sub(r"\\\n\s*", " ", block)
        for line in joined.splitlines():
            match = re.match(r"\s*(?:\$ )?(vivim-[a-z]+)( .*|$)", line)
            if match:
                yield match[1], match[2].partition(" # ")[0]


def test_commands_in_pages_have_the_options_that_are_written() -> None:
    known = options()
    seen = 0
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for program, words in lines_of_commands(page.read_text(encoding="utf-8")):
            if program not in known:
                continue
            for option in re.findall(r"(?<![\w-])--?[a-z][\w-]*", words):
                seen += 1
                assert option in known[program], f"{page.name}: {program}{words}"
    assert seen > 50


def test_every_option_that_a_page_names_exists() -> None:
    """Those in running text and in tables too, which are nobody's in particular: some command must have them."""
    ours = set().union(*options().values())
    scripts = {name for path in SCRIPTS for name in re.findall(r"""["'](--[a-z][\w-]*)["']""", path.read_text())}
    known = ours | scripts | set().union(*OTHERS.values())
    seen = 0
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for option in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", page.read_text(encoding="utf-8")):
            seen += 1
            assert option in known, f"{page.relative_to(ROOT)}: {option}"
    assert seen > 400


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    version = re.search(r'^version = "([\d.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert f"version: {version[1]}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"{version[1]}\n" in (ROOT / "CHANGELOG.md").read_text()


# Containers, which cannot be built here: what hadolint and a reader would look at.


def stages() -> dict[str, list[str]]:
    """The instructions of each target of the Dockerfile, continued lines joined."""
    found: dict[str, list[str]] = {}
    text = re.sub(r"\\\n\s*", " ", (ROOT / "docker" / "Dockerfile").read_text())
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            inherited = [each for each in found.get(base, []) if each.split()[0] in ("ENV", "WORKDIR")]
            found[name] = [line, *inherited]
        else:
            found[name].append(line)
    return found


@pytest.mark.parametrize("target", ["cpu", "rtx", "jetson"])
def test_an_image_runs_as_a_user_and_installs_what_exists(target: str) -> None:
    lines = stages()[target]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users and users[-1] not in ("root", "0")
    assert lines.index(f"USER {users[-1]}") > max(i for i, line in enumerate(lines) if line.startswith("RUN "))
    assert 'ENTRYPOINT ["vivim-run"]' in lines
    project = (ROOT / "pyproject.toml").read_text()
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", " ".join(lines))
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras.split(","))


def test_images_are_named_by_a_version_and_leave_no_lists_behind() -> None:
    found = stages()
    for name, lines in found.items():
        base = lines[0].split()[1]
        assert base in found or re.search(r":[\w.-]*\d", base), f"{name}: {base} could be anything tomorrow"
        for line in lines:
            assert not line.startswith("ADD "), line
            if "apt-get install" in line:
                assert "--no-install-recommends" in line and "rm -rf /var/lib/apt/lists/*" in line and "--yes" in line
            if line.startswith("COPY ") and "--from" not in line:
                assert all((ROOT / word).exists() for word in line.split()[1:-1]), line


def test_what_an_image_takes_from_another_runs_and_starts_exists() -> None:
    """Stages that are copied from come earlier, scripts are in the repository, and the Python is a supported one."""
    found = stages()
    project = (ROOT / "pyproject.toml").read_text()
    for number, (name, lines) in enumerate(found.items()):
        text = " ".join(lines)
        for stage in re.findall(r"--from=([\w.-]+)", text):
            assert stage in list(found)[:number], f"{name}: {stage}"
        scripts = re.findall(r"python3? ((?:\w+/)+\w+\.py)", text)
        assert all((ROOT / script).is_file() for script in scripts), scripts
        for command in re.findall(r'ENTRYPOINT \["([\w-]+)"', text):
            assert re.search(rf"^{command} = ", project, re.MULTILINE)
        for version in re.findall(r"^FROM python:(\d\.\d+)", lines[0]):
            assert f'"Programming Language :: Python :: {version}"' in project
    built = [line for line in found["cpu"] if line.startswith("COPY --from=native")]
    assert [line.split()[2] for line in built] == ["/src/plugins/build/native/libvivim_ort.so"]
    assert "VIVIM_ORT=/usr/local/lib/libvivim_ort.so" in " ".join(found["cpu"])


def test_the_page_of_the_composed_container_is_for_this_machine_alone() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (service,) = yaml.safe_load((ROOT / "docker" / "compose.yml").read_text())["services"].values()
    assert service["build"]["target"] in stages()
    assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and "privileged" not in service
    words = service["command"]
    assert {word for word in words if word.startswith("--")} <= options()["vivim-run"]
    assert ":?" in words[words.index("--token") + 1]  # refused without one


def test_the_health_of_the_composed_container_is_asked_with_its_token() -> None:
    """Without it the page refuses, and the container would be restarted for ever as not healthy."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (service,) = yaml.safe_load((ROOT / "docker" / "compose.yml").read_text())["services"].values()
    how, python, dash, code = service["healthcheck"]["test"]
    assert (how, python, dash) == ("CMD", "python", "-c") and "VIVIM_TOKEN" in service["environment"]
    token = "0123456789abcdef"
    model = type("Info", (), {"classes": ()})()
    with WebViewer("http://127.0.0.1:0", Controls((), 0.5, 0.4), model, ScreenOptions(token=token)) as web:
        asked = code.replace("http://127.0.0.1:8080", web.name)
        assert asked != code
        for given, healthy in ((token, True), ("another token 0", False)):
            environment = {**os.environ, "VIVIM_TOKEN": given.replace(" ", "-")}
            done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, timeout=30)
            assert (done.returncode == 0) is healthy, done.stderr


def test_only_what_the_dockerfile_copies_is_sent_to_the_builder() -> None:
    copied = {
        word
        for lines in stages().values()
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sent == {word.removeprefix("./") for word in copied}
