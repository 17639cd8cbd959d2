"""`clstr._messages.cluster_name`: names of clusters, ours and those that strangers write."""

from __future__ import annotations

import pytest

from clstr._messages.cluster_name import check_cluster_name, describe_cluster


@pytest.mark.parametrize("name", ["prod", "eu-1.prod_2", "x" * 128])
def test_a_name_is_what_it_is(name: str) -> None:
    assert check_cluster_name(name) == name
    assert describe_cluster(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 129, "a\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cluster must be 1 to 128"):
        check_cluster_name(name)


def test_a_name_is_a_str() -> None:
    with pytest.raises(TypeError, match="cluster must be a str, not int"):
        check_cluster_name(7)  # type: ignore[arg-type]  # that is the point


def test_what_a_stranger_writes_is_not_repeated() -> None:
    assert describe_cluster("\x1b[2J\u202e") == "malformed"
    assert describe_cluster("x" * 1000) == "malformed"
    assert describe_cluster("") == "not named"
