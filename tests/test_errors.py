"""Messages name the value, the limit and the way out; fields carry them for programs."""

from __future__ import annotations

import pickle

from mtia import errors


def test_out_of_local_memory():
    error = errors.OutOfLocalMemory("matmul", needed_bytes=700_000, limit_bytes=393_216, largest="%a, 2 slots")
    assert str(error) == (
        "matmul: circular buffers need 700,000 bytes of local memory, the PE has 393,216; the largest is "
        "'%a, 2 slots'. Use a smaller tile or fewer slots."
    )
    assert (error.needed_bytes, error.limit_bytes, error.largest) == (700_000, 393_216, "%a, 2 slots")


def test_unsupported_dtype_says_since_when():
    error = errors.UnsupportedDtype("matmul", chip="mtia200", dtype="fp8", supported=["int8", "fp16"], since="mtia300")
    text = str(error)
    assert "mtia200 has no fp8" in text and "int8, fp16" in text and "since mtia300" in text
    assert isinstance(error, TypeError)


def test_out_of_bounds_names_place_and_limit():
    error = errors.OutOfBoundsAccess(
        "add",
        instance=(3, 0, 0),
        line="k.py:12",
        argument="x",
        address=0x1000,
        offset_bytes=4096,
        allocation_bytes=4000,
    )
    for part in ("k.py:12", "'add'", "(3, 0, 0)", "0x1000", "4,096 bytes of 'x'", "4,000 bytes", "Mask the access"):
        assert part in str(error)
    assert error.offset_bytes == 4096 and isinstance(error, IndexError)


def test_unsupported_operation_names_op_kernel_and_line():
    error = errors.UnsupportedOperation("tt.foo", kernel="k", line="a.py:3", instead="Use tl.where.")
    assert str(error) == "a.py:3: kernel 'k' uses 'tt.foo', which the mtia back end does not lower. Use tl.where."
    assert isinstance(error, NotImplementedError)


def test_did_you_mean_prefers_what_the_word_begins():
    assert errors.did_you_mean("mtia20", ["mtia100", "mtia200", "mtia300"]) == " Did you mean 'mtia200'?"
    assert errors.did_you_mean("qqqq", ["mtia100"]) == ""


def test_every_error_has_one_base():
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert len(classes) > 10 and all(issubclass(c, errors.MtiaError) for c in classes)


def test_errors_survive_a_process_boundary():
    error = errors.TooManyCircularBuffers("k", needed=15, limit=14)
    assert "15 circular buffers, a PE has 14" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error) and str(copy) == str(error) and copy.limit == 14


def test_bad_problem_names_the_argument_and_what_is_allowed():
    error = errors.BadProblem("fc", argument="weights_in", value="hbm", allowed="allowed: sram, dram")
    assert str(error) == "fc: weights_in = 'hbm'; allowed: sram, dram."
    assert (error.argument, error.value) == ("weights_in", "hbm") and isinstance(error, ValueError)
