"""Unit tests, command and, for a bounded time, fuzz targets under ASan, LSan and UBSan."""

from __future__ import annotations

import os
import shutil

import pytest

from cpp_builds import BUILD, CPP, configure_and_build, require_tools, run

TARGETS = ("manifest", "tokenizer", "c_api")
SECONDS = int(os.environ.get("LDM_ENGINE_FUZZ_SECONDS", "5"))
ENVIRONMENT = {
    "LSAN_OPTIONS": f"suppressions={CPP / 'tests/leaks.txt'}",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TBB_ENABLE_SANITIZERS": "1",  # else it loads libraries in a way that ASan refuses
}
CLANG, CLANGXX = "clang-14", "clang++-14"


@pytest.fixture(scope="module")
def sanitized():
    """Everything, built by clang with both sanitizers and libFuzzer."""
    require_tools(CLANG, CLANGXX)
    tree = BUILD / "sanitized"
    configure_and_build(
        CPP, tree, f"-DCMAKE_C_COMPILER={CLANG}", f"-DCMAKE_CXX_COMPILER={CLANGXX}",
        "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -gline-tables-only",
        "-DCMAKE_UNITY_BUILD=ON", "-DLDM_ENGINE_WERROR=ON", "-DLDM_ENGINE_SANITIZE=ON",
        "-DLDM_ENGINE_FUZZ=ON",
    )  # fmt: skip
    return tree


def test_the_unit_tests_pass(sanitized, shapes_bundle):
    bundle = {"LDM_ENGINE_TEST_BUNDLE": shapes_bundle.path}
    # A minute of compiling, none of it ours; and children in which LeakSanitizer waits for threads
    # of the parent.
    passed_over = "--test-case-exclude=other sizes*,*forked*"
    run(sanitized / "tests/ldm_engine_tests", passed_over, env={**ENVIRONMENT, **bundle})


def test_the_command_runs(sanitized, shapes_bundle, tmp_path):
    words = ["--num-inference-steps", "2", "--seed", "0", "--timings", "-o", tmp_path]
    run(sanitized / "ldm-generate", shapes_bundle.path, "a", "b", *words, env=ENVIRONMENT)
    assert len(list(tmp_path.glob("*.png"))) == 2


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(sanitized, shapes_bundle, tmp_path, target):
    corpus = shutil.copytree(CPP / "fuzz/corpus" / target, tmp_path / "corpus")
    done = run(
        sanitized / f"fuzz/fuzz_{target}", corpus, f"-max_total_time={SECONDS}", "-timeout=60",
        "-max_len=20000", "-seed=1", f"-artifact_prefix={tmp_path}/",
        env={**ENVIRONMENT, "LDM_ENGINE_TEST_BUNDLE": shapes_bundle.path},
    )  # fmt: skip
    assert "Done" in done.stderr
