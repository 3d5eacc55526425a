"""Where a plugin submits jobs through a shell, folders whose names that shell would run are refused beforehand."""

import importlib.util
from pathlib import Path

import pytest
from house import House

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        importlib.util.find_spec("snakemake_executor_plugin_cluster_generic") is None,
        reason="the cluster plugins are not installed (make test-cluster does it)",
    ),
]


@pytest.mark.parametrize("name", ["a $(touch pwned)", "a `touch pwned`", 'a "b', "a \\b"])
def test_a_folder_whose_name_is_a_command_is_refused(tmp_path: Path, name: str) -> None:
    options = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", "sh", "--jobs", "1"]
    answer = House(tmp_path / name).snakemake(*options)
    assert answer.code != 0
    assert "a command for the plugin that submits jobs; rename the folder" in answer.text
    assert [path for path in tmp_path.rglob("pwned") if path.is_file()] == []
