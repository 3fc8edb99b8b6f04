// A tokenizer's tokens for grammars.
#pragma once

#include <cstdint>
#include <span>

#include "grammar/structured_output.h"
#include "minimo/tokenizer.h"

namespace minimo::grammar {

// Takes a tenth of a second for 150,000 tokens: make one a model, not one a request.
// eos_ids: the ids that end a text (LoadGenerationConfig).
Vocabulary VocabularyOf(const Tokenizer& tokenizer, std::span<const int32_t> eos_ids);

}  // namespace minimo::grammar
