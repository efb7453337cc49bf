import numpy as np
import pytest
import scripts
from numba import config

from numbadense._engine import threads

compiled = pytest.mark.skipif(config.DISABLE_JIT, reason="there are no parallel kernels without the JIT")
needs_two = pytest.mark.skipif(
    config.DISABLE_JIT or config.NUMBA_NUM_THREADS < 2, reason="there is one thread, or there are no parallel kernels"
)

SETUP = """
    import os, sys, threading
    import numba, numpy as np
    import numbadense as nd
    rng = np.random.default_rng(0)
    net = nd.Sequential([nd.Dense(rng.standard_normal((64, 64)), rng.standard_normal(64), "sigmoid")])
    x = rng.standard_normal((3000, 64))
    expected = net(x, threads=1)
    from numbadense._engine import plan
    plan.PARALLEL_FROM = dict.fromkeys(plan.PARALLEL_FROM, 1000)
    plan.FEWEST_PARALLEL = 1000
"""


def script(code):
    return scripts.textwrap.dedent(SETUP) + scripts.textwrap.dedent(code)


@needs_two
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_python_threads_may_be_in_parallel_kernels_together(layer):
    code = """
        def work():
            for _ in range(200):
                assert np.array_equal(net(x), expected)
        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers: worker.start()
        for worker in workers: worker.join()
        print(numba.threading_layer())
    """
    done = scripts.run(
        script(code), NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS=2, NUMBADENSE_THREADS=2, check=False
    )
    if layer == "omp" and "No threading layer could be loaded" in done.stderr:
        pytest.skip("numba has no OpenMP here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == layer


@needs_two
def test_a_forked_child_computes_serially():
    code = """
        assert np.array_equal(net(x), expected)
        assert numba.threading_layer()
        child = os.fork()
        if child == 0:
            good = np.array_equal(net(x), expected) and np.array_equal(nd.sigmoid(x), nd.sigmoid(x, threads=1))
            os._exit(0 if good and "serial twin" in net.explain(3000) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert np.array_equal(net(x), expected)
    """
    scripts.run(script(code), NUMBA_NUM_THREADS=2, NUMBADENSE_THREADS=2)


@compiled
def test_a_child_forked_before_any_parallel_kernel_may_have_its_own_pool():
    code = """
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(net(x), expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """
    scripts.run(script(code), NUMBA_NUM_THREADS=2, NUMBADENSE_THREADS=2)


@compiled
def test_small_work_starts_no_pool():
    code = """
        import numba, numpy as np
        import numbadense as nd
        net = nd.Sequential([nd.Dense(np.eye(8), np.zeros(8), "tanh")])
        for m in (1, 10, 1000):
            net(np.ones((m, 8)))
            nd.sigmoid(np.ones(m))
            nd.dense(np.ones((m, 8)), np.eye(8))
        try:
            print(numba.threading_layer())
        except ValueError:
            print("none")
    """
    assert scripts.run(code).stdout.strip() == "none"


@compiled
def test_limits(monkeypatch):
    monkeypatch.delenv("NUMBADENSE_THREADS", raising=False)
    most = threads.limit()
    assert 1 <= most <= config.NUMBA_NUM_THREADS
    assert threads.limit(1) == 1 and threads.limit(10_000) == most
    monkeypatch.setenv("NUMBADENSE_THREADS", "1")
    assert threads.limit() == 1 and threads.limit(2) == 1


@compiled
def test_numbas_own_setting_is_respected():
    code = """
        net(x)
        numba.set_num_threads(1)
        assert "one thread allowed" in net.explain(100_000)
    """
    scripts.run(script(code), NUMBA_NUM_THREADS=2, NUMBADENSE_THREADS=2)


@compiled
def test_the_layer_has_a_name():
    assert threads.layer() in ("omp", "tbb", "workqueue")
    assert threads.expected_layer() == threads.layer()
    assert np.isfinite(threads.limit())


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_launch_lets_one_thread_into_the_workqueue(layer, monkeypatch):
    monkeypatch.setattr(threads, "_layer", layer)
    monkeypatch.setattr(threads, "_forked", False)
    ran = []

    def outer(name):
        ran.append(name)
        ran.append(threads.launch(ran.append, "inner"))

    assert threads.launch(outer, "outer")
    assert ran == (["outer", "inner", True] if layer == "omp" else ["outer", False])
    assert threads.launch(ran.append, "again")  # the gate is open again
    assert threads.expected_layer() == layer


def test_launch_does_nothing_in_a_forked_child(monkeypatch):
    monkeypatch.setattr(threads, "_forked", True)
    assert not threads.launch(pytest.fail, "a parallel kernel ran after a fork")
    assert threads.limit() == threads.limit(7) == 1


def test_the_first_launch_learns_the_layer(monkeypatch):
    monkeypatch.setattr(threads, "_layer", None)
    monkeypatch.setattr(threads, "_forked", False)
    monkeypatch.setattr("numba.threading_layer", lambda: "tbb")
    monkeypatch.setattr(config, "THREADING_LAYER", "workqueue")
    assert threads.expected_layer() == "workqueue"
    assert threads.launch(list)
    assert threads.expected_layer() == "tbb"


def test_a_fork_is_serial_only_once_a_pool_has_started(monkeypatch):
    def none():
        raise ValueError("Threading layer is not initialized.")

    monkeypatch.setattr(threads, "_forked", False)
    monkeypatch.setattr(threads, "_gate", threads._gate)
    monkeypatch.setattr("numba.threading_layer", none)
    threads._after_fork()
    assert not threads._forked
    monkeypatch.setattr("numba.threading_layer", lambda: "omp")
    threads._after_fork()
    assert threads._forked
