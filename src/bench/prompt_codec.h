// A tokenizer folder as what workloads need of it.
#pragma once

#include <memory>
#include <string>

#include "bench/dataset.h"
#include "minimo/result.h"

namespace minimo::bench {

// The codec keeps the tokenizer alive. Fails if the folder has no readable tokenizer.json.
Result<PromptCodec> LoadPromptCodec(const std::string& folder);

}  // namespace minimo::bench
