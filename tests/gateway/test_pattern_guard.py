"""Patterns pass unless the engine would pay for them with seconds or with all its memory."""

import pytest

from gateway.request.pattern_guard import PatternError, check_pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "^[a-z]+(-[a-z]+)*$",
        r"^\d{3}-\d{4}$",
        "^(a|b|c){1,9}$",
        "^.{0,1999}$",
        "^[^@]+@[^@]+$",
        r"^(\+1)?[0-9]{10}$",
        "^$",
        "^a{0}$",
        "^(?:ab)+$",
        "^([0-9a-fA-F]{1,4}:){7}[0-9a-fA-F]{1,4}$",
        "((((",  # not anchored: the engine takes any string
        "^" + "(" * 50 + "a" + ")" * 50 + "$",
        "^(a?){99}$",
    ],
)
def test_ordinary_patterns_pass(pattern):
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "^a{5,3}$",
        "^a{2000}$",
        "^a{0,99999999}$",
        "^a{-1}$",
        "^a{1,2,3}$",
        "^a{ 5 }$",
        "^(a{0,1999}){0,1999}$",
        "^a{9}{9}{999}$",
        "^(a?){1999}$",
        "^(a?b?c?d?){499}$",
        "^(a*)*$",
        "^(|a)+$",
        "^()*$",
        "^*$",
        "^(a$",
        "^a)$",
        "^a\\$",
        "^[a-$",
        "^((((a{10}){10}){10}){10})$",
    ],
)
def test_patterns_that_explode_are_refused(pattern):
    with pytest.raises(PatternError, match="pattern"):
        check_pattern(pattern)
