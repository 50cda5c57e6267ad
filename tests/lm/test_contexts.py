import numpy as np
import pytest

from jaxgen.errors import InputError
from jaxgen.lm.contexts import NO_WORD, check_contexts, check_targets, check_words, windows


def test_windows_reach_back_over_the_start_of_a_span():
    tokens = np.array([10, 11, 12, 13, 14, 15])
    np.testing.assert_array_equal(windows(tokens, 3, 3, 6), [[11, 12], [12, 13], [13, 14]])


def test_windows_pad_where_the_stream_begins():
    tokens = np.array([10, 11, 12, 13])
    contexts = windows(tokens, 4, 0, 4)
    np.testing.assert_array_equal(
        contexts, [[-1, -1, -1], [-1, -1, 10], [-1, 10, 11], [10, 11, 12]]
    )
    assert NO_WORD == -1
    assert contexts.dtype == np.int32


def test_windows_of_order_one_have_no_columns():
    assert windows(np.arange(5), 1, 1, 4).shape == (3, 0)


def test_windows_of_an_empty_span_have_no_rows():
    assert windows(np.arange(5), 3, 2, 2).shape == (0, 2)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 6)])
def test_windows_refuse_a_span_outside_the_text(start, stop):
    with pytest.raises(InputError, match=r"does not lie within the text of 5 tokens"):
        windows(np.arange(5), 2, start, stop)


def test_windows_refuse_order_zero_and_non_integer_tokens():
    with pytest.raises(InputError, match="order is 0"):
        windows(np.arange(5), 0, 0, 5)
    with pytest.raises(InputError, match="one dimension of integer ids"):
        windows(np.arange(5.0), 2, 0, 5)
    with pytest.raises(InputError, match="one dimension of integer ids"):
        windows(np.zeros((2, 2), int), 2, 0, 2)


def test_check_contexts_keeps_the_last_columns():
    contexts = np.array([[9, 1, 2], [9, -1, 3]])
    np.testing.assert_array_equal(check_contexts(contexts, 3, 4), [[1, 2], [-1, 3]])
    assert check_contexts(contexts, 1, 4).shape == (2, 0)


def test_checks_name_the_wrong_id():
    with pytest.raises(InputError, match=r"contexts contain the id 4, expected ids in \[-1, 4\)"):
        check_contexts(np.array([[4]]), 2, 4)
    with pytest.raises(InputError, match=r"contexts have shape \(2, 1\), expected \[N, 2\]"):
        check_contexts(np.zeros((2, 1), int), 3, 4)
    with pytest.raises(InputError, match=r"targets contain the id -1, expected ids in \[0, 4\)"):
        check_targets(np.array([-1]), 1, 4)
    with pytest.raises(InputError, match=r"targets have shape \(1,\), expected \(2,\)"):
        check_targets(np.array([0]), 2, 4)
    with pytest.raises(InputError, match="tokens have type float64"):
        check_words(np.array([0.0]), 4)
