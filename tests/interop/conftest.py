"""Gives the tests their cases, from the folder that `AUTOPEFT_CASES` names."""

import os

import cases
import pytest


def pytest_generate_tests(metafunc):
    for fixture, export in (("peft_case", "PEFT"), ("bottleneck_case", "AdapterHub"), ("merged_case", "merged")):
        if fixture not in metafunc.fixturenames:
            continue
        if not (root := os.environ.get("AUTOPEFT_CASES")):
            raise pytest.UsageError("set AUTOPEFT_CASES to the folder of cases")
        found = cases.find(root, export)
        metafunc.parametrize(fixture, found, ids=[case.folder.name for case in found])
