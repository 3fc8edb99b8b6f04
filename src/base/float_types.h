// The number formats of the checkpoints as bit patterns, with exact conversion to float and round-to-nearest-even
// conversion from it. Bf16 and Fp16: IEEE-like 16 bit. Fp8E4M3: the "fn" variant (OCP FP8): no infinities,
// S.1111.111 is NaN, largest finite value 448.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace minimo {

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};
struct Fp8E4M3 {
  uint8_t bits;
};

inline float ToFloat(float x) { return x; }

inline float ToFloat(Bf16 x) { return std::bit_cast<float>(uint32_t{x.bits} << 16); }

inline float ToFloat(Fp16 x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1f;
  const uint32_t mantissa = x.bits & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

inline float ToFloat(Fp8E4M3 x) {
  const uint32_t exponent = (x.bits >> 3) & 0xf;
  const uint32_t mantissa = x.bits & 0x7;
  float magnitude;
  if (exponent == 0xf && mantissa == 0x7) {
    magnitude = std::bit_cast<float>(0x7fc00000u);
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  } else {
    magnitude = std::bit_cast<float>(((exponent + 120) << 23) | (mantissa << 20));
  }
  return (x.bits & 0x80) ? -magnitude : magnitude;
}

inline Bf16 ToBf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40)};  // quiet NaN
  return {static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}

// Values beyond +-448 saturate (the checkpoints' quantisers do the same).
inline Fp8E4M3 ToFp8E4M3(float x) {
  const uint8_t sign = std::signbit(x) ? 0x80 : 0;
  float magnitude = std::fabs(x);
  if (std::isnan(x)) return {static_cast<uint8_t>(sign | 0x7f)};
  if (magnitude >= 448.0f) return {static_cast<uint8_t>(sign | 0x7e)};
  if (magnitude < 0x1p-6f) {  // subnormal: multiples of 2^-9; 8 rounds up into the first normal
    return {static_cast<uint8_t>(sign | static_cast<uint8_t>(std::nearbyint(magnitude * 0x1p9f)))};
  }
  const uint32_t u = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = u + 0x7ffff + ((u >> 20) & 1);
  return {static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)))};
}

}  // namespace minimo
