#include "grammar/tokenizer_vocabulary.h"

#include <string>
#include <utility>
#include <vector>

namespace minimo::grammar {

Vocabulary VocabularyOf(const Tokenizer& tokenizer, std::span<const int32_t> eos_ids) {
  std::vector<TokenVocabulary::Token> tokens(static_cast<size_t>(tokenizer.vocab_size()));
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    TokenVocabulary::Token& token = tokens[static_cast<size_t>(id)];
    token.bytes = std::string(tokenizer.TokenBytes(id));
    token.special = tokenizer.IsSpecial(id);
    token.added = tokenizer.IsAdded(id);
  }
  return TokenVocabulary::Create(std::move(tokens), {eos_ids.begin(), eos_ids.end()});
}

}  // namespace minimo::grammar
