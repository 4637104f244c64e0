"""What stands around the code agrees with the code: workflows, scripts, versions, links."""

import os
import re
import tomllib

import pytest
import yaml

import genfw
from places import ROOT


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def names(*patterns):
    return [path.relative_to(ROOT).as_posix() for pattern in patterns for path in sorted(ROOT.glob(pattern))]


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
TESTS = yaml.safe_load(text(".github/workflows/tests.yml"))
MATRIX = TESTS["jobs"]["tests"]["strategy"]["matrix"]
WORKFLOWS = names(".github/workflows/*.yml")


@pytest.mark.parametrize("path", names(".github/**/*.yml", ".pre-commit-config.yaml", "CITATION.cff"))
def test_configuration_is_yaml(path):
    assert isinstance(yaml.safe_load(text(path)), dict)


@pytest.mark.parametrize("path", WORKFLOWS)
def test_a_workflow_may_read_and_only_publishing_may_more(path):
    workflow = yaml.safe_load(text(path))
    assert workflow["permissions"] == {"contents": "read"}
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    published = {
        "release.yml": {"publish": {"id-token": "write"}},
        "site.yml": {"publish": {"pages": "write", "id-token": "write"}},
    }
    assert more == published.get(path.rpartition("/")[2], {})


@pytest.mark.parametrize("path", WORKFLOWS)
def test_a_workflow_calls_scripts_that_can_be_called_at_home(path):
    for step in steps(yaml.safe_load(text(path))):
        if "run" in step:
            script = ROOT / step["run"].split()[0]
            assert script.parent == ROOT / ".ci", f"{step['run']!r} calls no script of .ci"
            assert os.access(script, os.X_OK), f"{script} is absent or not executable"


def test_the_tests_workflow_calls_all_that_ci_run_calls():
    own = set(re.findall(r"^step .* (\.ci/\w+)", text(".ci/run"), re.M))
    assert own
    assert own == {step["run"].split()[0] for step in steps(TESTS) if "run" in step}


def test_the_matrix_has_the_python_versions_that_the_package_claims():
    claimed = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert MATRIX["python"] == claimed
    assert PROJECT["requires-python"] == f">={claimed[0]}"
    assert [entry["python"] for entry in MATRIX["include"]] == [claimed[0], claimed[-1]]


def test_the_oldest_torch_tested_is_the_oldest_promised():
    (promised,) = [name.removeprefix("torch>=") for name in PROJECT["dependencies"] if name.startswith("torch>=")]
    assert MATRIX["include"][0]["torch"] == f"{promised}.0"
    assert f"({promised} or newer" in text("README.md")


def test_there_is_one_version():
    assert PROJECT["version"] == genfw.__version__ == yaml.safe_load(text("CITATION.cff"))["version"]
    assert f"\n## {genfw.__version__} (" in text("CHANGELOG.md")


def test_pre_commit_has_the_ruff_of_ci():
    revisions = {repo["repo"]: repo.get("rev") for repo in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]}
    (ruff,) = re.findall(r"^ruff==(.+)$", text("constraints.txt"), re.M)
    assert revisions["https://github.com/astral-sh/ruff-pre-commit"] == f"v{ruff}", "see constraints.txt"


@pytest.mark.parametrize("path", names("*.md", "docs/**/*.md", "examples/**/*.md", ".github/**/*.md"))
def test_links_lead_somewhere(path):
    prose = re.sub(r"```.*?```", "", text(path), flags=re.S)
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", prose)
    assert [target for target in targets if not (ROOT / path).parent.joinpath(target).exists()] == []
