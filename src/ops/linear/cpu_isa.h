// Which instructions the linear kernels may use, decided once a process.
#pragma once

#include <string_view>

namespace minimo {

// Each includes those before it that its architecture has. kNeon: 64-bit Arm. kNeonDot: with dot products of bytes
// (Armv8.2: Neoverse, Graviton 2, Apple M1 and later). kAvx512: F, BW, VL, DQ, VBMI and VNNI (Ice Lake, Zen 4 and
// later). kAmx: tiles of int8 and bf16, and the kernel's permission to use them.
enum class CpuIsa { kPortable, kNeon, kNeonDot, kAvx2, kAvx512, kAmx };

// What this machine has, or less if the environment's MINIMO_CPU_ISA (a NameOf) asks for less.
CpuIsa ActiveCpuIsa();

// For tests: what follows runs with at most `isa`.
void LimitCpuIsa(CpuIsa isa);

std::string_view NameOf(CpuIsa isa);

}  // namespace minimo
