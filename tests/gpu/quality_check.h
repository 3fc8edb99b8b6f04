#pragma once

#include <string>

namespace minimo::testing {

// `cases`: JSON with prompt_ids and greedy_ids of a model's golden cases.
void CheckQuality(const std::string& name, const std::string& folder, const std::string& cases);

}  // namespace minimo::testing
