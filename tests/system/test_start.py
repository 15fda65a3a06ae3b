"""Starting: what a first start tells that a second one need not."""

from pathlib import Path

from tests.system.live import launch


def start_and_stop(data_dir: Path) -> str:
    process = launch(data_dir)
    said = ""
    for line in process.stdout or ():
        said += line
        if "ready at" in line:
            process.terminate()
    process.wait(20)
    if process.stdout is not None:
        process.stdout.close()
    return said


def test_only_the_first_start_builds_the_graph_and_says_so(own_data: Path) -> None:
    first, second = start_and_stop(own_data), start_and_stop(own_data)
    assert "building the decoding graph of tiny" in first
    assert "building" not in second
    assert "ready at http://127.0.0.1:" in second
