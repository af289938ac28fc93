"""The templates of config/ci pass their own linters, and each linter fails on a broken copy."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from absence import absent

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "config" / "ci"
LINT = ROOT / ".venv-lint" / "bin"
CODENARC = ROOT / ".venv-npm" / "node_modules" / "npm-groovy-lint" / "lib" / "java"
GITHUB, GITLAB, JENKINS = "github-actions.yml", "gitlab-ci.yml", "Jenkinsfile"

LINTERS = {
    "actionlint": (GITHUB, ["actionlint"], ("${{ inputs.package }}", "${{ inputs.nothing }}")),
    "GitHub's schema": (
        GITHUB,
        ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
        ("runs-on: ubuntu-24.04", "runs: ubuntu-24.04"),
    ),
    "zizmor": (
        GITHUB,
        ["zizmor", "--offline", "--quiet", "--persona", "pedantic"],
        ('bash -- "$SERVE"', 'bash -- "${{ inputs.serve }}"'),
    ),
    "GitLab's schema": (
        GITLAB,
        ["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci"],
        ("when: always", "when: sometimes"),
    ),
}


@pytest.mark.parametrize("linter", LINTERS)
def test_a_linter_passes_the_template_and_fails_a_broken_copy(linter, tmp_path):
    template, (program, *options), (right, wrong) = LINTERS[linter]
    if not (LINT / program).exists():
        absent(".venv-lint", f"no {program}: make .venv-lint/.installed")
    workflows = tmp_path / ".github" / "workflows"  # by which zizmor knows what it reads
    workflows.mkdir(parents=True)
    text = (TEMPLATES / template).read_text()
    assert right in text
    for name, content in (("good.yml", text), ("broken.yml", text.replace(right, wrong))):
        (workflows / name).write_text(content)
    # One start for both: it finds fault with the one and never names the other.
    done = subprocess.run(
        [LINT / program, *options, workflows / "good.yml", workflows / "broken.yml"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "broken.yml" in done.stdout + done.stderr
    assert "good.yml" not in done.stdout + done.stderr


def test_the_jenkinsfile_passes_codenarc(tmp_path):
    if shutil.which("java") is None:
        absent("java", "no java: apt-get install openjdk-17-jre-headless")
    if not CODENARC.exists():
        absent(".venv-npm", "no CodeNarc: make .venv-npm/.installed")
    text = (TEMPLATES / JENKINS).read_text()
    # One start of the JVM for all: it costs more than what it does.
    copies = {
        "good": text,
        "syntax": text.replace("agent any", "agent any }"),
        "rule": text.replace(
            "pipeline {", "import java.util.List\nimport java.util.List\npipeline {"
        ),
    }
    for name, content in copies.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / JENKINS).write_text(content)
    rules = "rulesets/basic.xml,rulesets/imports.xml,rulesets/unused.xml,rulesets/jenkins.xml"
    report = tmp_path / "report.json"
    done = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{CODENARC}/*:{CODENARC}/groovy/lib/*",
         "org.codenarc.CodeNarc", f"-basedir={tmp_path}", f"-includes=**/{JENKINS}",
         f"-rulesetfiles={rules}", f"-report=json:{report}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert report.exists(), done.stdout + done.stderr
    found = {}
    for package in json.loads(report.read_text())["packages"]:
        for file in package.get("files", []):
            rules_broken = [one["ruleName"] for one in file["violations"]]
            found[package["path"]] = rules_broken
    assert found["good"] == []
    assert "DuplicateImport" in found["rule"]
    unread = re.findall(r"(\w+)/Jenkinsfile", " ".join(
        line for line in (done.stdout + done.stderr).splitlines() if "Compilation failed" in line
    ))  # fmt: skip
    assert set(unread) == {"syntax"}


def test_actions_are_pinned_and_permissions_least():
    workflow = yaml.safe_load((TEMPLATES / GITHUB).read_text())
    assert workflow["permissions"] == {}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"contents": "read", "security-events": "write"}
    uses = re.findall(
        r"uses: (\S+)( # v\S+)?\n", (TEMPLATES / GITHUB).read_text().split("jobs:", 2)[2]
    )
    assert len(uses) == 4
    for action, version in uses:
        assert re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", action)
        assert version
    for step in job["steps"]:
        assert "${{" not in step.get("run", "")


def test_the_templates_run_the_same_command_and_publish_what_it_writes():
    command = re.compile(
        r"bartizan loadtest run[\s\\]+--out report --format html --format junit --format sarif"
        r' --format markdown[\s\\]+-- "\$SCENARIO"'
    )
    for name in (GITHUB, GITLAB, JENKINS):
        assert command.search((TEMPLATES / name).read_text()), name
    assert "report/junit.xml" in (TEMPLATES / JENKINS).read_text()
    gitlab = yaml.safe_load((TEMPLATES / GITLAB).read_text())
    assert gitlab["loadtest"]["artifacts"]["reports"] == {"junit": "report/junit.xml"}


def test_the_templates_install_what_is_named_and_nothing_else(tmp_path):
    """The name itself is nobody's: whoever registered it would be installed."""
    workflow = yaml.safe_load((TEMPLATES / GITHUB).read_text())
    for event in ("workflow_call", "workflow_dispatch"):
        package = workflow[True][event]["inputs"]["package"]  # YAML 1.1 reads "on" so
        assert package["required"] and "default" not in package
    (job,) = workflow["jobs"].values()
    (github,) = (step for step in job["steps"] if step["name"] == "Install")
    assert github["env"] == {"PACKAGE": "${{ inputs.package }}"}
    gitlab = yaml.safe_load((TEMPLATES / GITLAB).read_text())
    assert gitlab["variables"]["PACKAGE"] == ""
    jenkins = (TEMPLATES / JENKINS).read_text()
    assert re.search(r"name: 'PACKAGE', defaultValue: '',", jenkins)
    (step,) = re.findall(r"stage\('Install'\).*?sh '''(.*?)'''", jenkins, re.S)
    scripts = (github["run"], gitlab["loadtest"]["before_script"][0], step)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("python", "python3"):
        (programs / name).write_text(
            "#!/bin/sh\n"
            'case "$*" in\n'
            '"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python;;\n'
            '*) printf "%s\\n" "$@";; esac\n'
        )
        (programs / name).chmod(0o755)
    for script in scripts:
        for shell in ("bash", "sh"):
            for package in ("", "./a b[loadtest]"):
                done = subprocess.run(
                    [shell, "-e", "-c", script],
                    capture_output=True,
                    text=True,
                    cwd=tmp_path,
                    env={"PATH": f"{programs}:/usr/bin:/bin", "PACKAGE": package},
                    check=False,
                )
                if package:
                    assert done.stdout.split("\n") == ["-m", "pip", "install", "--", package, ""]
                    assert done.returncode == 0
                else:
                    assert done.returncode != 0 and done.stdout == ""
                    assert "PACKAGE: name what pip installs" in done.stderr
