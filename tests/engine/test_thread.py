from collections.abc import Callable
from pathlib import Path

import pytest

from fluvial.engine import thread
from fluvial.engine.decoder import Decoder
from fluvial.engine.thread import choose_for, choose_threads, count_usable, list_candidates
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import open_checkpoint


class Machine:
    """A clock that only steps move: step time by number of threads, in seconds."""

    def __init__(self, step_s: dict[int, float], *, load_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.step_s = step_s
        self.load_s = load_s
        self.ran: list[int] = []

    def make_step(self, threads: int) -> Callable[[], None]:
        self.now_s += self.load_s

        def step() -> None:
            self.ran.append(threads)
            self.now_s += self.step_s[threads]

        return step

    def choose(self, budget_s: float = 1.0) -> thread.ThreadChoice:
        return choose_threads(
            self.make_step, candidates=self.step_s, budget_s=budget_s, clock=lambda: self.now_s
        )


@pytest.mark.parametrize(
    ("step_s", "chosen"),
    [
        ({1: 0.010, 2: 0.006, 4: 0.004}, 4),
        ({1: 0.010, 2: 0.030}, 1),
        ({1: 0.0104, 2: 0.010}, 1),
        ({1: 0.0106, 2: 0.010}, 2),
        ({1: 0.010, 2: 0.006, 4: 0.0058}, 2),
        ({3: 0.010}, 3),
    ],
)
def test_fewest_threads_within_five_percent(step_s: dict[int, float], chosen: int):
    choice = Machine(step_s).choose()
    assert choice.threads == chosen
    assert choice.timings_ms == pytest.approx({n: 1000 * each_s for n, each_s in step_s.items()})


def test_candidates_take_turns_after_a_first_step_that_does_not_count():
    machine = Machine({1: 0.2, 2: 0.2})
    machine.choose()
    assert machine.ran == [1, 2, 1, 2, 2, 1]


def test_one_slow_moment_does_not_decide():
    machine = Machine({1: 0.010, 2: 0.005})
    disturbed = iter([0.0, 0.0, 0.0, 0.9])
    make_step = machine.make_step

    def make_disturbed(threads: int) -> Callable[[], None]:
        step = make_step(threads)

        def run() -> None:
            step()
            machine.now_s += next(disturbed, 0.0)

        return run

    choice = choose_threads(
        make_disturbed, candidates=[1, 2], budget_s=2.0, clock=lambda: machine.now_s
    )
    assert choice.threads == 2


def test_rounds_are_bounded():
    machine = Machine({1: 0.0, 2: 0.0})
    machine.choose()
    assert len(machine.ran) <= 60


def test_time_bounds_the_candidates_and_the_rounds():
    machine = Machine({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, load_s=0.2)
    begun_s = machine.now_s
    assert set(machine.choose().timings_ms) == {1, 2}
    assert machine.now_s - begun_s == pytest.approx(1.0, abs=0.25)


def test_no_candidates_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="no number of threads"):
        choose_threads(lambda threads: lambda: None, candidates=[])


@pytest.mark.parametrize(
    ("usable", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (12, [1, 2, 4, 8, 12])],
)
def test_candidates_are_powers_of_two_and_all(usable: int, expected: list[int]):
    assert list_candidates(usable) == expected


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


SIBLINGS = {
    f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}\n"
    for cpu in range(8)
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        (SIBLINGS, 4),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
        ({"sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        ({"sys/fs/cgroup/cpu.max": "nonsense"}, 8),
        ({"sys/fs/cgroup/cpu.max": "100000 0"}, 8),
    ],
)
def test_usable_cores(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(thread, "_list_cpus", lambda: range(8))
    assert count_usable(write(tmp_path, files)) == expected


def test_usable_cores_of_this_machine():
    assert count_usable() >= 1


def test_a_decoder_is_measured_and_set(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(thread, "count_usable", lambda: 2)
    checkpoint = open_checkpoint(tiny_model)
    folder = ensure_graph(checkpoint, cache_dir=tmp_path, positions=64)
    decoder = Decoder(checkpoint, graph_folder=folder, context_tokens=64, threads=1)
    used: list[int] = []
    monkeypatch.setattr(decoder, "use_threads", used.append)
    choice = choose_for(decoder)
    assert set(choice.timings_ms) == {1, 2}
    assert used[-1] == choice.threads
    assert decoder.free_pages == decoder.total_pages
