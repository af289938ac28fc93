"""What the tests of deploy/ share: the tools, and the folder itself."""

import subprocess

import deploy_tools
import pytest


@pytest.fixture(scope="session")
def tool():
    """Path of a tool that must be there: ``tool("helm")`` (``deploy_tools.TOOLS`` has them all)."""
    return deploy_tools.tool


@pytest.fixture(scope="session")
def run_tool(tool):
    """Runs a tool: ``run_tool("helm", "lint", chart)``; what it said, or a failure showing it.

    Returns the completed process, output as text; with ``check=False``, whatever its exit status.
    Other keywords are those of ``subprocess.run``.
    """

    def run(name, *arguments, check=True, **keywords):
        command = [tool(name), *map(str, arguments)]
        keywords = {"timeout": 120, **keywords}
        done = subprocess.run(command, capture_output=True, text=True, check=False, **keywords)
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    return run


@pytest.fixture(scope="session")
def deploy(repository):
    """The folder ``deploy``."""
    return repository / "deploy"
