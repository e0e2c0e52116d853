"""File name templates, and saving every n batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_ratchet.errors import ConfigError
from keras_ratchet.policy.naming import fields, may_be, render, validate
from keras_ratchet.policy.schedule import EveryBatches


@given(st.integers(1, 20), st.lists(st.integers(1, 7), max_size=60))
def test_as_many_saves_as_multiples_of_n_are_reached(n, ends):
    rule, pending, done, last = EveryBatches(n), 0, 0, 0
    for ended in ends:
        pending, verdict = rule.check(pending, ended)
        done += ended
        assert bool(verdict) == (done // n > last // n)
        last = done


@pytest.mark.parametrize("n", [0, -3, 2.5, "five", True])
def test_a_save_freq_that_is_no_count_is_refused(n):
    with pytest.raises(ConfigError, match="Unrecognized save_freq"):
        EveryBatches(n)


@given(st.integers(0, 10**6), st.floats(allow_nan=False))
def test_what_python_formats_we_format_alike(epoch, loss):
    template = "{{a}}-{epoch:02d}-{val_loss:.2f}-{val_loss}.keras"
    name, missing = render(template, {"epoch": epoch, "val_loss": loss})
    assert name == template.format(epoch=epoch, val_loss=loss) and missing == ()


def test_an_absent_value_prints_as_nan_whatever_the_spec():
    assert render("{batch:04d}-{f1:.3f}.h5", {}) == ("nan-nan.h5", ("batch", "f1"))


SPECS = st.sampled_from(
    [
        "",
        "02d",
        "d",
        "5",
        "+",
        "*>6",
        "^9",
        "=+8",
        ",",
        "_",
        "e",
        "f",
        ".3g",
        "%",
        "012.4f",
        "x",
        "b",
    ]
)


@given(st.integers(0, 10**9), st.floats(), SPECS, SPECS, st.sampled_from(["", "!r", "!s"]))
def test_every_name_that_a_template_gives_may_be_its(epoch, loss, one, other, conversion):
    template = f"{{{{a}}}}-{{epoch:{one}}}_{{loss{conversion}:{'' if conversion else other}}}.keras"
    try:
        validate(template)
    except ConfigError:
        return
    name, _ = render(template, {"epoch": epoch, "loss": loss})
    assert may_be(template, name)
    assert may_be(template, render(template, {})[0])


@pytest.mark.parametrize("name", ["best", "1.5x", "", "e1", "1-2", "nano"])
def test_a_word_is_no_number(name):
    assert not may_be("{epoch:02d}.weights.h5", f"{name}.weights.h5")
    assert not may_be("{val_loss:.2f}.weights.h5", f"{name}.weights.h5")


@pytest.mark.parametrize(
    "template",
    ["{epoch", "epoch}", "{}", "{0}", "{val_loss:02d}", "{epoch:zz}", "{loss!q}"],
)
def test_a_template_that_can_never_be_filled_is_refused(template):
    with pytest.raises(ConfigError) as caught:
        validate(template + ".keras")
    assert template in str(caught.value)


def test_a_field_is_a_key_and_nothing_more():
    assert fields("{val_top-5:.1f}/{epoch.__class__}") == ("val_top-5", "epoch.__class__")
    assert render("{epoch.__class__}", {"epoch": 1})[0] == "nan"
