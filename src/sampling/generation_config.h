// The checkpoint's own sampling defaults and end-of-text ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "minimo/request.h"
#include "minimo/result.h"

namespace minimo {

struct GenerationConfig {
  SamplingParams params;         // neutral where the file is silent; do_sample: false means temperature 0
  std::vector<int32_t> eos_ids;  // from generation_config.json, else config.json; ascending
};

// `folder`: a checkpoint folder. Without a generation_config.json the parameters are neutral.
Result<GenerationConfig> LoadGenerationConfig(const std::string& folder);

}  // namespace minimo
