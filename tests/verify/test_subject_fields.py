"""What a Subject's fields are called and what is said of each: in help, in errors, in one place."""

import dataclasses
import inspect
from typing import Any

import pytest
from torch import nn

from andon.verify.errors import SubjectError
from andon.verify.subject import Subject, documented
from andon.verify.vocabulary import HYPERPARAMETERS, LOGGED, RENAMED, ROLES, keys_of
from tests.verify.small import small

pytestmark = pytest.mark.tier1


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_field_is_refused_by_its_new_name(old: str, new: str) -> None:
    """Behaviour: an old name is no field, and the error says what it is called now, which is one."""
    names = {each.name for each in dataclasses.fields(Subject)}
    assert (True, False) == (new in names, old in names)
    with pytest.raises(SubjectError, match=f"no field '{old}' any more: it is '{new}' now"):
        small(**{old: None})


def test_a_misspelled_field_is_refused_with_what_is_close() -> None:
    """Behaviour: a name that no field has is refused where the subject is made, also where one is changed."""
    with pytest.raises(SubjectError, match="no field 'optimiser'; closest: optimizer"):
        small(optimiser=None)
    changes: dict[str, Any] = {"lossy": None}
    with pytest.raises(SubjectError, match="no field 'lossy'; closest: loss"):
        dataclasses.replace(small(), **changes)


def test_a_decoder_of_logits_is_told_its_new_name() -> None:
    """Behaviour: `decode` was a function of model and tokens once; one of ids alone is taken, and a builtin."""

    def old(model: nn.Module, tokens: object) -> object:
        return model, tokens

    with pytest.raises(
        SubjectError, match=r"a function of \(model, tokens\) that returns logits is Subject.cached_log"
    ):
        small(decode=old)
    assert small(decode=lambda ids: " ".join(map(str, ids))).decode
    assert small(decode=bytes).decode is bytes


def test_every_field_says_what_it_is_in_help() -> None:
    """Behaviour: help has each field with its call and its sentence, and what its mappings can hold."""
    said = " ".join((inspect.getdoc(Subject) or "").split())
    assert [each.name for each in documented()] == [each.name for each in dataclasses.fields(Subject)]
    for each in documented():
        assert each.call in said, each
        assert each.what in said, each
    for key in (*HYPERPARAMETERS, *LOGGED, *ROLES):
        assert f" {key}: " in said, key
    assert "tokens" in keys_of("loop")
    assert {} == keys_of("loss")
