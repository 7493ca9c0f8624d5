"""Buffers of compiled loops move out of them only where nothing outside of the turn can see them."""

import pytest
import torch
from torch.func import vmap

import funcebm as ebm
from funcebm import loop_buffers, loops

ARRAYS = ("static constexpr int64_t int_array_0[] = {4L, 50L};", "static constexpr int64_t int_array_1[] = {50L, 1L};")


def new(name, sizes="int_array_0", dtype="float32"):
    return [
        f"AtenTensorHandle {name}_handle;",
        f"AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(2, {sizes}, int_array_1, cached_torch_dtype_{dtype}, "
        f"cached_torch_device_type_cpu, 0, &{name}_handle));",
        f"RAIIAtenTensorHandle {name}({name}_handle);",
    ]


def taken(name, source):
    return [
        f"AtenTensorHandle {name}_handle;",
        f"AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_assign_tensors_out({source}, &{name}_handle));",
        f"RAIIAtenTensorHandle {name}({name}_handle);",
    ]


def kernel(*names):
    return ["kernel(" + ", ".join(f"(float*)({name}.data_ptr())" for name in names) + ");"]


def view(name, source):
    return (
        f"auto {name} = wrap_with_raii_handle_if_needed(reinterpret_tensor_wrapper({source}, 2, s, t, 8L));  // alias"
    )


def num_in_loops(lines):
    """How many buffers are made in each turn of a loop, inside loops or not."""
    return sum("empty_strided" in str(line) and str(line).startswith("        ") for line in lines)


def moved(*body):
    """What precedes the loop, and what is in it, after the pass."""
    lines = ["while (1) {", *("    " + line for line in (*ARRAYS, *body)), "}"]
    after = [line.strip() for line in loop_buffers.move_out(lines)]
    start = after.index("while (1) {")
    return after[:start], after[start:]


def is_moved(name, *body):
    before, inside = moved(*body)
    owner = f"RAIIAtenTensorHandle {name}({name}_handle);"
    assert (owner in before) != (owner in inside)
    return owner in before


def test_a_buffer_between_kernels_moves():
    before, inside = moved(*new("a"), *new("b"), *kernel("x", "a"), *kernel("a", "b"), "a.reset();", "b.reset();")
    assert before == ["{", *ARRAYS, *new("a"), *new("b")]
    assert inside == ["while (1) {", *kernel("x", "a"), *kernel("a", "b"), "}", "}"]


def test_a_factor_of_a_product_moves():
    copy = ["AtenTensorHandle t;", "AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(a, &t));"]
    product = "AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_mm_out(b, RAIIAtenTensorHandle(t), w));"
    body = (*new("a"), *new("b"), *kernel("x", "a"), *copy, product, *kernel("b", "y"))
    assert is_moved("a", *body)
    assert is_moved("b", *body)


@pytest.mark.parametrize(
    "seen",
    [
        ["carry.reset();", "carry = std::move(a);"],  # by the next turn
        ["carry = std::move(wrap_with_raii_handle_if_needed(reinterpret_tensor_wrapper(a, 2, s, t, 0L)));"],
        [view("v", "a"), "carry = std::move(v);"],
        ["auto other = std::move(a);  // reuse", *kernel("other"), "carry = std::move(other);"],
        [*taken("inner", "a"), *kernel("inner")],  # by a loop inside, which could hand it on
        ["AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_proxy_executor_call_function(proxy, 0, a));"],  # by who knows what
        ["AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(a, &t));", "carry = std::move(RAIIAtenTensorHandle(t));"],
    ],
)  # fmt: skip
def test_a_buffer_that_is_seen_elsewhere_does_not(seen):
    assert not is_moved("a", *new("a"), *kernel("x", "a"), *seen)


def test_nor_does_a_large_one_nor_one_of_unknown_size():
    large = "static constexpr int64_t int_array_9[] = {40000L, 50L};"
    assert not is_moved("a", large, *new("a", "int_array_9"), *kernel("a"))
    assert not is_moved("a", *new("a", "sizes"), *kernel("a"))
    assert not is_moved("a", *new("a", dtype="complex64"), *kernel("a"))


def test_memory_with_two_names_moves_with_both():
    body = (
        *new("a"),
        view("v", "a"),
        "auto b = std::move(a);  // reuse",
        *kernel("b", "v"),
        "b.reset();",
        "v.reset();",
    )
    before, inside = moved(*body)
    assert before[-2:] == [view("v", "a"), "auto& b = a;"]
    assert inside == ["while (1) {", *kernel("b", "v"), "}", "}"]


def test_an_argument_that_is_never_read_is_not_taken():
    before, inside = moved(*taken("p", "a"), *taken("q", "b"), *kernel("q"), "p.reset();", "q.reset();")
    assert before == ["{", *ARRAYS]
    assert inside == ["while (1) {", *taken("q", "b"), *kernel("q"), "q.reset();", "}", "}"]


def test_what_is_not_a_loop_stays_as_it_is():
    lines = [*new("a"), *kernel("a"), "a.reset();"]
    assert loop_buffers.move_out(lines) == lines


@pytest.mark.skipif(not ebm.transforms.can_compile(), reason="there is no compiler")
def test_compiled_loops_keep_their_buffers_and_their_results(monkeypatch):
    from torch._inductor import config

    num_moved, move_out = [], loop_buffers.move_out

    def spy(lines):
        after = move_out(lines)
        num_moved.append(num_in_loops(lines) - num_in_loops(after))
        return after

    monkeypatch.setattr(loop_buffers, "move_out", spy)

    def function(matrix, x):
        def inner(x, _):
            y = torch.tanh(x @ matrix)
            return x + torch.softmax(y, -1) * y.sum(-1, keepdim=True), y.sum()

        def outer(x, _):
            x, sums = loops.scan(inner, x, torch.zeros(3))
            return torch.cos(x @ matrix) / (1 + x.square().sum(-1, keepdim=True)), (sums, x)

        return loops.scan(outer, x, torch.zeros(4))

    matrix = ebm.random.normal(ebm.random.key(0), (8, 8))
    x = ebm.random.normal(ebm.random.key(1), (3, 5, 8))
    with config.patch(fx_graph_cache=False):
        got = ebm.jit(vmap(function, (None, 0)))(matrix, x)
    expected = vmap(function, (None, 0))(matrix, x)
    for a, b in zip(ebm.tree.leaves(got), ebm.tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert sum(num_moved) > 0
