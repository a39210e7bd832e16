"""Writes the tables with which the scan judges operators.

    python scripts/make_pure_operators.py

cpp/core/scan/pure_operators.inc lists the operators that an untrusted TorchScript archive may call.
cpp/core/scan/effectful_operators.inc lists every other operator that LibTorch registers, with the
reason to refuse it. Run the script after an upgrade of torch and review the difference: each new
name is a decision.

A pure operator only computes tensors and scalars from its arguments, writes into tensors it was
given, draws random numbers, or prints. An operator is not pure when it touches files, other
processes, state that outlives the call, or Python, or when its kernel does not check its arguments,
because unchecked sizes, indices or pointers corrupt memory.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

SCAN = Path(__file__).resolve().parent.parent / "cpp" / "core" / "scan"

UNCHECKED = "is an internal kernel that trusts its arguments, so it could corrupt memory"
SPARSE = (
    "makes or opens a sparse tensor, whose indices could be changed after they were checked and "
    "corrupt memory"
)
REMOTE = "talks to other processes"
PYTHON = "is implemented in Python, which a C++ program does not have"
EXECUTOR = "is internal to the executor and never part of an archive"

# The effects of public aten operators.
EFFECTS = {
    "from_file": "maps a file into memory, and can write to it",
    "save": "writes a file",
    "manual_seed": "changes the random state of the whole process",
    "record_stream": "changes how the CUDA allocator reuses memory",
    "set": "lays a tensor over other memory",
    "set_": "lays a tensor over other memory",
    "set_data": "lays a tensor over other memory",
}

# These operators need a remote reference, a sparse tensor or a generator, which no allowed operator
# makes. They are in neither table: refused as operators, but allowed as names of attributes.
NEUTRAL = {
    "ccol_indices",
    "col_indices",
    "crow_indices",
    "indices",
    "row_indices",
    "seed",
    "confirmed_by_owner",
    "get_gradients",
    "is_owner",
    "local_value",
    "owner",
    "owner_name",
    "to_here",
}

# Private aten operators that exported models use, and that check their arguments. Names with two
# leading underscores are Python's operators, which are all pure.
PRIVATE = re.compile(
    r"__\w+"
    r"|_adaptive_avg_pool[23]d|_add_relu_?|_addmm_activation|_aminmax|_assert_\w+"
    r"|_autocast_to_(full|reduced)_precision|_batch_norm_impl_index|_cast_\w+|_cdist_forward"
    r"|_choose_qparams_per_tensor|_chunk_cat|_conj(_copy|_physical)?|_convolution(_mode)?"
    r"|_dim_arange|_embedding_bag(_forward_only)?|_empty_(affine|per_channel_affine)_quantized"
    r"|_euclidean_dist|_fake_quantize_(?!.*backward)\w+|_fft_\w+|_functional_assert_\w+"
    r"|_fused_moving_avg_obs_fq_helper|_get_tracing_state|_infer_size|_int_mm"
    r"|_is_(all_true|any_true|zerotensor)"
    r"|_linalg_(check_errors|det|eigh|eigvals|slogdet|solve_ex|svd)|_list_to_tensor"
    r"|_local_scalar_dense|_log_softmax|_logcumsumexp|_lu_with_info"
    r"|_make_per_(channel|tensor)_quantized_tensor|_masked_(scale|softmax)"
    r"|_mkldnn_(reshape|transpose_?)|_native_batch_norm_legit(_functional|_no_training)?"
    r"|_native_multi_head_attention|_neg_view|_nested_tensor_from_mask(_left_aligned)?"
    r"|_nnpack_available|_no_grad_\w+|_pack_(padded_)?sequence|_pad_(circular|enum|packed_sequence)"
    r"|_pdist_forward|_prelu_kernel|_reshape_from_tensor|_rowwise_prune|_safe_softmax"
    r"|_sample_dirichlet|_saturate_weight_to_fp16|_scaled_dot_product_attention_math|_set_item"
    r"|_shape_as_tensor|_size_if_not_equal|_softmax|_stack|_standard_gamma|_tensor_to_list|_to_copy"
    r"|_to_cpu|_transform_bias_rescale_qkv|_transformer_encoder_layer_fwd|_trilinear|_unique2?"
    r"|_unsafe_(index|view)|_unwrap_optional|_upsample_(?!.*backward)\w+|_version"
    r"|_weight_norm(_interface)?"
)

# Public aten operators that do not check their arguments: backward kernels (indices), packed
# weights (raw C++ objects inside byte tensors), kernels of vendors.
UNCHECKED_PUBLIC = re.compile(
    r"\w*_backward(_\w+)?|batch_norm_backward_\w+|fbgemm_\w+|quantized_\w+_cell|miopen_\w+"
    r"|glu_(backward_)?jvp|convolution_overrideable|sym_constrain_\w+"
)
SPARSE_PUBLIC = re.compile(
    r"sparse_(?!dim$|sampled_addmm$|mask$)\w+|to_sparse\w*|resize_as_sparse_?"
    r"|copy_sparse_to_sparse_?|c?(row|col)_indices_copy|indices_copy|values_copy"
)

# Operators of scripted code without effects, by construction or by review.
PRIM = {
    "ConstantChunk", "EnumName", "EnumValue", "ModuleContainerIndex", "NumToTensor", "Print",
    "RaiseException", "StringIndex", "TupleIndex", "TupleUnpack", "Uninitialized", "abs",
    "awaitable_nowait", "awaitable_wait", "data", "device", "dtype", "grad", "index", "is_cpu",
    "is_cuda", "is_ipu", "is_maia", "is_meta", "is_mkldnn", "is_mps", "is_mtia", "is_nested",
    "is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan", "is_xla", "is_xpu", "itemsize",
    "layout", "max", "min", "name", "nbytes", "rangelist", "requires_grad", "tolist", "type",
    "unchecked_cast", "unchecked_unwrap_optional",
}  # fmt: skip

# Operators that torch.jit.optimize_for_inference leaves in a module that is saved afterwards.
PREPACKED = re.compile(r"BroadcastMKLDNNTensors|ConstantMKLDNNTensor|MKLDNN\w+|mkldnn_convolution")

# Operators that the TorchScript compiler resolves, or that only some builds of LibTorch register.
UNREGISTERED = {
    "aten::H", "aten::T", "aten::mH", "aten::mT", "aten::ndim", "aten::is_autocast_enabled",
    "aten::list_with_default", "aten::_assert_int_or_pair", "aten::_nested_tensor_from_mask",
    "prepacked::conv2d_clamp_prepack", "prepacked::conv2d_clamp_run",
    "prepacked::conv2d_transpose_clamp_prepack", "prepacked::conv2d_transpose_clamp_run",
    "prepacked::linear_clamp_prepack", "prepacked::linear_clamp_run",
    "prim::H", "prim::T", "prim::mH", "prim::mT", "prim::ndim", "prim::shape",
}  # fmt: skip

# Namespaces whose arguments are packed weights in a class of LibTorch, which no archive can forge.
PACKED = {"_quantized", "mkldnn_prepacked", "quantized", "sparse"}
UNPACKED = re.compile(r"\w*_legacy|_?wrapped_\w+|_wrapped_\w+|int4mm_\w+")

NAMESPACES = {
    "_c10d_functional": REMOTE,
    "_c10d_functional_autograd": REMOTE,
    "_dtensor": REMOTE,
    "c10d": REMOTE,
    "symm_mem": REMOTE,
    "debug_mode_ops": PYTHON,
    "debugprims": PYTHON,
    "export": PYTHON,
    "inductor_prims": PYTHON,
    "prims": PYTHON,
    "rngprims": PYTHON,
    "prim": EXECUTOR,
    "static_runtime": EXECUTOR,
}


def judge(operator: str) -> str | None:
    """Returns why an operator is refused, None for a pure one, "" for one in neither table."""
    namespace, name = operator.split("::")
    if namespace == "aten":
        return judge_aten(name)
    if namespace == "prim" and (name in PRIM or PREPACKED.fullmatch(name)):
        return None
    if namespace == "prim" and name.startswith("rpc_"):
        return REMOTE
    if namespace == "prim" and "PythonOp" in name:
        return PYTHON
    if namespace in PACKED and not UNPACKED.fullmatch(name):
        return None
    if namespace == "profiler":
        return None
    return NAMESPACES.get(namespace, UNCHECKED)


def judge_aten(name: str) -> str | None:
    """Returns the same as `judge` for a name in aten."""
    if name in NEUTRAL:
        return ""
    if name in EFFECTS:
        return EFFECTS[name]
    if re.match(
        r"_(sparse|(to_|validate_)(sparse|compressed)|coalesced|indices|values|dim[IV])", name
    ):
        return SPARSE
    if name.startswith("_"):
        return None if PRIVATE.fullmatch(name) else UNCHECKED
    if SPARSE_PUBLIC.fullmatch(name):
        return SPARSE
    return UNCHECKED if UNCHECKED_PUBLIC.fullmatch(name) else None


def main() -> None:
    """Writes both tables."""
    registered = {schema.name for schema in torch._C._jit_get_all_schemas()}
    pure = {name for name in registered if judge(name) is None} | UNREGISTERED
    effectful = {name: judge(name) for name in registered - pure if judge(name)}
    head = f"// Written by scripts/make_pure_operators.py from torch {torch.__version__}.\n"
    lines = "".join(f'"{name}",\n' for name in sorted(pure))
    (SCAN / "pure_operators.inc").write_text(head + lines)
    lines = "".join(f'{{"{name}", "{effectful[name]}"}},\n' for name in sorted(effectful))
    (SCAN / "effectful_operators.inc").write_text(head + lines)
    print(f"{len(pure)} pure, {len(effectful)} refused")


if __name__ == "__main__":
    main()
