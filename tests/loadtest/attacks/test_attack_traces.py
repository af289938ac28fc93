import numpy as np

from loadtest.attacks.traces import KEPT, LEAST, Recorder, Trace, read, save


def rows(count, seed=0):
    return np.random.default_rng(seed).random((count, 3)).astype(np.float32)


def test_exact_repetitions_count_once():
    recorder = Recorder()
    queries = rows(5)
    recorder(queries)
    recorder(queries[::-1])
    recorder(queries[:1])
    trace = recorder.trace(success=True)
    assert trace.asked == 5
    assert np.array_equal(trace.queries, queries)


def test_what_is_kept_is_bounded_and_what_is_counted_is_not():
    recorder = Recorder()
    recorder(rows(KEPT + 50))
    trace = recorder.trace(success=True)
    assert (len(trace.queries), trace.asked) == (KEPT, KEPT + 50)


def test_a_run_counts_if_it_succeeded_and_was_not_over_at_once():
    assert Trace(rows(LEAST), LEAST, success=True).counts
    assert not Trace(rows(LEAST), LEAST, success=False).counts
    assert not Trace(rows(LEAST - 1), LEAST - 1, success=True).counts


def test_a_file_gives_back_what_was_saved(tmp_path):
    traces = [Trace(rows(7, 1), 7, success=True), Trace(rows(3, 2), 900, success=False)]
    save(tmp_path / "new" / "runs.npz", traces)
    found = read(tmp_path / "new" / "runs.npz")
    assert len(found) == 2
    for before, after in zip(traces, found, strict=True):
        assert np.array_equal(before.queries, after.queries)
        assert (before.asked, before.success) == (after.asked, after.success)
