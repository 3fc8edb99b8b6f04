#include "bench/prompt_codec.h"

#include "minimo/tokenizer.h"

namespace minimo::bench {

Result<PromptCodec> LoadPromptCodec(const std::string& folder) {
  MINIMO_ASSIGN(std::unique_ptr<Tokenizer> loaded, Tokenizer::FromFolder(folder));
  const std::shared_ptr<const Tokenizer> tokenizer = std::move(loaded);
  PromptCodec codec;
  codec.encode = [tokenizer](std::string_view text) {
    auto ids = tokenizer->Encode(text);
    return ids.ok() ? std::move(ids).value() : std::vector<int32_t>();
  };
  codec.decode = [tokenizer](std::span<const int32_t> ids) { return tokenizer->Decode(ids); };
  for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
    if (!tokenizer->IsAdded(id) && tokenizer->IdToToken(id)) codec.ordinary_ids.push_back(id);
  }
  return codec;
}

}  // namespace minimo::bench
