#pragma once

#include <string>

namespace minimo::testing {

// Every golden checkpoint of SHARED and the nano models: float32 and bf16, whole and chunked, and greedy text.
void CheckGoldens(const std::string& shared, const std::string& models);
// A checkpoint with a golden.safetensors beside it.
void CheckGoldenFolder(const std::string& folder);

}  // namespace minimo::testing
