# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
from contextlib import nullcontext
from fnmatch import fnmatchcase

import pytest

from .not_applicable import NOT_APPLICABLE


# Marks that transformers' `conftest.py` and plugins know.
MARKERS = """
accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test generate is_expert_parallel_test is_fsdp_test
is_pipeline_test is_staging_test is_tensor_parallel_test is_training_test order slow torch_compile_test
""".split()

collect_ignore = ["upstream"]


def pytest_configure(config):
    for marker in MARKERS:
        config.addinivalue_line("markers", f"{marker}: one of transformers' own")
    config.addinivalue_line("filterwarnings", "always::FutureWarning")  # The suites ask whether some are raised.


def find_entry(item: pytest.Item) -> str | None:
    """The entry of `NOT_APPLICABLE` that names a test."""
    name = item.nodeid.partition("::")[2]
    return next((entry for entry in NOT_APPLICABLE if fnmatchcase(name, entry)), None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    found = {item: find_entry(item) for item in items}
    for item, entry in found.items():
        if entry is not None:
            item.add_marker(pytest.mark.xfail(reason=NOT_APPLICABLE[entry], strict=True))
    if any("::" in arg for arg in config.args):
        return  # Only some tests of a class were collected.
    classes = {item.nodeid.split("::")[1] for item in items}
    unused = [entry for entry in NOT_APPLICABLE if entry not in found.values() and entry.split("::")[0] in classes]
    if unused:
        raise pytest.UsageError(f"These entries of NOT_APPLICABLE name no test: {unused}.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and find_entry(item) is not None and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"NOT_APPLICABLE names a test that skips itself: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def whole_test(request):
    """A listed test fails as a whole, since pytest does not count failures of subtests as failures of the test."""
    if find_entry(request.node) is not None:
        request.instance.subTest = lambda *args, **kwargs: nullcontext()
