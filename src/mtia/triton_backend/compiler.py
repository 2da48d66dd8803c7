"""The `mtia` back end of stock Triton: options, passes over TTIR, and the TileProgram as the "binary"."""

from __future__ import annotations

import functools
import hashlib
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from triton._C.libtriton import ir, passes
from triton.backends.compiler import BaseBackend, GPUTarget, Language

from mtia.program.program import TileProgram
from mtia.triton_backend.lowering.lower import SORT_CALLEE, lower_module

ARCH = "mtia"
WARP_SIZE = 32


@dataclass(frozen=True)
class MtiaOptions:
    """What the front end and Inductor may pass. `num_stages` is the slots of a circular buffer in a loop; the GPU
    words (warps, ctas, AMD's tuning options) are accepted and have no meaning here."""

    num_warps: int = 4
    num_stages: int = 2
    num_ctas: int = 1
    warp_size: int = WARP_SIZE
    arch: str = ARCH
    backend_name: str = "mtia"
    debug: bool = False
    sanitize_overflow: bool = False
    extern_libs: tuple = ()
    supported_fp8_dtypes: tuple[str, ...] = ("fp8e4nv", "fp8e5")
    deprecated_fp8_dot_operand_dtypes: tuple[str, ...] = ()
    default_dot_input_precision: str = "ieee"
    allowed_dot_input_precisions: tuple[str, ...] = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")
    max_num_imprecise_acc_default: int = 0
    enable_fp_fusion: bool = False
    launch_cooperative_grid: bool = False
    launch_pdl: bool = False
    allow_flush_denorm: bool = False
    instrumentation_mode: str = ""
    fpsan_homomorphic_casts: bool = False
    matrix_instr_nonkdim: int = 0
    waves_per_eu: int = 0
    kpack: int = 1
    cb_multiplier: int = 1
    use_dual_core: bool = True
    ir_override: str | None = None
    extra: dict = field(default_factory=dict)

    def hash(self) -> str:
        key = "_".join(f"{name}-{value}" for name, value in sorted(self.__dict__.items()))
        return hashlib.sha256(key.encode()).hexdigest()


@functools.cache
def source_hash() -> str:
    """Hash of the code that turns TTIR into programs: a change there must not reuse cached programs."""
    root = Path(__file__).resolve().parent.parent
    files = sorted([*(root / "triton_backend").rglob("*.py"), *(root / "program").rglob("*.py")])
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class MtiaBackend(BaseBackend):
    """Stages: ttir (Triton's own passes) -> mtia (pickled TileProgram)."""

    binary_ext = "mtia"

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        return target.backend == "mtia"

    def get_target_name(self, options: MtiaOptions) -> str:
        return f"mtia:{options.arch}"

    def hash(self) -> str:
        return f"mtia-{source_hash()}"

    def parse_options(self, options: dict) -> MtiaOptions:
        known = {k: v for k, v in options.items() if k in MtiaOptions.__dataclass_fields__ and v is not None}
        for name, value in known.items():
            if isinstance(value, list):
                known[name] = tuple(value)
            elif isinstance(value, dict) and name == "extern_libs":
                known[name] = tuple(value.items())
        return MtiaOptions(**known)

    def pack_metadata(self, metadata: Any) -> tuple:
        return metadata.num_warps, metadata.num_ctas, metadata.shared

    def get_codegen_implementation(self, options: MtiaOptions) -> dict:
        return {"min_dot_size": lambda lhs, rhs: (1, 1, 1), "convert_custom_types": None}

    def get_module_map(self) -> dict[str, ModuleType]:
        from mtia.triton_backend import libdevice

        return {"triton.language.extra.libdevice": libdevice}

    def load_dialects(self, ctx: ir.context) -> None:
        """TTIR needs none of ours."""

    def add_stages(self, stages: dict, options: MtiaOptions, language: Language) -> None:
        if language is not Language.TRITON:
            raise NotImplementedError(
                "the mtia back end compiles Triton, not Gluon: Gluon kernels are written for one "
                "vendor's GPU layouts. Write the kernel with triton.language."
            )
        stages["ttir"] = lambda module, metadata: run_ttir_passes(module)
        stages["mtia"] = lambda module, metadata: make_binary(module, metadata, options)


def run_ttir_passes(module: Any) -> Any:
    """Triton's own clean-up: inlining, descriptors to pointers, canonical form, common subexpressions."""
    keep_sorts(module)
    manager = ir.pass_manager(module.context)
    manager.enable_debug()
    passes.common.add_inliner(manager)
    passes.ttir.add_rewrite_tensor_descriptor_to_pointer(manager)
    passes.common.add_canonicalizer(manager)
    passes.ttir.add_combine(manager)
    passes.ttir.add_reorder_broadcast(manager)
    passes.common.add_cse(manager)
    passes.ttir.add_triton_licm(manager)
    passes.common.add_symbol_dce(manager)
    passes.ttir.add_loop_unroll(manager)
    manager.run(module, "make_ttir")
    return module


def keep_sorts(module: Any) -> None:
    """A sort of integers stays a call, so that a PE's radix sort can do it; inlined it is a network of commands."""
    true = ir.builder(module.context).get_bool_attr(True)
    for name in set(re.findall(rf"tt\.func private @({SORT_CALLEE})", str(module))):
        module.get_function(name[0]).set_attr("noinline", true)


def make_binary(module: Any, metadata: dict, options: MtiaOptions) -> bytes:
    program = lower_module(str(module), num_stages=options.num_stages * max(1, options.cb_multiplier))
    metadata["name"] = program.name
    metadata["shared"] = max(1, program.buffer_bytes)  # Triton's word for on-chip memory; never zero (B3)
    return pickle.dumps(program)


def read_binary(binary: bytes) -> TileProgram:
    return pickle.loads(binary)
