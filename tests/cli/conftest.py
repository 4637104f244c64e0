"""The command line, called in this process, in a folder of its own."""

import textwrap

import attrs
import pytest

from genfw_cli.main import main

TINY = """
    genfw: 1
    name: tiny
    description: |
      A VAE of a few weights.
      For tests.
    data: {use: gaussian-grid}
    prior: {use: standard-normal, dim: 2}
    decoder: {use: mlp, hidden: [4], sigma: 0.2}
    encoder: {use: mlp, hidden: [4]}
    train:
      - {use: elbo, steps: 4, batch: 8, optimizer: {use: adam, lr: 1e-3}}
    sample: {count: 4}
    engine: {log_every: 2}
"""

FAULTY = """
    genfw: 1
    name: faulty
    data: {use: gaussian-grid}
    prior: {use: standard-normal, dimm: 2}
    decoder: {use: mpl}
    encoder: {use: mlp, hidden: wide}
    train:
      - {use: elbo, steps: 4, batch: 8, optimizer: {use: adam, lr: 1e-3}}
"""


@attrs.frozen
class Called:
    code: int
    out: str
    err: str

    @property
    def rows(self):
        return [line.split("\t") for line in self.out.splitlines()]


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    """Call genfw with arguments; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENFW_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Called(code, captured.out, captured.err)

    return run


@pytest.fixture
def terminal(monkeypatch):
    """Have results printed as for a person."""
    monkeypatch.setattr("genfw_cli.output.on_terminal", lambda: True)


@pytest.fixture
def write(tmp_path):
    """Write a text to a file of the test's folder."""

    def to(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
        return path

    return to


@pytest.fixture
def tiny(write):
    """A recipe that trains in a moment."""
    return write("tiny.yaml", TINY)


@pytest.fixture
def faulty(write):
    """A recipe with three faults."""
    return write("faulty.yaml", FAULTY)


@pytest.fixture
def distribution(write, tmp_path, monkeypatch):
    """Install a distribution that has one plugin, by writing it where Python looks."""

    def install(name, module, text):
        write(f"site/{module}.py", text)
        write(f"site/{module}-0.3.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
        write(f"site/{module}-0.3.dist-info/entry_points.txt", f"[genfw]\n{module} = {module}\n")
        monkeypatch.syspath_prepend(tmp_path / "site")

    return install
