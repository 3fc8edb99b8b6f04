// Parses a tokenizer.json without building a tree of its vocabulary and merges, which are nearly all of it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "minimo/result.h"
#include "text/bpe.h"

namespace minimo {

// Fills model->tokens, token_ids and merges from /model/vocab and /model/merges, and `rest` with everything else (there
// "vocab" and "merges" are true, as a sign that they were found).
Status ParseTokenizerJson(std::string_view text, BpeSpec* model, nlohmann::json* rest);

}  // namespace minimo
