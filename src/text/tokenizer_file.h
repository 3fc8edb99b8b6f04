// tokenizer.json and tokenizer_config.json as read, before anything is built of them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "minimo/result.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"

namespace minimo {

// What a post-processor's template makes of the ids of a text.
struct TemplatePiece {
  bool is_text = false;      // the text's ids go here
  std::vector<int32_t> ids;  // else these, with add_special_tokens
};
using PostTemplate = std::vector<TemplatePiece>;

struct StatedAddedToken {
  int32_t id = 0;
  AddedToken token;
};

struct TokenizerFile {
  BpeSpec model;
  std::vector<StatedAddedToken> added_tokens;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<PostTemplate> post_templates;  // applied in turn
};

// Errors here and below begin with the file's path.
Result<TokenizerFile> ReadTokenizerFile(const std::string& path);

struct TokenizerConfig {
  // Tokens named by role ("eos_token") and those of additional_special_tokens, by content.
  std::vector<std::pair<std::string, std::string>> special_tokens;
  std::vector<StatedAddedToken> added_tokens_decoder;
};

Result<TokenizerConfig> ReadTokenizerConfig(const std::string& path);

}  // namespace minimo
