#include "ops/linear/cpu_isa.h"

#include <hwy/targets.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace minimo {
namespace {

#if defined(__x86_64__)
// Linux hands out the 8 KB of tile state on demand: Documentation/arch/x86/xstate.rst.
bool MayUseTiles() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
}

CpuIsa Detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return CpuIsa::kPortable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vbmi") || !__builtin_cpu_supports("avx512vnni")) {
    return CpuIsa::kAvx2;
  }
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;  // leaf 7, EDX
  const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmxTile) != 0 && (d & kAmxInt8) != 0;
  return tiles && MayUseTiles() ? CpuIsa::kAmx : CpuIsa::kAvx512;
}
#elif defined(__aarch64__)
CpuIsa Detect() { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0 ? CpuIsa::kNeonDot : CpuIsa::kNeon; }
#else
CpuIsa Detect() { return CpuIsa::kPortable; }
#endif

// Highway's own choice follows: portable is the least that a compiler may assume (SSE2 or NEON, or Highway's
// emulation).
void LimitHighway(CpuIsa isa) {
#if defined(__x86_64__)
  constexpr int64_t kBeyondAvx2 = HWY_AVX2 - 1, kFromSse4 = 2 * HWY_SSE4 - 1;  // better targets have lower bits
  if (isa == CpuIsa::kAvx2) hwy::DisableTargets(kBeyondAvx2);
  if (isa == CpuIsa::kPortable) hwy::DisableTargets(kFromSse4);
#else
  static_cast<void>(isa);
#endif
}

CpuIsa FromEnvironment() {
  const char* asked = std::getenv("MINIMO_CPU_ISA");
  if (asked == nullptr) return CpuIsa::kAmx;
  for (const CpuIsa isa :
       {CpuIsa::kPortable, CpuIsa::kNeon, CpuIsa::kNeonDot, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
    if (NameOf(isa) != asked) continue;
    LimitHighway(isa);
    return isa;
  }
  return CpuIsa::kAmx;
}

std::atomic<CpuIsa>& Active() {
  static std::atomic<CpuIsa> active = std::min(Detect(), FromEnvironment());
  return active;
}

}  // namespace

CpuIsa ActiveCpuIsa() { return Active().load(std::memory_order_relaxed); }

void LimitCpuIsa(CpuIsa isa) { Active() = std::min(Detect(), isa); }

std::string_view NameOf(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kPortable: return "portable";
    case CpuIsa::kNeon: return "neon";
    case CpuIsa::kNeonDot: return "neon-dot";
    case CpuIsa::kAvx2: return "avx2";
    case CpuIsa::kAvx512: return "avx512";
    case CpuIsa::kAmx: return "amx";
  }
  return "?";
}

}  // namespace minimo
