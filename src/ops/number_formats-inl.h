// One vector of stored numbers as float32, for every kernel that reads them. Included once per target: after
// <hwy/foreach_target.h>.
#if defined(MINIMO_OPS_NUMBER_FORMATS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef MINIMO_OPS_NUMBER_FORMATS_INL_H_
#undef MINIMO_OPS_NUMBER_FORMATS_INL_H_
#else
#define MINIMO_OPS_NUMBER_FORMATS_INL_H_
#endif

#include <hwy/highway.h>

#include "base/float_types.h"

HWY_BEFORE_NAMESPACE();
namespace minimo {
namespace HWY_NAMESPACE {

using FloatTag = hwy::HWY_NAMESPACE::ScalableTag<float>;
using FloatVector = hwy::HWY_NAMESPACE::Vec<FloatTag>;

HWY_INLINE FloatVector LoadFloats(FloatTag d, const Bf16* p) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::RebindToUnsigned<FloatTag> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p)));
  return hn::BitCast(d, hn::ShiftLeft<16>(bits));
}

// Of FP8, the value times kFp8Unit: e4m3 shifted into fp16's fields is that, subnormals included, and the hardware's
// fp16 -> fp32 conversion is exact. kFp8Restore belongs into a scale.
constexpr float kFp8Unit = 0x1p-8f;
constexpr float kFp8Restore = 0x1p+8f;

HWY_INLINE FloatVector LoadFp8Units(FloatTag d, const Fp8E4M3* p) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::Rebind<uint8_t, FloatTag> d8;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::Rebind<hwy::float16_t, FloatTag> dh;
  const auto code = hn::PromoteTo(d16, hn::LoadU(d8, reinterpret_cast<const uint8_t*>(p)));
  const auto magnitude = hn::ShiftLeft<7>(hn::And(code, hn::Set(d16, 0x7f)));
  const auto sign = hn::ShiftLeft<8>(hn::And(code, hn::Set(d16, 0x80)));
  return hn::PromoteTo(d, hn::BitCast(dh, hn::Or(magnitude, sign)));
}

}  // namespace HWY_NAMESPACE
}  // namespace minimo
HWY_AFTER_NAMESPACE();

#endif
