"""Which native kernels the image takes, on which CPU."""

import importlib.util

import pytest


@pytest.fixture(scope="module")
def kernels(repository):
    """The module, which chooses when it is imported: here, nothing."""
    path = repository / "deploy/image/kernels/bartizan_kernels.py"
    spec = importlib.util.spec_from_file_location("bartizan_kernels", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CPU_NAME", "the operator's own")
        spec.loader.exec_module(module)
    return module


def cpuinfo(flags):
    return (
        f"processor\t: 0\nmodel name\t: some\nflags\t\t: fpu {' '.join(sorted(flags))}\nbugs\t\t:\n"
    )


def test_a_cpu_of_the_level_takes_the_kernels_of_the_image(kernels):
    environment = {}
    kernels.choose(environment, cpuinfo(kernels.NEEDED | {"avx512f"}))
    assert environment == {
        "NUMBA_CPU_NAME": "x86-64-v3",
        "NUMBA_CPU_FEATURES": kernels.FEATURES,
        "NUMBA_CACHE_LOCATOR_CLASSES": "bartizan_kernel_cache.Precompiled",
    }


def test_a_cpu_without_one_of_its_features_does_not(kernels):
    assert len(kernels.NEEDED) == 16
    for missing in kernels.NEEDED:
        environment = {}
        kernels.choose(environment, cpuinfo(kernels.NEEDED - {missing}))
        assert environment == {"NUMBA_CACHE_DIR": "/tmp/bartizan-kernels"}, missing


@pytest.mark.parametrize("text", ["", "processor : 0", "Features : asimd sve", "flags"])
def test_what_tells_nothing_is_no_such_cpu(kernels, text):
    environment = {}
    kernels.choose(environment, text)
    assert environment == {"NUMBA_CACHE_DIR": "/tmp/bartizan-kernels"}


@pytest.mark.parametrize(
    "name",
    ["NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_CACHE_DIR", "NUMBA_CACHE_LOCATOR_CLASSES"],
)
def test_what_the_operator_chose_stays(kernels, name):
    environment = {name: "chosen"}
    kernels.choose(environment, cpuinfo(kernels.NEEDED))
    assert environment == {name: "chosen"}
