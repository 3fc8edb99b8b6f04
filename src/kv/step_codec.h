// A StepRecord as bytes, for the ranks that replay it. Little-endian, no padding; the reader trusts nothing.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "kv/step.h"
#include "minimo/result.h"

namespace minimo {

void EncodeStep(const StepRecord& step, std::vector<std::byte>* bytes);  // appends
Result<StepRecord> DecodeStep(std::span<const std::byte> bytes);

}  // namespace minimo
