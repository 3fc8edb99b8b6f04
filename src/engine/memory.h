// Memory that this process may still take.
#pragma once

#include <cstdint>

namespace minimo {

// The smaller of the machine's available memory and what the control group leaves; 0 if neither can be read.
int64_t AvailableMemoryBytes();

}  // namespace minimo
